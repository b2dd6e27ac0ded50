"""Gold turnover: the held-out reward is below its maximum. It detects, it does not warn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.types import NAN, Alarm, Estimate


@dataclass(frozen=True)
class GoldTurnoverState:
    """The last values, the highest smoothed one, the last score, hits in a row, and done."""

    recent: tuple[float, ...] = ()
    highest: float = -math.inf
    score: float = NAN
    streak: int = 0
    fired: bool = False


@dataclass(frozen=True)
class GoldTurnover:
    """Alarm once, when gold is ``threshold`` errors below its running maximum, twice in a row.

    Gold is averaged over the last ``window`` records, and the score is (highest average − this
    one)/standard error of such a difference, from the successive differences of the window (von
    Neumann). A baseline rule: it sees the fall itself, so its lead before the peak is negative by
    construction, and the maximum of a noisy series is above its mean, so the score drifts upwards
    (like sqrt(2 log n)) even where gold stands still: hence a ``threshold`` of 4. False alarms:
    34 of 300 noisy runs of 300 records in which gold saturates, if the noise is independent from
    record to record; of 100 with an autocorrelation of .3, .5 and .8 it was 52, 94 and all.

    Args:
        series: Held-out reward.
        threshold: In standard errors.
        window: Records averaged, at most 80.
        name: Name of the detector.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> import math
        >>> rule, alarms = GoldTurnover(), []
        >>> state = rule.init()
        >>> for t in range(200):  # gold peaks at step 100
        ...     gold = -((t / 100 - 1) ** 2) + 0.01 * math.sin(12.9 * t * t)
        ...     state, alarm = rule.update(state, t, {"reward/gold": Estimate(gold)})
        ...     alarms += [alarm.step] if alarm else []
        >>> len(alarms), 100 < alarms[0] < 150
        (1, True)
    """

    series: str = "reward/gold"
    threshold: float = 4.0
    window: int = 10
    name: str = "gold_turnover"

    def __post_init__(self) -> None:
        if not 4 <= self.window <= 80:
            raise ValueError(
                f"The `window` of `GoldTurnover` must lie in [4, 80] records. Got {self.window}."
            )
        if math.isnan(self.threshold):
            raise ValueError("The `threshold` of `GoldTurnover` must be a number. Got nan.")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> GoldTurnoverState:
        """Nothing seen."""
        return GoldTurnoverState()

    def update(
        self, state: GoldTurnoverState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[GoldTurnoverState, Alarm | None]:
        """Take one value; values that are not finite are passed over."""
        gold = values[self.series].value
        if not math.isfinite(gold):
            return state, None
        recent = (*state.recent, gold)[-self.window :]
        if len(recent) < self.window:
            return GoldTurnoverState(recent), None
        mean = sum(recent) / self.window
        square = sum((b - a) ** 2 for a, b in zip(recent, recent[1:], strict=False))
        # Half the mean square of a difference is the variance of a value; two means differ.
        error = math.sqrt(square / (2 * (self.window - 1)) * 2 / self.window)
        highest = max(state.highest, mean)
        score = (highest - mean) / error if error > 0 else NAN
        streak = state.streak + 1 if score > self.threshold else 0
        fires = streak >= 2 and not state.fired
        after = GoldTurnoverState(recent, highest, score, streak, state.fired or fires)
        if not fires:
            return after, None
        sentence = (
            f"The mean of {self.series} over {self.window} records fell to {mean:.3g}, "
            f"{score:.1f} standard errors below its maximum {highest:.3g}, twice in a row."
        )
        return after, Alarm(step, self.name, self.series, score, self.threshold, sentence)
