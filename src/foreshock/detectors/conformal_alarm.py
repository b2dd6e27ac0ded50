"""Conformal alarm: the run has left what known-safe runs do, at a stated false-alarm rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foreshock.detectors.calibration import Calibration
from foreshock.types import NAN, Alarm, Estimate


@dataclass(frozen=True)
class ConformalAlarmState:
    """The last score (nan before there is one) and done."""

    score: float = NAN
    fired: bool = False


@dataclass(frozen=True)
class ConformalAlarm:
    """Alarm once, when a series is further from the known-safe runs than these were, at that step.

    Each value is standardised by location and scale of the safe runs at its step, the score is the
    largest over the series, and the alarm is score > threshold. If the run is exchangeable with the
    calibration runs (same set-up, logged at the same steps, another seed), the probability that it
    alarms *at any time* is at most alpha, whatever the laws of the series and however they depend
    on time. That is an average over sets of safe runs; one file may be luckier or worse
    (`foreshock.evaluation.false_alarm_bound`: below 14 % with 95 % confidence for alpha = .05 and
    20 scores, below 12 % for 40). It is split conformal prediction of the maximum over time (Vovk,
    Gammerman & Shafer, 2005; Lei et al., 2018). Measured on AR(1) series of 200 steps, with a
    coefficient of 0, .9 or .99 and alpha = .05: false alarms in 4.5 to 4.9 % of fresh runs (1/21 is
    exact for 30 safe runs, 2/41 for 60);
    a bump of 4 standard deviations for 10 steps was seen in 64 % at .9 with 60 safe runs, in 40 %
    with 30, whose ten runs for location and scale are few: the threshold pays for that. On 200
    fresh runs of p23 with random labels and a calibration on 60 others (``foreshock bench
    conformal``): 6 false alarms (held-out signal), 19 (loss) and 12 (validation loss), where 0 to
    28 are due of one file with 40 scores; over 2,000 random splits of the runs .0492, .0474 and
    .0485, which is what alpha promises. Alarms in 40, 36 and 40 of 40 runs that grok.

    A value that is infinite on the side that counts is beyond every threshold; one that is nan is
    not looked at, and `foreshock.detectors.caveats` counts the calibrated steps lost to it.

    It looks at the calibrated steps only and is silent at all others, as more looks would have more
    false alarms: a run that is logged at other steps is not watched, and ``foreshock replay`` and a
    note of the live run say how many of the steps it saw. It says "other than the safe runs", not
    "hacking": any change of the set-up alarms as well.

    Args:
        calibration: Of `foreshock.evaluation.calibrate` or ``foreshock calibrate``.
        name: Name of the detector; from series and sides if not given.

    Examples:
        >>> safe = Calibration(("reward/kl",), ("above",), (0, 10), ((0.0, 1.0),), ((0.1, 0.2),),
        ...                    threshold=4.0, alpha=0.05)
        >>> rule = ConformalAlarm(safe)
        >>> state, alarms = rule.init(), []
        >>> for t, kl in [(0, 0.3), (5, 99.0), (10, 1.9), (20, 99.0)]:
        ...     state, alarm = rule.update(state, t, {"reward/kl": Estimate(kl)})
        ...     alarms += [(alarm.step, round(alarm.value, 1))] if alarm else []
        >>> alarms
        [(10, 4.5)]
    """

    calibration: Calibration
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            pairs = zip(self.calibration.series, self.calibration.sides, strict=True)
            text = ", ".join(f"{series} {side}" for series, side in pairs)
            object.__setattr__(self, "name", f"conformal({text})")

    @classmethod
    def load(cls, path: str | Path) -> ConformalAlarm:
        """The alarm of a calibration file.

        Args:
            path: File of ``foreshock calibrate``.

        Returns:
            The detector.
        """
        return cls(Calibration.load(path))

    @property
    def reads(self) -> tuple[str, ...]:
        """The calibrated series."""
        return self.calibration.series

    def init(self) -> ConformalAlarmState:
        """Nothing seen."""
        return ConformalAlarmState()

    def update(
        self, state: ConformalAlarmState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[ConformalAlarmState, Alarm | None]:
        """Take the values of one step; series that are missing or nan are passed over."""
        seen = {name: values[name].value for name in self.reads if name in values}
        every = {name: self.calibration.z(name, step, value) for name, value in seen.items()}
        scores = {name: z for name, z in every.items() if not math.isnan(z)}
        if not scores:  # no step of the grid, or no number
            return state, None
        series = max(scores, key=lambda name: scores[name])
        score, threshold = scores[series], self.calibration.threshold
        fires = score > threshold and not state.fired
        after = ConformalAlarmState(score, state.fired or fires)
        if not fires:
            return after, None
        side = self.calibration.sides[self.reads.index(series)]
        where = {"above": "above", "below": "below", "both": "away from"}[side]
        sentence = (
            f"{series} is {seen[series]:.3g}, {score:.1f} scales {where} the known-safe runs at "
            f"this step; such runs exceed {threshold:.1f} with probability "
            f"{self.calibration.alpha:.3g} at most."
        )
        return after, Alarm(step, self.name, series, score, threshold, sentence)
