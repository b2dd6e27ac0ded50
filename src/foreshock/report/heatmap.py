"""Heat maps of series that were taken by part of the model: parts downwards, steps rightwards.

Drawn as SVG without a script: one path a colour, so a map of 80 columns stays below 40 kB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.report.data import Column, RunData
from foreshock.report.markup import Html, join, number, tag
from foreshock.types import Flag

#: Columns of a map; more measurements than this are averaged into as many.
COLUMNS = 80
#: Eight steps of viridis and of a blue-white-orange scale: both read without red and green.
SEQUENTIAL = (
    "#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725",
)  # fmt: skip
DIVERGING = (
    "#0a4f80", "#2a7fb8", "#7db5d9", "#d0e3ef", "#f6e0cd", "#efb27f", "#d97d31", "#9a4a00",
)  # fmt: skip
ROW, WIDTH = 16, 640


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A quantity by part of the model.

    Args:
        name: The series without its part, such as ``grad/snr``.
        title: A few words.
        unit: Unit of the values.
        parts: Names of the parts, in order of declaration.
        columns: The parts' series by run: one list a run, ``None`` where a run lacks the part.
        labels: Names of the runs.
    """

    name: str
    title: str
    unit: str
    parts: tuple[str, ...]
    columns: tuple[tuple[Column | None, ...], ...]
    labels: tuple[str, ...]


def heat_maps(runs: Sequence[RunData]) -> tuple[HeatMap, ...]:
    """Every series that an observable recorded for at least two parts.

    A name with an ``@`` that the user logged ("acc@5") is none of them.

    Args:
        runs: The run, and its twin if there is one.

    Returns:
        One map a series, in order of declaration.
    """
    parts: dict[str, list[str]] = {}
    for run in runs:
        for name in run.columns:
            base, _, part = name.partition("@")
            if part and base in run.layered and part not in parts.setdefault(base, []):
                parts[base].append(part)
    maps = []
    for base, names in parts.items():
        if len(names) < 2:
            continue
        whole = f"{base}@{names[0]}"
        first = next(run.columns[whole] for run in runs if whole in run.columns)
        maps.append(
            HeatMap(
                base,
                first.title.removesuffix(f", {names[0]}") or base,
                first.unit,
                tuple(names),
                tuple(tuple(run.columns.get(f"{base}@{n}") for n in names) for run in runs),
                tuple(run.label for run in runs),
            )
        )
    return tuple(maps)


def draw(heat: HeatMap) -> Html:
    """One map with its scale, and its numbers as a table.

    Args:
        heat: What to draw.

    Returns:
        A ``figure``.
    """
    grids = [_Grid.of(row) for row in heat.columns]
    finite = np.concatenate([grid.values[np.isfinite(grid.values)] for grid in grids])
    if not finite.size:
        text = tag("p", "No part has a value that could be computed.", class_="empty")
        return tag("figure", _head(heat), text, class_="chart heat", data_title=heat.title)
    scale = Scale.of(finite)
    ends = (min(grid.edges[0] for grid in grids), max(grid.edges[-1] for grid in grids))
    pictures = [
        join(
            [
                tag("p", label, class_="heat-run") if len(grids) > 1 else None,
                _picture(heat, grid, scale, ends, label),
            ]
        )
        for grid, label in zip(grids, heat.labels, strict=True)
    ]
    return tag(
        "figure",
        _head(heat),
        pictures,
        scale.legend(),
        _table(heat),
        class_="chart heat",
        data_title=heat.title,
        data_filter=f"{heat.title} {heat.name}".lower(),
    )


def _head(heat: HeatMap) -> Html:
    unit = "pure number" if heat.unit in {"1", ""} else heat.unit
    title = tag("h4", heat.title, tag("span", f" {unit}", class_="unit"))
    rows = f"{heat.name}@…, {len(heat.parts)} of them, a row each"
    return tag("figcaption", title, tag("div", tag("code", rows), class_="names"))


