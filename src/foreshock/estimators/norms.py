"""Norms, learning rate and clock: the baselines that every claim must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foreshock.probe.moment import Moment
from foreshock.probe.view import norm
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

NO_GRADIENT = (
    "No parameter had a gradient when the optimizer stepped; "
    "a closure or a fused backward pass hides it."
)


@dataclass(frozen=True)
class Norms:
    """Norm of the gradient and of the weights, learning rate, and the clock.

    ``grad/norm`` = |g|, of what the optimizer is about to use (accumulated, after clipping);
    ``weight/norm`` = |θ| over trainable parameters, tied once; ``optim/lr`` of the first group;
    ``clock/seconds`` since attach. All exact: no sampling error is involved in the norm of *this*
    gradient. They carry no null of their own; they are the null of others: a signal that a norm or
    the clock gives as well is no signal.

    Cost: one pass over gradients and weights.

    Examples:
        >>> Norms().series[0].name
        'grad/norm'
    """

    name: str = "norms"
    needs: frozenset[str] = frozenset({"gradients"})
    price: float = 0.1
    stride: int = 0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                "grad/norm",
                "gradient norm",
                "loss/weight",
                "no null: a baseline",
                formula="|g| of the gradient the optimizer is about to use, after clipping",
                oracle="root of the sum of squares over all parameters, by a loop",
                source="baseline",
            ),
            SeriesInfo(
                "weight/norm",
                "weight norm",
                "weight",
                "its value at the start",
                formula="|θ| over trainable parameters, tied ones once",
                oracle="root of the sum of squares over all parameters, by a loop",
                source="baseline",
            ),
            SeriesInfo(
                "optim/lr",
                "learning rate",
                "1",
                "the schedule itself",
                formula="η of the first parameter group",
                oracle="the value given to the optimizer",
                source="baseline",
            ),
            SeriesInfo(
                "clock/seconds",
                "seconds since attach",
                "s",
                "a clock",
                formula="wall-clock time now minus at attach",
                oracle="strictly increasing over a run",
                source="baseline",
            ),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Read the norms at one moment."""
        pair = torch.stack([norm(moment.gradients), norm(moment.view.parameters)])
        gradient, weight = pair.tolist()
        present = any(g is not None for g in moment.gradients)
        return state, Readings(
            {
                "grad/norm": Estimate.exact(gradient) if present else Estimate.missing(NO_GRADIENT),
                "weight/norm": Estimate.exact(weight),
                "optim/lr": Estimate.exact(moment.learning_rates[0]),
                "clock/seconds": Estimate.exact(moment.elapsed),
            }
        )


@dataclass(frozen=True)
class StepNorm:
    """Length of the step the optimizer really made, ``update/step_norm`` = |θ_{t+1} − θ_t|.

    Includes preconditioning, momentum, clipping and weight decay. Exact up to the rounding of the
    weights: in a 16-bit type the difference of stored weights loses most of the step, and the
    number is flagged ``below_precision``.

    Cost: one copy of the weights and one pass.

    Examples:
        >>> sorted(StepNorm().needs)
        ['update']
    """

    name: str = "step_norm"
    needs: frozenset[str] = frozenset({"update"})
    price: float = 0.1
    stride: int = 0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                "update/step_norm",
                "norm of the step made",
                "weight",
                "0 at lr = 0",
                formula="|θ_{t+1} − θ_t| of the weights as stored",
                oracle="root of the sum of squares over all parameters, by a loop",
                source="baseline",
            ),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Read the length of the update just made."""
        if moment.update is None:
            return state, Readings({"update/step_norm": Estimate.missing("No update was made.")})
        value = norm(moment.update).item()
        estimate = Estimate.exact(value)
        if moment.view.dtype in (torch.float16, torch.bfloat16) and estimate.flags == Flag.NONE:
            estimate = Estimate(
                value,
                n=1,
                flags=Flag.BELOW_PRECISION,
                reason=f"Weights are {moment.view.dtype}; their difference loses the step.",
            )
        return state, Readings({"update/step_norm": estimate})
