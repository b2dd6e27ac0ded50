"""What descent is made of: slopes, curvatures and losses of a step, a batch at a time, on the host.

The gradients of the probe's batches are there already, at the weights after the step; the weights
before it are only needed for the losses that were really there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foreshock.estimators.gradient_noise import CHUNK
from foreshock.estimators.hvp import HessianProduct
from foreshock.probe.groups import Group
from foreshock.probe.moment import BatchGradient
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView


class Sums(NamedTuple):
    """What is a sum over weights, float64, for the whole model or a part of it.

    The Hessian is that of the whole model in either case: those of a part are u·(Hu) summed over
    the weights of the part, so the cross terms of two parts go half to each.

    Args:
        slopes: ``(n,)`` g_b · u of the step made.
        bends: ``(n,)`` u · H_b u.
        scaled: ``(n, n)`` products of η g_b.
        products: ``(n, n)`` g_i · u_j with the updates u_j that the optimizer would make next.
        curvatures: ``(n, n)`` u_i · H_{j+1} u_j.
        spread: ``(n, n)`` u_i · u_j.
    """

    slopes: np.ndarray
    bends: np.ndarray
    scaled: np.ndarray
    products: np.ndarray
    curvatures: np.ndarray
    spread: np.ndarray


class Record(NamedTuple):
    """What one measurement brings to the host, float64.

    Args:
        whole: The sums over all weights.
        parts: Those over the weights of a part, by name; none for a part without a weight.
        after: ``(n,)`` losses of the batches after the step.
        before: ``(n,)`` losses before it.
        method: How the Hessian products were taken.
    """

    whole: Sums
    parts: dict[str, Sums]
    after: np.ndarray
    before: np.ndarray
    method: str


def cross(left: Tensor, right: Tensor, weight: Tensor | None = None) -> Tensor:
    """Products of the rows of two matrices, accumulated in float64 by blocks of columns.

    Args:
        left: ``(n, d)`` of any float type.
        right: ``(m, d)`` of any float type.
        weight: ``(d,)`` weights of the columns; all 1 if not given.

    Returns:
        ``(n, m)`` float64 on their device.

    Examples:
        >>> import torch
        >>> cross(torch.eye(2), torch.tensor([[1.0, 2.0]])).tolist()
        [[1.0], [2.0]]
    """
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for start in range(0, left.shape[1], CHUNK):
        columns = slice(start, start + CHUNK)
        block = left[:, columns].double()
        if weight is not None:
            block = block * weight[columns]
        total.addmm_(block, right[:, columns].double().T)
    return total


def losses_at(
    view: ModelView, leaves: Sequence[Tensor], loss: Callable, batches: Sequence[object]
) -> Tensor:
    """Losses of several batches at given weights, without a graph.

    Each starts from the random numbers that the gradient of a batch starts from, so a loss that
    draws some changes by the weights only.

    Args:
        view: The live weights, for the structure.
        leaves: One tensor a trainable parameter.
        loss: ``loss(model, batch) -> scalar``.
        batches: n batches.

    Returns:
        ``(n,)`` float64 on the device.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(1, 1, bias=False))
        >>> one, batch = torch.ones(1, 1), torch.ones(2, 1)
        >>> losses_at(view, [one], lambda m, x: m(x).sum(), [batch]).tolist()
        [2.0]
    """
    found = []
    for batch in batches:
        with quiet(view.seed), torch.no_grad():
            found.append(view.loss(leaves, loss, batch).double())
    return torch.stack(found)


def part_columns(
    parameters: Sequence[Tensor], parts: Mapping[str, Sequence[tuple[int, Group]]]
) -> dict[str, slice | Tensor]:
    """Where the weights of each part lie in the flat vector of all weights.

    Args:
        parameters: The trainable parameters.
        parts: Name of a part to pairs (index of a parameter, group), from `resolve_groups`.

    Returns:
        By name a slice where whole parameters follow each other, which spares a copy, else indices
        on the device; a part without a weight is left out.

    Examples:
        >>> import torch
        >>> a, b = Group("a", "."), Group("b", ".", head=(1, 3))
        >>> part_columns([torch.ones(2), torch.ones(3)], {"a": [(0, a), (1, a)], "b": [(1, b)]})
        {'a': slice(0, 5, None), 'b': tensor([3])}
    """
    offsets = np.cumsum([0, *(p.numel() for p in parameters)]).tolist()
    found: dict[str, slice | Tensor] = {}
    for name, members in parts.items():
        indices = [index for index, _ in members]
        heads = any(group.head is not None for _, group in members)
        if indices and not heads and indices == list(range(indices[0], indices[-1] + 1)):
            first, end = offsets[indices[0]], offsets[indices[-1] + 1]
            if first < end:
                found[name] = slice(first, end)
            continue
        pieces = []
        for index, group in members:
            parameter = parameters[index]
            places = torch.arange(*offsets[index : index + 2], device=parameter.device)
            pieces.append(group.take(places.view(parameter.shape)).reshape(-1))
        if sum(piece.numel() for piece in pieces):
            found[name] = torch.cat(pieces)
    return found


def step_record(
    view: ModelView,
    loss: Callable,
    taken: Sequence[BatchGradient],
    update: Sequence[Tensor],
    rates: Sequence[float],
    planned: Tensor | None,
    columns: Mapping[str, slice | Tensor] | None = None,
) -> Record:
    """Everything that the series of one step are made of, in one transfer.

    H of the step made is that of every batch in turn, so u'H_b u has the spread of the batches. The
    Hessian for update u_j is that of the next batch, j + 1, round in a ring: independent of u_j.

    Cost: a batch takes one gradient with a graph, two Hessian-vector products and one forward pass;
    together they take n copies of the weights twice, besides those of the gradients and updates.
    Parts take the products again, but no gradient and no Hessian product.

    Args:
        view: The live weights, after the step.
        loss: ``loss(model, batch) -> scalar``.
        taken: Gradients of the n probe batches at these weights.
        update: The step that was made, one tensor a parameter.
        rates: Learning rate of each parameter.
        planned: ``(n, d)`` updates that the optimizer would make with each gradient, or ``None``.
        columns: Where the weights of each part lie, from `part_columns`.

    Returns:
        The numbers; those that need ``planned`` are nan without it.
    """
    columns = columns or {}
    made = torch.cat([part.reshape(-1) for part in update]).double()
    gradients = torch.stack([torch.cat([g.reshape(-1) for g in one.gradient]) for one in taken])
    squares = torch.cat(
        [made.new_full((part.numel(),), r**2) for part, r in zip(update, rates, strict=True)]
    )
    bends, images, method = [], [], "reverse"
    for index, one in enumerate(taken):
        with quiet(view.seed):
            product = HessianProduct(view, loss, one.batch, method=method)
            image = product(made)
            local = [made[c] @ image[c] for c in columns.values()]
            bends.append(torch.stack([made @ image, *local]))
            if planned is not None:
                images.append(product(planned[index - 1]))
            method = product.method
            del product  # the graph of one batch at a time
    bent = torch.stack(bends, dim=1)
    # Batch b gave the Hessian of update b - 1: row j of what is curved is that of update j.
    curved = None if planned is None else torch.stack(images[1:] + images[:1])
    losses = torch.stack([one.loss for one in taken]).double()
    old = [now - part for now, part in zip(view.parameters, update, strict=True)]
    before = losses_at(view, old, loss, [one.batch for one in taken])
    sums = [_sums(gradients, made, bent[0], squares, planned, curved)]
    for bend, c in zip(bent[1:], columns.values(), strict=True):
        own = (None if m is None else m[:, c] for m in (planned, curved))
        sums.append(_sums(gradients[:, c], made[c], bend, squares[c], *own))
    flat = [losses, before, *(piece for one in sums for piece in one)]
    host = torch.cat([piece.reshape(-1) for piece in flat]).cpu().numpy()
    ends = np.cumsum([piece.numel() for piece in flat])[:-1]
    read = [
        numbers.reshape(piece.shape)
        for numbers, piece in zip(np.split(host, ends), flat, strict=True)
    ]
    size = len(Sums._fields)
    whole, *parts = (Sums(*read[i : i + size]) for i in range(2, len(read), size))
    return Record(whole, dict(zip(columns, parts, strict=True)), read[0], read[1], method)


def _sums(
    gradients: Tensor,
    made: Tensor,
    bends: Tensor,
    squares: Tensor,
    planned: Tensor | None,
    curved: Tensor | None,
) -> list[Tensor]:
    """The fields of `Sums` on the device, from rows ``(n, d)`` over the same weights."""
    found = [cross(gradients, made[None])[:, 0], bends, cross(gradients, gradients, squares)]
    if planned is None or curved is None:
        return found + [gradients.new_full((len(gradients),) * 2, float("nan")).double()] * 3
    pairs = ((gradients, planned), (planned, curved), (planned, planned))
    return found + [cross(left, right) for left, right in pairs]
