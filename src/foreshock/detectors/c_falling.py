"""The published grokking alert, C below 2 and falling: as written, and where both are resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from foreshock.detectors.reading import ends, resolved_row
from foreshock.stats.published import alert_langevin
from foreshock.types import NAN, Alarm, Estimate


@dataclass(frozen=True)
class PublishedCFalling:
    """Alarm at every record with C < 2 and C less than the record before, exactly as published.

    Source: langevin, grokking. Kept to be tested, not to be followed: a noisy C below 2 is less
    than the one before at every other record, whatever the run does, and the published C with
    D = Var(g)/2 is twice a signal-to-noise ratio that grows with the batch size.

    Alarms per 10,000 values as measured (``foreshock bench published_detectors``) on a C of 1 with
    a standard deviation of .2, where nothing happens: 5,000 on white and on AR(1) noise; 4,390 on a
    noisy exponential decay. An alarm names both values.

    Args:
        series: C to read.
        name: Name of the detector.

    Examples:
        >>> rule, alarms = PublishedCFalling(), []
        >>> state = rule.init()
        >>> for t, c in enumerate([3.0, 2.5, 1.9, 1.95, 1.8]):
        ...     state, alarm = rule.update(state, t, {rule.series: Estimate.plain(c)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [2, 4]
    """

    series: str = "published/c_langevin"
    name: str = "published_c_falling"

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> float:
        """No previous value."""
        return NAN

    def update(
        self, state: float, step: int, values: Mapping[str, Estimate]
    ) -> tuple[float, Alarm | None]:
        """Compare with the previous value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        c = row[0].value
        if not alert_langevin(c, state):
            return c, None
        sentence = f"{self.series} fell from {state:.3g} to {c:.3g}, below 2."
        return c, Alarm(step, self.name, self.series, c, 2.0, sentence)


@dataclass(frozen=True)
class CFallingState:
    """The last values with their ends, oldest first, and whether the fall was reported."""

    past: tuple[tuple[float, float, float], ...] = ()
    fired: bool = False


@dataclass(frozen=True)
class CFalling:
    """Alarm once when C is below `below` for certain and has been falling for certain.

    The causal form of `PublishedCFalling` on the unbiased C of a batch. Over the last `window`
    records: the interval of the newest lies wholly below `below` and wholly below the interval of
    the oldest, and Kendall's tau of the values with time is at most -`tau`. It is armed again by a
    record whose interval lies wholly above `below`. Without intervals the values stand for them.

    Kendall's tau assumes independent noise: slow noise makes trends of its own. A true fall of C is
    no event either: C falls on every healthy run, as the mean gradient does. As measured
    (``foreshock bench published_detectors``) on a C of 1 with a standard deviation of .2, in runs
    of 5,000 records: in 0 of 10 on white noise and on an exponential decay that is slow against the
    window; on AR(1) noise with coefficient .5 in 2 of 10, with intervals in 0; with .9 in all. Its
    constants had been chosen on other seeds of the same nulls. An alarm names the fall and its tau.

    Args:
        series: C to read, with its interval.
        below: Level, the published 2.
        window: Records a fall is judged on, from 5 to 30.
        tau: Least strength of the fall, in (0, 1].
        name: Name of the detector.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> rule, alarms = CFalling(), []
        >>> state = rule.init()
        >>> for t in range(60):
        ...     row = {"grad/snr": Estimate.plain(4.0 - 0.05 * t)}
        ...     state, alarm = rule.update(state, t, row)
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [41]
    """

    series: str = "grad/snr"
    below: float = 2.0
    window: int = 30
    tau: float = 0.65
    name: str = "c_falling"

    def __post_init__(self) -> None:
        if not 5 <= self.window <= 30:
            raise ValueError(
                f"The `window` of `CFalling` must be from 5 to 30 records. Got {self.window}."
            )
        if not 0 < self.tau <= 1 or math.isnan(self.below):
            raise ValueError(
                "The `tau` of `CFalling` must lie in (0, 1] and its `below` be a number. Got "
                f"{self.tau} and {self.below}."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> CFallingState:
        """Nothing seen."""
        return CFallingState()

    def update(
        self, state: CFallingState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[CFallingState, Alarm | None]:
        """Take one value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        low, high = ends(row[0])
        past = (*state.past, (row[0].value, low, high))[-self.window :]
        after = CFallingState(past, state.fired and not low > self.below)
        if after.fired or len(past) < self.window or not high < min(self.below, past[0][1]):
            return after, None
        strength = _kendall([value for value, _, _ in past])
        if strength > -self.tau:
            return after, None
        sentence = (
            f"{self.series} fell from {past[0][0]:.3g} to {row[0].value:.3g} over {self.window} "
            f"records (Kendall's tau {strength:.2f}) and lies below {self.below:g}."
        )
        alarm = Alarm(step, self.name, self.series, row[0].value, self.below, sentence)
        return replace(after, fired=True), alarm


def _kendall(values: Sequence[float]) -> float:
    """Kendall's tau of values with their order: (rising pairs - falling pairs)/pairs."""
    pairs = [(b > a) - (b < a) for a, b in combinations(values, 2)]
    return sum(pairs) / len(pairs)
