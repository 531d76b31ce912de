"""Small models of images and texts, with random weights."""

import json
from pathlib import Path
from typing import Any

from support.tiny import save_image_settings, save_tiny_model, save_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 30522,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
IMAGE = {**TEXT, "image_size": 16, "patch_size": 4}
_ENDS = {"bos_token_id": 101, "eos_token_id": 102}


_FUSIONS = {"late": "wav2vec2", "cross-attention": "hubert"}
"""How encoders are joined, and which one hears."""


def _save_fusion(folder: Path, kind: str) -> Path:
    """Save pretrained encoders in subfolders."""
    (folder / "config.json").write_text(
        json.dumps({"model_type": "finetune-fusion", "fusion": kind, "fusion_width": 16})
    )
    for part, each in (("text", "bert"), ("image", "vit"), ("audio", _FUSIONS[kind])):
        save_tiny_model(folder / part, each)
    return folder


def save_mixed_model(folder: Path, kind: str) -> Path:
    """Save one with MiniLM's tokenizer."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    if kind in _FUSIONS:
        return _save_fusion(folder, kind)
    inner = TEXT | {"is_decoder": True, "add_cross_attention": True}
    bert, vit = (each.to_dict() for each in (t.BertConfig(**TEXT), t.ViTConfig(**IMAGE)))
    model: Any = {
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=TEXT | _ENDS, vision_config=IMAGE, projection_dim=16)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=TEXT | _ENDS, vision_config=IMAGE)),
        "captioner": lambda: t.VisionEncoderDecoderModel(
            t.VisionEncoderDecoderConfig(
                encoder=vit, decoder=t.BertConfig(**inner).to_dict(), decoder_start_token_id=101, eos_token_id=102
            )
        ),
        "dual": lambda: t.VisionTextDualEncoderModel(
            t.VisionTextDualEncoderConfig(text_config=bert, vision_config=vit, projection_dim=16)
        ),
    }[kind]()
    model.save_pretrained(folder)
    save_image_settings(folder)
    save_tokenizer(folder, {})
    return folder
