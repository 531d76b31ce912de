"""How many parameters a method trains, counted from the papers' definitions and the shape of a model alone."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A BERT with a new classifier, or a Llama whose head may be its embeddings."""

    kind: str
    hidden: int
    inner: int
    blocks: int
    vocabulary: int
    kv_width: int
    """Width of all keys together."""
    positions: int = 0
    labels: int = 2
    tied: bool = False

    @property
    def encoder(self) -> bool:
        return self.kind == "bert"

    @property
    def attention(self) -> list[tuple[int, int]]:
        """(in, out) of the query, key, value and output projections of a block."""
        return [(self.hidden, self.hidden), *[(self.hidden, self.kv_width)] * 2, (self.hidden, self.hidden)]

    @property
    def feed_forward(self) -> list[tuple[int, int]]:
        return [(self.hidden, self.inner)] * (1 if self.encoder else 2) + [(self.inner, self.hidden)]

    @property
    def classifier(self) -> int:
        return (self.hidden + 1) * self.labels if self.encoder else 0

    @property
    def pooler(self) -> list[tuple[int, int]]:
        return [(self.hidden, self.hidden)] if self.encoder else []

    @property
    def norm(self) -> int:
        """A BERT's normalisation has weight and bias, a Llama's a weight."""
        return self.hidden * (2 if self.encoder else 1)

    @property
    def block(self) -> int:
        linear = [*self.attention, *self.feed_forward]
        return sum(i * o + (o if self.encoder else 0) for i, o in linear) + 2 * self.norm

    @property
    def embeddings(self) -> int:
        rows = self.vocabulary + (self.positions + 2 if self.encoder else 0)
        return rows * self.hidden + (self.norm if self.encoder else 0)

    @property
    def above(self) -> int:
        """What follows the blocks: pooler and classifier, or the last norm and a head of its own."""
        if self.encoder:
            return sum(i * o + o for i, o in self.pooler) + self.classifier
        return self.norm + (0 if self.tied else self.vocabulary * self.hidden)

    @property
    def norms(self) -> int:
        return 2 * self.blocks + 1


def _low_rank(rank: int, layers: list[tuple[int, int]]) -> int:
    return sum(rank * (i + o) for i, o in layers)


def _adapter(shape: Shape) -> int:
    size = max(8, shape.hidden // 16)
    return 2 * size * shape.hidden + size + shape.hidden


def trained(method: dict[str, Any], shape: Shape) -> int:
    """Return the number of trained parameters of a method with its own choice of target layers."""
    kind, hidden, blocks = method["type"], shape.hidden, shape.blocks
    # A BERT's output projection has a name without attention in it; it is no target by itself.
    linear = shape.attention[:3] if shape.encoder else shape.attention
    targets = blocks * linear
    if kind in {"full", "top-layers"}:
        below = shape.embeddings + blocks * shape.block if kind == "full" else method.get("layers", 1) * shape.block
        return below + shape.above
    if kind == "head":
        return shape.classifier or shape.vocabulary * hidden
    biases = blocks * sum(o for _, o in [*shape.attention, *shape.feed_forward]) + shape.norms * hidden + hidden
    magnitudes = sum(o for _, o in targets) if method.get("dora") else 0
    return (
        shape.classifier
        + {
            "bitfit": biases,
            "layer-norm": shape.norms * shape.norm,
            "prompt-tuning": 20 * hidden,
            "p-tuning": 20 * hidden + 3 * (hidden + 1) * hidden,
            "prefix-tuning": blocks * 2 * 20 * shape.kv_width,
            "bottleneck": blocks * (1 if method.get("placement") == "pfeiffer" else 2) * _adapter(shape),
            "lora": _low_rank(method.get("rank", 16), targets) + magnitudes,
            "adalora": _low_rank(12, targets) + 12 * len(targets),
            "ia3": blocks * (2 * shape.kv_width + shape.inner),
        }[kind]
    )
