"""Make example data from recorded voice prompts of Debian's asterisk packages (CC-BY-SA), and from a synthesiser.

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-core-sounds-en asterisk-prompt-it-menardi-wav
    for each in *.deb; do dpkg -x $each asterisk; done
    apt-get install espeak-ng
    python examples/make_data_speech.py asterisk

`voice-prompts`: 8 kHz recordings of one speaker with their texts, for speech-recognition.
`prompt-languages`: recordings in five languages, for audio-classification. English and Spanish are one speaker;
Italian is tested on a speaker that training never hears.
`spoken-numbers`: numbers said by a synthesiser in many voices, tested on voices that training never hears. SYNTHETIC.

No package carries a pretrained model with a CTC head, so `spoken-numbers` and `prompt-languages` come with small
architectures that are trained from nothing.
"""

import gzip
import json
import random
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

FOLDER = Path(__file__).parent / "data"
SPEAKERS = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
UNHEARD = {"it": "it_IT_f_Menardi"}
NOTICE = """Recordings of the Debian packages asterisk-core-sounds-* and asterisk-prompt-it-menardi, CC-BY-SA 3.0
(Russian: CC-BY 3.0). Read by Allison Smith, June Wallack, Carlo, Menardi and ivrvoice.ru.
"""
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
VARIANTS = ("", "+m1", "+m3", "+m5", "+m7", "+f1", "+f2", "+f3", "+f5")
TEST_VARIANTS = ("+m2", "+f4")
CONVOLUTIONS = {"conv_kernel": [10, 3, 3, 3, 2], "conv_stride": [5, 2, 2, 2, 2], "num_feat_extract_layers": 5}
MODEL = {
    "model_type": "wav2vec2",
    "hidden_size": 144,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 576,
    "conv_dim": [96] * 5,
    **CONVOLUTIONS,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "classifier_proj_size": 144,
    "mask_time_length": 5,
}
HEARING = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "sampling_rate": 8000,
    "do_normalize": True,
    "return_attention_mask": True,
}


def seconds(file: Path) -> float:
    """Return how long a recording is; 0 for one that is absent or has no samples."""
    try:
        with wave.open(str(file)) as sound:
            return sound.getnframes() / sound.getframerate()
    except (OSError, wave.Error, EOFError):
        return 0.0


def texts(archive: Path) -> dict[str, str]:
    """Return what is said in each recording; tones and silence, which are described in brackets, are left out."""
    found: dict[str, str] = {}
    for line in gzip.decompress(archive.read_bytes()).decode("utf-8", "replace").splitlines():
        name, colon, text = line.partition(": ")
        if colon and not line.startswith(";") and not re.search(r"[\[\](<]", text):
            found[name.strip()] = " ".join(text.split())
    return found


def write(name: str, sets: dict[str, list[dict[str, str]]], notice: str) -> None:
    """Write rows and the licence."""
    (FOLDER / name / "LICENSE").write_text(notice, encoding="utf-8")
    for part, rows in sets.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (FOLDER / name / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        print(name, part, len(rows), "rows")


def keep(source: Path, name: str, *parts: str) -> str:
    """Copy a recording beside the rows, and return its path from there."""
    place = Path("sounds", *parts)
    (FOLDER / name / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, FOLDER / name / place)
    return place.as_posix()


def prompts(root: Path, rng: random.Random) -> None:
    """Write English recordings with their texts; a text is in one set only."""
    said = texts(root / "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
    folder = root / "asterisk/sounds" / SPEAKERS["en"]
    rows = [
        {"audio": keep(folder / f"{name}.wav", "voice-prompts", f"{name}.wav"), "text": text}
        for name, text in sorted(said.items())
        if 0.3 < seconds(folder / f"{name}.wav") < 15.0
    ]
    different = sorted({row["text"] for row in rows})
    test = set(rng.sample(different, len(different) // 4))
    sets = {"train": [r for r in rows if r["text"] not in test], "test": [r for r in rows if r["text"] in test]}
    write("voice-prompts", sets, NOTICE)


def languages(root: Path, rng: random.Random) -> None:
    """Write recordings with their language; a prompt is in one set only, in whichever language."""
    sounds = root / "asterisk/sounds"
    names = {
        file.relative_to(sounds / speaker).as_posix()
        for speaker in (*SPEAKERS.values(), *UNHEARD.values())
        for file in (sounds / speaker).rglob("*.wav")
        if "silence" not in file.parts and 0.8 < seconds(file) < 15.0
    }
    test = set(rng.sample(sorted(names), len(names) // 4))
    sets: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for language, speaker in SPEAKERS.items():
        for name in sorted(names):
            part = "test" if name in test else "train"
            who = UNHEARD.get(language, speaker) if part == "test" else speaker
            file = sounds / who / name
            if file.exists() and 0.8 < seconds(file) < 15.0:
                sets[part].append({"audio": keep(file, "prompt-languages", language, name), "label": language})
    write("prompt-languages", sets, NOTICE)


def number(rng: random.Random) -> str:
    """Return a number below a thousand, or three digits, in words."""
    small = (
        ONES[value]
        if (value := rng.randrange(100)) < 20
        else TENS[value // 10 - 2] + (f" {ONES[value % 10]}" if value % 10 else "")
    )
    kind = rng.randrange(3)
    if kind == 0:
        return " ".join(rng.choice(ONES[:10]) for _ in range(3))
    return small if kind == 1 else f"{rng.choice(ONES[1:10])} hundred and {small}"


def numbers(rng: random.Random) -> None:
    """Write synthetic speech."""
    folder = FOLDER / "spoken-numbers"
    (folder / "sounds").mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[dict[str, str]]] = {}
    for part, count, variants in (("train", 1600, VARIANTS), ("test", 200, TEST_VARIANTS)):
        sets[part] = []
        for at in range(count):
            text, place = number(rng), f"sounds/{part}-{at}.wav"
            voice = rng.choice(VOICES) + rng.choice(variants)
            manner = ["-v", voice, "-s", str(rng.randint(140, 200)), "-p", str(rng.randint(30, 70))]
            subprocess.run(["espeak-ng", *manner, "-w", str(folder / place), text], check=True)
            sets[part].append({"audio": place, "text": text})
    write("spoken-numbers", sets, "Made by espeak-ng.\n")


def main() -> None:
    """Write the three sets, and the architectures of those that are learned from nothing."""
    root = Path(sys.argv[1]) / "usr/share"
    prompts(root, random.Random(1))
    languages(root, random.Random(2))
    numbers(random.Random(3))
    for name in ("prompt-languages", "spoken-numbers"):
        model = FOLDER / name / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(json.dumps(MODEL, indent=2) + "\n", encoding="utf-8")
        (model / "preprocessor_config.json").write_text(json.dumps(HEARING, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
