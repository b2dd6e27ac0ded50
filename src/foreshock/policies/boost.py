"""`DiffusionBoost`: extra weight noise for a stated number of steps, and then none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foreshock.policies.resets import act, check_steps
from foreshock.policies.triggers import Trigger, as_trigger
from foreshock.types import Action, Alarm, Estimate

#: Updates without noise from which the size of the noise is fixed: a median needs a few.
MEASURED = 5


@dataclass(frozen=True)
class DiffusionBoost:
    """Add isotropic noise of one fixed size to the weights after each of ``steps`` updates.

    First the next `MEASURED` updates are measured and left alone; u^2 is the median of their mean
    squares over all trained weights. After each of the ``steps`` updates that follow, every weight
    then trained receives N(0, sigma^2) with sigma^2 = beta u^2, held for the whole boost. With one
    step as the unit of time and D_u = u^2/2, the diffusion that a walk of such updates would have,
    the diffusion becomes D_u (1 + beta). u contains the drift as well, so D_u is an upper bound of
    the noise that is there, and beta the least factor.

    **The law.** The noise does not know the updates that answer it, so there is no feedback: along
    a direction in which an update multiplies a displacement by 1 - h, n noises leave the variance
    sigma^2 (1 - (1 - h)^(2n)) / (1 - (1 - h)^2), which is at most n sigma^2 wherever training is
    stable, 0 <= h <= 2. Noise in proportion to each update instead would multiply the variance by
    (1 - h)^2 + beta h^2 a step, and diverge for every h > 2/(1 + beta).

    Published is D <- D + beta I with beta in [2, 5], in units of latents squared over an unstated
    time, with no word on when it ends; the attribute is never read by the published code, and the
    related "langevin" one never ends its boost. Here the noise is relative to the training's own
    step and always ends: after ``steps`` updates, on a rollback, and when the watch closes. No
    second boost begins while one lasts. The claimed radius sqrt(2 d beta t) holds for
    free diffusion only: any curvature bounds it. In bfloat16, whose steps are 1/256 of a weight,
    noise far below that moves few of the weights or none.

    While it measures it keeps one copy of the trained weights.

    Args:
        on: Name of a detector whose alarms fire it, or a trigger. There is no default: no trigger
            is known to be right.
        beta: Noise variance over the mean square of the update, positive.
        steps: Updates with noise, at least 1.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "fokker_planck", sections 5.1 and 5.2; the document "langevin" (noise control).

    Examples:
        >>> policy = DiffusionBoost(on="turnover", steps=20)
        >>> alarm = Alarm(7, "turnover", "val_loss", 2.0, 2.5, "It fell.")
        >>> policy.update(policy.init(), 7, {}, [alarm])[1][0].arguments["steps"]
        20.0
    """

    on: str | Trigger
    beta: float = 3.0
    steps: int = 50
    name: str = "diffusion_boost"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", as_trigger(self.on, "DiffusionBoost"))
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"The `beta` of `DiffusionBoost` must be positive. Got {self.beta}.")
        check_steps("DiffusionBoost", self.steps)

    @property
    def lasts(self) -> int:
        """Updates from the action to the end of its effect, the measured ones included."""
        return MEASURED + self.steps

    @property
    def reads(self) -> tuple[str, ...]:
        """What the trigger reads."""
        return as_trigger(self.on, "DiffusionBoost").reads

    def init(self) -> Any:
        """The state of the trigger."""
        return as_trigger(self.on, "DiffusionBoost").init()

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, tuple[Action, ...]]:
        """Ask the trigger."""
        trigger = as_trigger(self.on, "DiffusionBoost")
        state, cause = trigger.update(state, step, values, alarms)
        if cause is None:
            return state, ()
        what = f"Add weight noise of {self.beta:g} mean squared updates for {self.steps} step(s)"
        numbers = {"beta": self.beta, "steps": float(self.steps)}
        return state, (act(step, self.name, "boost_diffusion", numbers, what, cause),)
