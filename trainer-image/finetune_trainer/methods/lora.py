"""Low-rank updates (Hu et al. 2021), by peft: W x + scale * B A x, with W frozen and B zero at the start.

Variants are fields: rsLoRA scales by alpha/sqrt(rank) (Kalajdzievski 2023), DoRA trains direction and magnitude apart
(Liu et al. 2024), PiSSA and OLoRA start from a decomposition of W (Meng et al. 2024, Büyükakyüz 2024), LoRA+ gives B
a higher learning rate (Hayou et al. 2024).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from finetune_api.spec import Method
from finetune_trainer.methods.base import Prepared
from finetune_trainer.methods.layers import check_parts, choose_layers, has_part, new_modules
from finetune_trainer.methods.peft_update import PeftUpdate, inject, load_peft
from finetune_trainer.models import Loaded

DEFAULT_RANK = 16
DEFAULT_DROPOUT = 0.05
_A, _B = ".lora_A.", ".lora_B."


def prepare(method: Method, loaded: Loaded) -> Prepared:
    """Freeze a model and add updates to some of its linear layers.

    Args:
        method: Rank, alpha, dropout, targets and the variants.
        loaded: The model; its new parameters (a fresh head) are trained in full.

    Returns:
        The model with updates.

    Raises:
        ConfigError: A named target is no linear layer of this model.
    """  # noqa: DOC502
    targets, reason = choose_layers(loaded.model, method.targets or "auto")
    peft = inject(loaded, _config(method, targets, new_modules(loaded)))
    model: nn.Module = peft.get_base_model()
    rates: dict[str, float] = {}
    if method.rate_ratio is not None:
        rates = {name: method.rate_ratio for name, _ in model.named_parameters() if _B in name}
    decomposed = method.init not in {None, "default"}
    update = _DecomposedUpdate(peft) if decomposed else PeftUpdate(peft)
    names = sorted({target.rpartition(".")[2] for target in targets})
    return Prepared(model, update, f"{len(targets)} layers ({', '.join(names)})", reason, rates)


def load(method: Method, loaded: Loaded, folder: Path) -> nn.Module:  # noqa: ARG001 - peft's files say it all
    """Put a saved update onto the base model."""
    return load_peft(loaded, folder)


def _config(method: Method, targets: list[str], fresh: list[str]) -> LoraConfig:
    rank = method.rank or DEFAULT_RANK
    ranks = _by_layer("spec.method.ranks", method.ranks or {}, targets)
    alphas = _by_layer("spec.method.alphas", method.alphas or {}, targets)
    if method.alpha is None:
        alphas = {name: 2.0 * each for name, each in ranks.items()} | alphas
    more: dict[str, Any] = {"init_lora_weights": method.init if method.init in {"pissa", "olora"} else True}
    return LoraConfig(
        r=rank,
        lora_alpha=_number(method.alpha if method.alpha is not None else 2 * rank),
        rank_pattern={name: int(each) for name, each in ranks.items()},
        alpha_pattern={name: _number(each) for name, each in alphas.items()},
        lora_dropout=DEFAULT_DROPOUT if method.dropout is None else method.dropout,
        target_modules=targets,
        modules_to_save=fresh or None,
        use_rslora=bool(method.rslora),
        use_dora=bool(method.dora),
        bias="none",
        **more,
    )


def _by_layer(path: str, wanted: Mapping[str, float], targets: list[str]) -> dict[str, float]:
    """Return the value of each target whose name holds one of the parts; the longest part wins."""
    check_parts(path, wanted, targets)
    found: dict[str, float] = {}
    for part in sorted(wanted, key=len):
        found |= {name: wanted[part] for name in targets if has_part(name, part)}
    return found


def _number(value: float) -> Any:
    """Return a whole number as such: peft writes it into its file, and declares alpha an int."""
    return int(value) if float(value).is_integer() else value


class _DecomposedUpdate(PeftUpdate):
    """An update that started from parts of W, which left W itself without them.

    B A - B0 A0 is what training added to the base model: a plain update of twice the rank, which needs no decomposition
    to load. The base here lost some rounding when the parts were taken off, hence not bit for bit.
    """

    def __init__(self, peft: Any) -> None:
        """Remember the start."""
        super().__init__(peft, exact=False)
        self._start = {name: each.clone() for name, each in self._tensors().items()}

    def save(self, folder: Path, base: str) -> None:
        """Write the difference to the start, in peft's files."""
        super().save(folder, base)
        tensors = self._tensors()
        for name in [name for name in tensors if f"{_A}weight" in name]:
            other = name.replace(_A, _B)
            tensors[name] = torch.cat([tensors[name], self._start[name]], dim=0).contiguous()
            tensors[other] = torch.cat([tensors[other], -self._start[other]], dim=1).contiguous()
        save_file(_on_cpu(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = self.peft.peft_config["default"]
        # The scale is alpha/rank, or alpha/sqrt(rank): it must not change with the doubled rank.
        growth = 2**0.5 if config.use_rslora else 2
        doubled = replace(
            config,
            r=2 * config.r,
            lora_alpha=_number(growth * config.lora_alpha),
            rank_pattern={name: 2 * each for name, each in config.rank_pattern.items()},
            alpha_pattern={name: _number(growth * each) for name, each in config.alpha_pattern.items()},
            init_lora_weights=True,
            inference_mode=True,
        )
        doubled.save_pretrained(str(folder))

    def _tensors(self) -> dict[str, Tensor]:
        return dict(get_peft_model_state_dict(self.peft, save_embedding_layers=False))


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
