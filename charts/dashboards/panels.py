"""A board as plain values, and how it becomes Grafana's classic JSON.

A board reads as a list of questions, each with the panel that answers it; layout is left to one place. Every panel has
a title, a description and a unit, and asks the data source that the reader chose.
"""

import itertools
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models.dashboard import Dashboard as Built
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_LETTERS: Final = "ABCDEFGHIJ"
_HEIGHTS: Final = {"number": 4, "name": 4, "bars": 8, "curves": 8, "areas": 8, "table": 10}


class Kind(Enum):
    """How a panel shows what its queries return."""

    NUMBER = "number"
    """The last value, large."""
    NAME = "name"
    """The labels of what there is, as a word."""
    CURVES = "curves"
    AREAS = "areas"
    """Curves on top of each other."""
    BARS = "bars"
    """The last values side by side."""
    TABLE = "table"
    """The last values of several queries, joined by their labels."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.CURVES
    width: int = 8
    decimals: int | None = None
    """0 for counts, which Prometheus' increase() makes uneven; Grafana's choice when absent."""
    columns: tuple[str, ...] = ()
    """Of a table: what each query's value is called; empty for one that only brings its labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """What the reader chooses: a label's values."""

    name: str
    values: str
    """`label_values(series, label)`."""
    all: bool = False
    """Whether all of them may be chosen, and are at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: dict[str, tuple[Panel, ...]] = field(default_factory=dict[str, tuple[Panel, ...]])

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Every panel, from the top."""
        return tuple(panel for panels in self.rows.values() for panel in panels)


def render(board: Board) -> str:
    """Return a board as JSON, for Grafana's sidecar, its provisioning or its import."""
    return json.dumps(_built(board), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _built(board: Board) -> Built:
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["finetune"])
        .readonly()
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-3h", "now")
        .link(
            dashboard.DashboardLink("Fine-tuning")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["finetune"])
            .as_dropdown(as_dropdown=True)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in board.variables:
        builder.with_variable(_variable(variable))
    ids = itertools.count(1)
    for title, panels in board.rows.items():
        builder.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            builder.with_panel(_panel(panel).id(next(ids)))
    return builder.build()


def _variable(variable: Variable) -> dashboard.QueryVariable:
    built = (
        dashboard.QueryVariable(variable.name)
        .label(variable.name.title())
        .query(variable.values)
        .datasource(_SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    if variable.all:
        chosen = VariableOption(selected=True, text="All", value="$__all")
        built.include_all(include_all=True).all_value(".*").multi(multi=True).current(chosen)
    return built


def _panel(panel: Panel) -> Any:
    started = {
        Kind.NUMBER: _number,
        Kind.NAME: _name,
        Kind.CURVES: _curves,
        Kind.AREAS: _areas,
        Kind.BARS: _bars,
        Kind.TABLE: _table,
    }[panel.kind](panel)
    started.title(panel.title).description(panel.description).unit(panel.unit).datasource(_SOURCE)
    started.span(panel.width).height(_HEIGHTS[panel.kind.value])
    if panel.decimals is not None:
        started.decimals(panel.decimals)
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(_LETTERS[number])
        target.datasource(_SOURCE)
        if panel.kind in {Kind.CURVES, Kind.AREAS}:
            target.range()
        else:
            target.instant()
        if panel.kind is Kind.TABLE:
            target.format(PromQueryFormat.TABLE)
        started.with_target(target)
    return started


def _number(_: Panel) -> stat.Panel:
    return stat.Panel().graph_mode(models.BigValueGraphMode.NONE).reduce_options(_last())


def _name(_: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .graph_mode(models.BigValueGraphMode.NONE)
        .text_mode(models.BigValueTextMode.NAME)
        .reduce_options(_last())
    )


def _curves(panel: Panel) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions().display_mode(models.LegendDisplayMode.LIST).placement(models.LegendPlacement.BOTTOM)
    )
    legend.show_legend(show_legend=any(query.legend for query in panel.queries))
    tooltip = common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI).sort(models.SortOrder.DESCENDING)
    return timeseries.Panel().legend(legend).tooltip(tooltip).fill_opacity(0).line_width(1).span_nulls(span_nulls=False)


def _areas(panel: Panel) -> timeseries.Panel:
    return _curves(panel).fill_opacity(40).stacking(common.StackingConfig().mode(models.StackingMode.NORMAL))


def _bars(_: Panel) -> bargauge.Panel:
    return bargauge.Panel().orientation(models.VizOrientation.HORIZONTAL).reduce_options(_last()).min(0)


def _table(panel: Panel) -> table.Panel:
    values = {f"Value #{letter}": name for letter, name in zip(_LETTERS, panel.columns, strict=False)}
    hidden = dict.fromkeys(("Time", *(value for value, name in values.items() if not name)), True)
    values = {value: name for value, name in values.items() if name}
    return (
        table.Panel()
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "renameByName": values})
        )
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False)