@dataclass(frozen=True, slots=True)
class _Grid:
    """What a map shows: cells of neighbouring measurements, as wide as the steps they stand for."""

    edges: np.ndarray  # (cells + 1,) steps
    values: np.ndarray  # (parts, cells) means of the resolved values; nan where there is none
    measured: np.ndarray  # (parts, cells) whether the part was measured at all

    @classmethod
    def of(cls, row: Sequence[Column | None]) -> _Grid:
        """Cells of equally many measurements; each lasts until the next one begins."""
        present = [column.step for column in row if column is not None]
        steps = np.unique(np.concatenate(present)) if present else np.zeros(0, dtype=np.int64)
        if not steps.size:
            blank = np.full((len(row), 1), np.nan)
            return cls(np.array([0.0, 1.0]), blank, np.zeros_like(blank, dtype=bool))
        cells = min(COLUMNS, steps.size)
        starts = steps[(np.arange(cells) * steps.size) // cells].astype(float)
        gap = float(np.median(np.diff(steps))) if steps.size > 1 else 1.0
        edges = np.append(starts, steps[-1] + gap)
        values = np.full((len(row), cells), np.nan)
        measured = np.zeros((len(row), cells), dtype=bool)
        for index, column in enumerate(row):
            if column is None or not len(column.step):
                continue
            where = np.searchsorted(starts, column.step, side="right") - 1
            measured[index, where] = True
            good = np.isfinite(column.value) & ((column.flags & int(Flag.UNRESOLVED)) == 0)
            total = np.bincount(where[good], column.value[good], minlength=cells)
            count = np.bincount(where[good], minlength=cells)
            seen = count > 0
            values[index, seen] = total[seen] / count[seen]
        return cls(edges, values, measured)


@dataclass(frozen=True, slots=True)
class Scale:
    """Edges between the eight colours, chosen from the values of all runs together."""

    edges: tuple[float, ...]  # 9 ascending
    colours: tuple[str, ...]
    words: str
    constant: bool = False

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """White in the middle where signs differ, logarithmic over 30-fold ranges, else linear."""
        low, high = float(values.min()), float(values.max())
        if low < 0 < high:
            size = max(-low, high)
            steps = np.linspace(-1, 1, 9)
            return cls(tuple(size * steps), DIVERGING, "white is 0")
        if low > 0 and high / low > 30:
            return cls(tuple(np.geomspace(low, high, 9)), SEQUENTIAL, "logarithmic")
        if low == high:
            edges = np.linspace(low, low + (abs(low) or 1.0), 9)
            return cls(tuple(edges), SEQUENTIAL, "", constant=True)
        return cls(tuple(np.linspace(low, high, 9)), SEQUENTIAL, "linear")

    def colour(self, values: np.ndarray) -> np.ndarray:
        """Index of the colour of each value."""
        return np.clip(np.searchsorted(self.edges, values, side="right") - 1, 0, 7)

    def legend(self) -> Html:
        """The scale in words and colours."""
        if self.constant:
            text = f"{number(self.edges[0])} everywhere (grey: not resolved; empty: not measured)"
            return tag("p", text, class_="heat-scale")
        swatches = [
            tag("span", class_="heat-swatch", style=f"background:{c}", title=number(e))
            for c, e in zip(self.colours, self.edges, strict=False)
        ]
        return tag(
            "p",
            tag("span", number(self.edges[0])),
            tag("span", swatches, aria_hidden="true"),
            tag(
                "span",
                f"{number(self.edges[-1])} ({self.words}; grey: not resolved; empty: not measured)",
            ),
            class_="heat-scale",
        )


def _picture(
    heat: HeatMap, grid: _Grid, scale: Scale, ends: tuple[float, float], label: str
) -> Html:
    rows = len(grid.values)
    at = WIDTH * (grid.edges - ends[0]) / (ends[1] - ends[0])
    resolved = np.isfinite(grid.values)
    colours = np.where(resolved, scale.colour(np.nan_to_num(grid.values)), -1)
    layers = [(colours == c, {"fill": scale.colours[c]}) for c in range(8)]
    layers.append((grid.measured & ~resolved, {"class_": "heat-blank"}))
    paths = []
    for mask, look in layers:
        data = "".join(
            f"M{at[a]:.1f} {ROW * r}h{at[b] - at[a]:.1f}v{ROW - 1}H{at[a]:.1f}z"
            for r, a, b in _runs(mask)
        )
        if data:
            paths.append(tag("path", d=data, **look))
    first, last = int(grid.edges[0]), int(ends[1])
    spoken = f"{heat.title}, {rows} rows over steps {first:,} to {last:,}, {label}."
    svg = tag(
        "svg",
        paths,
        viewBox=f"0 0 {WIDTH} {ROW * rows}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{spoken} The table below has the numbers.",
        style=f"height:{ROW * rows}px",
    )
    names = tag("ol", [tag("li", part, title=part) for part in heat.parts], class_="heat-parts")
    axis = tag(
        "p", tag("span", f"step {int(ends[0]):,}"), tag("span", f"{last:,}"), class_="heat-axis"
    )
    return tag("div", names, tag("div", svg, axis), class_="heat-map")


def _runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Row, start and stop of every stretch of neighbouring true cells."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    row, start = np.nonzero(np.diff(padded, axis=1) == 1)
    _, stop = np.nonzero(np.diff(padded, axis=1) == -1)
    return list(zip(row.tolist(), start.tolist(), stop.tolist(), strict=True))


def _table(heat: HeatMap) -> Html:
    body = []
    for label, row in zip(heat.labels, heat.columns, strict=True):
        for part, column in zip(heat.parts, row, strict=True):
            if column is None or not len(column.step):
                continue
            finite = column.value[np.isfinite(column.value)]
            ends = (float(finite.min()), float(finite.max())) if finite.size else (math.nan,) * 2
            flagged = int(np.count_nonzero(column.flags))
            numbers = [float(column.value[0]), float(column.value[-1]), *ends]
            cells = [tag("td", number(value)) for value in numbers]
            body.append(
                tag(
                    "tr",
                    tag("th", part, scope="row"),
                    tag("td", label),
                    cells,
                    tag("td", f"{flagged:,} of {len(column.step):,}"),
                    data_series=column.name,
                    data_last=repr(numbers[1]),
                )
            )
    heads = ("part", "run", "first", "last", "minimum", "maximum", "flagged")
    return tag(
        "details",
        tag("summary", "Numbers"),
        tag(
            "div",
            tag("table", tag("thead", tag("tr", [tag("th", h, scope="col") for h in heads])), body),
            class_="scroll",
        ),
    )
