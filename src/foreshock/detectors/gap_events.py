"""Collapse and opening of the spectral gap of an update window, against its running extreme."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.detectors.reading import ends, resolved_row
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class GapState:
    """Extreme value so far, the end of its interval, records in a row beyond, and done."""

    extreme: float = math.nan
    end: float = math.nan
    streak: int = 0
    fired: bool = False


@dataclass(frozen=True)
class GapCollapse:
    """Alarm once, when the gap lies `factor` times below its running maximum.

    Source: the authors of spectral_edge count a run as preceded by gap dynamics if (maximum before
    grokking)/(value at grokking) >= 1.5, which needs the time of the event. With the running
    maximum it is causal; the defaults are otherwise theirs: g = sigma_2^2 - sigma_3^2, factor 1.5,
    one record. The corrected form reads numbers with intervals and no units:
    ``GapCollapse("update/ratio", confirm=2)``, where the upper end of the interval is compared with
    the lower end of the maximum's.

    What is wrong with the authors' form: g has the units of a squared update, so every learning
    rate schedule and every decay of the gradient is a collapse, and a running maximum of noise only
    grows, so a ratio of 1.5 comes in time on every run. As measured (``foreshock bench
    published_detectors``), in runs of 5,000 values of 1 with a standard deviation of .2: in 10 of
    10 on white noise, on AR(1) noise and on an exponential decay; with `confirm` = 2 and intervals
    in 0 of 10 on white noise, 8 and 7 on AR(1) noise with coefficient .5 and .9, and 10 of 10 on
    the decay, which is a collapse. An alarm names the value and the maximum.

    Args:
        series: Gap to read; values that are not positive count as collapsed.
        factor: How far below the maximum, above 1.
        confirm: Records in a row.
        name: Name of the detector.

    Raises:
        ValueError: If ``factor`` is not above 1 or ``confirm`` below 1.

    Examples:
        >>> rule, alarms = GapCollapse(), []
        >>> state = rule.init()
        >>> for t, g in enumerate([1.0, 3.0, 2.5, 1.9, 1.0]):
        ...     state, alarm = rule.update(state, t, {rule.series: Estimate.plain(g)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [3]
    """

    series: str = "published/g_23"
    factor: float = 1.5
    confirm: int = 1
    name: str = "gap_collapse"

    def __post_init__(self) -> None:
        _check(self.factor, self.confirm, "GapCollapse")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> GapState:
        """No maximum."""
        return GapState()

    def update(
        self, state: GapState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[GapState, Alarm | None]:
        """Take one value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None or state.fired:
            return state, None
        g, (low, high) = row[0].value, ends(row[0])
        streak = state.streak + 1 if state.extreme > 0 and high * self.factor <= state.end else 0
        if streak >= self.confirm:
            sentence = (
                f"{self.series} fell to {g:.3g}, {self.factor:g} times below its maximum so far of "
                f"{state.extreme:.3g}."
            )
            alarm = Alarm(step, self.name, self.series, g, state.end / self.factor, sentence)
            return GapState(fired=True), alarm
        if not g <= state.extreme:
            return GapState(g, low, streak), None
        return GapState(state.extreme, state.end, streak), None


@dataclass(frozen=True)
class GapOpening:
    """Alarm when the gap lies `factor` times above its minimum since the last alarm.

    Source: spectral_edge and its companions, "gap opening, capability gain", without a number; the
    mirror image of `GapCollapse` with its factor, so that both events are judged alike. A measured
    gap: ``GapOpening("update/ratio", confirm=2)``. After an alarm the minimum starts anew.

    What is wrong with it: units as in `GapCollapse`, so warm-up of the learning rate is an opening,
    and the running minimum of noise only falls. Values that are not positive are passed over.
    Alarms per 10,000 values as measured on the same series: 1,410 on white noise, 930 and 300 on
    AR(1) noise with coefficient .5 and .9, 0 [0, .7] on an exponential decay; with `confirm` = 2
    and intervals 2.2 [1.0, 3.9], 3.8, 3.8 and 0.

    Args:
        series: Gap to read.
        factor: How far above the minimum, above 1.
        confirm: Records in a row.
        name: Name of the detector.

    Raises:
        ValueError: If ``factor`` is not above 1 or ``confirm`` below 1.

    Examples:
        >>> rule, alarms = GapOpening(), []
        >>> state = rule.init()
        >>> for t, g in enumerate([2.0, 1.0, 1.4, 1.6, 2.0, 2.5]):
        ...     state, alarm = rule.update(state, t, {rule.series: Estimate.plain(g)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [3, 5]
    """

    series: str = "published/g_23"
    factor: float = 1.5
    confirm: int = 1
    name: str = "gap_opening"

    def __post_init__(self) -> None:
        _check(self.factor, self.confirm, "GapOpening")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> GapState:
        """No minimum."""
        return GapState()

    def update(
        self, state: GapState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[GapState, Alarm | None]:
        """Take one value; what is not resolved is passed over."""
        row = resolved_row(self.reads, values)
        if row is None or not row[0].value > 0:
            return state, None
        g, (low, high) = row[0].value, ends(row[0])
        streak = state.streak + 1 if low >= self.factor * state.end else 0
        if streak >= self.confirm:
            sentence = (
                f"{self.series} rose to {g:.3g}, {self.factor:g} times above its minimum so far of "
                f"{state.extreme:.3g}."
            )
            alarm = Alarm(step, self.name, self.series, g, self.factor * state.end, sentence)
            return GapState(g, high), alarm
        if not g >= state.extreme:
            return GapState(g, high, streak), None
        return GapState(state.extreme, state.end, streak), None


def _check(factor: float, confirm: int, name: str) -> None:
    if not (math.isfinite(factor) and factor > 1 and confirm >= 1):
        raise ValueError(
            f"The `factor` of `{name}` must be above 1 and its `confirm` at least 1. Got {factor} "
            f"and {confirm}; the authors' are 1.5 and 1."
        )
