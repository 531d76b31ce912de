"""Draw the boards for the README: each panel of the shipped JSON, with what its queries return of a real run.

`make board-pictures` starts a control plane, the operator, a training run of MiniLM on this machine's CPU and
Prometheus, and asks every query after some minutes. Grafana draws the same data in its own style.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
import yaml
from matplotlib.axes import Axes

from support.boards import FILES, Asked, asked, board, panels
from support.cluster import ROOT
from support.observed import NAME, NAMESPACE, observed
from support.prometheus import Prometheus

_PICTURES: Final = ROOT / "docs" / "pictures"
_EXAMPLE: Final = ROOT / "examples" / "movie-sentiment.yaml"
_CHOICES: Final = {"namespace": NAMESPACE, "name": NAME, "__rate_interval": "15s", "__range": "10m"}
_COLUMN_IN, _ROW_IN, _TITLE_IN = 0.62, 0.36, 0.7
_STEPS: Final = 120
_INK, _DIM, _GROUND, _SURFACE = "#d8d9da", "#8e8e93", "#111217", "#181b1f"
Result = Sequence[Mapping[str, Any]]
Answers = dict[int, list[tuple[Asked, Result]]]


def main() -> None:
    """Train, ask, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long to train before asking")
    seconds = parser.parse_args().seconds
    manifest = yaml.safe_load(_EXAMPLE.read_text(encoding="utf-8"))
    manifest["spec"]["training"] |= {"epochs": 20}
    manifest["spec"]["data"]["train"] = {"uri": f"file://{_EXAMPLE.parent}/data/movie-sentiment/train.csv"}
    manifest["spec"]["data"]["test"] = {"uri": f"file://{_EXAMPLE.parent}/data/movie-sentiment/test.csv"}
    manifest["spec"]["data"]["validation"] = {"fraction": 0.02}
    manifest["spec"]["evaluation"] = {"every": "20steps"}
    manifest["spec"]["checkpoint"] = {"every": "30s"}
    with tempfile.TemporaryDirectory() as folder, observed(Path(folder), manifest) as watched:
        time.sleep(seconds)
        watched.check_training()
        answers = {path.stem: ask(path.stem, watched.prometheus, seconds) for path in FILES}
        watched.end_training()
    _PICTURES.mkdir(exist_ok=True)
    for name, found in answers.items():
        draw(name, found)


def ask(name: str, prometheus: Prometheus, seconds: float) -> Answers:
    """Return what the queries of a board returned, by panel."""
    answers: Answers = {}
    for query in asked(name, _CHOICES):
        curves = not query.instant
        step_s = seconds / _STEPS
        result = prometheus.curves(query.expr, seconds, step_s) if curves else prometheus.now(query.expr)
        answers.setdefault(query.panel["id"], []).append((query, result))
    return answers


def draw(name: str, answers: Answers) -> None:
    """Write the picture of a board."""
    document = board(name)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels(document))
    mpl.rcParams.update({"text.color": _INK, "axes.labelcolor": _DIM, "font.size": 8, "font.family": "DejaVu Sans"})
    size = (24 * _COLUMN_IN, rows * _ROW_IN + _TITLE_IN)
    figure = plt.figure(figsize=size, facecolor=_GROUND, dpi=110)
    figure.text(0.008, 1 - 0.45 / size[1], document["title"], size=14, weight="bold")
    told = (
        "drawn by matplotlib from what Prometheus answered to this board's queries, not by Grafana; "
        "what GPUs say is made up"
    )
    figure.text(0.992, 1 - 0.42 / size[1], told, size=8, color=_DIM, ha="right")
    for row in (each for each in document["panels"] if each["type"] == "row"):
        top = 1 - ((row["gridPos"]["y"] + 0.6) * _ROW_IN + _TITLE_IN) / size[1]
        figure.text(0.008, top, row["title"], size=10, color=_DIM, va="center")
    for panel in panels(document):
        at = panel["gridPos"]
        left, width = at["x"] / 24, at["w"] / 24
        top, height = 1 - (at["y"] * _ROW_IN + _TITLE_IN) / size[1], at["h"] * _ROW_IN / size[1]
        margin_x, margin_y = 0.06 / size[0], 0.05 / size[1]
        card = figure.add_axes((left + margin_x, top - height + margin_y, width - 2 * margin_x, height - 2 * margin_y))
        card.set(facecolor=_SURFACE, xticks=[], yticks=[])
        card.text(0.1 / (width * size[0]), 1 - 0.2 / (height * size[1]), panel["title"], size=9, va="center")
        _PAINTERS[panel["type"]](card, panel, answers[panel["id"]])
    figure.savefig(_PICTURES / f"{name}.png", facecolor=_GROUND)
    plt.close(figure)


def _stat(card: Axes, panel: Mapping[str, Any], answers: Sequence[tuple[Asked, Result]]) -> None:
    query, result = answers[0]
    named = panel["options"].get("textMode") == "name"
    text = _legend(query, result[0]) if named else _shown(float(result[0]["value"][1]), _unit(panel))
    card.text(0.5, 0.42, text, size=15, ha="center", va="center", color="#73bf69", transform=card.transAxes)


