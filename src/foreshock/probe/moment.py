"""`Moment`: one instant of training, as an observable sees it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from foreshock.probe.examples import ExampleNorms
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, batch_size, norm


class BatchGradient(NamedTuple):
    """Loss and gradient of one probe batch at the weights of a moment, on the device."""

    loss: Tensor
    gradient: tuple[Tensor, ...]
    size: int | None
    batch: Any


@dataclass(frozen=True)
class Moment:
    """One step of training, before or after the optimizer moved the weights.

    Args:
        step: Number of updates made so far in the run.
        view: The live weights as pure functions; before the update, unless ``update`` is set.
        gradients: What the optimizer is about to use, one a trainable parameter: accumulated,
            averaged over ranks, after clipping, divided by the loss scale. ``None`` where absent.
        learning_rates: One a parameter group.
        optimizer: Settings and state of the live optimizer, for formulas that depend on them.
        elapsed: Seconds since the run was attached.
        probe: The probe, if one was given.
        update: ``θ_{t+1} − θ_t``, one a trainable parameter, for observables that need it.
        micro: Gradients of the backward passes of this step, scaled so that their mean is the
            gradient the optimizer uses, for observables that need them.
        uneven: Whether ``micro`` is empty because parameters took part in different numbers of
            passes.
        local: Sum of the gradients of this rank's own backward passes, before it is averaged over
            ranks, scaled or clipped; with ``micro``.
        examples: Per-example gradient norms of this step's own backward passes, for observables
            that need them; ``None`` where no forward pass could be heard (compiled models).
    """

    step: int
    view: ModelView
    gradients: tuple[Tensor | None, ...]
    learning_rates: tuple[float, ...]
    optimizer: OptimizerView | None = None
    elapsed: float = 0.0
    probe: Probe | None = None
    update: tuple[Tensor, ...] | None = None
    micro: tuple[tuple[Tensor, ...], ...] = ()
    uneven: bool = False
    local: tuple[Tensor, ...] = ()
    examples: ExampleNorms | None = None

    @cached_property
    def gradient_norm(self) -> float:
        """Norm of ``gradients``; nan where all are absent. One transfer, shared by observables."""
        return norm(self.gradients).item()

    @cached_property
    def batch_gradients(self) -> list[BatchGradient]:
        """Loss and gradient of every probe batch of this step: taken once, shared by observables.

        In evaluation mode at frozen weights, one backward pass a batch. Empty without a probe.
        """
        if self.probe is None:
            return []
        return [
            BatchGradient(*self.view.gradient(self.probe.loss, batch), batch_size(batch), batch)
            for batch in self.view.draw(self.probe, self.step)
        ]
