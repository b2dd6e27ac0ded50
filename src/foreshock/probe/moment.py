"""`Moment`: one instant of training, as an observable sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, norm


@dataclass(frozen=True)
class Moment:
    """One step of training, before or after the optimizer moved the weights.

    Args:
        step: Number of updates made so far in the run.
        view: The live weights as pure functions; before the update, unless ``update`` is set.
        gradients: What the optimizer is about to use, one a trainable parameter: accumulated,
            averaged over ranks, after clipping, divided by the loss scale. ``None`` where absent.
        learning_rates: One a parameter group.
        optimizer: Class name and settings of the first group, for formulas that depend on them.
        elapsed: Seconds since the run was attached.
        probe: The probe, if one was given.
        update: ``θ_{t+1} − θ_t``, one a trainable parameter, for observables that need it.
        micro: Gradients of the backward passes of this step, scaled so that their mean is the
            gradient the optimizer uses, for observables that need them.
        uneven: Whether ``micro`` is empty because parameters took part in different numbers of
            passes.
    """

    step: int
    view: ModelView
    gradients: tuple[Tensor | None, ...]
    learning_rates: tuple[float, ...]
    optimizer: dict[str, Any] = field(default_factory=dict)
    elapsed: float = 0.0
    probe: Probe | None = None
    update: tuple[Tensor, ...] | None = None
    micro: tuple[tuple[Tensor, ...], ...] = ()
    uneven: bool = False

    @cached_property
    def gradient_norm(self) -> float:
        """Norm of ``gradients``; nan where all are absent. One transfer, shared by observables."""
        return norm(self.gradients).item()
