"""What rules on the learning rate share: their state, their bounds, and the actions they want.

A rule speaks of its *standing factor*: what it multiplies the schedule's rate by, 1 at first. The
rate of the schedule itself is never written, so rules of several policies multiply and each can be
undone. ``set_lr`` puts the standing factor to a value, ``scale_lr`` multiplies it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from foreshock.policies.resets import act
from foreshock.policies.triggers import Cause
from foreshock.types import Action


@dataclass(frozen=True)
class RateState:
    """The standing factor as far as this rule knows, the step of the last action, and a value.

    Args:
        factor: What was asked for, without what was held back, refused or undone.
        last: Step of the last action.
        previous: The last value of the series, for rules that need it.
    """

    BELIEVED: ClassVar[tuple[str, ...]] = ("factor", "last")

    factor: float = 1.0
    last: int | None = None
    previous: float | None = None


@dataclass(frozen=True)
class Bounds:
    """Least and greatest standing factor, and least steps between two actions.

    Args:
        owner: Class that asks, for the error.
        low: Least factor, in (0, 1].
        high: Greatest factor, at least 1.
        refractory: Steps, at least 1.

    Raises:
        ValueError: If one is out of range.

    Examples:
        >>> Bounds("LangevinRate", 0.1, 10.0, 100).within(30.0)
        10.0
    """

    owner: str
    low: float
    high: float
    refractory: int

    def __post_init__(self) -> None:
        if not 0 < self.low <= 1:
            raise ValueError(f"The `low` of `{self.owner}` must be in (0, 1]. Got {self.low}.")
        if not (math.isfinite(self.high) and self.high >= 1):
            raise ValueError(
                f"The `high` of `{self.owner}` must be finite and at least 1. Got {self.high}."
            )
        at_least(self.owner, "refractory", self.refractory, 1)

    def within(self, factor: float) -> float:
        """The factor, or the bound it passed."""
        return min(max(factor, self.low), self.high)

    def resting(self, last: int | None, step: int) -> bool:
        """Whether the last action is less than the refractory time away."""
        return last is not None and step - last < self.refractory


def at_least(owner: str, name: str, value: float, least: float) -> None:
    """Refuse an argument that is too small or not finite.

    Args:
        owner: Class that asks.
        name: Of the argument.
        value: What it is.
        least: What it must be at least.

    Raises:
        ValueError: If it is less.
    """
    if not (math.isfinite(value) and value >= least):
        raise ValueError(
            f"The `{name}` of `{owner}` must be finite and at least {least:g}. Got {value}."
        )


def positive(owner: str, name: str, value: float) -> None:
    """Refuse an argument that is not positive and finite.

    Args:
        owner: Class that asks.
        name: Of the argument.
        value: What it is.

    Raises:
        ValueError: If it is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"The `{name}` of `{owner}` must be positive. Got {value}.")


def want_rate(
    step: int, policy: str, bounds: Bounds, cause: Cause, *, before: float, after: float
) -> Action:
    """Ask for a standing factor, whatever it is now.

    Args:
        step: Optimizer step.
        policy: Name of the policy.
        bounds: Within which it was kept.
        cause: Why.
        before: The standing factor as the rule knows it.
        after: The one it wants.

    Returns:
        An action of kind ``set_lr``.
    """
    what = f"Set the learning rate to {after:.4g} times its schedule, from {before:.4g}"
    numbers = {"factor": after, "low": bounds.low, "high": bounds.high}
    return act(step, policy, "set_lr", numbers, what, cause)


def want_change(
    step: int, policy: str, bounds: Bounds, cause: Cause, *, factor: float, steps: int = 0
) -> Action:
    """Ask for a change of the standing factor, or for one that lasts some steps.

    Args:
        step: Optimizer step.
        policy: Name of the policy.
        bounds: The standing factor is kept within them.
        cause: Why.
        factor: By how much.
        steps: Updates it lasts, after which it is taken back by what carries it out; 0 for ever.

    Returns:
        An action of kind ``scale_lr``.
    """
    lasts = f" for {steps} update(s)" if steps else ""
    what = f"Multiply the learning rate by {factor:.4g}{lasts}"
    numbers = {
        "factor": factor,
        "low": bounds.low,
        "high": bounds.high,
        "steps": float(steps),
    }
    return act(step, policy, "scale_lr", numbers, what, cause)


def lasting_change(
    state: RateState, step: int, policy: str, bounds: Bounds, cause: Cause, ratio: float
) -> tuple[RateState, tuple[Action, ...]]:
    """A change of the standing factor for good, as much of it as the bounds leave.

    Args:
        state: With the factor as the rule knows it.
        step: Optimizer step.
        policy: Name of the policy.
        bounds: The standing factor is kept within them.
        cause: Why.
        ratio: By how much.

    Returns:
        The next state, and the action of kind ``scale_lr``, or none if a bound was reached before.
    """
    factor = bounds.within(state.factor * ratio)
    if math.isclose(factor, state.factor, rel_tol=1e-12):
        return state, ()
    action = want_change(step, policy, bounds, cause, factor=factor / state.factor)
    return replace(state, factor=factor, last=step), (action,)
