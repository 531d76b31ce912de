"""Load a model with the head of its task, in float32, from safetensors or GGUF; never pickles, never remote code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_trainer import lean
from finetune_trainer.errors import ConfigError, ModelNotFound
from finetune_trainer.fusion import FusionForClassification
from finetune_trainer.lean import AutoConfig, PretrainedConfig, PreTrainedModel
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.base import HEADS, HeadSpec

_OWN: Mapping[str, Any] = {FusionForClassification.__name__: FusionForClassification}
_HEADS: Mapping[str, Any] = {kind: _OWN.get(name) or getattr(lean, name) for kind, name in HEADS.items()}
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "attention_dropout",
    "dropout",
    "hidden_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "dropout_rate",
    "activation_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)


_OTHER_CLASSES = frozenset({"image-classification", "object-detection", "semantic-segmentation"})
"""Heads that come trained for classes, of which the data has others."""
_HEAD_MODULES = frozenset({"classifier", "projector"})
"""Beside the encoder where the backbone has no name of its own (Whisper's classifier)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in float32, and the parameters that were not in its files and start at random."""

    model: PreTrainedModel
    new_parameters: tuple[str, ...]
    frozen: frozenset[str] = frozenset()
    """Parameters that the task keeps as they are, whatever the method."""
    from_nothing: frozenset[str] = frozenset()
    """Parameters of a whole part that has no weights, beside others that are pretrained."""


def load_config(files: ModelFiles, head: HeadSpec, dropout: float | None) -> PretrainedConfig:
    """Read a model's architecture, with the task's settings.

    Args:
        files: Where the model is.
        head: The task's head.
        dropout: Replaces the model's own dropout when given.

    Returns:
        The config.

    Raises:
        ModelNotFound: It is damaged, of an unknown architecture, or of one that has no such head.
        ConfigError: A dropout is wanted and the architecture has none.
    """
    try:
        config: Any = AutoConfig.from_pretrained(
            str(files.folder), trust_remote_code=False, local_files_only=True, gguf_file=files.gguf_file
        )
    except Exception as error:  # transformers raises whatever its readers raise
        raise ModelNotFound(
            f"{files.uri}: the architecture cannot be read ({_first_line(error)})",
            remedy="Give a model of an architecture that transformers knows; code that comes with a model is refused.",
        ) from error
    if type(config) not in _HEADS[head.kind]._model_mapping:  # noqa: SLF001 - the one list of what has which head
        raise ModelNotFound(
            f"{files.uri}: a {config.model_type} model has no {head.kind} head", remedy="Choose a model for this task."
        )
    for name, value in head.config.items():
        setattr(config, name, value)
    if dropout is not None:
        known = [(part, name) for part in _parts(config) for name in _DROPOUTS if hasattr(part, name)]
        if not known:
            raise ConfigError(
                f"spec.training.dropout: a {config.model_type} model has no dropout", remedy="Remove the field."
            )
        for part, name in known:
            setattr(part, name, dropout)
    return config


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """Yield a config and those inside it: of an encoder, of a decoder."""
    yield config
    for each in vars(config).values():
        if isinstance(each, PretrainedConfig):
            yield from _parts(each)


def load_model(files: ModelFiles, head: HeadSpec, *, pretrained: bool, dropout: float | None = None) -> Loaded:
    """Load a model.

    Args:
        files: Where it is.
        head: The task's head.
        pretrained: False builds the architecture with random weights.
        dropout: Replaces the model's own dropout when given.

    Returns:
        The model in float32 on the CPU.

    Raises:
        ModelNotFound: The files are damaged or do not hold this model.
    """
    config: Any = load_config(files, head, dropout)
    auto = _HEADS[head.kind]
    if not pretrained:
        with lean.lean():
            model = auto.from_config(config, trust_remote_code=False)
        # Some come with a part frozen that is pretrained as a rule, such as the backbone of DETR.
        model.requires_grad_(True)
        return Loaded(model.float(), tuple(name for name, _ in model.named_parameters()))
    try:
        with lean.lean(gguf=files.gguf_file is not None):
            model, info = auto.from_pretrained(
                str(files.folder),
                config=config,
                gguf_file=files.gguf_file,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                # A head over other classes; whether the backbone fits is checked below.
                ignore_mismatched_sizes=head.kind in _OTHER_CLASSES,
            )
    except Exception as error:  # safetensors, OS and shape errors share no class
        raise ModelNotFound(
            f"{files.uri}: the weights cannot be read ({_first_line(error)})",
            remedy="Copy the model again; the file is damaged, incomplete or of another shape.",
        ) from error
    if files.gguf_file is not None:
        # Its weights are plain float32 by now; transformers would refuse to save them.
        model.hf_quantizer = None
    missing = sorted({*info["missing_keys"], *(str(each[0]) for each in info["mismatched_keys"])})
    # A model that is its own backbone (T5) has names without its prefix, and no new head.
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    from_nothing = frozenset(info.get("from_nothing", ()))
    backbone = [
        name
        for name in missing
        if name not in from_nothing
        and name.startswith(prefix)
        and ".pooler." not in name
        and name.partition(".")[0] not in _HEAD_MODULES
    ]
    if backbone:
        raise ModelNotFound(
            f"{files.uri}: {len(backbone)} weights are missing, {backbone[0]} first",
            remedy="Copy the model again, or set weights: random to train from nothing.",
        )
    model.config._name_or_path = files.uri  # noqa: SLF001 - the card must not carry a path of this machine
    return Loaded(model, tuple(missing), _frozen(model, head) - set(missing), from_nothing)


def _frozen(model: PreTrainedModel, head: HeadSpec) -> frozenset[str]:
    names = (name for name, _ in model.named_parameters())
    return frozenset(name for name in names if any(f".{part}." in f".{name}" for part in head.frozen))


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """Return how many parameters there are, and how many of them are trained."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def save_folder(model: PreTrainedModel, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write a model as transformers does, with other weights when a state is given."""
    with lean.lean():
        model.save_pretrained(str(folder), state_dict=state)


def load_folder(folder: Path, head: HeadSpec) -> PreTrainedModel:
    """Load a model back from an artifact's folder, as a user would."""
    with lean.lean():
        return _HEADS[head.kind].from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
