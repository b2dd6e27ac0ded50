"""`Examples`: per-example gradient norms out of the user's own backward pass."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from foreshock.estimators.per_example import PerExample, assemble
from foreshock.estimators.per_example_hearing import Hearing, plainly
from foreshock.monitor.arrivals import Arrivals
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.view import ModelView, batch_size, unwrap
from foreshock.types import Flag

ENTANGLED = (
    "The model was called several times before one backward pass, so it is not known which rows "
    "are one example."
)
FROZEN = "Parameters were frozen or unfrozen during this step."
UNEQUAL = (
    "The backward passes of this step had different numbers of examples {sizes}, and how the loss "
    "weights them is not known."
)
GIVEN_UP = "{kind}: {error}: the per-example norms of this step were given up."


class Inert:
    """A hook on a module that does nothing in copies of the module, pickled or not.

    Args:
        method: What it calls, as long as its owner lives.
    """

    def __init__(self, method: Callable[..., None]) -> None:
        self._method = weakref.WeakMethod(method)

    def __call__(self, *given: Any) -> None:
        """Pass on what a hook is given."""
        method = self._method()
        if method is not None:
            method(*given)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return nullcontext().__exit__

    def __reduce__(self) -> Any:
        # Something of the standard library that takes everything and gives nothing.
        return getattr, (nullcontext(), "__exit__")


class Examples:
    """Listens to the model's forward passes, and to their backward passes, on steps that ask.

    Only while armed are there hooks: two global ones around module calls, which pass over all
    modules but the model, and one on each parameter for the gradient of the batch. (Hooks on the
    model would be copied and pickled with it, and cannot be scripted. They are used only where
    something was compiled in this process, since compiled models warn of global ones; their copies
    do nothing.) Between the former a `PerExample` mode notices what reads a parameter. All return
    nothing, so training is bitwise as it was; nothing is kept after the step, nor of a forward pass
    whose graph is gone. Nothing raises: an error is the reason why there are no norms.

    On an armed step the inputs of layers inside activation checkpoints are kept until the backward
    pass, so a non-reentrant checkpoint saves no memory there; a reentrant one runs without a graph,
    so its parameters are not covered. Compiled models are left alone (a mode would break their
    graph): `take` then gives ``None``, and observables use one extra eager pass on the probe. So
    it does where the user calls parts of the model instead of the model.

    Several forward and backward passes in a step (accumulation) are one sample if they have equal
    numbers of examples. Under data parallelism the examples are those of this rank, and whether the
    optimizer uses what was heard is not checked.

    Args:
        view: The live weights.
        model: The model as the user calls it.
    """

    def __init__(self, view: ModelView, model: nn.Module) -> None:
        self._view = view
        self._model = model
        self._live = unwrap(model)
        self._handles: list[RemovableHandle] = []
        self._keyed = 0
        self._arrivals = Arrivals()
        own = {id(module) for module in self._live.modules()}
        #: What the model is wrapped in (data parallelism, a compiled model).
        self._around = [module for module in model.modules() if id(module) not in own]
        self._reset()

    def _reset(self) -> None:
        self._armed = False
        self._parameters: list[nn.Parameter] = []
        self._trouble = ""
        self._open: PerExample | None = None
        self._depth = 0
        #: Passes that no error has reached yet: alive as long as their graph.
        self._quiet: list[weakref.ref[Hearing]] = []
        self._passes: list[Hearing] = []
        self._present: dict[int, set[int]] = {}
        self._arrivals.forget()

    @property
    def compiled(self) -> bool:
        """Whether any part of the model is compiled, so that there is nothing to listen to."""
        for module in (*self._around, *self._view.modules):
            if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
                return True
        return False

    def arm(self, wanted: bool) -> None:
        """Start listening for the coming step, or stop."""
        if self._armed:
            self.remove()
        if not wanted:
            return
        live_parameters = self._view.live_parameters
        if self.compiled:
            return
        self._armed, self._parameters = True, live_parameters
        if _somebody_compiles():
            # Compiled models warn of global hooks.
            live, before, after = self._live, Inert(self._before), Inert(self._after)
            self._handles = [
                live.register_forward_pre_hook(before, with_kwargs=True),
                live.register_forward_hook(after, always_call=True),
            ]
        else:
            first = register_module_forward_pre_hook(self._before)
            # Global hooks are told keyword arguments where the module lists their number.
            self._keyed = first.id
            self._live._forward_pre_hooks_with_kwargs[first.id] = True
            self._handles = [first, register_module_forward_hook(self._after, always_call=True)]
        self._handles += [
            parameter.register_hook(partial(self._arrived, index))
            for index, parameter in enumerate(self._parameters)
        ]

    def remove(self) -> None:
        """Unhook and forget."""
        for handle in self._handles:
            handle.remove()
        self._live._forward_pre_hooks_with_kwargs.pop(self._keyed, None)
        self._handles = []
        self._reset()

    def _give_up(self, error: Exception) -> None:
        self._trouble = GIVEN_UP.format(kind=type(error).__name__, error=error)

    # ------------------------------------------------------------------ hooks

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> None:
        # Compiled code would take the mode into its graph; a replica is another module.
        if module is not self._live or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        try:
            if self._open is not None:
                self._depth += 1
            elif self._armed:
                self._begin((args, dict(kwargs or {})))
        except Exception as error:
            self._give_up(error)

    def _begin(self, given: Any) -> None:
        n = batch_size(given)
        if not n or not torch.is_grad_enabled() or self._trouble:
            return
        if not self._same():
            self._trouble = FROZEN
            return
        mode = PerExample(self._parameters, self._view.names, n, self._live.named_buffers, given)
        mode.heard.on_start = self._started
        mode.__enter__()
        self._open = mode

    def _same(self) -> bool:
        live = self._view.live_parameters
        return len(live) == len(self._parameters) and all(
            a is b for a, b in zip(live, self._parameters, strict=True)
        )

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is not self._live or self._open is None or torch.compiler.is_compiling():
            return
        if self._depth:
            self._depth -= 1
            return
        mode, self._open = self._open, None
        mode.__exit__(None, None, None)
        try:
            heard = mode.heard
            heard.forget()
            self._quiet = [one for one in self._quiet if one() is not None]
            heard.before = list(self._quiet)
            if not heard.started:
                self._quiet.append(weakref.ref(heard))
            if heard.trouble:  # perhaps nothing of it was listened to, so nothing would start it
                for tensor in _tensors(output):
                    if tensor.requires_grad:
                        tensor.register_hook(partial(_start, heard))
        except Exception as error:
            self._give_up(error)

    def _started(self, heard: Hearing) -> None:
        """The first error of a pass arrived."""
        self._passes.append(heard)
        self._quiet = [one for one in self._quiet if one() is not heard]

    def _arrived(self, index: int, gradient: Tensor) -> None:
        """The gradient of one backward pass, before it is added to ``.grad``."""
        try:
            latest = len(self._passes) - 1
            self._present.setdefault(latest, set()).add(index)
            with plainly(gradient.device):
                self._keep(index, gradient.detach(), latest)
        except Exception as error:
            self._give_up(error)

    def _keep(self, index: int, gradient: Tensor, latest: int) -> None:
        if gradient.is_sparse:
            gradient = gradient.to_dense()
        held = self._parameters[index].grad
        seen, norm = self._arrivals.keep(index, gradient, held)
        if latest >= 0:
            self._passes[latest].gradient(index, gradient, seen, norm)

    # ------------------------------------------------------------------ reading out

    def take(self, gradients: Sequence[Tensor | None]) -> ExampleNorms | None:
        """The norms of this step, scaled to the gradient that the optimizer uses.

        The factor undoes a loss scale and follows a clipping by the norm of the whole; a gradient
        that was changed otherwise is ``altered``, at once if torch knows of the change; one past
        its version counter (``.data``) that starts late, after at most 7 listened steps (see
        `foreshock.monitor.arrivals`). With several ranks the factor is 1. Parameters
        that the optimizer uses no gradient of count as zero.

        Args:
            gradients: What the optimizer is about to use.

        Returns:
            Norms of all examples of the step, or why there are none; ``None`` if no forward pass
            was heard (not armed, compiled, or the model itself was not called).
        """
        if not self._armed:
            return None
        try:
            if not self._same() or len(gradients) != len(self._parameters):
                return self._refused(FROZEN)
            with plainly(self._parameters[0].device):
                return self._taken(gradients)
        except Exception as error:
            self._give_up(error)
            return self._refused(self._trouble)
        finally:
            self.remove()

    def _refused(self, reason: str, flags: Flag = Flag.UNRESOLVED) -> ExampleNorms:
        return ExampleNorms.refused(self._view.names, self._view.sizes, reason, flags)

    def _taken(self, gradients: Sequence[Tensor | None]) -> ExampleNorms | None:
        passes = self._passes
        if self._trouble:
            return self._refused(self._trouble)
        if all(g is None for g in gradients):
            return self._refused("No parameter has a gradient at this step.")
        for one in passes:
            if one.trouble:
                return self._refused(one.trouble, one.flags)
        if self._entangled():
            return self._refused(ENTANGLED)
        if not passes:
            return None
        counts = [one.n for one in passes]
        if len(set(counts)) > 1:
            return self._refused(UNEQUAL.format(sizes=tuple(counts)))
        live = self._parameters
        outside = self._present.get(-1, set())
        taken = []
        for i, one in enumerate(passes):
            present = self._present.get(i, set()) | outside
            taken.append(one.norms([index in present for index in range(len(live))]))
        norms, factor, altered = self._compare(gradients)
        unused = [index for index, g in enumerate(gradients) if g is None]
        for at, (squares, missed) in enumerate(taken):
            if altered is not None:
                squares = torch.where(altered, torch.nan, squares)
            if unused:
                squares[:, unused] = 0.0
            used = {i: why for i, why in missed.items() if gradients[i] is not None}
            taken[at] = squares, used
        return assemble(self._view, taken, norms * norms, factor, altered)

    def _entangled(self) -> bool:
        """Whether two passes were both under way before the first of them was walked back."""
        started = {id(one) for one in self._passes}
        waiting = [w() for one in self._passes for w in one.before]
        return any(id(one) in started for one in waiting if one is not None)

    def _compare(
        self, gradients: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | float, Tensor | None]:
        return self._arrivals.compare(gradients)


def _somebody_compiles() -> bool:
    """Whether anything in this process was compiled: dynamo alone is often there for no reason."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    if frames is None:
        return False
    backends = getattr(frames, "cached_backends", None)
    # No compiler at all is listed as ``None`` from the start.
    return backends is None or any(one is not None for one in backends.values())


def _start(heard: Hearing, error: Tensor) -> None:
    heard.begin()


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of what a model returned."""
    if isinstance(output, Tensor):
        yield output
        return
    if isinstance(output, Mapping):
        output = list(output.values())
    elif not isinstance(output, (tuple, list)):
        output = list(getattr(output, "__dict__", {}).values())
    for one in output:
        if isinstance(one, (Tensor, Mapping, tuple, list)):
            yield from _tensors(one)
