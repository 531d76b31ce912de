"""Scores only where a token is supervised: for a small model the vocabulary is half of the work.

The backbone runs on everything, the head on the supervised positions. Models that do more than head(backbone(x)), such
as scaled or capped scores, are found by comparing both ways once, and then take the slow way.

Legend: B rows, T tokens, K supervised tokens, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_trainer.objectives import token_losses
from finetune_trainer.tasks.base import Batch, Predictions
from finetune_trainer.tasks.scoring import Scored

_TOLERANCE = 1e-4
Head = Callable[[Tensor], Tensor]


class TokenHead:
    """Computes token losses of a model, the short way where it is proven equal."""

    def __init__(self, attributes: tuple[str, ...], extra: Mapping[str, Any]) -> None:
        """Remember how the head may be called.

        Args:
            attributes: Names that the head module may have.
            extra: Further arguments of the model's forward, such as use_cache.
        """
        self._attributes = attributes
        self._extra = extra
        self._proven: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def losses(self, model: nn.Module, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Return the loss of each supervised token, [K], and whether its best score is right, [K]."""
        select, targets = batch.tensors["select"], batch.tensors["targets"]
        if not self._proven_for(model, batch):
            logits_KV = self._full(model, batch).flatten(0, 1)[select].float()
            losses = F.cross_entropy(logits_KV, targets, reduction="none", label_smoothing=label_smoothing)
            return losses, logits_KV.detach().argmax(dim=-1) == targets
        return token_losses(self._hidden(model, batch, select), targets, self._head(model), label_smoothing)

    def scores(self, model: nn.Module, batch: Batch, select: Tensor) -> Tensor:
        """Return the scores at flat positions, [*, V]."""
        hidden, head = self._halves(model, batch, select)
        return head(hidden)

    def scored(self, model: nn.Module, batch: Batch) -> Scored:
        """Return what the scores of each supervised token are made from."""
        hidden_KH, head = self._halves(model, batch, batch.tensors["select"])
        return Scored(hidden_KH, head, {"targets": batch.tensors["targets"]})

    def equals_model(self, model: nn.Module, batch: Batch) -> bool:
        """Tell whether head(backbone(x)) is what the model itself computes, on one row of a batch."""
        base: Any = model.base_model
        if self._find(model) is None or base is model:
            return False
        one = Batch({name: each[:1] for name, each in batch.inputs().items()}, batch.rows[:1])
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                theirs = self._full(model, one).flatten(0, 1)
                ours = self._head(model)(self._hidden(model, one, torch.arange(len(theirs), device=theirs.device)))
                return bool((ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max().clamp(min=1.0))
        finally:
            model.train(was_training)

    def _proven_for(self, model: nn.Module, batch: Batch) -> bool:
        if model not in self._proven:
            self._proven[model] = self.equals_model(model, batch)
        return self._proven[model]

    def _halves(self, model: nn.Module, batch: Batch, select: Tensor) -> tuple[Tensor, Head]:
        """Return the hidden states at flat positions and the head, or for other models the scores and nothing more."""
        if self._proven_for(model, batch):
            return self._hidden(model, batch, select), self._head(model)
        return self._full(model, batch).flatten(0, 1)[select], nn.Identity()

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        return batch.inputs() | dict(self._extra)

    def _full(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(**self._inputs(batch)).logits

    def _hidden(self, model: nn.Module, batch: Batch, select: Tensor) -> Tensor:
        backbone: Any = model.base_model
        return backbone(**self._inputs(batch)).last_hidden_state.flatten(0, 1)[select]

    def _find(self, model: nn.Module) -> nn.Module | None:
        return next((found for name in self._attributes if (found := getattr(model, name, None)) is not None), None)

    def _head(self, model: nn.Module) -> Head:
        found = self._find(model)
        assert found is not None, "internal: the short way was taken for a model without a known head"
        return found


def told_tokens(predictions: Predictions) -> list[dict[str, Any]]:
    """Return each row's mean `loss`, its `tokens` and how many of them are `right`, from `token_predictions`."""
    columns = (predictions[name].tolist() for name in ("loss", "tokens", "right"))
    return [
        {"loss": loss / max(1.0, tokens), "tokens": int(tokens), "right": int(right)}
        for loss, tokens, right in zip(*columns, strict=True)
    ]


def token_predictions(losses_K: Tensor, right_K: Tensor, batch: Batch) -> Predictions:
    """Sum over each row's supervised tokens: `loss`, `tokens` and `right`, each [B]."""
    owner = batch.tensors["owner"]
    rows = len(batch.rows)

    def per_row(values: Tensor) -> Any:
        return torch.zeros(rows, dtype=torch.float64).index_add_(0, owner.cpu(), values.double().cpu()).numpy()

    return {"loss": per_row(losses_K), "tokens": per_row(torch.ones_like(losses_K)), "right": per_row(right_K)}
