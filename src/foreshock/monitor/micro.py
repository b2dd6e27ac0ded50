"""`MicroBatches`: the gradient of every backward pass of one step, for accumulation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from foreshock.probe.view import ModelView


class MicroBatches:
    """Copies each backward pass's gradient on steps that ask for it.

    Tensor hooks see the gradient of one backward pass before it is added to ``.grad`` (under data
    parallelism: before the average over ranks). They return nothing, so training is as it was, and
    cost one Python call a parameter while not armed. Nothing raises: where parameters were frozen
    or unfrozen since `arm`, or a gradient could not be copied, there are no micro-batches.

    Attributes:
        uneven: Whether there were none since parameters took part in different numbers of passes,
            or were frozen, unfrozen or replaced within the step.
        total: Plain sum of this step's backward passes, until the next call of `take`.
    """

    def __init__(self, view: ModelView) -> None:
        self._view = view
        self._armed = False
        self._broken = False
        self._hooked: list[int] = []
        self._handles: list[RemovableHandle] = []
        self._seen: list[list[Tensor]] = []
        self.uneven = False
        self.total: tuple[Tensor, ...] = ()
        self.arm(False)

    def _hook(self, index: int, gradient: Tensor) -> None:
        if not self._armed:
            return
        try:
            self._seen[index].append(gradient.detach().clone())
        except Exception:  # never into the user's backward pass
            self._armed, self._broken = False, True

    def arm(self, wanted: bool) -> None:
        """Start collecting for the coming step, or stop."""
        live = self._view.live_parameters
        if [id(p) for p in live] != self._hooked:  # the first time, or some were (un)frozen
            for handle in self._handles:
                handle.remove()
            self._handles = [p.register_hook(partial(self._hook, i)) for i, p in enumerate(live)]
            self._hooked = [id(p) for p in live]
        self._armed, self._broken = wanted, False
        self._seen = [[] for _ in live]

    def take(self, gradients: Sequence[Tensor | None]) -> tuple[tuple[Tensor, ...], ...]:
        """The gradients of this step's k backward passes, scaled so that their mean is the total.

        The factor is the projection of ``gradients`` on the sum of the passes: it undoes a loss
        scale and follows a clipping by norm.

        Args:
            gradients: What the optimizer is about to use.

        Returns:
            k gradients; none when parameters took part in different numbers of passes or were
            (un)frozen within the step, which ``uneven`` then says. A parameter that took part in
            none has zeros. Their plain sum is left in ``total`` until the next call.
        """
        self.total = ()
        counts = {len(column) for column in self._seen} - {0}
        live = self._view.live_parameters
        wanted = self._armed or self._broken
        changed = [id(p) for p in live] != self._hooked or len(gradients) != len(live)
        self.uneven = len(counts) > 1 or (wanted and (changed or self._broken))
        if not self._armed or self.uneven or not counts:
            return ()
        k = counts.pop()
        columns = [
            column or [torch.zeros_like(p)] * k for column, p in zip(self._seen, live, strict=True)
        ]
        totals = [torch.stack(column).sum(0) for column in columns]
        self.total = tuple(totals)
        pairs = [(t, g) for t, g in zip(totals, gradients, strict=True) if g is not None]
        if not pairs:  # a closure, or a step that the scaler skips
            return ()
        along = torch.stack([(t.double() * g.double()).sum() for t, g in pairs]).sum()
        size = torch.stack([t.double().square().sum() for t, _ in pairs]).sum()
        factor = torch.where(size > 0, along / size, torch.ones_like(size)) * k
        return tuple(
            tuple(column[i] * factor.to(column[i].dtype) for column in columns) for i in range(k)
        )

    def remove(self) -> None:
        """Unhook."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._hooked, self._seen = [], [], []
