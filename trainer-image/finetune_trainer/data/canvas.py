"""What a detection model says of its images: how large they are seen, and how boxes move with them.

transformers pads the images of a batch to the largest of them, so what a model sees of an image depends on its
neighbours. Here every image lies at the top left of one canvas, which no image exceeds: a row is what it is alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.image_settings import ImageSettings, Side, arithmetic, kind_of, read_settings
from finetune_trainer.data.images import Pixels
from finetune_trainer.data.table import Array
from finetune_trainer.errors import ConfigError, ModelNotFound
from finetune_trainer.sources import ModelFiles

_KINDS = ("Detr", "Yolos", "ConditionalDetr", "DeformableDetr")
_SOFTMAX = frozenset({"detr", "yolos", "table-transformer"})
_SIGMOID = frozenset({"conditional_detr", "deformable_detr", "dab-detr"})
_YOLOS_STEP = 16
"""YOLOS reads whole patches: the sides of an image are cut to multiples."""
_STRIDE = 32
_QUERIES = {"conditional_detr": 300, "deformable_detr": 300, "dab-detr": 300}
"""Boxes where a config does not say; others have 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasSettings(ImageSettings):
    """How an image becomes the model's input; `size` is the canvas, which without `edges` an image fills."""

    edges: Side | None
    """Length of an image's shorter edge, unless its longer edge would exceed the second number."""
    step: int
    """Sides are multiples of it."""
    queries: int
    """Boxes that the model gives for every image."""
    no_object: float | None
    """Weight of `no object` in the classes' loss; None when each class is told alone."""
    masked: bool
    """Whether the model is told where the canvas is empty."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Boxes stand in tables as parts of the canvas."""
        return {"canvas": self.size, "edges": self.edges, "step": self.step, "queries": self.queries}

    def seen(self, shape: tuple[int, ...]) -> Side:
        """Return height and width that an image of a shape has on the canvas."""
        if self.edges is None:
            return self.size
        height, width = shape[:2]
        short, exact = self.edges[0], None
        if max(height, width) / min(height, width) * short > self.edges[1]:
            exact = self.edges[1] * min(height, width) / max(height, width)
            short = round(exact)
        if min(height, width) == short:
            found = (height, width)
        else:
            long = int((short if exact is None else exact) * max(height, width) / min(height, width))
            found = (short, long) if height <= width else (long, short)
        return max(self.step, found[0] - found[0] % self.step), max(self.step, found[1] - found[1] % self.step)

    def laid(self, pixels: Pixels, *, mirrored: bool) -> npt.NDArray[np.float32]:
        """Return an image on the canvas, [3, H, W], zero where the canvas is empty."""
        resized = self.resize(pixels, self.seen(pixels.shape))
        values = self.normalised(resized[:, ::-1] if mirrored else resized)
        height, width = values.shape[1:]
        return np.pad(values, ((0, 0), (0, self.size[0] - height), (0, self.size[1] - width)))

    def share(self, shape: tuple[int, ...]) -> Array:
        """Return the parts of the canvas, of its width and its height, that an image of a shape takes, [2]."""
        height, width = self.seen(shape)
        return np.array([width / self.size[1], height / self.size[0]], dtype=np.float32)

    def onto(self, boxes: Array, shape: tuple[int, ...]) -> Array:
        """Move boxes of an image, (left, top, width, height) in its pixels, onto the canvas.

        Args:
            boxes: [N, 4].
            shape: Of the image.

        Returns:
            Middle, width and height as parts of the canvas, (x, y, width, height), [N, 4]; cut at the image's edge.
        """
        size = np.array([shape[1], shape[0]], dtype=np.float64)
        low, high = boxes[:, :2].clip(0, size) / size, (boxes[:, :2] + boxes[:, 2:]).clip(0, size) / size
        share = self.share(shape)
        return np.concatenate([(low + high) / 2 * share, (high - low) * share], axis=1).astype(np.float32)

    def back(self, boxes: Array, shape: tuple[int, ...]) -> Array:
        """Move boxes from the canvas back to an image: (left, top, width, height) in its pixels, cut at its edge."""
        size = np.array([shape[1], shape[0]], dtype=np.float64)
        scale = size / self.share(shape)
        middle, half = boxes[:, :2].astype(np.float64) * scale, boxes[:, 2:].astype(np.float64) * scale / 2
        low, high = (middle - half).clip(0, size), (middle + half).clip(0, size)
        return np.concatenate([low, high - low], axis=1)

    @classmethod
    def load(cls, files: ModelFiles) -> Self:
        """Read the settings of a model.

        Args:
            files: The model's.

        Returns:
            The settings.

        Raises:
            ModelNotFound: There are none, or the model's loss is not known here.
            ConfigError: The sizes say no canvas.
        """  # noqa: DOC503
        found, model = read_settings(files, _KINDS)
        kind = str(model.get("model_type"))
        if kind not in _SOFTMAX | _SIGMOID:
            raise ModelNotFound(
                f"{files.uri}: the loss of a {kind} model is not known here: it depends on the other images of a batch",
                remedy=f"Choose a model of the kind {', '.join(sorted(_SOFTMAX | _SIGMOID))}.",
            )
        step = _YOLOS_STEP if kind_of(found).startswith("Yolos") else 1
        edges, canvas = _sizes(files, found, step)
        queries = int(model.get("num_queries") or model.get("num_detection_tokens") or _QUERIES.get(kind, 100))
        patch = model.get("patch_size")
        patch = patch if isinstance(patch, int) else _STRIDE
        return cls(
            size=canvas,
            resized=canvas,
            tokens=max(1, canvas[0] // patch) * max(1, canvas[1] // patch) + queries,
            source=files.folder,
            edges=edges,
            step=step,
            queries=queries,
            no_object=float(model.get("eos_coefficient", 0.1)) if kind in _SOFTMAX else None,
            masked=edges is not None and kind != "yolos",
            **arithmetic(found),
        )


def _sizes(files: ModelFiles, found: Mapping[str, Any], step: int) -> tuple[Side | None, Side]:
    """Return the lengths of the edges, and the canvas."""
    size: Any = found.get("size")
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": found.get("max_size", 1333)}
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return None, (int(size["height"]), int(size["width"]))
    if isinstance(size, Mapping) and {"shortest_edge", "longest_edge"} <= set(size):
        longest = int(size["longest_edge"])
        return (int(size["shortest_edge"]), longest), (longest - longest % step, longest - longest % step)
    raise ConfigError(
        f"{files.uri}: preprocessor_config.json says no size of images (found {size})",
        remedy="Give size as height and width, or as shortest_edge and longest_edge.",
    )
