"""Make the example data from the source distribution of the PyPI package vaderSentiment 3.3.2 (MIT).

It holds 10,605 sentences of movie reviews, each with the mean of 20 people's ratings from -4 to 4 (C.J. Hutto and Eric
Gilbert, ICWSM 2014). A mean above 0 is `positive`, else `negative`. Usage, with the archive fetched by pip:

    pip download vaderSentiment==3.3.2 --no-deps --no-binary :all:
    python examples/make_data.py vaderSentiment-3.3.2.tar.gz
"""

import csv
import io
import json
import random
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "movie-sentiment"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
TEST_SHARE = 0.2
CHAT_ROWS = {"train": 800, "test": 400}
PAIR_ROWS = {"train": 400, "test": 200}
OTHER = {"positive": "negative", "negative": "positive"}
QUESTION = "Is this sentence from a movie review positive or negative? Answer with one word.\n\n"

Row = tuple[str, str]


def read(archive: Path) -> list[Row]:
    """Return (text, label) of every sentence."""
    with tarfile.open(archive) as outer:
        name = next(each for each in outer.getnames() if each.endswith("hutto_ICWSM_2014.tar.gz"))
        inner = outer.extractfile(name)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as tar:
            ratings = tar.extractfile(RATINGS)
            assert ratings is not None
            lines = ratings.read().decode("utf-8", "replace").splitlines()
    rows: list[Row] = []
    for line in lines:
        _, mean, text = line.split("\t", 2)
        rows.append((" ".join(text.split()), "positive" if float(mean) > 0 else "negative"))
    return rows


def split(rows: list[Row]) -> dict[str, list[Row]]:
    """Hold a fifth of each label out, seeded."""
    rng = random.Random(2014)
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row[1]].append(row)
    sets: dict[str, list[Row]] = {"train": [], "test": []}
    for label in sorted(by_label):
        members = by_label[label]
        rng.shuffle(members)
        count = round(len(members) * TEST_SHARE)
        sets["test"] += members[:count]
        sets["train"] += members[count:]
    for members in sets.values():
        rng.shuffle(members)
    return sets


def main() -> None:
    """Write csv for classification and pre-training, conversations for chat models, and pairs of answers."""
    sets = split(read(Path(sys.argv[1])))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        with (FOLDER / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([("text", "label"), *rows])
        with (FOLDER / f"chat-{name}.jsonl").open("w", encoding="utf-8") as stream:
            for text, label in rows[: CHAT_ROWS[name]]:
                messages = [{"role": "user", "content": QUESTION + text}, {"role": "assistant", "content": label}]
                stream.write(json.dumps({"messages": messages}) + "\n")
        with (FOLDER / f"pairs-{name}.jsonl").open("w", encoding="utf-8") as stream:
            for text, label in rows[: PAIR_ROWS[name]]:
                prompt = [{"role": "user", "content": QUESTION + text}]
                sides = ([{"role": "assistant", "content": each}] for each in (label, OTHER[label]))
                stream.write(
                    json.dumps(dict(zip(("prompt", "chosen", "rejected"), (prompt, *sides), strict=True))) + "\n"
                )
        print(name, len(rows), "rows")


if __name__ == "__main__":
    main()
