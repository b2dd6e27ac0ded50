"""Triggers that read nothing: the controls against which one that reads a signal is judged."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foreshock.policies.triggers import Cause
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class ClockState:
    """When it fires next, and how often it did."""

    due: float
    count: int = 0


@dataclass(frozen=True)
class Every:
    """Fires every ``period`` steps, at the first recorded step at or after each multiple.

    A control: what acts by the clock shows what the signal adds.

    Args:
        period: Steps, at least 1.

    Raises:
        ValueError: If it is smaller.

    Examples:
        >>> trigger, fired = Every(4), []
        >>> state = trigger.init()
        >>> for t in range(10):
        ...     state, cause = trigger.update(state, t, {}, [])
        ...     fired += [t] if cause else []
        >>> fired
        [4, 8]
    """

    period: int

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"The `period` of `Every` must be at least 1. Got {self.period}.")

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def init(self) -> ClockState:
        """Due after one period."""
        return ClockState(self.period)

    def update(
        self, state: ClockState, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[ClockState, Cause | None]:
        """Look at the clock."""
        if step < state.due:
            return state, None
        due = (step // self.period + 1) * self.period
        reason = f"Step {step} is due every {self.period} steps."
        return ClockState(due, state.count + 1), Cause("", step, state.due, reason)


@dataclass(frozen=True)
class PoissonRate:
    """Fires at the events of a Poisson process in steps (Evans and Majumdar's resetting).

    Waiting times are independent and exponential of mean 1/rate, drawn from the seed: the same run
    gives the same events. An event is noticed at the first recorded step at or after it, and
    several between two recorded steps are one, so that the rate of firing at every step is
    1 - exp(-rate), not rate.

    Args:
        rate: Events a step, positive.
        seed: Of the waiting times.

    Raises:
        ValueError: If the rate is not positive.

    References:
        Evans, Majumdar, PRL 106, 160601 (2011).

    Examples:
        >>> trigger, fired = PoissonRate(0.1), 0
        >>> state = trigger.init()
        >>> for t in range(1000):
        ...     state, cause = trigger.update(state, t, {}, [])
        ...     fired += cause is not None
        >>> 60 < fired < 130
        True
    """

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"The `rate` of `PoissonRate` must be positive. Got {self.rate}.")

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def init(self) -> ClockState:
        """The first event."""
        return ClockState(self._wait(0))

    def update(
        self, state: ClockState, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[ClockState, Cause | None]:
        """Look at the clock."""
        if step < state.due:
            return state, None
        due, count = state.due, state.count
        while due <= step:
            count += 1
            due += self._wait(count)
        reason = f"An event of rate {self.rate:g} a step fell at {state.due:.1f}."
        return ClockState(due, count), Cause("", step, state.due, reason)

    def _wait(self, count: int) -> float:
        # By number and not by a generator's state, so that the state stays two numbers.
        return random.Random(f"{self.seed}/{count}").expovariate(self.rate)
