"""AdaLoRA (Zhang et al. 2023): low-rank updates B diag(E) A whose ranks follow their importance.

peft computes the layers. The budget is driven from here, since peft's own driver needs the length of the run before
there is one, keeps nothing for a resumed run, and adds its regularisation once per pass. All matrices begin with
`rank` directions; over the middle of the run the least important of all of them together are set to zero until
`targetRank` per matrix are left; the last part of the run trains those alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_trainer.errors import ConfigError
from finetune_trainer.hooks import StepHook
from finetune_trainer.methods.base import Prepared
from finetune_trainer.methods.layers import choose_layers, new_modules
from finetune_trainer.methods.lora import DEFAULT_DROPOUT
from finetune_trainer.methods.peft_update import PeftUpdate, inject, load_peft
from finetune_trainer.models import Loaded

DEFAULT_RANK = 12
_PARTS = ("lora_A", "lora_E", "lora_B")
_SMOOTHING = 0.85
_ORTHOGONALITY = 0.5
_FIRST, _LAST = 0.1, 0.7
"""Parts of the run after which pruning begins and ends."""
_ROUNDS = 100


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Freeze a model and add updates with a budget.

    Args:
        method: Ranks at the start and at the end, alpha, dropout, targets.
        loaded: The model.

    Returns:
        The model with updates.

    Raises:
        ConfigError: A named target is no linear layer of this model, or the final rank is above the first one.
    """
    targets, reason = choose_layers(loaded.model, method.targets or "auto")
    rank = method.rank or DEFAULT_RANK
    target_rank = method.target_rank or max(1, rank // 2)
    if target_rank > rank:
        raise ConfigError(
            f"spec.method.targetRank: at most method.rank, {rank}, found {target_rank}", remedy="Lower it."
        )
    alpha: Any = 2 * rank if method.alpha is None else method.alpha
    config = AdaLoraConfig(
        init_r=rank,
        target_r=target_rank,
        lora_alpha=alpha,
        lora_dropout=DEFAULT_DROPOUT if method.dropout is None else method.dropout,
        target_modules=targets,
        modules_to_save=new_modules(loaded) or None,
        # peft's driver of the budget, which these would set, is not used.
        total_step=1,
    )
    peft = inject(loaded, config)
    model: nn.Module = peft.get_base_model()
    decision = f"{len(targets)} layers, rank {rank} falling to {target_rank} on average"
    return Prepared(model, PeftUpdate(peft), decision, reason, hooks=(Budget(model, target_rank),))


def load(method: Method, loaded: Loaded, folder: Path) -> nn.Module:  # noqa: ARG001 - peft's files say it all
    """Put a saved update onto the base model."""
    return load_peft(loaded, folder)


class Budget(StepHook):
    """Measures how important each direction is, and keeps the best ones of all matrices together."""

    name = "adalora"

    def __init__(self, model: nn.Module, target_rank: int) -> None:
        """Find the matrices.

        Args:
            model: With updates.
            target_rank: Directions per matrix that are left at the end, on average.
        """
        parameters = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self._parts = {
            part: {name.partition(f".{part}.")[0]: each for name, each in parameters if f".{part}." in name}
            for part in _PARTS
        }
        values = self._parts["lora_E"]
        self._total = sum(len(each) for each in values.values())
        self._target = target_rank * len(values)
        self._importance = self._zeros()
        self._doubt = self._zeros()
        self._kept = {name: torch.ones_like(each, dtype=torch.bool) for name, each in values.items()}
        self._first, self._last, self._every = 0, 0, 1

    def begin(self, max_steps: int, steps_per_epoch: int) -> None:  # noqa: ARG002 - counts in steps alone
        """Divide the run into its three parts."""
        self._first, self._last = int(_FIRST * max_steps), int(_LAST * max_steps)
        self._every = max(1, (self._last - self._first) // _ROUNDS)

    def before_update(self, step: int) -> None:
        """Add the gradient of the regularisation, then measure the importance by gradient times weight."""
        for part, transposed in (("lora_A", False), ("lora_B", True)):
            self._keep_orthogonal(self._parts[part], transposed=transposed)
        if step >= self._last:
            return
        for part, matrices in self._parts.items():
            for name, each in matrices.items():
                if each.grad is None:
                    continue
                key = f"{part}/{name}"
                now = (each.detach() * each.grad).abs()
                self._importance[key].lerp_(now, 1 - _SMOOTHING)
                self._doubt[key].lerp_((now - self._importance[key]).abs(), 1 - _SMOOTHING)

    def after_update(self, step: int) -> None:
        """Set the directions that are not kept to zero; choose them anew while the budget falls."""
        if self._first <= step <= self._last and (step % self._every == 0 or step == self._last):
            self._choose(self._budget(step))
        elif step < self._last:
            return
        with torch.no_grad():
            for name, each in self._parts["lora_E"].items():
                each.masked_fill_(~self._kept[name], 0.0)

    def state(self) -> Mapping[str, Tensor]:
        """Return smoothed importances and what is kept."""
        kept = {f"kept/{name}": each for name, each in self._kept.items()}
        importance = {f"importance/{key}": each for key, each in self._importance.items()}
        return kept | importance | {f"doubt/{key}": each for key, each in self._doubt.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, each in self.state().items():
            each.copy_(tensors[name])

    def _budget(self, step: int) -> int:
        """Return how many directions may stay: a cubic fall from all of them."""
        left = 1 - (step - self._first) / max(1, self._last - self._first)
        return int((self._total - self._target) * left**3 + self._target)

    def _choose(self, budget: int) -> None:
        scores = {name: self._score(name) for name in self._kept}
        order = torch.cat(list(scores.values())).argsort(descending=True, stable=True)
        kept = torch.zeros(self._total, dtype=torch.bool, device=order.device)
        kept[order[:budget]] = True
        pieces = kept.split([len(each) for each in scores.values()])
        self._kept = {name: piece[:, None].clone() for name, piece in zip(scores, pieces, strict=True)}

    def _score(self, name: str) -> Tensor:
        """Return the importance of each direction, [rank]: its value's, and the means of its two vectors'."""
        down, value, up = (self._importance[f"{part}/{name}"] * self._doubt[f"{part}/{name}"] for part in _PARTS)
        return value[:, 0] + down.mean(dim=1) + up.mean(dim=0)

    def _keep_orthogonal(self, matrices: Mapping[str, nn.Parameter], *, transposed: bool) -> None:
        """Add to each gradient that of the distance between M M^T and the identity, once per step."""
        count = 2 * len(matrices)
        for each in matrices.values():
            if each.grad is None:
                continue
            leaf = each.detach().requires_grad_()
            rows = leaf.T if transposed else leaf
            distance = torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), device=rows.device))
            (slope,) = torch.autograd.grad(_ORTHOGONALITY / count * distance, leaf)
            each.grad += slope

    def _zeros(self) -> dict[str, Tensor]:
        return {
            f"{part}/{name}": torch.zeros_like(each)
            for part, matrices in self._parts.items()
            for name, each in matrices.items()
        }
