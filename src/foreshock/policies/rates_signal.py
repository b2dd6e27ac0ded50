"""Learning-rate rules of the document "signal": by phase, and a warm-up until p is stable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from foreshock.policies.rate_rules import Bounds, RateState, at_least, positive, want_rate
from foreshock.policies.triggers import Cause, trusted
from foreshock.stats.published import adaptive_lr_signal
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class PhaseRate:
    """Scale the learning rate by phase: .1, .5, 1, 1.5 or 2 of its base (``get_adaptive_lr``).

    The base is what the schedule says; the edges are p = .40, .50, .60, .75. An action is wanted
    whenever the factor differs from the standing one. What falls in the refractory time is looked
    at again after it, at the p that is then.

    **As published**, and with what is wrong with it: p = C/(1 + C) is that of the batch size at
    which it is measured, so a smaller batch alone cuts the rate to a tenth, which `LangevinRate`
    would raise; and near an edge it jumps to and fro, by 5 at p = .40. Not known to help.

    Args:
        series: p.
        refractory: Least steps between two actions; 1 as published.
        low: Least factor.
        high: Greatest factor.
        name: Name of the policy.

    References:
        The document "signal", section 11.3.

    Examples:
        >>> policy = PhaseRate()
        >>> _, (action,) = policy.update(
        ...     policy.init(), 7, {"published/p_signal": Estimate(0.3)}, []
        ... )
        >>> action.kind, action.arguments["factor"]
        ('set_lr', 0.1)
    """

    series: str = "published/p_signal"
    refractory: int = 1
    low: float = 0.1
    high: float = 2.0
    name: str = "phase_rate"

    def __post_init__(self) -> None:
        self._bounds()

    def _bounds(self) -> Bounds:
        return Bounds("PhaseRate", self.low, self.high, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """The series of p."""
        return (self.series,)

    def init(self) -> RateState:
        """The base rate."""
        return RateState()

    def update(
        self,
        state: RateState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[RateState, tuple[Action, ...]]:
        """Take one p."""
        p, bounds = trusted(values, self.series), self._bounds()
        if p is None or bounds.resting(state.last, step):
            return state, ()
        factor = bounds.within(adaptive_lr_signal(1.0, p))
        if factor == state.factor:
            return state, ()
        edge = min((0.40, 0.50, 0.60, 0.75), key=lambda edge: abs(p - edge))
        reason = f"{self.series} is {p:.4g}; the nearest edge of a phase is {edge:g}."
        cause = Cause(self.series, p, edge, reason)
        action = want_rate(step, self.name, bounds, cause, before=state.factor, after=factor)
        return RateState(factor, step), (action,)


@dataclass(frozen=True)
class WarmupState:
    """The standing factor, the step of the last action, and the last values of p."""

    BELIEVED: ClassVar[tuple[str, ...]] = ("factor", "last")

    factor: float = 1.0
    last: int | None = None
    recent: tuple[float, ...] = ()


@dataclass(frozen=True)
class StableWarmup:
    """Warm up until p is stable: begin low, and raise the rate while p stays above one half.

    Published is one sentence: "start at low LR where C can be estimated reliably, then increase as
    p stabilizes above 0.5". All numbers are therefore ours: at the first p that can be trusted the
    factor becomes ``start``; whenever the last ``window`` values of p are above .5 and within
    ``spread`` of each other it is multiplied by ``growth``, until it is 1. Nothing lowers it again.
    A p that never settles leaves the rate at ``start`` for ever, as the sentence does.

    Args:
        series: p.
        start: First factor, in (0, 1).
        growth: Factor of a raise, above 1.
        window: Values of p, at least 2.
        spread: Greatest minus least of them, positive.
        refractory: Least steps between two actions.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "signal", section 12.2.

    Examples:
        >>> policy, wanted = StableWarmup(window=2, growth=4.0), []
        >>> state = policy.init()
        >>> for t, p in enumerate([0.4, 0.55, 0.56, 0.57]):
        ...     state, actions = policy.update(state, t, {"published/p_signal": Estimate(p)}, [])
        ...     wanted += [(a.step, a.arguments["factor"]) for a in actions]
        >>> wanted
        [(0, 0.1), (2, 0.4), (3, 1.0)]
    """

    series: str = "published/p_signal"
    start: float = 0.1
    growth: float = 1.5
    window: int = 10
    spread: float = 0.1
    refractory: int = 1
    name: str = "stable_warmup"

    def __post_init__(self) -> None:
        if not 0 < self.start < 1:
            raise ValueError(f"The `start` of `StableWarmup` must be in (0, 1). Got {self.start}.")
        if not self.growth > 1:
            raise ValueError(f"The `growth` of `StableWarmup` must exceed 1. Got {self.growth}.")
        at_least("StableWarmup", "growth", self.growth, 1)
        at_least("StableWarmup", "window", self.window, 2)
        positive("StableWarmup", "spread", self.spread)
        self._bounds()

    def _bounds(self) -> Bounds:
        return Bounds("StableWarmup", self.start, 1.0, self.refractory)

    @property
    def reads(self) -> tuple[str, ...]:
        """The series of p."""
        return (self.series,)

    def init(self) -> WarmupState:
        """Nothing seen."""
        return WarmupState()

    def update(
        self,
        state: WarmupState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[WarmupState, tuple[Action, ...]]:
        """Take one p."""
        p, bounds = trusted(values, self.series), self._bounds()
        if p is None:
            return state, ()
        state = replace(state, recent=(*state.recent, p)[-self.window :])
        if state.last is None:
            reason = f"{self.series} is {p:.4g}, its first value: the warm-up begins."
            cause, factor = Cause(self.series, p, 0.5, reason), self.start
        else:
            recent = state.recent
            stable = (
                len(recent) == self.window
                and min(recent) > 0.5
                and max(recent) - min(recent) <= self.spread
            )
            if state.factor >= 1 or not stable or bounds.resting(state.last, step):
                return state, ()
            reason = (
                f"the last {self.window} values of {self.series} lie between {min(recent):.4g} and "
                f"{max(recent):.4g}, above 0.5 and within {self.spread:g} of each other."
            )
            cause, factor = Cause(self.series, min(recent), 0.5, reason), state.factor * self.growth
        factor = bounds.within(factor)
        action = want_rate(step, self.name, bounds, cause, before=state.factor, after=factor)
        return replace(state, factor=factor, last=step), (action,)
