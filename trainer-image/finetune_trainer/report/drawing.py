"""Curves, scatters and matrices as SVG and as numbers for a table, without a plotting library: a report stays small."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
MOST_POINTS = 400
MOST_LABELS = 30
_COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 240, 56, 12, 12, 32
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Matrix:
    """How often each label (row) was taken for each (column)."""

    labels: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int, float]]]]
    """Label, and for every column the count with its part of the row."""


def matrix(pairs: Sequence[tuple[str, str]]) -> Matrix | None:
    """Return the confusion matrix of (right, told) pairs; None when there are too many labels to be read."""
    labels = sorted({label for pair in pairs for label in pair}, key=_natural)
    if not 2 <= len(labels) <= MOST_LABELS:
        return None
    counts = Counter(pairs)
    rows: list[tuple[str, Sequence[tuple[int, float]]]] = []
    for right in labels:
        whole = max(1, sum(counts[right, told] for told in labels))
        rows.append((right, [(counts[right, told], counts[right, told] / whole) for told in labels]))
    return Matrix(labels, rows)


def confusions(pairs: Sequence[tuple[str, str]], most: int = 12) -> Sequence[tuple[str, str, int]]:
    """Return the most frequent confusions: right, told, how often."""
    found = Counter((right, told) for right, told in pairs if right != told)
    return [(right, told, count) for (right, told), count in found.most_common(most)]


def curves(series: Mapping[str, Sequence[Point]], along: str) -> str:
    """Draw lines over a common axis.

    Args:
        series: Points by name, in the order of their first coordinate.
        along: What that axis is called.

    Returns:
        An SVG element; empty when no line has two points.
    """
    kept = {name: _thinned(points) for name, points in series.items() if points}
    if max((len(points) for points in kept.values()), default=0) < 2:
        return ""
    frame = _Frame.around([point for points in kept.values() for point in points])
    parts = [frame.axes(along)]
    for (name, points), colour in zip(kept.items(), _COLOURS, strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(frame.place, points))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in _marked(frame, points)]
        at = _LEFT + 8 + 120 * list(kept).index(name)
        parts.append(f'<text x="{at}" y="{_TOP + 10}" fill="{colour}">{_escaped(name)}</text>')
    return _svg(parts)


def scatter(points: Sequence[Point], along: str) -> str:
    """Draw points, and the line on which both coordinates are the same."""
    kept = _thinned(points)
    if len(kept) < 2:
        return ""
    low, high = min(min(point) for point in kept), max(max(point) for point in kept)
    frame = _Frame.around([(low, low), (high, high)])
    (x0, y0), (x1, y1) = frame.place((low, low)), frame.place((high, high))
    parts = [frame.axes(along), f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#999" stroke-dasharray="4"/>']
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{_COLOURS[0]}" fill-opacity="0.5"/>'
        for x, y in map(frame.place, kept)
    ]
    return _svg(parts)


@dataclass(frozen=True, slots=True)
class _Frame:
    """From values to places in the picture."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, points: Sequence[Point]) -> "_Frame":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        low, high = min(ys), max(ys)
        slack = 0.05 * (high - low) or max(0.5 * abs(high), 1e-9)
        return cls(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1.0, low - slack, high + slack)

    def place(self, point: Point) -> Point:
        x = (point[0] - self.left) / (self.right - self.left)
        y = (point[1] - self.low) / (self.high - self.low)
        return (
            _LEFT + x * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM),
        )

    def axes(self, along: str) -> str:
        parts: list[str] = []
        for at in range(_TICKS):
            part = at / (_TICKS - 1)
            x_value, y_value = self.left + part * (self.right - self.left), self.low + part * (self.high - self.low)
            x, y = self.place((x_value, y_value))
            anchor = "end" if at == _TICKS - 1 else "middle"
            parts += [
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>',
                f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{y_value:.3g}</text>',
                f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="{anchor}">{x_value:.4g}</text>',
            ]
        parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{_escaped(along)}</text>')
        return "".join(parts)


def _svg(parts: Sequence[str]) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">{inside}</svg>'


def _marked(frame: _Frame, points: Sequence[Point]) -> list[Point]:
    """Return where single points are shown: of short lines, all of them."""
    return [frame.place(point) for point in points] if len(points) <= MOST_POINTS // 10 else []


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` finite points, evenly taken, the last one among them."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    if len(finite) <= MOST_POINTS:
        return finite
    return [finite[round(at * (len(finite) - 1) / (MOST_POINTS - 1))] for at in range(MOST_POINTS)]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _natural(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isascii() and label.isdigit() else (1, 0, label)
