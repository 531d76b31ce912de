"""A classifier over texts, images and sounds: an encoder for each, joined late or by cross-attention.

`late` pools each encoder's states to one vector and joins the vectors. `cross-attention` lets a few learned vectors
look at the states of all encoders (as Perceiver does, Jaegle et al. 2021), so that a part of an image can be weighed by
what the text asks. A part that a row lacks is replaced by a learned vector, and nothing of what stands in its place is
seen.

It is a model of transformers: `save_pretrained` writes it, `from_pretrained` reads it back. `from_pretrained` also
reads a folder with encoders in subfolders `text`, `image` and `audio`, each pretrained or, without weights, from
nothing.

Legend: B rows, T tokens, patches or frames, H width of an encoder, W width of the fusion, M parts, L learned vectors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune_trainer.data.modalities import PARTS
from finetune_trainer.lean import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from finetune_trainer.sources import FUSION, has_weights


class FusionConfig(PretrainedConfig):
    """The encoders' configs, and how they are joined."""

    model_type = FUSION
    sub_configs_defaults: ClassVar[Any] = {
        f"{part}_config": SubConfigSpec(config_class=AutoConfig, model_type=kind, optional=True)
        for part, kind in zip(PARTS, ("bert", "vit", "wav2vec2"), strict=True)
    }
    fusion: Literal["late", "cross-attention"] = "late"
    fusion_width: int = 128
    fusion_layers: int = 2
    """Of cross-attention."""
    fusion_heads: int = 4
    fusion_latents: int = 8
    """Learned vectors that look at the encoders' states."""
    dropout: float = 0.1
    text_config: Any = None
    image_config: Any = None
    audio_config: Any = None

    def parts(self) -> Iterator[tuple[str, PretrainedConfig]]:
        """Yield the name and the config of each encoder that there is, always in the same order."""
        for part in PARTS:
            if (found := getattr(self, f"{part}_config")) is not None:
                yield part, found


AutoConfig.register(FusionConfig.model_type, FusionConfig)


@dataclass(frozen=True, slots=True)
class States:
    """What an encoder says of a batch: states [B, T, H], which of them are no padding [B, T], who has the part [B]."""

    hidden: Tensor
    real: Tensor
    present: Tensor


class FusionForClassification(PreTrainedModel):
    """Encoders, their fusion, and a linear classifier."""

    config_class = FusionConfig
    base_model_prefix = "encoders"
    _supports_sdpa = True
    _model_mapping: ClassVar[Mapping[type[PretrainedConfig], Any]] = {FusionConfig: None}

    def __init__(self, config: FusionConfig) -> None:
        """Build it with random weights.

        Args:
            config: With at least one encoder.
        """
        super().__init__(config)
        self.encoders = nn.ModuleDict({part: _encoder(each) for part, each in config.parts()})
        self.fusion = _Late(config) if config.fusion == "late" else _CrossAttention(config)
        self.dropout = nn.Dropout(config.dropout)
        assert config.num_labels is not None, "internal: the config has labels by now"
        self.classifier = nn.Linear(config.fusion_width, config.num_labels)
        self.post_init()

    def forward(self, present: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
        """Return `logits`, [B, C].

        Args:
            present: Whether a row has each part, in the order of the config's, [B, M]; what stands in the place of one
                that it lacks must be valid input, and has no effect.
            **inputs: `input_ids` and `attention_mask`; `pixel_values`; `input_values` or `input_features`, with
                `audio_attention_mask` and the number of frames of each row, `audio_frames` [B], where rows differ.

        Returns:
            The scores.
        """
        states = {
            part: States(*_STATES[part](encoder, inputs), present[:, at].bool())
            for at, (part, encoder) in enumerate(self.encoders.items())
        }
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(self.fusion(states))))

    @classmethod
    def from_config(cls, config: FusionConfig, **_: Any) -> "FusionForClassification":
        """Build it with random weights, as the classes of transformers that choose an architecture do."""
        return cls._from_config(config)

    @classmethod
    def from_pretrained(cls, folder: str, **more: Any) -> Any:
        """Load a folder that `save_pretrained` wrote, or one with encoders in subfolders.

        Args:
            folder: On this machine.
            **more: Of transformers; `config` is needed for encoders in subfolders.

        Returns:
            The model; with `output_loading_info` also what was not in the files: `missing_keys`, of which those under
            `from_nothing` belong to encoders that have no files of weights.
        """
        if has_weights(Path(folder)):
            return super().from_pretrained(folder, **more)
        model = cls._from_config(more["config"]).float()
        missing = [name for name, _ in model.named_parameters() if not name.startswith(f"{cls.base_model_prefix}.")]
        from_nothing: list[str] = []
        for part, config in more["config"].parts():
            prefix = f"{cls.base_model_prefix}.{part}."
            if not has_weights(Path(folder) / part):
                from_nothing += [name for name, _ in model.named_parameters() if name.startswith(prefix)]
                continue
            options = {"config": config, "dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
            found, info = AutoModel.from_pretrained(str(Path(folder) / part), output_loading_info=True, **options)
            model.encoders[part] = _alone(found)
            missing += [f"{prefix}{name}" for name in info["missing_keys"]]
        info = {"missing_keys": [*missing, *from_nothing], "mismatched_keys": [], "from_nothing": from_nothing}
        return (model, info) if more.get("output_loading_info") else model


class _Late(nn.Module):
    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.project = _projections(config)
        self.missing = nn.Embedding(len(self.project), config.fusion_width)
        self.mix = nn.Linear(len(self.project) * config.fusion_width, config.fusion_width)

    def forward(self, states: Mapping[str, States]) -> Tensor:
        """Return [B, W]."""
        parts: list[Tensor] = []
        for at, (part, each) in enumerate(states.items()):
            real_BT1 = each.real[..., None].to(each.hidden.dtype)
            pooled_BH = (each.hidden * real_BT1).sum(dim=1) / real_BT1.sum(dim=1)
            own_BW = F.gelu(self.project[part](pooled_BH))
            parts.append(torch.where(each.present[:, None], own_BW, self.missing.weight[at].to(own_BW.dtype)))
        return F.gelu(self.mix(torch.cat(parts, dim=-1)))


class _CrossAttention(nn.Module):
    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.project = _projections(config)
        self.missing, self.kinds = (nn.Embedding(len(self.project), config.fusion_width) for _ in range(2))
        self.latents = nn.Embedding(config.fusion_latents, config.fusion_width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.fusion_layers))
        self.norm = nn.LayerNorm(config.fusion_width)

    def forward(self, states: Mapping[str, States]) -> Tensor:
        """Return [B, W]."""
        seen: list[Tensor] = []
        visible: list[Tensor] = []
        for at, (part, each) in enumerate(states.items()):
            own_BTW = self.project[part](each.hidden) + self.kinds.weight[at]
            seen += [self.missing.weight[at].expand(len(own_BTW), 1, -1), own_BTW]
            visible += [~each.present[:, None], each.real & each.present[:, None]]
        rows = len(visible[0])
        latents_BLW = self.latents.weight.expand(rows, -1, -1)
        always_BL = torch.ones(latents_BLW.shape[:2], dtype=torch.bool, device=latents_BLW.device)
        visible_BK = torch.cat([always_BL, *visible], dim=1)
        seen_BTW = torch.cat([each.to(latents_BLW.dtype) for each in seen], dim=1)
        for layer in self.layers:
            latents_BLW = layer(latents_BLW, seen_BTW, visible_BK)
        return self.norm(latents_BLW).mean(dim=1)


