"""The dashboards as the chart ships them, with their variables chosen."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from support.cluster import ROOT

FILES = sorted((ROOT / "charts" / "finetune-operator" / "dashboards").glob("*.json"))
METRIC = re.compile(r"\b(?:finetune|process)_[a-z_]+\b")


@dataclass(frozen=True)
class Asked:
    """One query of a panel."""

    board: str
    panel: Mapping[str, Any]
    expr: str
    """With the variables' values."""
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.board}/{self.panel['title']}: {self.expr}"


def board(name: str) -> dict[str, Any]:
    """Return a dashboard by its file's name."""
    return json.loads((ROOT / "charts" / "finetune-operator" / "dashboards" / f"{name}.json").read_text())


def panels(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show something; rows only part them."""
    found = [each for panel in document["panels"] for each in (panel, *panel.get("panels", ()))]
    return [each for each in found if each["type"] != "row"]


def asked(name: str, choices: Mapping[str, str]) -> Iterator[Asked]:
    """Yield every query of a board.

    Args:
        name: Of its file.
        choices: Variables to values; Grafana's own begin with two underscores.
    """
    for panel in panels(board(name)):
        for target in panel["targets"]:
            yield Asked(
                name,
                panel,
                chosen(target["expr"], choices),
                target.get("legendFormat", ""),
                bool(target.get("instant")) and not target.get("range"),
            )


def chosen(text: str, choices: Mapping[str, str]) -> str:
    """Return a text with its variables' values; one that has none is an error."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: choices[match[1]], text)
