"""Turnover of the validation loss: it rose with memorisation and now comes down again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class TurnoverState:
    """Running maximum, whether the training set was memorised, hits in a row, and done."""

    highest: float = -math.inf
    memorised: bool = False
    streak: int = 0
    fired: bool = False


@dataclass(frozen=True)
class Turnover:
    """Alarm once, when the validation loss is 10 % below its running maximum twice in a row.

    Counts only after the training accuracy reached ``level``; the maximum is taken over the whole
    past. A baseline rule: it confounds signal with the scale of the logits, and fires on many runs
    that never generalise where the loss is squared or data are few: on 24 of 24 random-label twins
    of the p = 23 task (``foreshock bench grokking --task p23``).

    Args:
        series: Validation loss to read.
        after: Training accuracy that must reach ``level`` first; ``""`` for no condition.
        level: What counts as memorised.
        drop: Fraction below the running maximum.
        name: Name of the detector.

    Raises:
        ValueError: If ``drop`` is not in (0, 1).

    Examples:
        >>> rule, alarms = Turnover(after=""), []
        >>> state = rule.init()
        >>> for t, loss in enumerate([1.0, 3.0, 5.0, 4.8, 4.4, 4.2, 4.0]):
        ...     state, alarm = rule.update(state, t, {"val_loss": Estimate(loss, n=1)})
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [5]
    """

    series: str = "val_loss"
    after: str = "train_acc"
    level: float = 0.99
    drop: float = 0.1
    name: str = "turnover"

    def __post_init__(self) -> None:
        if not 0 < self.drop < 1:
            raise ValueError(f"The `drop` of `Turnover` must lie in (0, 1). Got {self.drop}.")

    @property
    def reads(self) -> tuple[str, ...]:
        """Validation loss, and the training accuracy if a condition is set."""
        return (self.series, self.after) if self.after else (self.series,)

    def init(self) -> TurnoverState:
        """Nothing seen."""
        return TurnoverState(memorised=not self.after)

    def update(
        self, state: TurnoverState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[TurnoverState, Alarm | None]:
        """Take the values of one step."""
        if self.after in values and values[self.after].value >= self.level:
            state = replace(state, memorised=True)
        loss = values[self.series].value if self.series in values else math.nan
        if not math.isfinite(loss):
            return state, None
        highest = max(state.highest, loss)
        low = state.memorised and loss < (1 - self.drop) * highest
        streak = state.streak + 1 if low else 0
        fires = streak >= 2 and not state.fired
        after = TurnoverState(highest, state.memorised, streak, state.fired or fires)
        if not fires:
            return after, None
        sentence = (
            f"{self.series} fell to {loss:.3g}, more than {self.drop:.0%} below its maximum "
            f"{highest:.3g}, twice in a row after memorisation."
        )
        threshold = (1 - self.drop) * highest
        return after, Alarm(step, self.name, self.series, loss, threshold, sentence)
