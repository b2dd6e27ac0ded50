"""The nouns of the store: what is read from a run, as plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.types import Estimate, Flag


@dataclass(frozen=True, slots=True)
class SeriesRecord:
    """What a run knows about one of its series.

    Args:
        name: ``family/quantity[@layer]``, or whatever the user logged.
        title: A few words for a chart.
        unit: Unit, ``"1"`` for a pure number.
        taken_at: Where the number was taken (before or after clipping, which batch, which dtype).
        null: What it reads when nothing happens, in a few words.
    """

    name: str
    title: str = ""
    unit: str = "1"
    taken_at: str = ""
    null: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """All rows of one series, by step: parallel numpy arrays of one length m.

    ``null_low`` and ``null_high`` are nan both where a row has no null and where an end of its null
    is nan; ``has_null`` tells them apart, and ``estimate`` gives back exactly what was appended.

    Args:
        name: Name of the series.
        step: (m,) int64, strictly increasing.
        value: (m,) float64.
        low: (m,) float64, lower end of the 95 % interval.
        high: (m,) float64, upper end of the 95 % interval.
        null_low: (m,) float64.
        null_high: (m,) float64.
        has_null: (m,) bool.
        n: (m,) int64, sample size.
        flags: (m,) int64, bits of `foreshock.types.Flag`.
        reason: m sentences, empty where nothing is flagged.

    Examples:
        >>> import tempfile
        >>> from foreshock.store import Run
        >>> with tempfile.TemporaryDirectory() as folder, Run.create(f"{folder}/a") as run:
        ...     for step in range(3):
        ...         run.append(step, {"loss": 1.0 / (1 + step)})
        ...     series = run.series("loss")
        >>> series.value.tolist()
        [1.0, 0.5, 0.3333333333333333]
        >>> series.estimate(1).value
        0.5
    """

    name: str
    step: NDArray[np.int64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    null_low: NDArray[np.float64]
    null_high: NDArray[np.float64]
    has_null: NDArray[np.bool_]
    n: NDArray[np.int64]
    flags: NDArray[np.int64]
    reason: list[str]

    def __len__(self) -> int:
        """Number of rows, m."""
        return len(self.step)

    def estimate(self, i: int) -> Estimate:
        """The i-th row as it was appended (a plain float comes back as an `Estimate`)."""
        return Estimate(
            float(self.value[i]),
            float(self.low[i]),
            float(self.high[i]),
            n=int(self.n[i]),
            flags=Flag(int(self.flags[i])),
            reason=self.reason[i],
            null=(float(self.null_low[i]), float(self.null_high[i])) if self.has_null[i] else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Rollup:
    """A long series in few buckets of steps, for a chart: parallel arrays of one length b.

    Only finite values enter ``min``, ``max``, ``mean`` and ``n``: one infinity would flatten every
    chart. A bucket whose values are all nan or infinite has ``n = 0`` and nan in the other three,
    so it shows as a gap, never as a 0.

    Args:
        step_low: (b,) int64, first step a bucket covers.
        step_high: (b,) int64, last step it covers, inclusive; never past the run's last step.
        min: (b,) float64.
        max: (b,) float64.
        mean: (b,) float64, over the values, not over the steps.
        n: (b,) int64, finite values in the bucket.
    """

    step_low: NDArray[np.int64]
    step_high: NDArray[np.int64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    mean: NDArray[np.float64]
    n: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of buckets, b."""
        return len(self.step_low)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run.

    Args:
        id: Position in the run's own order of events; never reused.
        step: Optimizer step, -1 if it belongs to no step.
        time: Seconds since 1970.
        kind: ``"alarm"``, ``"milestone"``, ``"note"``, ``"closed"`` ...
        source: Who wrote it: a detector, an experiment, ``"store"``.
        payload: Its particulars.
    """

    id: int
    step: int
    time: float
    kind: str
    source: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of `foreshock ls`.

    Args:
        id: Identity of the run, kept when its folder is moved or copied.
        path: Its folder.
        kind: ``"run"`` or the name of an experiment.
        state: ``"open"`` (a live process holds its lock), ``"closed"``, ``"crashed"`` (neither open
            nor closed: killed, or ended by an exception) or ``"damaged"`` (cannot be read).
        last_step: Last step on disk, -1 when empty.
        created: When, as ISO 8601.
        n_series: How many series it declares.
        n_alarms: How many alarms were recorded.
    """

    id: str
    path: Path
    kind: str
    state: str
    last_step: int
    created: str
    n_series: int
    n_alarms: int


@dataclass(frozen=True, slots=True)
class Check:
    """One finding of `doctor`.

    Args:
        name: What was checked.
        ok: Whether runs can be written and read safely as far as this goes.
        detail: What was found, and what to do if it is not ok.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run did not keep.

    Args:
        duplicates: Rows for a (step, series) that already had one; the first was kept.
        arrays_dropped: Arrays given up, oldest first, to stay within a bound.
    """

    duplicates: int = 0
    arrays_dropped: int = 0
