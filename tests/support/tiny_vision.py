"""Small models that find objects in images or give their pixels classes, with random weights."""

import json
from pathlib import Path
from typing import Any

from support.tiny import one_row, prepared, save_image_settings, write_image


def save_detector(folder: Path, kind: str) -> Path:
    """Save a detector with few queries and every other weight moved: YOLOS starts with queries that are all alike."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    backbone = t.ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8, layer_type="basic")
    backbone.out_features = ["stage2"]
    decoder = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 6, "dropout": 0.0}
    decoder |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "auxiliary_loss": True}
    decoder |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "backbone_config": backbone, "use_timm_backbone": False}
    model: Any = {
        "yolos": lambda: t.YolosForObjectDetection(
            t.YolosConfig(**sizes, image_size=[16, 16], patch_size=4, num_detection_tokens=6)
        ),
        "detr": lambda: t.DetrForObjectDetection(t.DetrConfig(**decoder)),
        "conditional": lambda: t.ConditionalDetrForObjectDetection(t.ConditionalDetrConfig(**decoder)),
        "deformable": lambda: t.DeformableDetrForObjectDetection(
            t.DeformableDetrConfig(**decoder, num_feature_levels=1, with_box_refine=True)
        ),
    }[kind]()
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each) * 0.05)
    model.save_pretrained(folder)
    names = {"yolos": "Yolos", "detr": "Detr", "conditional": "ConditionalDetr", "deformable": "DeformableDetr"}
    size = {"height": 16, "width": 16} if kind == "yolos" else {"shortest_edge": 16, "longest_edge": 24}
    mean = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": f"{names[kind]}ImageProcessor", "size": size} | mean)
    )
    return folder


def save_segmenter(folder: Path) -> Path:
    """Save a SegFormer of two stages."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1], "patch_sizes": [3, 3], "strides": [2, 2], "sr_ratios": [2, 1]}
    heads = {"num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16, "num_encoder_blocks": 2}
    config = t.SegformerConfig(**stages, **heads, classifier_dropout_prob=0.0, drop_path_rate=0.0)
    t.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    save_image_settings(folder, "SegformerImageProcessor")
    return folder


def detection(folder: Path, model: Path, rows: list[dict[str, Any]], **sections: Any) -> Any:
    """Prepare a job that detects objects over rows, each with an image of its number."""
    for index in range(len(rows)):
        write_image(folder / f"images/{index}.png", index)
    return prepared(folder, "object-detection", model, rows, **sections)


def scenes(count: int = 8) -> list[dict[str, Any]]:
    """Rows with objects."""
    return [one_row("object-detection", index) for index in range(count)]
