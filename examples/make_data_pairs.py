"""Make example images with texts: two handwritten digits side by side, composed from those of `data/digits`.

    python examples/make_data_pairs.py

The digits are MNIST's, 4,000 to train on and 1,000 others to test on. What is COMPOSED is which two stand beside each
other, and the texts: a caption in one of two wordings, a title in one wording, and a question about the two with its
answer. 20 of the 100 pairs never stand in `train` and alone in `unseen`; `test` holds the other 80. Prints what can be
reached without looking at the image, or without reading the question, as baselines. The models have no weights.
"""

import io
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

DIGITS = Path(__file__).parent / "data" / "digits"
FOLDER = Path(__file__).parent / "data" / "digit-pairs"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = ("which digit is on the left", "which digit is on the right", "which is larger", "which is smaller")
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
SIZES = {"train": 6000, "test": 600, "unseen": 400}
SIDE = 56
Rows = list[dict[str, Any]]

WIDTHS = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}
ENDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
TEXT = {**WIDTHS, **ENDS, "num_hidden_layers": 2, "max_position_embeddings": 32}
IMAGE = {**WIDTHS, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": 14}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.13, 0.13, 0.13],
    "image_std": [0.31, 0.31, 0.31],
}


def architectures(words: int) -> dict[str, dict[str, Any]]:
    """Return the config of each model."""
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {
        "two-towers": {
            "model_type": "clip",
            "architectures": ["CLIPModel"],
            "projection_dim": 64,
            "text_config": {**TEXT, "vocab_size": words, "model_type": "clip_text_model"},
            "vision_config": {**IMAGE, "model_type": "clip_vision_model"},
        },
        "captioner": {
            "model_type": "vision-encoder-decoder",
            "architectures": ["VisionEncoderDecoderModel"],
            "decoder_start_token_id": 2,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "encoder": {**IMAGE, **off, "model_type": "vit"},
            "decoder": {
                **TEXT,
                **off,
                "vocab_size": words,
                "model_type": "bert",
                "is_decoder": True,
                "add_cross_attention": True,
            },
        },
    }


def digits(name: str) -> dict[int, list[np.ndarray]]:
    """Return the images of each digit, [28, 28]."""
    found: dict[int, list[np.ndarray]] = defaultdict(list)
    for row in pq.read_table(DIGITS / f"{name}.parquet").to_pylist():
        found[int(row["label"])].append(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L")))
    return found


def beside(left: np.ndarray, right: np.ndarray) -> bytes:
    """Return a square image of two digits as PNG."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[14:42] = np.concatenate([left, right], axis=1)
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def texts(left: int, right: int, rng: random.Random) -> dict[str, str]:
    """Return what is said of a pair."""
    one, other = NAMES[left], NAMES[right]
    title = f"a {one} left of a {other}"
    asked = rng.randrange(len(QUESTIONS))
    answer = (left, right, max(left, right), min(left, right))[asked]
    caption = rng.choice((title, f"a {other} right of a {one}"))
    return {"title": title, "caption": caption, "question": QUESTIONS[asked], "answer": NAMES[answer]}


def make(images: dict[int, list[np.ndarray]], pairs: list[tuple[int, int]], count: int, rng: random.Random) -> Rows:
    """Return rows whose pairs are equally frequent."""
    rows: Rows = []
    for at in range(count):
        left, right = pairs[at % len(pairs)]
        png = beside(rng.choice(images[left]), rng.choice(images[right]))
        rows.append({"image": {"bytes": png, "path": None}, **texts(left, right, rng)})
    rng.shuffle(rows)
    return rows


def tokenizer(rows: Rows) -> Tokenizer:
    """Return one of whole words."""
    words = sorted(
        {word for row in rows for name in ("title", "caption", "question", "answer") for word in row[name].split()}
    )
    found = Tokenizer(models.WordLevel({word: at for at, word in enumerate((*SPECIAL, *words))}, unk_token=SPECIAL[1]))
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 2), ("</s>", 3)]
    )
    found.add_special_tokens(list(SPECIAL))
    return found


def baselines(train: Rows, test: Rows) -> None:
    """Print what the question alone and the image alone are worth."""
    usual = {
        asked: Counter(row["answer"] for row in train if row["question"] == asked).most_common(1)[0][0]
        for asked in QUESTIONS
    }
    blind = np.mean([usual[row["question"]] == row["answer"] for row in test])
    titles = Counter(row["title"] for row in train).most_common(1)[0][0]
    # Both digits known, the question not: an answer is the one of the two that answers more questions, or the first.
    same = np.mean([row["title"].split()[1] == row["title"].split()[-1] for row in test])
    print(f"answers: from the question alone {blind:.3f}, from both digits without the question {0.5 + same / 2:.3f}")
    print(f"titles: always the most frequent one {np.mean([row['title'] == titles for row in test]):.3f}")


def main() -> None:
    """Write the sets and the models."""
    rng = random.Random(56)
    pairs = [(left, right) for left in range(10) for right in range(10)]
    rng.shuffle(pairs)
    held, seen = pairs[:20], pairs[20:]
    train, test = digits("train"), digits("test")
    sets = {
        "train": make(train, seen, SIZES["train"], rng),
        "test": make(test, seen, SIZES["test"], rng),
        "unseen": make(test, held, SIZES["unseen"], rng),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "LICENSE").write_text((DIGITS / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")
    for name, rows in sets.items():
        pq.write_table(pa.Table.from_pylist(rows), FOLDER / f"{name}.parquet", compression="zstd", row_group_size=1000)
        print(name, len(rows), "rows")
    words = tokenizer(sets["train"])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **special}
    for name, config in architectures(words.get_vocab_size()).items():
        (FOLDER / name).mkdir(exist_ok=True)
        for file, document in (("config", config), ("preprocessor_config", PROCESSOR), ("tokenizer_config", about)):
            (FOLDER / name / f"{file}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        words.save(str(FOLDER / name / "tokenizer.json"))
    baselines(sets["train"], sets["test"])


if __name__ == "__main__":
    main()
