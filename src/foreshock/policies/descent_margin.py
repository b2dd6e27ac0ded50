"""`DescentMargin`: keep the learning rate where the next step is expected to descend most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foreshock.policies.rate_rules import Bounds, RateState, lasting_change
from foreshock.policies.triggers import Cause, trusted
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class DescentMargin:
    """Move the rate towards the factor at which the next update is expected to descend most.

    At f times the present rate the update that the optimizer would make, from its present state and
    over a fresh batch, is expected to change the loss by f A + ½ f^2 K: for plain SGD -f η s +
    ½ (f η)^2 (q + T). It is least at f* = -A/K, measured with its interval as
    ``grad/descent_factor`` (`Descent`) along the update of whatever optimizer it is. The present
    rate gets the share (2 - 1/f*)/f* of that descent; below f* = 1/2 it ascends.

    An action is wanted when the whole 95 % interval of f* lies where the share is below ``share``:
    at the default .9, below .76 or above 1.46. The factor is f* itself, at most ``most`` or 1/most
    at a time. Where f* is not positive as a whole (it ascends along the gradient) it is 1/most.
    Where it is flagged (the curvature along the update may be 0) or comes without an interval of
    finite ends nothing is wanted.

    **What it cannot know**: it looks one step ahead. On a noisy ill-conditioned valley the best
    single step is much shorter than the best rate of a run (short-horizon bias), and at
    stationarity f* is 1/2 at every rate, so that it always halves and ends by freezing the run at
    ``low``. It is a brake with an interval and no schedule. Each measurement costs tens of steps.

    Args:
        series: f*.
        share: Least share of the greatest descent, in (0, 1).
        most: Greatest factor of an action, above 1.
        refractory: Least steps between two actions.
        low: Least standing factor.
        high: Greatest standing factor.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Wu, Ren, Liao, Grosse, ICLR 2018, arXiv:1803.02021 (short-horizon bias); Yaida,
        arXiv:1810.00004.

    Examples:
        >>> policy = DescentMargin()
        >>> best = {"grad/descent_factor": Estimate(0.6, 0.5, 0.7, n=8)}
        >>> _, (action,) = policy.update(policy.init(), 7, best, [])
        >>> action.arguments["factor"], action.kind
        (0.6, 'scale_lr')
    """

    series: str = "grad/descent_factor"
    share: float = 0.9
    most: float = 2.0
    refractory: int = 50
    low: float = 0.05
    high: float = 20.0
    name: str = "descent_margin"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"The `share` of `DescentMargin` must be in (0, 1). Got {self.share}.")
        if not (math.isfinite(self.most) and self.most > 1):
            raise ValueError(f"The `most` of `DescentMargin` must exceed 1. Got {self.most}.")
        self._bounds()

    def _bounds(self) -> Bounds:
        return Bounds("DescentMargin", self.low, self.high, self.refractory)

    @property
    def band(self) -> tuple[float, float]:
        """Between which f* leaves the rate alone: 1/(1 ± sqrt(1 - share))."""
        root = math.sqrt(1 - self.share)
        return 1 / (1 + root), 1 / (1 - root)

    @property
    def reads(self) -> tuple[str, ...]:
        """f*."""
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
        """Take one f*."""
        best, bounds = trusted(values, self.series), self._bounds()
        if best is None or bounds.resting(state.last, step):
            return state, ()
        low, high = values[self.series].low, values[self.series].high
        if not (math.isfinite(low) and math.isfinite(high)):
            return state, ()
        below, above = self.band
        if not (high < below or low > above):
            return state, ()
        edge = below if high < below else above
        ratio = min(max(best, 1 / self.most), self.most)
        reason = (
            f"the next step descends most at {best:.4g} ({low:.4g} to {high:.4g}) times the rate, "
            f"beyond {edge:.4g}, where it keeps {self.share:.0%} of that descent."
        )
        cause = Cause(self.series, best, edge, reason)
        return lasting_change(state, step, self.name, bounds, cause, ratio)