class _Layer(nn.Module):
    """Learned vectors look at each other and at what the encoders say, and are changed each for itself."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.fusion_width
        self.heads = config.fusion_heads
        self.norm_latents, self.norm_seen, self.norm_inner = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, latents_BLW: Tensor, seen_BTW: Tensor, visible_BK: Tensor) -> Tensor:
        """Return the vectors, changed, [B, L, W]; keys are the vectors themselves and what is seen, K = L + T."""
        normed_BLW = self.norm_latents(latents_BLW)
        keys_BKW = torch.cat([normed_BLW, self.norm_seen(seen_BTW)], dim=1)
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(normed_BLW), self.key(keys_BKW), self.value(keys_BKW))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible_BK[:, None, None])
        latents_BLW = latents_BLW + self.out(mixed.transpose(1, 2).flatten(2))
        return latents_BLW + self.down(F.gelu(self.up(self.norm_inner(latents_BLW))))


def _projections(config: FusionConfig) -> nn.ModuleDict:
    widths = {part: getattr(each, "hidden_sizes", None) or [each.hidden_size] for part, each in config.parts()}
    return nn.ModuleDict({part: nn.Linear(each[-1], config.fusion_width) for part, each in widths.items()})


def _encoder(config: PretrainedConfig) -> nn.Module:
    return _alone(AutoModel.from_config(config, trust_remote_code=False))


def _alone(model: Any) -> nn.Module:
    """Return the encoder of a model that also has a decoder (Whisper, T5)."""
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _of_text(encoder: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    mask_BT = inputs["attention_mask"]
    return encoder(input_ids=inputs["input_ids"], attention_mask=mask_BT).last_hidden_state, mask_BT.bool()


def _of_image(encoder: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    hidden = encoder(pixel_values=inputs["pixel_values"]).last_hidden_state
    if hidden.dim() > 3:
        hidden = hidden.flatten(2).transpose(1, 2)
    return hidden, _all_real(hidden)


def _of_audio(encoder: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    heard = {name: inputs[name] for name in ("input_values", "input_features") if name in inputs}
    mask = inputs.get("audio_attention_mask")
    hidden_BTH = encoder(**heard, **({} if mask is None else {"attention_mask": mask})).last_hidden_state
    frames_B = inputs.get("audio_frames")
    if frames_B is None:
        return hidden_BTH, _all_real(hidden_BTH)
    return hidden_BTH, torch.arange(hidden_BTH.shape[1], device=frames_B.device)[None] < frames_B[:, None]


def _all_real(hidden_BTH: Tensor) -> Tensor:
    return torch.ones(hidden_BTH.shape[:2], dtype=torch.bool, device=hidden_BTH.device)


_STATES = {"text": _of_text, "image": _of_image, "audio": _of_audio}
