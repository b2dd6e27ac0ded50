"""The published time of a reset: the rule of the listing as written, and a causal argmin of C."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from foreshock.detectors.reading import ends, resolved_row
from foreshock.stats.published import reset_steps_fp
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class PublishedReset:
    """Alarm at every record with C < theta from the twelfth on, as the listing resets.

    Source: fokker_planck 12.1. The text (5.1) has another rule, t* = argmin C subject to C < theta,
    which only the end of a run can tell: `foreshock.stats.published.reset_step_fp` computes it of a
    whole series, and no detector can. `ResetTime` is its causal form.

    Kept to be tested, not to be followed: without a refractory time it fires at every record below
    theta, and this C has the unit of a volume, so the unit of the latents chooses when.

    Alarms per 10,000 values as measured (``foreshock bench published_detectors``) on a C of .5 with
    a standard deviation of .2, where nothing happens: 5,000 on white and on AR(1) noise, 7,230 on
    an exponential decay from 2. An alarm names C and theta.

    Args:
        series: C to read.
        below: theta.
        name: Name of the detector.

    Examples:
        >>> rule, alarms = PublishedReset(), []
        >>> state = rule.init()
        >>> for t in range(14):
        ...     state, alarm = rule.update(state, t, {rule.series: Estimate.plain(0.1)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [11, 12, 13]
    """

    series: str = "published/c_fp_code"
    below: float = 0.5
    name: str = "published_reset"

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> int:
        """No records."""
        return 0

    def update(
        self, state: int, step: int, values: Mapping[str, Estimate]
    ) -> tuple[int, Alarm | None]:
        """Compare one value; what is not resolved is no record."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        # The listing counts its own steps, one a record; those before this one do not matter.
        hit = reset_steps_fp([math.inf] * state + [row[0].value], self.below)
        after = min(state + 1, 11)
        if not hit:
            return after, None
        sentence = f"{self.series} is {row[0].value:.3g}, below theta = {self.below:g}."
        return after, Alarm(step, self.name, self.series, row[0].value, self.below, sentence)


@dataclass(frozen=True)
class ResetTimeState:
    """Lowest value since C fell below theta and its upper end, records above in a row, and done."""

    lowest: float = math.inf
    high: float = math.inf
    step: int = -1
    streak: int = 0
    fired: bool = False


@dataclass(frozen=True)
class ResetTime:
    """Alarm once C, below theta, has turned up from its minimum, resolved: a causal argmin.

    The causal form of t* = argmin C subject to C < theta (fokker_planck 5.1). The minimum since C
    fell below theta counts as passed when at `confirm` records in a row the lower end of the
    interval lies above the minimum's upper end by the share `rise` of its depth theta - min. So it
    is late by design; the reason names the step of the minimum. It is armed again when an interval
    lies wholly above theta. Not literal: a later, deeper minimum of the same excursion is not seen.

    Every noisy series that visits theta has a minimum below it: an alarm says that C turned, and
    names the step of its minimum, not that a basin was left. Alarms per 10,000 values as measured
    (``foreshock bench published_detectors``) on a C of .5 with a standard deviation of .2, where
    nothing happens: with intervals 2.6 on white noise, 14 and 13 on AR(1) noise with coefficient
    .5 and .9, 0 [0, .7] on an exponential decay; without intervals 1,290, 1,090, 570 and 35.

    Args:
        series: C to read, with its interval.
        below: theta, the published .5.
        rise: Share of the depth that must be regained, in (0, 1].
        confirm: Records in a row.
        name: Name of the detector.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> rule, alarms = ResetTime(), []
        >>> state = rule.init()
        >>> for t, c in enumerate([1.0, 0.4, 0.2, 0.1, 0.3, 0.3, 0.3, 0.3]):
        ...     state, alarm = rule.update(state, t, {rule.series: Estimate.plain(c)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [6]
    """

    series: str = "latent/c"
    below: float = 0.5
    rise: float = 0.25
    confirm: int = 3
    name: str = "reset_time"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.below) and 0 < self.rise <= 1 and self.confirm >= 1):
            raise ValueError(
                "The `below` of `ResetTime` must be finite, its `rise` in (0, 1] and its `confirm` "
                f"at least 1. Got {self.below}, {self.rise} and {self.confirm}."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> ResetTimeState:
        """Never below."""
        return ResetTimeState()

    def update(
        self, state: ResetTimeState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[ResetTimeState, Alarm | None]:
        """Take one value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        c, (low, high) = row[0].value, ends(row[0])
        if state.lowest < self.below and not state.fired:
            enough = state.high + self.rise * (self.below - state.lowest)
            streak = state.streak + 1 if low > enough else 0
            if streak >= self.confirm:
                sentence = (
                    f"{self.series} turned up at {c:.3g}, from its minimum {state.lowest:.3g} at "
                    f"step {state.step:,}, below theta = {self.below:g}."
                )
                alarm = Alarm(step, self.name, self.series, state.lowest, self.below, sentence)
                armed = low > self.below
                return ResetTimeState() if armed else ResetTimeState(fired=True), alarm
            state = replace(state, streak=streak)
        if low > self.below and not state.streak:
            return ResetTimeState(), None
        if state.fired or not c < min(self.below, state.lowest):
            return state, None
        return ResetTimeState(c, high, step), None
