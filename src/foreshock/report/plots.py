"""Figures that a run carries, drawn as SVG without a script, and measured against exact numbers.

A figure has axes of its own (position, noise, lag), so it is no series and takes no part in the
zooming of the charts. Every curve is also a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.report.data import RunData
from foreshock.report.heatmap import Scale
from foreshock.report.markup import Html, interval, join, number, tag
from foreshock.store import Comparison, Curve, Field, Figure

#: Size of the drawing in its own units, and its margins: left, right, top, bottom.
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 8, 34
#: A value further than this many plot heights outside is drawn at the edge.
_FAR = 50.0
#: Classes of the swatches in the key that are no line.
_SWATCHES = {"dashed": " dashed", "points": " points"}


def compared(runs: Sequence[RunData]) -> Html | None:
    """Measured beside exact numbers, a row each; nothing if no run has any.

    Args:
        runs: The run, and its twin if there is one.

    Returns:
        A table, or ``None``.
    """
    rows = [
        tag(
            "tr",
            tag("th", item.name, scope="row"),
            tag("td", run.label, data_label="run") if len(runs) > 1 else None,
            tag("td", _measured(item), class_="number", data_label="measured"),
            tag("td", number(item.exact), class_="number", data_label="exact"),
            tag("td", _verdict(item), data_label="verdict", class_=_look(item)),
            tag("td", item.source or "–", data_label="source"),
        )
        for run in runs
        for item in run.comparisons
    ]
    if not rows:
        return None
    names = ("quantity", "run", "measured [95 %]", "exact", "verdict", "exact number from")
    heads = [name for name in names if name != "run" or len(runs) > 1]
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
            tag("tbody", rows),
            class_="compared",
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label="Table: measured against exact",
    )


def _measured(item: Comparison) -> str:
    ends = interval(item.measured.low, item.measured.high)
    if math.isnan(item.measured.value):
        return f"not computed: {item.measured.reason}"
    if item.measured.low == item.measured.value == item.measured.high:
        return f"{number(item.measured.value)}, without noise"
    return f"{number(item.measured.value)} {ends}".strip()


def _verdict(item: Comparison) -> str:
    if item.agrees is None:
        return "shown, not judged"
    if item.published:
        return f"as published: {'agrees' if item.agrees else 'differs'}"
    if item.agrees and not item.measured.low <= item.exact <= item.measured.high:
        return f"agrees within the method's own error of {number(abs(item.bias))}"
    return "agrees" if item.agrees else "differs"


def _look(item: Comparison) -> str | None:
    return "differs" if item.agrees is False and not item.published else None


def plot(figure: Figure, key: str) -> Html:
    """One figure with its key, its caption and its numbers.

    Args:
        figure: What to draw.
        key: Identifier in the page.

    Returns:
        A ``figure`` element.
    """
    head = tag("figcaption", tag("h3", figure.title, id=f"title-{key}"))
    axes = Axes.of(figure)
    caption = tag("p", figure.caption, class_="caption") if figure.caption else None
    if axes is None:
        text = "Nothing that can be drawn: no finite point."
        return tag("figure", head, tag("p", text, class_="empty"), caption, class_="chart plotted")
    scale = _scale(figure.field)
    inside = [
        _cells(figure.field, scale, axes) if figure.field and scale else None,
        [_band(curve, axes, i) for i, curve in enumerate(figure.curves)],
        _arrows(figure.field, axes) if figure.field else None,
        [_curve(curve, axes, i) for i, curve in enumerate(figure.curves)],
    ]
    clip, across, down = f"clip-{key}", WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    svg = tag(
        "svg",
        tag("clipPath", tag("rect", x=LEFT, y=TOP, width=across, height=down), id=clip),
        axes.grid(),
        tag("g", inside, clip_path=f"url(#{clip})"),
        axes.labels(figure),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{figure.title}: {figure.y} over {figure.x}. The table below has the numbers.",
    )
    names = [
        tag(
            "li",
            tag("span", class_=f"swatch c{_colour(i)}{_SWATCHES.get(c.look, '')}"),
            tag("span", c.label, class_="who"),
        )
        for i, c in enumerate(figure.curves)
    ]
    return tag(
        "figure",
        head,
        tag("ul", names, class_="key") if names else None,
        svg,
        _legend(figure.field, scale) if figure.field and scale else None,
        caption,
        _numbers(figure),
        class_="chart plotted over" if figure.field is not None else "chart plotted",
        data_title=figure.title,
    )


@dataclass(frozen=True, slots=True)
class Axes:
    """From the units of a figure to the units of its drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool
    log_y: bool

    @classmethod
    def of(cls, figure: Figure) -> Axes | None:
        """Limits that hold every finite point; ``None`` if there is none."""
        xs, ys = [], []
        for curve in figure.curves:
            x = np.asarray(curve.x, float)
            seen = [np.asarray(curve.y, float)]
            seen += [np.asarray(ends, float) for ends in (curve.low, curve.high) if len(ends)]
            xs.append(x)
            ys += seen
        if figure.field is not None:
            xs.append(np.asarray(figure.field.x, float))
            ys.append(np.asarray(figure.field.y, float))
        # Lines may start at the edge; of a dot there, half would be cut off.
        beside = 0.02 if any(curve.look == "points" for curve in figure.curves) else 0.0
        spans = []
        for values, log, room in ((xs, figure.log_x, beside), (ys, figure.log_y, 0.05)):
            flat = np.concatenate(values) if values else np.zeros(0)
            flat = flat[np.isfinite(flat) & ((flat > 0) | (not log))]
            if not flat.size:
                return None
            low, high = float(flat.min()), float(flat.max())
            if log:
                low, high = math.log10(low), math.log10(high)
            if not high - low > 1e-9 * max(abs(low), abs(high)):
                wide = max(0.5, 1e-3 * max(abs(low), abs(high)))
                low, high = low - wide, high + wide
            if not math.isfinite(high - low):  # the two ends of the range of a float
                low, high = low / 4, high / 4
            room = 0.0 if figure.field is not None else room * (high - low)
            spans.append((low - room, high + room))
        return cls(spans[0], spans[1], figure.log_x, figure.log_y)

    def across(self, values: Sequence[float]) -> np.ndarray:
        """Horizontal places of values; nan where a value cannot be drawn."""
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(values, self.x, log=self.log_x)

    def up(self, values: Sequence[float]) -> np.ndarray:
        """Vertical places of values."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(values, self.y, log=self.log_y)

    def grid(self) -> Html:
        """Grid lines and the frame below."""
        lines = [
            f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" for x in self.across(_ticks(self.x, self.log_x))
        ]
        lines += [f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}" for y in self.up(_ticks(self.y, self.log_y))]
        return tag("path", d="".join(lines), class_="plot-grid")

    def labels(self, figure: Figure) -> Html:
        """Numbers at the ticks and the names of the axes."""
        texts = []
        for value in _ticks(self.x, self.log_x):
            at = float(self.across([value])[0])
            texts.append(_text(at, HEIGHT - BOTTOM + 14, number(value), anchor="middle"))
        for value in _ticks(self.y, self.log_y):
            at = float(self.up([value])[0])
            texts.append(_text(LEFT - 6, at + 3.5, number(value), anchor="end"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        texts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, figure.x, anchor="middle"))
        turn = f"rotate(-90 11 {middle:.1f})"
        texts.append(_text(11, middle, figure.y, anchor="middle", transform=turn))
        return tag("g", texts, class_="plot-text")


def _share(values: Sequence[float], span: tuple[float, float], *, log: bool) -> np.ndarray:
    array = np.asarray(values, float)
    if log:
        array = np.log10(np.where(array > 0, array, np.nan))
    share = (array - span[0]) / (span[1] - span[0])
    return np.clip(share, -_FAR, _FAR)


def _ticks(span: tuple[float, float], log: bool) -> list[float]:
    """Three to eight round numbers inside the limits, in the units of the figure."""
    low, high = span
    if log:
        if math.floor(high) - math.ceil(low) >= 2:
            every = max(1, math.ceil((high - low) / 6))
            first = math.ceil(low / every) * every
            return [10.0**power for power in range(first, math.floor(high) + 1, every)]
        inside = [
            float(f"{digit}e{power}")
            for power in range(math.floor(low), math.floor(high) + 1)
            for digit in (1, 2, 5)
            if low <= power + math.log10(digit) <= high
        ]
        if len(inside) >= 3:
            return inside
        low, high = 10**low, 10**high
    raw = (high - low) / 6  # a step is at most twice that, so three fit
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw)
    first = math.ceil(low / step)
    # Rounded to the digits of the step, so that 3 * 0.1 reads 0.3.
    digits = 6 - math.floor(math.log10(step))
    return [round(k * step, digits) for k in range(first, math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, *, anchor: str, transform: str | None = None) -> Html:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, transform=transform)


def _colour(index: int) -> int:
    return index % 4


def _points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float] | None]:
    """Places, with ``None`` where the pen is lifted."""
    return [
        (float(a), float(b)) if math.isfinite(a) and math.isfinite(b) else None
        for a, b in zip(x, y, strict=True)
    ]


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    text, down = [], False
    for place in places:
        if place is not None:
            text.append(f"{'L' if down else 'M'}{place[0]:.1f} {place[1]:.1f}")
        down = place is not None
    return "".join(text)


def _curve(curve: Curve, axes: Axes, index: int) -> Html | None:
    x, y = axes.across(curve.x), axes.up(curve.y)
    y[~np.isfinite(np.asarray(curve.y, float))] = np.nan  # only a band may reach infinity
    look = f"plot-line c{_colour(index)}"
    if curve.look == "points":
        ends = zip(axes.up(curve.low), axes.up(curve.high), strict=True) if len(curve.low) else ()
        bars = "".join(
            f"M{a:.1f} {low:.1f}V{high:.1f}"
            for a, (low, high) in zip(x, ends, strict=False)
            if math.isfinite(a) and math.isfinite(low) and math.isfinite(high)
        )
        dots = [
            tag("circle", cx=f"{p[0]:.1f}", cy=f"{p[1]:.1f}", r="2.6")
            for p in _points(x, y)
            if p is not None
        ]
        return tag(
            "g",
            tag("path", d=bars, class_=look) if bars else None,
            dots,
            class_=f"plot-dots c{_colour(index)}",
        )
    if curve.look == "steps" and len(x) > 1:
        half = np.diff(x) / 2
        edges = np.concatenate([[x[0] - half[0]], x[:-1] + half, [x[-1] + half[-1]]])
        x, y = np.repeat(edges, 2)[1:-1], np.repeat(y, 2)
    data = _path(_points(x, y))
    dashed = " dashed" if curve.look == "dashed" else ""
    return tag("path", d=data, class_=look + dashed) if data else None


def _band(curve: Curve, axes: Axes, index: int) -> Html | None:
    if not len(curve.low) or curve.look == "points":
        return None
    x, low, high = axes.across(curve.x), axes.up(curve.low), axes.up(curve.high)
    good = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    if good.sum() < 2:
        return None
    there = list(zip(x[good], high[good], strict=True))
    back = list(zip(x[good][::-1], low[good][::-1], strict=True))
    return tag("path", d=f"{_path(there + back)}z", class_=f"plot-band c{_colour(index)}")


def _scale(field: Field | None) -> Scale | None:
    if field is None:
        return None
    values = np.asarray(field.values, float)
    finite = values[np.isfinite(values)]
    return Scale.of(finite) if finite.size else None


def _cells(field: Field, scale: Scale, axes: Axes) -> Html:
    x, y = axes.across(field.x), axes.up(field.y)
    values = np.asarray(field.values, float)
    colours = np.where(np.isfinite(values), scale.colour(np.nan_to_num(values)), -1)
    paths = []
    for index, colour in enumerate(scale.colours):
        data = []
        for r, row in enumerate(colours == index):
            # Neighbouring cells of one colour are one rectangle, a hair too wide to leave no seam.
            padded = np.diff(np.concatenate([[0], row.astype(int), [0]]))
            for a, b in zip(np.flatnonzero(padded == 1), np.flatnonzero(padded == -1), strict=True):
                data.append(
                    f"M{x[a]:.1f} {y[r] + 0.3:.1f}H{x[b] + 0.3:.1f}V{y[r + 1]:.1f}H{x[a]:.1f}z"
                )
        if data:
            paths.append(tag("path", d="".join(data), fill=colour))
    return tag("g", paths)


def _arrows(field: Field, axes: Axes) -> Html | None:
    marks = []
    for x, y, dx, dy in field.arrows:
        ends = axes.across([x, x + dx]), axes.up([y, y + dy])
        (a, c), (b, d) = (end.tolist() for end in ends)
        length = math.hypot(c - a, d - b)
        if not math.isfinite(length) or length < 1.5:
            continue
        ux, uy, head = (c - a) / length, (d - b) / length, min(5.0, 0.45 * length)
        left = (c - head * (ux - 0.5 * uy), d - head * (uy + 0.5 * ux))
        right = (c - head * (ux + 0.5 * uy), d - head * (uy - 0.5 * ux))
        marks.append(
            f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}M{left[0]:.1f} {left[1]:.1f}"
            f"L{c:.1f} {d:.1f}L{right[0]:.1f} {right[1]:.1f}"
        )
    data = "".join(marks)
    # Twice, a pale one below a dark one, so that an arrow shows on every colour.
    return join(tag("path", d=data, class_=f"plot-arrows {c}") for c in ("below", "above"))


def _legend(field: Field, scale: Scale) -> Html:
    swatches = [tag("span", class_="heat-swatch", style=f"background:{c}") for c in scale.colours]
    ends = f"{number(scale.edges[-1])}{f' ({scale.words})' if scale.words else ''}"
    return tag(
        "p",
        tag("span", f"{field.label}: {number(scale.edges[0])}".removeprefix(": ")),
        tag("span", swatches, aria_hidden="true"),
        tag("span", ends),
        class_="heat-scale",
    )


#: Rows of the table under a figure; the rest is thinned, which the table says.
_ROWS = 40


def _numbers(figure: Figure) -> Html | None:
    bodies = []
    for curve in figure.curves:
        keep = np.unique(np.linspace(0, len(curve.x) - 1, min(_ROWS, len(curve.x))).astype(int))
        for i in keep.tolist() if len(curve.x) else []:
            ends = interval(curve.low[i], curve.high[i]) if len(curve.low) else ""
            cells = (number(curve.x[i]), number(curve.y[i]), ends or "–")
            bodies.append(
                tag("tr", tag("th", curve.label, scope="row"), [tag("td", c) for c in cells])
            )
    if not bodies:
        return None
    heads = ("curve", figure.x, figure.y, "95 %")
    return tag(
        "details",
        tag("summary", f"Numbers, at most {_ROWS} points a curve"),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
                tag("tbody", bodies),
            ),
            class_="scroll",
        ),
    )
