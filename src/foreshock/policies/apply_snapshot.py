"""Copies of the state of a training run, and back: what makes an action whole or undone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copies of weights, buffers and optimizer state, on their devices, beside what they copy."""

    weights: list[tuple[Tensor, Tensor]]
    buffers: list[tuple[nn.Module, str, Tensor | None]]
    state: dict[Any, Any]


def take(model: nn.Module, optimizer: Any) -> Snapshot:
    """Copy weights (frozen ones too), buffers and optimizer state.

    Memory: as much again as these take, on the same device: once the weights under plain SGD, twice
    with momentum, three times under AdamW. The optimizer's settings (learning rate) are not in it:
    schedules go on.

    Args:
        model: The live model.
        optimizer: Its optimizer.

    Returns:
        The copies.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = {id(p): p for p in (*model.parameters(), *trained)}
    return Snapshot(
        weights=[(p, p.detach().clone()) for p in tensors.values()],
        buffers=[(m, k, _kept(b)) for m in model.modules() for k, b in m._buffers.items()],
        state={key: _kept(value) for key, value in optimizer.state.items()},
    )


@torch.no_grad()
def put_back(snapshot: Snapshot, optimizer: Any) -> None:
    """Restore a snapshot, bitwise, into the live tensors: fused and captured optimizers hold them.

    Args:
        snapshot: What `take` gave.
        optimizer: The optimizer it was taken of.
    """
    for parameter, saved in snapshot.weights:
        parameter.copy_(saved)
    for module, key, saved in snapshot.buffers:
        module._buffers[key] = _put(module._buffers.get(key), saved)
    for key in [key for key in optimizer.state if key not in snapshot.state]:
        del optimizer.state[key]
    for key, value in snapshot.state.items():
        optimizer.state[key] = _put(optimizer.state.get(key), value)


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
