"""Held-out signal: the logits of unseen examples know their labels, after memorisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.detectors.forecasters import OnsetRatio
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class HeldoutSignalState:
    """Whether the training set was memorised, hits in a row, and done."""

    memorised: bool = False
    streak: int = 0
    fired: bool = False


@dataclass(frozen=True)
class HeldoutSignalRule:
    """Alarm once, when z > 3 at two consecutive evaluations after memorisation.

    z ~ N(0, 1) while the held-out labels are unknown to the network, so one evaluation exceeds 3
    with probability 1.3e-3, and two consecutive ones of a slowly moving z with little less: per
    independent look, not per run (measured: 1 of 30 random-label twins of p59, 0 of 24 of p23). No
    number is fitted. An alarm says that a held-out signal is present, not that the network will
    generalise: it also fires on 11 of 24 runs of p23 without weight decay, which do not.

    Args:
        series: ``readout/heldout_signal`` or ``readout/ridge_signal``.
        after: Training accuracy that must reach ``level`` first; ``""`` for no condition.
        level: What counts as memorised.
        threshold: In standard deviations of the null.
        forecast: Turns the alarm into an expected onset, where its ratio was measured on this very
            task and series; ``None`` for no forecast.
        name: Name of the detector; from the series if not given.

    Examples:
        >>> rule = HeldoutSignalRule(after="", forecast=None)
        >>> state, alarms = rule.init(), []
        >>> for t, z in enumerate([0.5, 3.5, 2.0, 3.2, 4.0, 5.0]):
        ...     state, alarm = rule.update(state, t, {"readout/heldout_signal": Estimate(z, n=9)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [4]
    """

    series: str = "readout/heldout_signal"
    after: str = "readout/probe_accuracy"
    level: float = 0.99
    threshold: float = 3.0
    forecast: OnsetRatio | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.series.rpartition("/")[2])

    @property
    def reads(self) -> tuple[str, ...]:
        """The signal, and the training accuracy if a condition is set."""
        return (self.series, self.after) if self.after else (self.series,)

    def init(self) -> HeldoutSignalState:
        """Nothing seen."""
        return HeldoutSignalState(memorised=not self.after)

    def update(
        self, state: HeldoutSignalState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[HeldoutSignalState, Alarm | None]:
        """Take the values of one step."""
        memorised = state.memorised or (
            self.after in values and values[self.after].value >= self.level
        )
        z = values[self.series].value if self.series in values else math.nan
        if not math.isfinite(z):
            return HeldoutSignalState(memorised, state.streak, state.fired), None
        # A bias towards frequent classes gives a large z, which says so by its flag.
        counts = memorised and z > self.threshold and values[self.series].resolved
        streak = state.streak + 1 if counts else 0
        fires = streak >= 2 and not state.fired
        after = HeldoutSignalState(memorised, streak, state.fired or fires)
        if not fires:
            return after, None
        sentence = (
            f"The logits of held-out examples favour their true labels by z = {z:.1f} standard "
            "deviations, twice in a row: a held-out signal is present."
        )
        forecast = self.forecast.at(step) if self.forecast is not None else None
        return after, Alarm(step, self.name, self.series, z, self.threshold, sentence, forecast)
