"""Figures and comparisons that a run carries: curves against an exact answer, and do they agree.

They are events (``figure`` and ``comparison``), so a run copied to a laptop still has its pictures.
A simulation or an experiment writes them; the report draws them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from foreshock.store.run import Run
from foreshock.types import Estimate, Flag

Look = Literal["line", "dashed", "points", "steps"]

#: Points of a curve; a longer one is thinned when it is recorded.
POINTS = 600


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve of a figure.

    Args:
        label: What the key calls it.
        x: Places along the horizontal axis.
        y: Values, as many as ``x``.
        low: Lower ends of 95 % intervals, or nothing.
        high: Upper ends of 95 % intervals, or nothing.
        look: ``line``, ``dashed`` (an exact answer), ``points``, or ``steps`` (a histogram).

    Raises:
        ValueError: If the lengths differ.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    look: Look = "line"

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y)}
        lengths |= {len(ends) for ends in (self.low, self.high) if len(ends)}
        if len(lengths) != 1 or bool(len(self.low)) != bool(len(self.high)):
            raise ValueError(
                f"`x`, `y` and the interval of the `Curve` {self.label!r} must have one length. "
                f"Got {len(self.x)}, {len(self.y)}, {len(self.low)} and {len(self.high)}."
            )


@dataclass(frozen=True, slots=True)
class Field:
    """A function of two coordinates, drawn as coloured cells under the curves of a figure.

    Args:
        x: Edges of the cells along the horizontal axis, one more than columns.
        y: Edges along the vertical axis, one more than rows.
        values: Rows of values, the first row lowest; nan is left empty.
        arrows: A flow over the cells, as ``(x, y, dx, dy)`` in the units of the axes.
        label: What the colours show.

    Raises:
        ValueError: If ``values`` does not fit the edges.
    """

    x: Sequence[float]
    y: Sequence[float]
    values: Sequence[Sequence[float]]
    arrows: Sequence[tuple[float, float, float, float]] = ()
    label: str = ""

    def __post_init__(self) -> None:
        rows = {len(row) for row in self.values}
        if len(self.values) != len(self.y) - 1 or rows != {len(self.x) - 1}:
            raise ValueError(
                f"`values` of a `Field` must have {len(self.y) - 1} rows of {len(self.x) - 1} "
                f"cells, one less than its edges. Got {len(self.values)} rows of {sorted(rows)}."
            )


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with axes.

    Args:
        name: Identifier, such as ``density``.
        title: A few words.
        x: Name and unit of the horizontal axis.
        y: Name and unit of the vertical axis.
        curves: What is drawn.
        field: Cells under the curves, or nothing.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        caption: What is compared with what, in sentences.
    """

    name: str
    title: str
    x: str
    y: str
    curves: Sequence[Curve] = ()
    field: Field | None = None
    log_x: bool = False
    log_y: bool = False
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measured number beside the one it should be.

    Args:
        name: What was measured.
        measured: With its 95 % interval.
        exact: What theory says; nan if it is only shown.
        bias: Error that the method itself is known to make (a time step, a histogram), which the
            interval does not hold.
        source: Where the exact number comes from.
        published: Whether ``measured`` is a published form that is shown beside ours.
    """

    name: str
    measured: Estimate
    exact: float
    bias: float = 0.0
    source: str = ""
    published: bool = False

    @property
    def agrees(self) -> bool | None:
        """Whether the exact number lies in the interval widened by the bias.

        ``None`` where nothing can be said: no exact number, no interval, or a flagged estimate.
        """
        if self.measured.flags:
            return None
        ends = (self.exact, self.measured.low, self.measured.high)
        if any(math.isnan(value) for value in ends):
            return None
        bias = abs(self.bias)
        return bool(self.measured.low - bias <= self.exact <= self.measured.high + bias)


def record(run: Run, *items: Figure | Comparison, step: int = -1) -> None:
    """Write figures and comparisons into a run.

    Args:
        run: Open for writing.
        *items: What to write.
        step: Step they belong to, -1 for the whole run.

    Examples:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp() + "/a") as run:
        ...     record(run, Comparison("variance", Estimate(1.02, 0.98, 1.06), exact=1.0))
        ...     [found.agrees for found in comparisons(run)]
        [True]
    """
    for item in items:
        if isinstance(item, Comparison):
            measured = item.measured
            payload: dict[str, Any] = {
                "name": item.name,
                "value": measured.value,
                "low": measured.low,
                "high": measured.high,
                "n": measured.n,
                "reason": measured.reason,
                "flags": int(measured.flags),
                "null": list(measured.null) if measured.null is not None else None,
                "exact": item.exact,
                "bias": item.bias,
                "source": item.source,
                "published": item.published,
            }
            run.event("comparison", "simulation", payload, step=step)
        else:
            payload = asdict(item) | {"curves": [_curve(curve) for curve in item.curves]}
            if item.field is not None:
                payload["field"] = _field(item.field)
            run.event("figure", "simulation", payload, step=step)


def comparisons(run: Run) -> tuple[Comparison, ...]:
    """Every comparison of a run, in order; one that cannot be read is left out.

    Args:
        run: Open for reading.

    Returns:
        The comparisons.

    Examples:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp() + "/a") as run:
        ...     record(run, Comparison("mean", Estimate(0.1, -0.2, 0.4), exact=0.0))
        ...     print(comparisons(run)[0].name)
        mean
    """
    return tuple(filter(None, (_comparison(e.payload) for e in run.events("comparison"))))


def figures(run: Run) -> tuple[Figure, ...]:
    """Every figure of a run, in order; one that cannot be read is left out.

    Args:
        run: Open for reading.

    Returns:
        The figures.

    Examples:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp() + "/a") as run:
        ...     record(run, Figure("a", "A line", "x", "y", (Curve("line", [0, 1], [0, 1]),)))
        ...     print(figures(run)[0].curves[0].label)
        line
    """
    return tuple(filter(None, (_figure(event.payload) for event in run.events("figure"))))


def _comparison(payload: Mapping[str, Any]) -> Comparison | None:
    """A comparison from what a run holds, which may come from anywhere."""
    try:
        value, low, high = (_number(payload.get(key)) for key in ("value", "low", "high"))
        reason, flags = str(payload.get("reason") or ""), Flag(int(payload.get("flags") or 0))
        null = payload.get("null")
        band = (_number(null[0]), _number(null[1])) if null else None
        count = int(payload.get("n") or 0)
        if math.isnan(value):
            flags = flags or Flag.UNRESOLVED
        if flags:
            reason = reason or "not computed"
        return Comparison(
            str(payload.get("name", "")),
            Estimate(value, low, high, count, flags, reason, band),
            _number(payload.get("exact")),
            _number(payload.get("bias", 0.0)),
            str(payload.get("source", "")),
            bool(payload.get("published")),
        )
    except (TypeError, ValueError, AttributeError, IndexError):
        return None


def _figure(payload: Mapping[str, Any]) -> Figure | None:
    try:
        curves = []
        for item in payload.get("curves") or []:
            x, y, low, high = (
                [_number(v) for v in item.get(key) or []] for key in ("x", "y", "low", "high")
            )
            look = item.get("look")
            known = look if look in ("line", "dashed", "points", "steps") else "line"
            ends = (low, high) if len(low) == len(high) == len(x) else ((), ())
            if len(x) == len(y):
                curves.append(Curve(str(item.get("label", "")), x, y, *ends, look=known))
        return Figure(
            name=str(payload.get("name") or ""),
            title=str(payload.get("title") or ""),
            x=str(payload.get("x") or ""),
            y=str(payload.get("y") or ""),
            curves=tuple(curves),
            field=_read_field(payload.get("field")),
            log_x=bool(payload.get("log_x")),
            log_y=bool(payload.get("log_y")),
            caption=str(payload.get("caption") or ""),
        )
    except (TypeError, ValueError, AttributeError):
        return None


def _curve(curve: Curve) -> dict[str, Any]:
    keep: Any = slice(None)
    if len(curve.x) > POINTS:
        # The highest and the lowest point of every stretch, so that no spike is lost.
        y = np.nan_to_num(np.asarray(curve.y, dtype=float))
        stretches = np.array_split(np.arange(len(y)), POINTS // 2 - 1)
        ends = [part[[y[part].argmin(), y[part].argmax()]] for part in stretches]
        keep = np.unique(np.concatenate([[0, len(y) - 1], *ends]))
    parts = {key: getattr(curve, key) for key in ("x", "y", "low", "high")}
    arrays = {
        key: np.asarray(part, dtype=float)[keep].tolist() if len(part) else []
        for key, part in parts.items()
    }
    return {"label": curve.label, "look": curve.look, **arrays}


def _field(field: Field) -> dict[str, Any]:
    return {
        "x": [float(v) for v in field.x],
        "y": [float(v) for v in field.y],
        "values": np.asarray(field.values, dtype=float).tolist(),
        "arrows": [[float(v) for v in arrow] for arrow in field.arrows],
        "label": field.label,
    }


def _read_field(payload: Mapping[str, Any] | None) -> Field | None:
    if not payload:
        return None
    edges = [[_number(v) for v in payload.get(key) or []] for key in ("x", "y")]
    rows = [[_number(v) for v in row] for row in payload.get("values") or []]
    arrows = []
    for arrow in payload.get("arrows") or []:
        if len(arrow) == 4:
            x, y, dx, dy = (_number(v) for v in arrow)
            arrows.append((x, y, dx, dy))
    try:
        return Field(edges[0], edges[1], rows, tuple(arrows), str(payload.get("label") or ""))
    except ValueError:
        return None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
