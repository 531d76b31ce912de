"""Small models of images and texts, with random weights."""

from pathlib import Path
from typing import Any

from support.tiny import save_image_settings, save_tokenizer

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


def save_mixed_model(folder: Path, kind: str) -> Path:
    """Save one with MiniLM's tokenizer."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    bert, vit = (each.to_dict() for each in (t.BertConfig(**TEXT), t.ViTConfig(**IMAGE)))
    model: Any = {
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=TEXT | _ENDS, vision_config=IMAGE, projection_dim=16)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=TEXT | _ENDS, vision_config=IMAGE)),
        "dual": lambda: t.VisionTextDualEncoderModel(
            t.VisionTextDualEncoderConfig(text_config=bert, vision_config=vit, projection_dim=16)
        ),
    }[kind]()
    model.save_pretrained(folder)
    save_image_settings(folder)
    save_tokenizer(folder, {})
    return folder
