"""`Examples`: per-example gradient norms out of the user's own backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from foreshock.estimators.per_example import PerExample, assemble
from foreshock.estimators.per_example_hearing import Hearing, stacked
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.view import ModelView, batch_size, unwrap
from foreshock.types import Flag

ENTANGLED = (
    "The model was called several times before one backward pass, so it is not known which rows "
    "are one example."
)


class Examples:
    """Listens to the model's forward passes, and to their backward passes, on steps that ask.

    Only while armed are there hooks: one before and one after the model's forward (between them a
    `PerExample` mode notices what reads a parameter), and one on each parameter for the gradient of
    the batch. All return nothing, so training is bitwise as it was; nothing is kept after the step.
    On an armed step the inputs of layers inside activation checkpoints are kept until the backward
    pass, so a non-reentrant checkpoint saves no memory there; a reentrant one runs without a graph,
    so its parameters are not covered. Compiled models are left alone (a mode would break their
    graph): `take` then gives ``None``, and observables use one extra eager pass on the probe. So
    it does where the user calls parts of the model instead of the model.

    Several forward and backward passes in a step (accumulation) are one sample. Under data
    parallelism the examples are those of this rank.

    Args:
        view: The live weights.
        model: The model as the user calls it.
    """

    def __init__(self, view: ModelView, model: nn.Module) -> None:
        self._view = view
        self._model = model
        self._live = unwrap(model)
        self._handles: list[RemovableHandle] = []
        self._reset()

    def _reset(self) -> None:
        self._armed = False
        self._open: PerExample | None = None
        self._depth = 0
        self._passes: list[Hearing] = []
        self._waiting: list[Hearing] = []
        self._present: dict[int, set[int]] = {}
        self._totals: dict[int, Tensor] = {}

    @property
    def compiled(self) -> bool:
        """Whether any part of the model is compiled, so that there is nothing to listen to."""
        return any(
            "_orig_mod" in module._modules or module._compiled_call_impl is not None
            for module in self._model.modules()
        )

    def arm(self, wanted: bool) -> None:
        """Start listening for the coming step, or stop."""
        self.remove()
        if not wanted or self.compiled:
            return
        self._armed = True
        self._handles = [
            self._live.register_forward_pre_hook(self._before, with_kwargs=True),
            self._live.register_forward_hook(self._after, always_call=True),
        ]
        self._handles += [
            parameter.register_hook(partial(self._arrived, index))
            for index, parameter in enumerate(self._view.live_parameters)
        ]

    def remove(self) -> None:
        """Unhook and forget."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._reset()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        # Compiled code would take the mode into its graph; a replica is another module.
        if torch.compiler.is_compiling() or module is not self._live:
            return
        if self._open is not None:
            self._depth += 1
            return
        n = batch_size((args, dict(kwargs)))
        if not n or not torch.is_grad_enabled():
            return
        view = self._view
        fixed = [(name, p) for name, p in self._live.named_parameters() if not p.requires_grad]
        fixed += list(self._live.named_buffers())
        self._open = PerExample(view.live_parameters, view.names, n, fixed)
        self._waiting += [p for p in self._passes if not p.started]
        self._passes.append(self._open.heard)
        self._open.__enter__()

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or module is not self._live or self._open is None:
            return
        if self._depth:
            self._depth -= 1
            return
        mode, self._open = self._open, None
        mode.__exit__(None, None, None)
        mode.heard.forget()

    def _arrived(self, index: int, gradient: Tensor) -> None:
        """The gradient of one backward pass, before it is added to ``.grad``."""
        started = [i for i, one in enumerate(self._passes) if one.started]
        latest = started[-1] if started else -1
        self._present.setdefault(latest, set()).add(index)
        with torch.no_grad():
            gradient = gradient.detach()
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            if started:
                self._passes[latest].gradient(index, gradient)
            held = self._view.live_parameters[index].grad if index in self._totals else None
            if held is not None:  # an earlier pass of this step
                gradient = gradient + held
            self._totals[index] = _norms([gradient])[0]

    def take(self, gradients: Sequence[Tensor | None]) -> ExampleNorms | None:
        """The norms of this step, scaled to the gradient that the optimizer uses.

        The factor undoes a loss scale and follows a clipping by norm; with several ranks it is 1.

        Args:
            gradients: What the optimizer is about to use.

        Returns:
            Norms of all examples of the step, or why there are none; ``None`` if no forward pass
            was heard (not armed, compiled, or the model itself was not called).
        """
        if not self._armed:
            return None
        try:
            return self._taken(gradients)
        finally:
            self.remove()

    def _taken(self, gradients: Sequence[Tensor | None]) -> ExampleNorms | None:
        live, names = self._view.live_parameters, self._view.names
        sizes = [p.numel() for p in live]
        passes = [(i, one) for i, one in enumerate(self._passes) if one.started or one.trouble]
        trouble, flags = "", Flag.UNRESOLVED
        for _, one in passes:
            if one.trouble:
                trouble, flags = one.trouble, one.flags
        if any(one.started for one in self._waiting):
            trouble = ENTANGLED
        if all(g is None for g in gradients):
            trouble = "No parameter has a gradient at this step."
        if trouble:
            return ExampleNorms.refused(names, sizes, trouble, flags)
        if not passes:
            return None
        outside = self._present.get(-1, set())
        taken = []
        for i, one in passes:
            present = self._present.get(i, set()) | outside
            taken.append(one.norms([index in present for index in range(len(live))]))
        zero = torch.zeros((), device=live[0].device)
        totals = stacked([self._totals.get(i, zero) for i in range(len(live))]).square()
        return assemble(self._view, taken, totals, self._factor(totals, gradients))

    def _factor(self, totals: Tensor, gradients: Sequence[Tensor | None]) -> Tensor | float:
        ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        if ranks and torch.distributed.get_world_size() > 1:
            return 1.0
        present = _norms([g for g in gradients if g is not None])
        used = stacked(present).square().sum()
        heard = totals.sum()
        return torch.where(heard > 0, used / heard, torch.ones_like(heard)).sqrt()


def _norms(tensors: list[Tensor]) -> Sequence[Tensor]:
    """Norm of each tensor, without overflow of 16-bit numbers."""
    narrow = (torch.float16, torch.bfloat16)
    return torch._foreach_norm([t.float() if t.dtype in narrow else t for t in tensors])
