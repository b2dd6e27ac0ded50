"""`MicroBatches`: the gradient of every backward pass of one step, for accumulation."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from foreshock.probe.view import ModelView


class MicroBatches:
    """Copies each backward pass's gradient on steps that ask for it.

    Tensor hooks see the gradient of one backward pass before it is added to ``.grad`` (under data
    parallelism: before the average over ranks). They return nothing, so training is as it was, and
    cost one Python call a parameter while not armed.
    """

    def __init__(self, view: ModelView) -> None:
        self._count = len(view.names)
        self._armed = False
        self._seen: list[list[Tensor]] = []
        self._handles = [
            parameter.register_hook(partial(self._hook, index))
            for index, parameter in enumerate(view.live_parameters)
        ]
        self.arm(False)

    def _hook(self, index: int, gradient: Tensor) -> None:
        if self._armed:
            self._seen[index].append(gradient.detach().clone())

    def arm(self, wanted: bool) -> None:
        """Start collecting for the coming step, or stop."""
        self._armed = wanted
        self._seen = [[] for _ in range(self._count)]

    def take(self) -> tuple[tuple[Tensor, ...], ...]:
        """The gradients of this step's k backward passes, each times k: their mean is the total.

        Returns:
            k gradients; none when some parameter took part in some of the passes only.
        """
        passes = {len(column) for column in self._seen}
        if not self._armed or len(passes) != 1:
            return ()
        k = passes.pop()
        return tuple(tuple(column[i] * k for column in self._seen) for i in range(k))

    def remove(self) -> None:
        """Unhook."""
        for handle in self._handles:
            handle.remove()
        self._seen = []
