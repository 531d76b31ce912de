"""Make example data from Debian's package index, whose descriptions people have written and translated.

    mkdir -p lists/partial
    apt-get update -o Acquire::Languages=en,fr -o Dir::State::lists=$PWD/lists
    python examples/make_data_packages.py lists

`package-translation`: one-line descriptions in English and French, and a small model without weights.
`package-summaries`: long descriptions and their one line; the same kind of model.
`package-documents`: long descriptions as documents of several sentences.
`package-baskets`: what a package depends on, as a history whose next item is to be found.
"""

import json
import random
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.normalizers import NFC

FOLDER = Path(__file__).parent / "data"
NOTICE = """From the package index of Debian 12. Descriptions are part of Debian's sources, under their licences.
Translations are by the Debian Description Translation Project. Dependencies are facts of the same index.
"""
VOCABULARY = 4000
SPECIAL = ("<pad>", "</s>", "<s>")
SIZES = {
    "package-translation": (9000, 400),
    "package-summaries": (6000, 300),
    "package-documents": (1500, 200),
    "package-baskets": (8000, 1000),
}
ARCHITECTURE = {
    "model_type": "marian",
    "architectures": ["MarianMTModel"],
    "vocab_size": VOCABULARY,
    "decoder_vocab_size": VOCABULARY,
    "d_model": 256,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 768,
    "decoder_ffn_dim": 768,
    "max_position_embeddings": 256,
    "dropout": 0.1,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
Rows = list[dict[str, Any]]


def stanzas(lists: Path, ending: str) -> list[dict[str, str]]:
    """Return the fields of every stanza of an index file."""
    (file,) = lists.glob(f"*_dists_bookworm_main_{ending}.lz4")
    text = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(file)], check=True, capture_output=True).stdout
    found: list[dict[str, str]] = []
    for stanza in text.decode("utf-8").split("\n\n"):
        fields = re.split(r"\n(?=\S)", stanza.strip())
        found.append(dict(each.split(": ", 1) for each in fields if ": " in each))
    return [each for each in found if "Package" in each]


def family(package: str) -> str:
    """Return what packages of one source share, so that none of them is on both sides of a split."""
    return re.split(r"[-0-9.]", package.removeprefix("lib").removeprefix("python3-"))[0]


def synopsis(description: str) -> str:
    return " ".join(description.split("\n", 1)[0].split())


def paragraphs(description: str) -> list[str]:
    """Return the long text without lists."""
    body = description.split("\n", 1)[1] if "\n" in description else ""
    parts = re.split(r"\n \.\n?", body)
    return [" ".join(part.split()) for part in parts if part.strip() and not re.search(r"^  ", part, re.MULTILINE)]


def split(rows: Rows, name: str, rng: random.Random) -> dict[str, Rows]:
    """Hold whole families out; no text twice."""
    groups: dict[str, Rows] = defaultdict(list)
    seen: set[str] = set()
    for row in rows:
        key = json.dumps({k: v for k, v in row.items() if k != "family"}, sort_keys=True)
        if key not in seen:
            seen.add(key)
            groups[row.pop("family")].append(row)
    order = sorted(groups)
    rng.shuffle(order)
    train, test = SIZES[name]
    sets: dict[str, Rows] = {"test": [], "train": []}
    for each in order:
        part = "test" if len(sets["test"]) < test else "train"
        sets[part] += groups[each]
    for part, size in (("test", test), ("train", train)):
        rng.shuffle(sets[part])
        del sets[part][size:]
    return sets


def write(name: str, sets: dict[str, Rows]) -> None:
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE").write_text(NOTICE, encoding="utf-8")
    for part, rows in sets.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{part}.parquet", compression="zstd", compression_level=19)
        print(name, part, len(rows), "rows")


def write_model(folder: Path, texts: list[str]) -> None:
    """Write an architecture without weights, and a tokenizer of pieces of words learned from the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    document = json.loads(tokenizer.to_str())
    (folder / "tokenizer.json").write_text(
        json.dumps(document, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "model_max_length": 256}
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=1), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(ARCHITECTURE, indent=1), encoding="utf-8")


def translation(english: dict[str, str], french: dict[str, str], package: dict[str, str], rng: random.Random) -> None:
    rows: Rows = []
    for digest, theirs in french.items():
        if digest in english:
            source, target = synopsis(english[digest]), synopsis(theirs)
            if 3 <= len(source.split()) <= 12 and source != target and len(target) < 110:
                rows.append({"source": source, "target": target, "family": family(package[digest])})
    sets = split(rows, "package-translation", rng)
    write("package-translation", sets)
    write_model(
        FOLDER / "package-translation" / "model", [row[side] for row in sets["train"] for side in ("source", "target")]
    )


def summaries(english: dict[str, str], package: dict[str, str], rng: random.Random) -> None:
    rows: Rows = []
    documents: Rows = []
    for digest, text in english.items():
        parts, group = paragraphs(text), family(package[digest])
        whole = " ".join(parts)
        if parts and 80 <= len(parts[0]) <= 400 and 3 <= len(synopsis(text).split()) <= 12:
            rows.append({"text": parts[0], "summary": synopsis(text), "family": group})
        if len(re.findall(r"[.!?]\s", whole)) >= 4 and 200 <= len(whole) <= 800:
            documents.append({"text": whole, "family": group})
    sets = split(rows, "package-summaries", rng)
    write("package-summaries", sets)
    write_model(
        FOLDER / "package-summaries" / "model", [row[side] for row in sets["train"] for side in ("text", "summary")]
    )
    write("package-documents", split(documents, "package-documents", rng))


def baskets(packages: list[dict[str, str]], rng: random.Random) -> None:
    rows: Rows = []
    counts: dict[str, int] = defaultdict(int)
    for each in packages:
        names = [re.split(r"[ (|:]", part.strip())[0] for part in each.get("Depends", "").split(",")]
        names = sorted({name for name in names if name})
        for name in names:
            counts[name] += 1
        rng.shuffle(names)
        rows.append({"items": names, "family": family(each["Package"])})
    for row in rows:
        row["items"] = [name for name in row["items"] if counts[name] >= 5][:20]
    write("package-baskets", split([row for row in rows if len(row["items"]) >= 3], "package-baskets", rng))


def main() -> None:
    """Write the four sets."""
    lists, rng = Path(sys.argv[1]), random.Random(2023)
    found = {language: stanzas(lists, f"i18n_Translation-{language}") for language in ("en", "fr")}
    english, french = (
        {each["Description-md5"]: each[f"Description-{language}"] for each in rows if f"Description-{language}" in each}
        for language, rows in found.items()
    )
    package = {each["Description-md5"]: each["Package"] for rows in found.values() for each in rows}
    translation(english, french, package, rng)
    summaries(english, package, rng)
    baskets(stanzas(lists, "binary-amd64_Packages"), rng)


if __name__ == "__main__":
    main()
