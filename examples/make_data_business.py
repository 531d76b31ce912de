"""Make example data for two scenes of business: sentiment of news about money, and a support desk's conversations.

    pip download vaderSentiment==3.3.2 --no-deps --no-binary :all:
    mkdir -p lists/partial
    apt-get update -o Acquire::Languages=en -o Dir::State::lists=$PWD/lists
    python examples/make_data_business.py vaderSentiment-3.3.2.tar.gz lists

`money-sentiment`: 5,190 sentences of newspaper editorials, each with the mean of 20 ratings from -4 to 4 (MIT). Half
of the editorials that speak of money are held out whole.
`support-desk`: conversations COMPOSED over real entries of Debian's package index: a customer names a package and shows
its record, asks for a fact of it, and last who takes care of it, which is the section that people gave the package.
"""

import csv
import io
import json
import random
import re
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from make_data_packages import NOTICE, family, paragraphs, stanzas

FOLDER = Path(__file__).parent / "data"
RATINGS = "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt"
MONEY = re.compile(
    r"\b(econom\w+|tax(es)?|taxpayers?|bank(s|ers?|ing)?|markets?|budgets?|billions?|trillion|debts?|deficits?"
    r"|financ\w+|wall street|invest\w+|wages?|spending|mortgages?|loans?|credit|currency|euro|unemployment|inflation"
    r"|prices?|revenues?|profits?)\b",
    re.IGNORECASE,
)
TEAMS = ("admin", "games", "graphics", "math", "net", "python", "science", "sound")
DESK = (
    "You work at the support desk of a software catalogue. Answer in a few words; "
    "name a team by the catalogue's section."
)
PER_TEAM = {"train": 60, "test": 20}
LONGEST_TEXT = 320
QUESTIONS = ("Which version is it?", "Which version would I get?", "What is the current version?")
TEAM_QUESTIONS = ("Which team takes care of it?", "Who should my ticket go to?", "Which team answers for it?")
OPENINGS = ("Hello, I have a question about {}.", "Hi! It is about {}.", "I am thinking of installing {}.")

Row = dict[str, Any]


def editorials(archive: Path) -> dict[str, list[tuple[str, float]]]:
    """Return (text, mean rating) of every sentence, by editorial."""
    with tarfile.open(archive) as outer:
        name = next(each for each in outer.getnames() if each.endswith("hutto_ICWSM_2014.tar.gz"))
        inner = outer.extractfile(name)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as tar:
            ratings = tar.extractfile(RATINGS)
            assert ratings is not None
            lines = ratings.read().decode("utf-8", "replace").splitlines()
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for line in lines:
        number, mean, text = line.split("\t", 2)
        found[number.rsplit("_", 1)[0]].append((" ".join(text.split()), float(mean)))
    return found


def money_sentiment(archive: Path, rng: random.Random) -> None:
    """Hold out whole editorials of which two sentences or more speak of money."""
    found = editorials(archive)
    about = sorted(name for name, rows in found.items() if sum(bool(MONEY.search(text)) for text, _ in rows) > 1)
    rng.shuffle(about)
    held_out = set(about[: len(about) // 2])
    sets = {
        part: [row for name, rows in found.items() if (name in held_out) is inside for row in rows]
        for part, inside in (("train", False), ("test", True))
    }
    folder = FOLDER / "money-sentiment"
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in sets.items():
        rng.shuffle(rows)
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([("text", "score"), *rows])
        print("money-sentiment", part, len(rows), "rows")


def conversation(package: dict[str, str], text: str, rng: random.Random) -> Row:
    """Return three turns of a customer, and the desk's answers."""
    name = package["Package"]
    record = f"{rng.choice(OPENINGS).format(name)}\n\n{name} {package['Version']}: {text}"
    turns = (
        (record, f"What would you like to know about {name}?"),
        (rng.choice(QUESTIONS), f"Version {package['Version']}."),
        (rng.choice(TEAM_QUESTIONS), package["Section"]),
    )
    messages = [{"role": "system", "content": DESK}]
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"messages": messages}


def support_desk(lists: Path, rng: random.Random) -> None:
    """Take as many packages of each team, no family of packages on both sides."""
    texts = {
        each["Description-md5"]: each["Description-en"]
        for each in stanzas(lists, "i18n_Translation-en")
        if "Description-en" in each
    }
    families: dict[str, dict[str, list[Row]]] = {team: defaultdict(list) for team in TEAMS}
    for package in stanzas(lists, "binary-amd64_Packages"):
        parts = paragraphs(texts.get(package.get("Description-md5", ""), ""))
        if package.get("Section") in TEAMS and parts and len(parts[0]) <= LONGEST_TEXT:
            families[package["Section"]][family(package["Package"])].append(conversation(package, parts[0], rng))
    sets: dict[str, list[Row]] = {"test": [], "train": []}
    taken: set[str] = set()
    for groups in families.values():
        # One conversation of a family is enough: its packages share their text.
        names = sorted(set(groups) - taken)
        rng.shuffle(names)
        names = names[: sum(PER_TEAM.values())]
        taken |= set(names)
        sets["test"] += [groups[name][0] for name in names[: PER_TEAM["test"]]]
        sets["train"] += [groups[name][0] for name in names[PER_TEAM["test"] :]]
    folder = FOLDER / "support-desk"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE").write_text(NOTICE, encoding="utf-8")
    for part, rows in sets.items():
        rng.shuffle(rows)
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print("support-desk", part, len(rows), "rows")


def main() -> None:
    """Write both sets."""
    rng = random.Random(2024)
    money_sentiment(Path(sys.argv[1]), rng)
    support_desk(Path(sys.argv[2]), rng)


if __name__ == "__main__":
    main()