def _curves(card: Axes, panel: Mapping[str, Any], answers: Sequence[tuple[Asked, Result]]) -> None:
    inner = card.inset_axes((0.11, 0.24, 0.86, 0.6))
    inner.set_facecolor(_SURFACE)
    curves = [(_legend(query, each), each["values"]) for query, result in answers for each in result]
    end = max(float(values[-1][0]) for _, values in curves)
    stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    times = sorted({float(at) for _, values in curves for at, _ in values})
    if stacked:
        known = [{float(at): float(value) for at, value in values} for _, values in curves]
        heights = [[each.get(at, 0.0) for at in times] for each in known]
        inner.stackplot([at - end for at in times], heights, labels=[legend for legend, _ in curves], alpha=0.7)
    else:
        for legend, values in curves:
            inner.plot(
                [float(at) - end for at, _ in values], [float(value) for _, value in values], label=legend, lw=1.2
            )
    unit = _unit(panel)
    inner.yaxis.set_major_formatter(lambda value, _: _shown(value, unit))
    inner.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} s")
    inner.tick_params(colors=_DIM, labelsize=7, length=0)
    inner.grid(color="#2c3235", lw=0.5)
    inner.spines[:].set_visible(False)
    if any(legend for legend, _ in curves):
        columns = 2 if len(curves) > 1 else 1
        anchor = (0.0, -0.14)
        legend = inner.legend(loc="upper left", bbox_to_anchor=anchor, ncol=columns, frameon=False, fontsize=7)
        for text in legend.get_texts():
            text.set_color(_INK)


def _bars(card: Axes, panel: Mapping[str, Any], answers: Sequence[tuple[Asked, Result]]) -> None:
    inner = card.inset_axes((0.3, 0.08, 0.58, 0.74))
    inner.set_facecolor(_SURFACE)
    found = [(_legend(query, each), float(each["value"][1])) for query, result in answers for each in result]
    places = panel["fieldConfig"]["defaults"].get("decimals", 9)
    bars = inner.barh(range(len(found)), [value for _, value in found], color="#5794f2", height=0.5)
    inner.set_yticks(range(len(found)), [name for name, _ in found])
    inner.bar_label(
        bars, [_shown(round(value, places), _unit(panel)) for _, value in found], padding=3, color=_INK, fontsize=8
    )
    inner.set_ylim(max(len(found), 3) - 0.5, -0.5)
    inner.tick_params(colors=_INK, labelsize=8, length=0)
    inner.set_xticks([])
    inner.spines[:].set_visible(False)


def _table(card: Axes, panel: Mapping[str, Any], answers: Sequence[tuple[Asked, Result]]) -> None:
    """Join the results by their labels, as the panel's `merge` does."""
    shown = next(each["options"] for each in panel["transformations"] if each["id"] == "organize")
    labels: dict[tuple[str, str], dict[str, str]] = {}
    for letter, (_, result) in zip("ABCDEFGHIJ", answers, strict=False):
        for each in result:
            row = labels.setdefault((each["metric"]["namespace"], each["metric"]["name"]), {})
            row |= each["metric"]
            column = shown["renameByName"].get(f"Value #{letter}")
            if column:
                row[column] = f"{float(each['value'][1]):.4g}"
    columns = ["namespace", "name", "phase", "reason", *filter(None, shown["renameByName"].values())]
    cells = [[row.get(column, "") for column in columns] for _, row in sorted(labels.items())]
    table = card.table(
        cells, colLabels=columns, bbox=(0.01, 0.9 - 0.13 * (len(cells) + 1), 0.98, 0.13 * (len(cells) + 1))
    )
    table.auto_set_font_size(value=False)
    table.set_fontsize(8)
    for (row, _), cell in table.get_celld().items():
        cell.set(facecolor=_SURFACE, edgecolor="#2c3235")
        cell.get_text().set_color(_DIM if row == 0 else _INK)


_PAINTERS: Final[Mapping[str, Callable[[Axes, Mapping[str, Any], Sequence[tuple[Asked, Result]]], None]]] = {
    "stat": _stat,
    "timeseries": _curves,
    "bargauge": _bars,
    "table": _table,
}


def _legend(query: Asked, series: Mapping[str, Any]) -> str:
    text = query.legend
    for name, value in series["metric"].items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return re.sub(r"{{\w+}}", "", text)


def _unit(panel: Mapping[str, Any]) -> str:
    return panel["fieldConfig"]["defaults"]["unit"]


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 2**30:.3g} GiB" if abs(value) >= 2**30 else f"{value / 2**20:.3g} MiB"
    if unit in {"s", "dtdurations"} and abs(value) >= 60:
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    if unit in {"s", "dtdurations"}:
        return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{1000 * value:.3g} ms"
    suffix = {"celsius": " °C", "watt": " W", "ops": "/s"}.get(unit, "")
    return f"{value:.1e}{suffix}" if unit == "sci" else f"{value:.4g}{suffix}"


if __name__ == "__main__":
    main()
