"""Learning-rate rules that read no signal: the published warm-up, and annealing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foreshock.policies.rate_rules import Bounds, RateState, at_least, want_rate
from foreshock.policies.triggers import Cause
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class LangevinWarmup:
    """Warm up from a tenth of the rate over the first 5 % of training.

    Published is "start at alpha_0/10 for first 5% of training, gradually increase to alpha_0":
    whether the increase lies within the 5 % or after it is not said. Here it is linear within it.
    It reads nothing; an action is wanted at each recorded step of the warm-up at which the factor
    has moved by ``grain``, so a run that is recorded rarely warms up in as many stairs. What is
    wanted at a step is done after the next update: **the first two updates of a run are made at the
    full rate**, and every later one at the factor of two steps before. Recorded every 100 steps, a
    warm-up of 50 stays at a tenth until step 101. Where the first updates matter use a scheduler;
    this is the published rule, to compare with.

    Args:
        total: Steps of the training, at least 1.
        start: First factor, in (0, 1).
        share: Of the training, in (0, 1].
        grain: Least change of the factor, positive.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "langevin", practical recommendations, 4.

    Examples:
        >>> policy, wanted = LangevinWarmup(total=100), []
        >>> state = policy.init()
        >>> for t in range(10):
        ...     state, actions = policy.update(state, t, {}, [])
        ...     wanted += [round(a.arguments["factor"], 2) for a in actions]
        >>> wanted
        [0.1, 0.28, 0.46, 0.64, 0.82, 1.0]
    """

    total: int
    start: float = 0.1
    share: float = 0.05
    grain: float = 0.01
    name: str = "langevin_warmup"

    def __post_init__(self) -> None:
        at_least("LangevinWarmup", "total", self.total, 1)
        for name, top in (("start", 1.0), ("share", 1.0), ("grain", 1.0)):
            if not 0 < getattr(self, name) <= top:
                raise ValueError(
                    f"The `{name}` of `LangevinWarmup` must be in (0, 1]. "
                    f"Got {getattr(self, name)}."
                )

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def init(self) -> RateState:
        """Not begun."""
        return RateState()

    def update(
        self,
        state: RateState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[RateState, tuple[Action, ...]]:
        """Look at the clock."""
        end = self.share * self.total
        if state.last is None and step >= end:
            return state, ()  # attached after the warm-up, or none is due
        factor = 1.0 if step >= end else self.start + (1 - self.start) * step / end
        return _clocked(self.name, state, step, factor, (self.start, end), self.grain)


@dataclass(frozen=True)
class TemperatureAnnealing:
    """Cool the noise of training along half a cosine, from the schedule's rate to a share of it.

    alpha(t) = alpha_min + (alpha_max - alpha_min)(1 + cos(pi t/T))/2, read by the document as
    simulated annealing. It is the rate that is annealed, so steps shrink with the noise: at batch B
    the temperature of the Gibbs law goes as alpha/B and the noise of one step as alpha squared.
    Under a constant rate it is the ordinary cosine schedule, in stairs at recorded steps: a control
    for what reads a signal. Under another schedule it multiplies that.

    Args:
        total: T, steps until it is cold, at least 1.
        least: alpha_min over alpha_max, in (0, 1).
        grain: Least change of the factor between two actions, in (0, 1].
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "langevin", learning rate schedules.

    Examples:
        >>> policy = TemperatureAnnealing(total=100, least=0.1)
        >>> _, (action,) = policy.update(policy.init(), 50, {}, [])
        >>> round(action.arguments["factor"], 6)
        0.55
    """

    total: int
    least: float = 0.01
    grain: float = 0.01
    name: str = "temperature_annealing"

    def __post_init__(self) -> None:
        at_least("TemperatureAnnealing", "total", self.total, 1)
        for name in ("least", "grain"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"The `{name}` of `TemperatureAnnealing` must be in (0, 1). "
                    f"Got {getattr(self, name)}."
                )

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def init(self) -> RateState:
        """Hot."""
        return RateState()

    def update(
        self,
        state: RateState,
        step: int,
        values: Mapping[str, Estimate],
        alarms: Sequence[Alarm],
    ) -> tuple[RateState, tuple[Action, ...]]:
        """Look at the clock."""
        phase = math.pi * min(step, self.total) / self.total
        factor = self.least + (1 - self.least) * (1 + math.cos(phase)) / 2
        return _clocked(self.name, state, step, factor, (self.least, self.total), self.grain)


def _clocked(
    name: str,
    state: RateState,
    step: int,
    factor: float,
    until: tuple[float, float],
    grain: float,
) -> tuple[RateState, tuple[Action, ...]]:
    """The factor of this step, if it has moved by the grain or arrived at the end of its way."""
    least, end = until
    moved = abs(factor - state.factor)
    if moved == 0 or (moved < grain and step < end):
        return state, ()
    reason = f"step {step} of {end:g}."
    cause = Cause("", float(step), float(end), reason)
    bounds = Bounds(name, least, 1.0, 1)
    action = want_rate(step, name, bounds, cause, before=state.factor, after=factor)
    return RateState(factor, step), (action,)
