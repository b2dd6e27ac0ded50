"""Copies of what an optimizer trains, and back: the way back from an action."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copies of weights, buffers and optimizer state, on their devices, beside what they copy."""

    weights: list[tuple[Tensor, Tensor]]
    buffers: list[tuple[nn.Module, str, Tensor | None]]
    state: dict[Any, Any]


@dataclass(eq=False)
class Kept:
    """The state before an action that may still be undone, and what was written since.

    Attributes:
        policy: Whose action it was.
        step: At which it was decided.
        snapshot: What was before it.
        marks: The weights after the last update: another value before the next one is foreign.
        state: The optimizer's state; another object after a checkpoint was loaded.
        foreign: Why the copy may not be put back; empty if it may.
        undos: What takes back what the actions did to rates and wishes.
    """

    policy: str
    step: int
    snapshot: Snapshot
    marks: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    state: Any = None
    foreign: str = ""
    undos: list[Callable[[], None]] = field(default_factory=list)

    def mark(self, optimizer: Any) -> None:
        """An update, or an action, is over: this is how it left the weights."""
        self.marks = [(p, p.detach().clone()) for p, _ in self.snapshot.weights]
        self.state = optimizer.state

    def look(self, optimizer: Any) -> None:
        """The next update is about to be made: has anybody else written since?"""
        if optimizer.state is not self.state:
            self.foreign = "the optimizer's state was loaded since"
        elif not all(_same(p.detach(), mark) for p, mark in self.marks):
            self.foreign = "the weights were written by something else than the optimizer since"


def take(model: nn.Module, optimizer: Any) -> Snapshot:
    """Copy what this optimizer trains: weights, buffers beside them, and its state.

    Weights of other optimizers stay out of it, and the buffers of modules whose own weights are all
    theirs: a way back must not write into what another loss still needs.

    Memory: as much again as these take, on the same device: once the weights under plain SGD, twice
    with momentum, three times under AdamW. The optimizer's settings (learning rate) are not in it:
    schedules go on.

    Args:
        model: The live model.
        optimizer: Its optimizer.

    Returns:
        The copies.
    """
    trained = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    modules = [
        m
        for m in model.modules()
        if not m._parameters or any(id(p) in trained for p in m._parameters.values())
    ]
    return Snapshot(
        weights=[(p, p.detach().clone()) for p in trained.values()],
        buffers=[(m, k, _kept(b)) for m in modules for k, b in m._buffers.items()],
        state={key: _kept(value) for key, value in optimizer.state.items()},
    )


@torch.no_grad()
def put_back(snapshot: Snapshot, optimizer: Any) -> None:
    """Restore a snapshot, bitwise, into the live tensors: fused and captured optimizers hold them.

    A weight or buffer that did not change is not written: a graph that holds it stays good.

    Args:
        snapshot: What `take` gave.
        optimizer: The optimizer it was taken of.
    """
    for parameter, saved in snapshot.weights:
        if not _same(parameter.detach(), saved):
            parameter.copy_(saved)
    for module, key, saved in snapshot.buffers:
        live = module._buffers.get(key)
        if live is None or saved is None or not _same(live, saved):
            module._buffers[key] = _put(live, saved)
    for key in [key for key in optimizer.state if key not in snapshot.state]:
        del optimizer.state[key]
    for key, value in snapshot.state.items():
        optimizer.state[key] = _put(optimizer.state.get(key), value)


def _same(live: Tensor, saved: Tensor) -> bool:
    """Whether nothing has to be written: equal, signs of zeros and places of nan included."""
    if (live.shape, live.dtype, live.device) != (saved.shape, saved.dtype, saved.device):
        return False
    equal = (live == saved) | ((live != live) & (saved != saved))
    if live.is_floating_point():
        equal &= torch.signbit(live) == torch.signbit(saved)
    return bool(equal.all())


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _kept(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_kept(one) for one in value)
    return copy.deepcopy(value)


def _put(live: Any, saved: Any) -> Any:
    """The saved value, in the live object where there is one of its kind."""
    if isinstance(saved, Tensor):
        same = isinstance(live, Tensor) and (live.shape, live.dtype, live.device) == (
            saved.shape,
            saved.dtype,
            saved.device,
        )
        return live.copy_(saved) if same else saved.clone()
    if isinstance(saved, dict) and isinstance(live, dict):
        merged = {key: _put(live.get(key), one) for key, one in saved.items()}
        live.clear()
        live.update(merged)
        return live
    return _kept(saved)
