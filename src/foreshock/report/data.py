"""What goes into the page: a run read into arrays and facts, and the numbers stated in words.

The numbers come from the full series, never from the buckets that are drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreshock.evaluation.w2_final import distances_to_last
from foreshock.store import Comparison, Figure, Run, comparisons, figures, list_runs
from foreshock.types import Action, Alarm, Flag, Forecast

#: Elements of an array that are still drawn as lines.
BUNDLE = 16

#: Arrays of the cloud of latents that have pictures of their own, and those that have none.
CLOUDS = ("latent/z", "latent/labels", "latent/plane", "latent/plane_axes")
UNDRAWN = frozenset({*CLOUDS, "latent/basis"})

#: An array a step.
Records = Sequence[tuple[int, np.ndarray]]

_FLAG_NAMES = {int(flag): str(flag.name).lower() for flag in Flag if flag}


@dataclass(frozen=True, slots=True)
class Column:
    """One series of one run, whole: the store's arrays and what the run says about them."""

    name: str
    title: str
    unit: str
    taken_at: str
    null: str
    step: np.ndarray  # (rows,) int64
    value: np.ndarray  # (rows,) float64, as are the next four
    low: np.ndarray
    high: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray
    n: np.ndarray  # (rows,) int64
    flags: np.ndarray  # (rows,) int64
    reason: Sequence[str]

    def scaled(self, factor: float, *, name: str, title: str) -> Column:
        """The same rows times a positive constant, under another name."""
        scaled = (self.value, self.low, self.high, self.null_low, self.null_high)
        value, low, high, null_low, null_high = (array * factor for array in scaled)
        return Column(
            name,
            title,
            self.unit,
            f"computed for this page from {self.name}",
            "",
            self.step,
            value,
            low,
            high,
            null_low,
            null_high,
            self.n,
            self.flags,
            self.reason,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of one series that the page states in words.

    ``first``, ``last``, ``low`` and ``high`` belong to the first and last row; ``minimum`` and
    ``maximum`` are over the finite values and nan if there is none.
    """

    rows: int
    first_step: int
    first: float
    last_step: int
    last: float
    low: float
    high: float
    n: int
    minimum: float
    maximum: float
    nan: int
    above: int
    below: int
    flagged: int
    flags: tuple[tuple[str, int], ...]
    last_flags: tuple[str, ...]
    last_reason: str
    reasons: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Milestone:
    """An event of the run itself, found by a rule that was fixed before."""

    name: str
    step: int
    rule: str


@dataclass(frozen=True, slots=True)
class RunData:
    """A run as the page needs it.

    Args:
        label: What the page calls the run.
        info: Contents of ``run.json``.
        state: ``closed``, ``open``, ``crashed`` or ``not closed``.
        last_step: Last recorded step, -1 when empty.
        columns: Series by name, in order of declaration.
        alarms: In order of step.
        milestones: In order of step.
        family: Series name to the name of the observable that promised it.
        left_out: Observables that were not attached, with the reason.
        switched_off: Observables and detectors that failed during the run, with the reason.
        notes: What the run noted, with the step.
        schedule: Payload of the last ``schedule`` event, empty if there is none.
        bundles: Series of short arrays (spectra), one column an element.
        layered: Series that an observable writes by part of the model, too.
        figures: Pictures with axes of their own that the run carries.
        comparisons: Measured numbers beside exact ones.
        actions: What policies did, or would have done, in order of step.
        clouds: Arrays of the cloud of latents (`CLOUDS`) by name, where there are any.
        w2_final: Steps and distances of the clouds to the last one.
    """

    label: str
    info: Mapping[str, Any]
    state: str
    last_step: int
    columns: Mapping[str, Column]
    alarms: tuple[Alarm, ...]
    milestones: tuple[Milestone, ...]
    family: Mapping[str, str]
    left_out: tuple[tuple[str, str], ...]
    switched_off: tuple[tuple[str, str, int], ...]
    notes: tuple[tuple[int, str], ...]
    schedule: Mapping[str, Any]
    bundles: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    layered: frozenset[str] = frozenset()
    figures: tuple[Figure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    actions: tuple[Action, ...] = ()
    clouds: Mapping[str, Records] = field(default_factory=dict)
    w2_final: tuple[tuple[int, float], ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether nothing was trained: the run is a world with a known answer."""
        return self.info.get("kind") == "simulation"

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the run; empty if none was stored."""
        return self.info.get("config") or {}

    @property
    def name(self) -> str:
        """What the configuration calls it (``name`` or ``experiment``), else the kind of run."""
        for key in ("name", "experiment"):
            if self.config.get(key):
                return str(self.config[key])
        return str(self.info.get("kind") or self.info.get("id") or "run")

    def milestone(self, name: str) -> Milestone | None:
        """The first milestone of that name."""
        return next((mark for mark in self.milestones if mark.name == name), None)


def read_run(run: Run, label: str) -> RunData:
    """Read everything the page shows of one run.

    The whole run is in memory once: about 60 bytes a row and series. Events whose payload lacks
    a field are read with blanks, since an old or foreign run must still open.

    Args:
        run: An open run, reader or flushed writer.
        label: What the page calls it.

    Returns:
        The run as arrays and facts.
    """
    events = run.events()
    by_kind: dict[str, list[Any]] = {}
    for event in events:
        by_kind.setdefault(event.kind, []).append(event)

    family: dict[str, str] = {}
    left_out: dict[str, str] = {}
    layered: set[str] = set()
    for event in by_kind.get("observables", []):
        for observable in event.payload.get("observables", []):
            for series in observable.get("series", []):
                family[str(series.get("name", ""))] = str(observable.get("name", ""))
                if series.get("layered"):
                    layered.add(str(series.get("name", "")))
        for item in event.payload.get("left_out", []):
            left_out[str(item.get("name", ""))] = str(item.get("reason", ""))

    alarms = [_alarm(event) for event in by_kind.get("alarm", [])]
    milestones = [
        Milestone(str(e.payload.get("name", "")), int(e.step), str(e.payload.get("rule", "")))
        for e in by_kind.get("milestone", [])
    ]
    off = [
        (str(e.payload.get("name", e.source)), str(e.payload.get("reason", "")), int(e.step))
        for kind in ("observable_off", "detector_off")
        for e in by_kind.get(kind, [])
    ]
    schedules = by_kind.get("schedule", [])
    names = run.names()
    clouds = {name: run.arrays(name) for name in CLOUDS if name in names}
    actions = [_action(event) for event in by_kind.get("action", [])]
    return RunData(
        label=label,
        info=run.info,
        state=_state(run, closed="closed" in by_kind),
        last_step=int(run.last_step),
        columns={name: _column(run, name) for name in names},
        bundles={
            name: found for name in names if name not in UNDRAWN and (found := _bundle(run, name))
        },
        alarms=tuple(sorted(alarms, key=lambda alarm: alarm.step)),
        milestones=tuple(sorted(milestones, key=lambda mark: mark.step)),
        family=family,
        layered=frozenset(layered),
        left_out=tuple(left_out.items()),
        switched_off=tuple(off),
        notes=tuple(
            (int(e.step), str(e.payload.get("text", "")))
            for kind in ("note", "action_ended")
            for e in by_kind.get(kind, [])
        ),
        schedule=schedules[-1].payload if schedules else {},
        figures=figures(run),
        comparisons=comparisons(run),
        actions=tuple(sorted(actions, key=lambda action: action.step)),
        clouds=clouds,
        w2_final=distances_to_last(clouds.get("latent/z", ())),
    )


def summarise(column: Column) -> Summary | None:
    """The numbers a reader is told about a series; ``None`` if it has no row."""
    rows = len(column.step)
    if rows == 0:
        return None
    finite = column.value[np.isfinite(column.value)]
    present = [bit for bit in _FLAG_NAMES if np.any(column.flags & bit)]
    flagged: list[int] = np.flatnonzero(column.flags).tolist()
    reasons = Counter(column.reason[i] for i in flagged if column.reason[i])
    return Summary(
        rows=rows,
        first_step=int(column.step[0]),
        first=float(column.value[0]),
        last_step=int(column.step[-1]),
        last=float(column.value[-1]),
        low=float(column.low[-1]),
        high=float(column.high[-1]),
        n=int(column.n[-1]),
        minimum=float(finite.min()) if finite.size else float("nan"),
        maximum=float(finite.max()) if finite.size else float("nan"),
        nan=int(np.isnan(column.value).sum()),
        above=int(np.isposinf(column.value).sum()),
        below=int(np.isneginf(column.value).sum()),
        flagged=len(flagged),
        flags=tuple(
            (_FLAG_NAMES[bit], int(np.count_nonzero(column.flags & bit))) for bit in present
        ),
        last_flags=Flag(int(column.flags[-1])).names,
        last_reason=column.reason[-1],
        reasons=tuple(reasons.most_common(3)),
    )


def _column(run: Run, name: str) -> Column:
    record, series = run.describe(name), run.series(name)
    return Column(
        name,
        record.title,
        record.unit,
        record.taken_at,
        record.null,
        series.step,
        series.value,
        series.low,
        series.high,
        series.null_low,
        series.null_high,
        series.n,
        series.flags,
        series.reason,
    )


def _bundle(run: Run, name: str) -> tuple[Column, ...]:
    """A series of short arrays of one length (a spectrum) as one column an element."""
    records = run.arrays(name)
    if not records or records[0][1].ndim != 1 or len(records[0][1]) > BUNDLE:
        return ()
    length = len(records[0][1])
    even = [(step, a) for step, a in records if a.shape == (length,) and a.dtype.kind in "fiu"]
    about = run.describe(name)
    steps = np.array([step for step, _ in even], dtype=np.int64)
    values = np.array([a for _, a in even], dtype=np.float64).reshape(len(even), length)
    blank = np.full(len(even), np.nan)
    none = np.zeros(len(even), dtype=np.int64)
    return tuple(
        Column(
            f"{name}[{place + 1}]",
            f"{about.title or name}, {place + 1} of {length}",
            about.unit,
            about.taken_at,
            about.null,
            steps,
            values[:, place],
            blank,
            blank,
            blank,
            blank,
            none,
            none,
            [""] * len(even),
        )
        for place in range(length)
    )


def _alarm(event: Any) -> Alarm:
    payload = event.payload
    forecast = payload.get("forecast")
    return Alarm(
        step=int(event.step),
        detector=str(event.source),
        series=str(payload.get("series", "")),
        value=_float(payload.get("value")),
        threshold=_float(payload.get("threshold")),
        reason=str(payload.get("reason", "")),
        forecast=Forecast(
            event=str(forecast.get("event", "")),
            step=_float(forecast.get("step")),
            low=_float(forecast.get("low")),
            high=_float(forecast.get("high")),
            basis=str(forecast.get("basis", "")),
        )
        if forecast
        else None,
        label=str(payload.get("label", "")),
    )


def _action(event: Any) -> Action:
    payload = event.payload
    arguments = payload.get("arguments")
    named = arguments.items() if isinstance(arguments, Mapping) else ()
    return Action(
        step=int(event.step),
        policy=str(payload.get("policy") or event.source),
        kind=str(payload.get("kind", "")),
        arguments={str(name): _argument(value) for name, value in named},
        reason=str(payload.get("reason", "")),
        applied=payload.get("applied") is True,
    )


def _argument(value: Any) -> float | str:
    """A number, or the text of one that names something."""
    number = _float(value)
    return value if isinstance(value, str) and math.isnan(number) else number


def _float(value: Any) -> float:
    """A payload's number; JSON writers store nan and infinities as text or null."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _state(run: Run, *, closed: bool) -> str:
    if closed:
        return "closed"
    for summary in list_runs(run.path.parent):
        if summary.id == run.id:
            return str(summary.state)
    return "not closed"
