"""`DiffusionBoost`: extra weight noise for a stated number of steps, and then none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foreshock.policies.resets import act, check_steps
from foreshock.policies.trigger_levels import TurnsUp
from foreshock.policies.triggers import Trigger, as_trigger
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class DiffusionBoost:
    """Add isotropic noise to the weights after each of the next ``steps`` updates, then stop.

    After an update whose root mean square over all trainable weights is u, every weight receives
    N(0, beta u^2). With one step as the unit of time and D_u = u^2/2, the diffusion that a walk of
    such updates would have, the diffusion becomes D_u (1 + beta). u contains the drift as well, so
    D_u is an upper bound of the noise that is there, and beta the least factor.

    Published is D <- D + beta I with beta in [2, 5], in units of latents squared over an unstated
    time, with no word on when it ends; the attribute is never read by the published code, and the
    related "langevin" one never ends its boost. Here the noise is relative to the training's own
    step and always ends: after ``steps`` updates, on a rollback, and when the watch closes. No
    second boost begins while one lasts. The claimed radius sqrt(2 d beta t) holds for
    free diffusion only: any curvature bounds it.

    While it lasts it keeps one copy of the trainable weights, from which the update is measured.

    Args:
        on: Name of a detector whose alarms fire it, or a trigger.
        beta: Noise variance over the mean square of the update, positive.
        steps: Updates it lasts, at least 1.
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

    on: str | Trigger = TurnsUp("latent/c", 0.5)
    beta: float = 3.0
    steps: int = 50
    name: str = "diffusion_boost"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", as_trigger(self.on, "DiffusionBoost"))
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"The `beta` of `DiffusionBoost` must be positive. Got {self.beta}.")
        check_steps("DiffusionBoost", self.steps)

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
