"""Learning-rate rules of the document "langevin", which contradict each other and are kept so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from foreshock.policies.rate_rules import (
    Bounds,
    RateState,
    at_least,
    lasting_change,
    want_change,
)
from foreshock.policies.triggers import Cause, trusted
from foreshock.stats.published import adaptive_lr_langevin, alert_langevin
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class LangevinRate:
    """The C rule: multiply the rate by 1.5 where C < .5 and by .7 where C > 20.

    Published without bounds or a word on how often it is applied, so that C < .5 makes the rate
    grow without limit; the document says to log every 100 steps, which is the spacing here, and the
    bounds are ours. It raises the rate where `PhaseRate` cuts it to a tenth and where
    `LangevinReduce`, of the same document, reduces it. Not known to help.

    Args:
        series: C.
        refractory: Least steps between two actions.
        low: Least standing factor.
        high: Greatest standing factor.
        name: Name of the policy.

    References:
        The document "langevin", practical recommendations, 2.

    Examples:
        >>> policy = LangevinRate()
        >>> c = {"published/c_langevin": Estimate(0.4)}
        >>> _, (action,) = policy.update(policy.init(), 7, c, [])
        >>> action.kind, action.arguments["factor"]
        ('scale_lr', 1.5)
    """

    series: str = "published/c_langevin"
    refractory: int = 100
    low: float = 0.1
    high: float = 10.0
    name: str = "langevin_rate"

    def __post_init__(self) -> None:
        self._bounds()

    def _bounds(self) -> Bounds:
        return Bounds("LangevinRate", self.low, self.high, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """C."""
        return (self.series,)

    def init(self) -> RateState:
        """The rate of the schedule."""
        return RateState()

    def update(
        self,
        state: RateState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[RateState, tuple[Action, ...]]:
        """Take one C."""
        c = trusted(values, self.series)
        if c is None or self._bounds().resting(state.last, step):
            return state, ()
        ratio = adaptive_lr_langevin(1.0, c)
        edge = 0.5 if ratio > 1 else 20.0
        side = "below" if ratio > 1 else "above"
        reason = f"{self.series} is {c:.4g}, {side} {edge:g}."
        cause = Cause(self.series, c, edge, reason)
        return lasting_change(state, step, self.name, self._bounds(), cause, ratio)


@dataclass(frozen=True)
class LangevinReduce:
    """Reduce the rate when C < 1 ("consolidate"): the other rule of the same document.

    By how much is not published; ``factor`` is the one reduction the document has elsewhere. By the
    document's own regimes C < 1 means that noise wins, where `LangevinRate` raises the rate.

    Args:
        series: C.
        factor: Of the reduction, in (0, 1).
        refractory: Least steps between two actions.
        low: Least standing factor.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "langevin", learning rate sensitivity, strategy 3.

    Examples:
        >>> policy = LangevinReduce()
        >>> c = {"published/c_langevin": Estimate(0.9)}
        >>> policy.update(policy.init(), 7, c, [])[1][0].arguments["factor"]
        0.7
    """

    series: str = "published/c_langevin"
    factor: float = 0.7
    refractory: int = 100
    low: float = 0.1
    name: str = "langevin_reduce"

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(
                f"The `factor` of `LangevinReduce` must be in (0, 1). Got {self.factor}."
            )
        self._bounds()

    def _bounds(self) -> Bounds:
        return Bounds("LangevinReduce", self.low, 1.0, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """C."""
        return (self.series,)

    def init(self) -> RateState:
        """The rate of the schedule."""
        return RateState()

    def update(
        self,
        state: RateState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[RateState, tuple[Action, ...]]:
        """Take one C."""
        c = trusted(values, self.series)
        if c is None or c >= 1 or self._bounds().resting(state.last, step):
            return state, ()
        cause = Cause(self.series, c, 1.0, f"{self.series} is {c:.4g}, below 1.")
        return lasting_change(state, step, self.name, self._bounds(), cause, self.factor)


@dataclass(frozen=True)
class LangevinBoost:
    """Raise the rate for some updates when C < 2 and falling, to help grokking along; then no more.

    The document says "temporarily" and neither by how much nor for how long; the factor 1.5 is its
    other boost. What carries the action out takes it back after ``steps`` updates, on a rollback
    and when the watch closes: the listing's own noise boost is never restored, which is the bug
    that this form cannot have. Any noisy C below 2 falls at every other measurement, so within the
    refractory time this is close to a clock.

    Args:
        series: C.
        factor: Of the raise, above 1.
        steps: Updates it lasts, at least 1.
        refractory: Least steps between two actions, at least ``steps``.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "langevin", grokking, and experiment 4.

    Examples:
        >>> policy, state = LangevinBoost(steps=20), RateState()
        >>> for t, c in enumerate([1.5, 1.4]):
        ...     c = {"published/c_langevin": Estimate(c)}
        ...     state, actions = policy.update(state, t, c, [])
        >>> actions[0].arguments["factor"], actions[0].arguments["steps"]
        (1.5, 20.0)
    """

    series: str = "published/c_langevin"
    factor: float = 1.5
    steps: int = 50
    refractory: int = 100
    name: str = "langevin_boost"

    def __post_init__(self) -> None:
        at_least("LangevinBoost", "factor", self.factor, 1)
        at_least("LangevinBoost", "steps", self.steps, 1)
        if self.factor == 1:
            raise ValueError(f"The `factor` of `LangevinBoost` must exceed 1. Got {self.factor}.")
        if self.refractory < self.steps:
            raise ValueError(
                "The `refractory` of `LangevinBoost` must be at least its `steps`: boosts would "
                f"add up. Got {self.refractory} and {self.steps}."
            )

    def _bounds(self) -> Bounds:
        return Bounds("LangevinBoost", 1.0, self.factor, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """C."""
        return (self.series,)

    def init(self) -> RateState:
        """No C seen."""
        return RateState()

    def update(
        self,
        state: RateState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[RateState, tuple[Action, ...]]:
        """Take one C."""
        c, before = trusted(values, self.series), state.previous
        if c is None:
            return state, ()
        state = replace(state, previous=c)
        bounds = self._bounds()
        if before is None or not alert_langevin(c, before) or bounds.resting(state.last, step):
            return state, ()
        reason = f"{self.series} fell from {before:.4g} to {c:.4g}, below 2."
        cause = Cause(self.series, c, 2.0, reason)
        action = want_change(step, self.name, bounds, cause, factor=self.factor, steps=self.steps)
        return replace(state, last=step), (action,)
