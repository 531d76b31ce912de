"""Make example data from the Free On-line Dictionary of Computing (Debian package dict-foldoc; GFDL).

    apt-get download dict-foldoc && dpkg -x dict-foldoc_*.deb foldoc
    python examples/make_data_foldoc.py foldoc/usr/share/dictd/foldoc.dict.dz

`term-tags`: which words of a sentence are terms; the dictionary's authors marked them with braces.
`acronyms`: what an acronym stands for, and which field it is from, to be found in two entries.
`definitions`: which of four terms a definition is of.
"""

import gzip
import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "data"
NOTICE = """From The Free On-line Dictionary of Computing, http://www.foldoc.org/, Editor Denis Howe.
Copyright 1993 by Denis Howe.

Permission is granted to copy, distribute and/or modify this document under the terms of the GNU Free Documentation
License, Version 1.1 or any later version published by the Free Software Foundation; with no Invariant Sections, Front-
or Back-Cover Texts.
"""
ACRONYM = re.compile(r"[A-Z][A-Z0-9/]{1,7}")
WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")
FIELD = re.compile(r"<([^>]+)>")
TERM = re.compile(r"\{([^{}()]+)\}")
SIZES = {"term-tags": (2400, 600), "definitions": (1200, 400)}


@dataclass(frozen=True)
class Entry:
    names: tuple[str, ...]
    text: str
    """With its braces."""

    @property
    def plain(self) -> str:
        return re.sub(r"[{}]", "", self.text)


def read(archive: Path) -> list[Entry]:
    """Return the entries: names stand at the left edge, their text is indented."""
    entries: list[Entry] = []
    names: list[str] = []
    body: list[str] = []
    for line in [*gzip.decompress(archive.read_bytes()).decode("utf-8", "replace").splitlines(), "end"]:
        if line.startswith(" ") or not line.strip():
            body.append(line.strip())
            continue
        if any(body):
            text = " ".join(" ".join(body).split())
            entries.append(Entry(tuple(names), re.sub(r"\s*\(\d{4}-\d\d-\d\d\)\s*$", "", text)))
            names = []
        names.append(line.strip())
        body = []
    return [each for each in entries if each.names and 40 <= len(each.text) <= 1200 and "http" not in each.text]


def tagged(entry: Entry) -> list[dict[str, list[str]]]:
    """Return the sentences of an entry that hold a term."""
    rows: list[dict[str, list[str]]] = []
    for sentence in re.split(r"(?<=[.])\s+", re.sub(r"<[^>]*>", "", entry.text)):
        tokens: list[str] = []
        tags: list[str] = []
        for at, part in enumerate(TERM.split(sentence)):
            words = WORD.findall(re.sub(r"[{}]", "", part))
            tokens += words
            tags += (["B-TERM"] + ["I-TERM"] * (len(words) - 1) if words else []) if at % 2 else ["O"] * len(words)
        if "B-TERM" in tags and "[" not in tokens and 6 <= len(tokens) <= 40:
            rows.append({"tokens": tokens, "tags": tags})
    return rows


def asked(entries: list[Entry], rng: random.Random) -> dict[str, list[dict[str, object]]]:
    """Return questions about entries whose second name is an acronym, each beside another entry.

    What is asked in one set appears nowhere in the other.
    """
    known = [each for each in entries if len(each.names) == 2 and ACRONYM.fullmatch(each.names[1])]
    known = [each for each in known if " " in each.names[0] and len(each.text) < 500 and FIELD.match(each.text)]
    test = known[: len(known) // 4]
    sets = {"test": test, "train": known[len(test) :]}
    return {name: [row for entry in part for row in _questions(entry, part, rng)] for name, part in sets.items()}


def _questions(entry: Entry, part: list[Entry], rng: random.Random) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    questions = (f"What does {entry.names[1]} stand for?", f"Which field is {entry.names[1]} from?")
    for number, question in enumerate(questions):
        around = [entry, rng.choice([each for each in part if each is not entry])]
        rng.shuffle(around)
        context, start = "", 0
        for each in around:
            start = len(context) if each is entry else start
            context += f"{each.names[0]}, {each.names[1]}: {each.plain} "
        field = FIELD.match(entry.text)
        assert field is not None
        answer = entry.names[0] if number == 0 else field.group(1)
        start += 0 if number == 0 else context[start:].index("<") + 1
        rows.append(
            {"context": context.strip(), "question": question, "answers": {"text": [answer], "answer_start": [start]}}
        )
    rng.shuffle(rows)
    return rows


def choices(entries: list[Entry], rng: random.Random) -> list[dict[str, object]]:
    """Return definitions, their own names hidden, each with its name and three others."""
    rows: list[dict[str, object]] = []
    for entry in entries:
        first = re.split(r"(?<=[.])\s+", re.sub(r"<[^>]*>\s*", "", entry.plain))[0]
        for name in entry.names:
            first = re.sub(re.escape(name), "it", first, flags=re.IGNORECASE)
        if not 60 <= len(first) <= 300:
            continue
        options = [entry.names[0], *(each.names[0] for each in rng.sample(entries, 3))]
        rng.shuffle(options)
        if len(set(options)) == 4:
            rows.append({"question": first, "choices": options, "label": options.index(entry.names[0])})
    return rows


def cut(name: str, rows: list[dict[str, object]], rng: random.Random) -> dict[str, list[dict[str, object]]]:
    """Split rows that are independent of each other."""
    rng.shuffle(rows)
    train, test = SIZES[name]
    return {"test": rows[:test], "train": rows[test : test + train]}


def write(name: str, sets: dict[str, list[dict[str, object]]]) -> None:
    """Write train and test rows, and the licence."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE").write_text(NOTICE, encoding="utf-8")
    for part, rows in sets.items():
        if name != "definitions":
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{part}.parquet", compression="zstd")
        else:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        print(name, part, len(rows), "rows")


def main() -> None:
    """Write the three sets."""
    rng = random.Random(1993)
    entries = read(Path(sys.argv[1]))
    rng.shuffle(entries)
    tags = [dict[str, object](row) for entry in entries for row in tagged(entry)][: sum(SIZES["term-tags"])]
    write("term-tags", cut("term-tags", tags, rng))
    write("acronyms", asked(entries, rng))
    write("definitions", cut("definitions", choices(entries, rng), rng))


if __name__ == "__main__":
    main()
