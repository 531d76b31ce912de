"""Hidden tokens of a text: continued pre-training of an encoder.

Of the tokens chosen, 80 % become the mask token, 10 % a random one, 10 % stay (Devlin et al. 2018). The choice is a
function of seed, epoch and row: the same for any number of workers and after a resume, new in every epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.schema import Columns, Example, Read, text_of
from finetune_trainer.data.split import Splits
from finetune_trainer.data.table import INPUT_IDS, TokenTable, build_table
from finetune_trainer.data.tokenizer import Tokenizer
from finetune_trainer.errors import ConfigError
from finetune_trainer.tasks.base import (
    Answer,
    Batch,
    Encoded,
    HeadSpec,
    Piece,
    Predictions,
    Refused,
    attention_mask,
    marked_pieces,
    pad,
)
from finetune_trainer.tasks.metrics import perplexity
from finetune_trainer.tasks.scoring import Kind, Scored, own_loss
from finetune_trainer.tasks.token_head import TokenHead, token_predictions, told_tokens

_MASKED, _REPLACED = 0.8, 0.9
_EVALUATION_EPOCH = 2**31
Positions = npt.NDArray[np.int64]
_MASKABLE = "maskable"
DEFAULT_MASK_PROBABILITY = 0.15


@dataclass(frozen=True, slots=True)
class Hiding:
    """Which tokens are hidden, and by what."""

    mask_id: int
    vocabulary: int
    probability: float
    seed: int

    def generator(self, epoch: int | None, row: int) -> np.random.Generator:
        """Return the source of randomness of one row; evaluations always use the same."""
        return np.random.default_rng((self.seed, _EVALUATION_EPOCH if epoch is None else epoch, row))

    def choose(self, candidates: Positions, rng: np.random.Generator) -> tuple[Positions, Positions]:
        """Return the positions to hide, at least one, and what stands there instead, -1 for the token itself."""
        draw = rng.random(len(candidates))
        chosen = draw < self.probability
        if not chosen.any():
            chosen[draw.argmin()] = True
        positions = candidates[chosen]
        kind = rng.random(len(positions))
        random_ids = rng.integers(self.vocabulary, size=len(positions))
        return positions, np.where(kind < _MASKED, self.mask_id, np.where(kind < _REPLACED, random_ids, -1))


@dataclass(frozen=True)
class MaskedLM:
    """Cross-entropy over hidden tokens."""

    hiding: Hiding
    label_smoothing: float
    pad_id: int = 0
    name: str = "masked-lm"
    metric_names: tuple[str, ...] = ("loss", "perplexity", "token_accuracy")
    head: HeadSpec = field(default_factory=lambda: HeadSpec("masked-lm", {}))
    scorer: TokenHead = field(default_factory=lambda: TokenHead(("cls", "lm_head"), {}))

    def fingerprint(self) -> Mapping[str, Any]:
        """Masks are drawn when batches are made, so the encoding depends on the texts alone."""
        return {}

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Tokenise the texts; `maskable` is 0 for special tokens. Texts without a token of their own are refused."""
        found = tokenizer.encode([example.text for example in examples], max_length) if examples else []
        kept: list[Example] = []
        refused: list[Refused] = []
        ids: list[list[int]] = []
        masks: list[list[int]] = []
        for example, each in zip(examples, found, strict=True):
            maskable = [int(i not in tokenizer.special_ids) for i in each.ids]
            if not any(maskable):
                refused.append(Refused(example, "no token that could be hidden"))
                continue
            kept.append(example)
            ids.append(each.ids)
            masks.append(maskable)
        cut = sum(bool(each.overflowing) for each in found)
        return Encoded(build_table({INPUT_IDS: ids, _MASKABLE: masks}, {}), kept, refused, cut)

    def collate(self, table: TokenTable, rows: Rows, epoch: int | None) -> Batch:
        """Return input_ids with hidden tokens, attention_mask where needed, and `select`, `targets`, `owner`."""
        input_ids = pad(table, INPUT_IDS, rows, self.pad_id).numpy()
        width = input_ids.shape[1]
        select: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        owner: list[np.ndarray] = []
        for at, row in enumerate(rows):
            chosen, replacement = self._hide(table, int(row), epoch)
            select.append(at * width + chosen)
            targets.append(input_ids[at, chosen].copy())
            owner.append(np.full(len(chosen), at, dtype=np.int64))
            input_ids[at, chosen] = np.where(replacement < 0, input_ids[at, chosen], replacement)
        tensors = {
            INPUT_IDS: torch.from_numpy(input_ids),
            "select": torch.from_numpy(np.concatenate(select)),
            "targets": torch.from_numpy(np.concatenate(targets)),
            "owner": torch.from_numpy(np.concatenate(owner)),
        }
        mask = attention_mask(table, rows)
        if mask is not None:
            tensors["attention_mask"] = mask
        return Batch(tensors, rows)

    def targets(self, table: TokenTable, rows: Rows, epoch: int | None) -> float:
        """Hidden tokens."""
        return float(sum(len(self._hide(table, int(row), epoch)[0]) for row in rows))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy over the hidden tokens."""
        return own_loss(self, model, batch)

    @property
    def kind(self) -> Kind:
        """Tokens that exclude each other."""
        return "one"

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return what the scores of each supervised token are made from."""
        return self.scorer.scored(model, batch)

    def losses(self, scores_KC: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return each token's loss."""
        return F.cross_entropy(scores_KC, targets["targets"], reduction="none", label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch) -> Predictions:
        """Return each row's summed `loss`, its hidden `tokens` and how many of them are `right`."""
        losses_K, right_K = self.scorer.losses(model, batch, 0.0)
        return token_predictions(losses_K, right_K, batch)

    def metrics(self, predictions: Predictions, examples: Sequence[Example]) -> dict[str, float]:  # noqa: ARG002
        """Return loss and perplexity per hidden token, and the part that is guessed right."""
        tokens = predictions["tokens"].sum()
        loss = float(predictions["loss"].sum() / tokens)
        right = float(predictions["right"].sum() / tokens)
        return {"loss": loss, "perplexity": perplexity(loss), "token_accuracy": right}

    def ask(self, columns: Columns) -> Read:
        """Read a text."""
        return read(columns)

    def tell(self, predictions: Predictions, examples: Sequence[Example]) -> Sequence[Answer]:  # noqa: ARG002
        """Return the mean `loss` of the hidden `tokens`, and how many of them are guessed `right`."""
        return told_tokens(predictions)

    def pieces(self, table: TokenTable, row: int, tokenizer: Tokenizer) -> Sequence[Piece]:
        """Return the text as it is in the first epoch, hidden tokens apart."""
        tokens = table.row(INPUT_IDS, row)
        hidden = np.zeros(len(tokens), dtype=np.uint8)
        hidden[self._hide(table, row, 0)[0]] = 1
        return marked_pieces(tokens, hidden, tokenizer)

    def label_text(self, example: Example) -> str:  # noqa: ARG002
        """There is none beside the text itself."""
        return ""

    def _hide(self, table: TokenTable, row: int, epoch: int | None) -> tuple[Positions, Positions]:
        candidates = np.flatnonzero(table.row(_MASKABLE, row))
        return self.hiding.choose(candidates, self.hiding.generator(epoch, row))


def read(columns: Columns) -> Read:
    """Read a text."""
    text = columns.need("text")
    return lambda row: Example(row, text=text_of(row, text))


def build(spec: FineTuneJobSpec, splits: Splits, tokenizer: Tokenizer) -> MaskedLM:  # noqa: ARG001
    """Nothing is learned from the rows."""
    return MaskedLM(hiding_of(spec, tokenizer), spec.training.label_smoothing, tokenizer.pad_id)


def hiding_of(spec: FineTuneJobSpec, tokenizer: Tokenizer) -> Hiding:
    """Say how tokens are hidden.

    Args:
        spec: The manifest's.
        tokenizer: The model's.

    Returns:
        The choice.

    Raises:
        ConfigError: The model has no mask token.
    """
    mask_id = tokenizer.id_of("mask_token")
    if mask_id is None:
        raise ConfigError("the model has no mask token", remedy="Use an encoder, or task: causal-lm.")
    probability = spec.training.mask_probability or DEFAULT_MASK_PROBABILITY
    return Hiding(mask_id, tokenizer.backend.get_vocab_size(), probability, spec.training.seed)
