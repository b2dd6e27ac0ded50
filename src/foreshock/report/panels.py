"""The HTML around a chart: title, unit, key, the last value in words, and every number as a table.

A canvas can be read neither by a screen reader nor by a test, so what it shows is also text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from foreshock.report.charts import Chart, Line
from foreshock.report.data import Column, Summary, summarise
from foreshock.report.markup import Html, interval, join, number, tag
from foreshock.report.pack import Packer


def panel(chart: Chart, heading: str = "h3") -> Html:
    """One chart with its text: a ``figure`` whose canvas the script fills in."""
    title_id = f"title-{chart.key}"
    names = list(dict.fromkeys(line.column.name for line in chart.lines))
    head = tag(
        "figcaption",
        tag(
            "div",
            tag(heading, chart.title, tag("span", f" {unit_text(chart.unit)}", class_="unit")),
            tag(
                "button",
                "log",
                type="button",
                class_="log",
                aria_pressed=_flag(chart.log),
                title="Logarithmic vertical axis",
            )
            if chart.lines
            else None,
            class_="title-row",
            id=title_id,
        ),
        tag("div", [tag("code", name) for name in names], class_="names"),
    )
    if not chart.lines:
        empty = tag("p", chart.missing or "Nothing was recorded.", class_="empty")
        notes = tag("div", _caption(chart), class_="notes")
        return tag("figure", head, empty, notes, class_="chart", data_title=chart.title)
    pairs = [(line, summarise(line.column)) for line in chart.lines]
    rows = [(line, summary) for line, summary in pairs if summary is not None]
    return tag(
        "figure",
        head,
        tag("ul", [_key(line, summary) for line, summary in rows], class_="key"),
        tag(
            "div",
            class_="plot",
            id=f"plot-{chart.key}",
            data_chart=chart.key,
            tabindex="0",
            role="group",
            aria_labelledby=title_id,
            aria_describedby=f"keys-help table-{chart.key}",
        ),
        tag("div", _remarks(rows, log=chart.log), _caption(chart), class_="notes"),
        _table(chart, rows),
        class_="chart tall" if chart.tall else "chart",
        data_title=chart.title,
        data_filter=" ".join([chart.title, *names]).lower(),
    )


def payload(
    chart: Chart, packer: Packer, series: dict[tuple[int, str], int], store: list[Any]
) -> dict[str, Any]:  # noqa: E501
    """What the script needs to draw a chart; a series shared by two charts is packed once.

    Args:
        chart: The chart.
        packer: Packs arrays.
        series: Index in ``store`` by run and series name; extended.
        store: Packed series; extended.

    Returns:
        JSON-ready description.
    """
    lines = []
    for line in chart.lines:
        key = (line.run, line.column.name)
        if key not in series:
            series[key] = len(store)
            store.append(packer.series(line.column))
        lines.append(
            {
                "series": series[key],
                "run": line.run,
                "label": line.label,
                "colour": line.colour,
                "dashed": line.dashed,
                "oneSided": line.one_sided,
            }
        )
    return {
        "key": chart.key,
        "lines": lines,
        "references": [{"value": value, "label": label} for value, label in chart.references],
        "log": chart.log,
        "bounds": list(chart.bounds) if chart.bounds else None,
        "tall": chart.tall,
    }


def unit_text(unit: str) -> str:
    """A unit for a person: a pure number says so."""
    return "pure number" if unit in {"1", ""} else unit


def last_text(summary: Summary) -> str:
    """The last value with its interval, sample size and flags, as text."""
    ends = interval(summary.low, summary.high)
    if ends and summary.low == summary.high == summary.last:
        ends = "exact"
    parts = [number(summary.last), ends]
    if summary.n > 1:
        parts.append(f"n = {summary.n:,}")
    parts.extend(flag.replace("_", " ") for flag in summary.last_flags)
    return " · ".join(part for part in parts if part)


def _key(line: Line, summary: Summary) -> Html:
    where = f"last, step {summary.last_step:,}"
    return tag(
        "li",
        tag("span", class_=f"swatch c{line.colour}{' dashed' if line.dashed else ''}"),
        tag("span", line.label, class_="who"),
        tag("span", where, class_="where"),
        tag("span", last_text(summary), class_="readout"),
        title=summary.last_reason or None,
    )


def _remarks(rows: list[tuple[Line, Summary]], *, log: bool) -> Html | None:
    """Flags, gaps and infinities in words, with the reason most often given, once."""
    remarks = []
    told: set[str] = set()
    for line, summary in rows:
        parts = []
        if summary.flagged:
            names = ", ".join(f"{n.replace('_', ' ')} {k:,}" for n, k in summary.flags)
            parts.append(f"{summary.flagged:,} of {summary.rows:,} points flagged ({names})")
        if summary.nan:
            parts.append(f"{summary.nan:,} not computable")
        if summary.above or summary.below:
            parts.append(_infinities(line.column, summary))
        if log and (below := int((line.column.value <= 0).sum())):
            parts.append(f"{below:,} at or below 0, where a log axis ends")
        if parts:
            reason = summary.reasons[0][0] if summary.reasons else ""
            said = f" Most often: “{reason}”" if reason and reason not in told else ""
            told.add(reason)
            remarks.append(tag("li", f"{line.label}: {'; '.join(parts)}.", said))
    return tag("ul", remarks, class_="remarks") if remarks else None


def _infinities(column: Column, summary: Summary) -> str:
    texts = []
    for sign, count in ((1, summary.above), (-1, summary.below)):
        if count:
            where = column.value == sign * math.inf
            first = int(column.step[where.argmax()])
            times = "once" if count == 1 else f"{count:,} times"
            texts.append(f"{number(sign * math.inf)} {times}, first at step {first:,}")
    return "; ".join(texts)


def _table(chart: Chart, rows: list[tuple[Line, Summary]]) -> Html:
    columns = (
        "series",
        "run",
        "points",
        "first step",
        "first",
        "last step",
        "last",
        "minimum",
        "maximum",
        "last interval",
        "n",
        "flagged",
        "nan",
        "+inf",
        "−inf",
    )
    body = [
        tag(
            "tr",
            tag("th", line.column.name, scope="row"),
            tag("td", "run" if line.run == 0 else "twin"),
            tag("td", summary.rows),
            tag("td", summary.first_step),
            tag("td", number(summary.first)),
            tag("td", summary.last_step),
            tag("td", number(summary.last)),
            tag("td", number(summary.minimum)),
            tag("td", number(summary.maximum)),
            tag("td", interval(summary.low, summary.high) or "none claimed"),
            tag("td", summary.n),
            tag("td", summary.flagged),
            tag("td", summary.nan),
            tag("td", summary.above),
            tag("td", summary.below),
            data_series=line.column.name,
            data_run=line.run,
            data_n=summary.rows,
            data_first=repr(summary.first),
            data_last=repr(summary.last),
            data_min=repr(summary.minimum),
            data_max=repr(summary.maximum),
            data_low=repr(summary.low),
            data_high=repr(summary.high),
            data_flags=" ".join(summary.last_flags),
        )
        for line, summary in rows
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", f"Numbers of the chart {chart.title}"),
            tag("thead", tag("tr", [tag("th", column, scope="col") for column in columns])),
            tag("tbody", body),
        ),
        class_="visually-hidden",
        id=f"table-{chart.key}",
    )


def _caption(chart: Chart) -> Html | None:
    return tag("p", chart.caption, class_="caption") if chart.caption else None


def _flag(value: bool) -> str:
    return "true" if value else "false"


def grid(charts: Sequence[Chart], *, wide: bool = False) -> Html:
    """Charts side by side where there is room."""
    return tag(
        "div", join(panel(chart) for chart in charts), class_="grid wide" if wide else "grid"
    )
