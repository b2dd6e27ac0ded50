"""Adaptive noise: more noise for a while when the loss has come to rest, then back again.

A state machine on values, one replica a row. The published loop compares the current step with the
intervention it has just written down, so it never restores the noise, and multiplies it again at
every step; here a boost has a length, and after it a time in which none may follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class NoiseState:
    """Where each replica stands.

    Args:
        ends: (n,) int64, first step at the base noise again; 0 if none was boosted.
        ready: (n,) int64, first step at which a boost may begin.
        boosts: (n,) int64, how many there were.
    """

    ends: Tensor
    ready: Tensor
    boosts: Tensor


@dataclass(frozen=True, slots=True)
class AdaptiveNoise:
    """Multiply the temperature for `hold` steps when C falls below a threshold.

    `train` gives it the corrected ratio |grad L|^2/(T lap L) of each replica, which falls to about
    1 at rest in any landscape (with fluctuations of relative size sqrt(2/d)), so a threshold a
    little above 1 means "at rest". The published |grad L|^2/(D d) rests at tr(H)/d: one threshold
    fires without end in a flat bowl and never in a steep one. C must be taken at the base
    temperature: at the boosted one it falls by the boost itself, which is a positive feedback.

    Args:
        threshold: C below which a replica counts as resting.
        boost: Factor on the temperature.
        hold: Steps that a boost lasts.
        refractory: Steps after a boost in which none begins.
        start: First step at which one may begin.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> control = AdaptiveNoise(threshold=0.5, boost=5.0, hold=2, refractory=3, start=0)
        >>> state, factors = control.init(1), []
        >>> for step in range(8):
        ...     state, factor = control.update(state, step, torch.tensor([0.1]))
        ...     factors.append(factor.item())
        >>> factors
        [5.0, 5.0, 1.0, 1.0, 1.0, 5.0, 5.0, 1.0]
    """

    threshold: float = 1.5
    boost: float = 5.0
    hold: int = 10
    refractory: int = 50
    start: int = 50

    def __post_init__(self) -> None:
        for name, least in (("threshold", 0.0), ("boost", 1.0)):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise ValueError(
                    f"The `{name}` of `AdaptiveNoise` must be finite and at least {least}. "
                    f"Got {value}."
                )
        for name, least in (("hold", 1), ("refractory", 0), ("start", 0)):
            value = getattr(self, name)
            if not (least <= value < math.inf and value % 1 == 0):
                raise ValueError(
                    f"The `{name}` of `AdaptiveNoise` must be finite and at least {least}, "
                    f"a whole number of steps. Got {value}."
                )

    def init(self, replicas: int) -> NoiseState:
        """The state before the first step."""
        zero = torch.zeros(replicas, dtype=torch.int64)
        return NoiseState(zero, torch.full_like(zero, self.start), zero)

    def update(
        self, state: NoiseState, step: int, consolidation: Tensor
    ) -> tuple[NoiseState, Tensor]:
        """Decide about the noise of this step.

        A consolidation that is not finite starts nothing.

        Args:
            state: From the step before.
            step: This step.
            consolidation: (n,) C at the base temperature.

        Returns:
            The new state, and (n,) the factor on the temperature at this step.
        """
        fires = (consolidation.cpu() < self.threshold) & (step >= state.ready)
        ends = torch.where(fires, step + self.hold, state.ends)
        ready = torch.where(fires, step + self.hold + self.refractory, state.ready)
        factor = torch.where(step < ends, float(self.boost), 1.0)
        return NoiseState(ends, ready, state.boosts + fires), factor
