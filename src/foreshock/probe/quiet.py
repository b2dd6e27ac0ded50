"""`quiet`: run a measurement so that the training run cannot notice it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as modules
from torch.utils import checkpoint


@contextlib.contextmanager
def quiet(seed: int) -> Iterator[None]:
    """Everything a measurement needs from the process, put back as it was afterwards.

    Inside: private random numbers for python, numpy and torch, seeded by ``seed``; gradients on;
    autocast off; attention on the math backend (the fused kernels have neither a double backward
    nor a forward derivative); no activation checkpoints (they recompute with the wrong weights, or
    refuse `torch.autograd.grad`); compiled code replaced by eager code (it has no double backward).
    Afterwards all generators stand where they stood. No ``.grad`` is written: callers use
    `torch.autograd.grad`. Hooks that were put on all modules of the process are not called.

    Args:
        seed: Seed of the private random numbers. The same seed gives the same measurement.

    Yields:
        Nothing.

    Examples:
        >>> import torch
        >>> before = torch.get_rng_state()
        >>> with quiet(seed=7):
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    with private_random(seed), contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.cuda.is_initialized() and torch.is_autocast_enabled("cuda"):
            stack.enter_context(torch.autocast("cuda", enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_no_checkpoints())
        stack.enter_context(_no_global_hooks())
        # Importing dynamo takes seconds, and where nobody has there is nothing compiled.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextlib.contextmanager
def private_random(seed: int) -> Iterator[None]:
    """Private random numbers for python, numpy and torch; all generators stand where they stood.

    The part of `quiet` that a measurement repeats where each evaluation of a loss must draw the
    same numbers.

    Args:
        seed: Seed of the private random numbers.

    Yields:
        Nothing.

    Examples:
        >>> import torch
        >>> draws = []
        >>> for _ in range(2):
        ...     with private_random(7):
        ...         draws.append(torch.rand(1))
        >>> bool(draws[0] == draws[1])
        True
    """
    numpy_random = sys.modules.get("numpy.random")
    python_state = random.getstate()
    numpy_state = numpy_random.get_state() if numpy_random is not None else None
    torch_state = torch.default_generator.get_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        random.seed(seed)
        if numpy_random is not None:
            numpy_random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        if numpy_random is not None and numpy_state is not None:
            numpy_random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


class _Plain:
    """Stands in for the function behind reentrant checkpoints: nothing is recomputed."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
        """The function itself."""
        return function(*args)


def _plain_generator(*_: Any, **__: Any) -> Iterator[None]:
    """Stands in for what surrounds the function in non-reentrant checkpoints: nothing."""
    yield


@contextlib.contextmanager
def _no_checkpoints() -> Iterator[None]:
    """Activation checkpoints keep their activations instead of recomputing them.

    A recomputation happens in the backward pass, when the weights that a measurement put in are out
    again: it would use the live ones, silently, or fail on their type. Reentrant checkpoints refuse
    `torch.autograd.grad` altogether. The price is memory: that of the probe's activations.
    """
    kept = {}
    for name, plain in (
        ("CheckpointFunction", _Plain),
        ("_checkpoint_without_reentrant_generator", _plain_generator),
    ):
        if hasattr(checkpoint, name):
            kept[name] = getattr(checkpoint, name)
            setattr(checkpoint, name, plain)
    try:
        yield
    finally:
        for name, original in kept.items():
            setattr(checkpoint, name, original)


#: torch's hooks on every module of the process; the last two are flags of the forward hooks.
_HOOKS: tuple[dict[int, Any], ...] = (
    modules._global_forward_pre_hooks,
    modules._global_forward_hooks,
    modules._global_backward_pre_hooks,
    modules._global_backward_hooks,
    modules._global_forward_hooks_always_called,
    modules._global_forward_hooks_with_kwargs,
)


@contextlib.contextmanager
def _no_global_hooks() -> Iterator[None]:
    """Empty tables, filled again afterwards: a hook on all modules would see the copies, too."""
    kept = [dict(table) for table in _HOOKS]
    for table in _HOOKS:
        table.clear()
    try:
        yield
    finally:
        for table, before in zip(_HOOKS, kept, strict=True):
            since = dict(table)
            table.clear()
            table.update(before | since)
