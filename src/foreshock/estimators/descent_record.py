"""What descent is made of: slopes, curvatures and losses of a step, a batch at a time, on the host.

The gradients of the probe's batches are there already, at the weights after the step; the weights
before it are only needed for the losses that were really there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foreshock.estimators.gradient_noise import CHUNK
from foreshock.estimators.hvp import HessianProduct
from foreshock.probe.moment import BatchGradient
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView


class Record(NamedTuple):
    """What one measurement brings to the host, float64.

    Args:
        slopes: ``(n,)`` g_b · u of the step made.
        bends: ``(n,)`` u'H_b u.
        after: ``(n,)`` losses of the batches after the step.
        before: ``(n,)`` losses before it.
        scaled: ``(n, n)`` products of η g_b.
        products: ``(n, n)`` g_i · u_j with the updates u_j that the optimizer would make next.
        curvatures: ``(n, n)`` u_i · H_{j+1} u_j.
        spread: ``(n, n)`` u_i · u_j.
        method: How the Hessian products were taken.
    """

    slopes: np.ndarray
    bends: np.ndarray
    after: np.ndarray
    before: np.ndarray
    scaled: np.ndarray
    products: np.ndarray
    curvatures: np.ndarray
    spread: np.ndarray
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


def step_record(
    view: ModelView,
    loss: Callable,
    taken: Sequence[BatchGradient],
    update: Sequence[Tensor],
    rates: Sequence[float],
    planned: Tensor | None,
) -> Record:
    """Everything that the series of one step are made of, in one transfer.

    H of the step made is that of every batch in turn, so u'H_b u has the spread of the batches. The
    Hessian for update u_j is that of the next batch, j + 1, round in a ring: independent of u_j.

    Cost: a batch takes one gradient with a graph, two Hessian-vector products and one forward pass;
    together they take n copies of the weights twice, besides those of the gradients and updates.

    Args:
        view: The live weights, after the step.
        loss: ``loss(model, batch) -> scalar``.
        taken: Gradients of the n probe batches at these weights.
        update: The step that was made, one tensor a parameter.
        rates: Learning rate of each parameter.
        planned: ``(n, d)`` updates that the optimizer would make with each gradient, or ``None``.

    Returns:
        The numbers; those that need ``planned`` are nan without it.
    """
    n = len(taken)
    made = torch.cat([part.reshape(-1) for part in update]).double()
    gradients = torch.stack([torch.cat([g.reshape(-1) for g in one.gradient]) for one in taken])
    squares = torch.cat(
        [made.new_full((part.numel(),), r**2) for part, r in zip(update, rates, strict=True)]
    )
    bends, images, method = [], [], "reverse"
    for index, one in enumerate(taken):
        with quiet(view.seed):
            product = HessianProduct(view, loss, one.batch, method=method)
            bends.append(made @ product(made))
            if planned is not None:
                images.append(product(planned[index - 1]))
            method = product.method
            del product  # the graph of one batch at a time
    old = [now - part for now, part in zip(view.parameters, update, strict=True)]
    nothing = made.new_full((n, n), float("nan"))
    parts = [
        cross(gradients, made[None])[:, 0],
        torch.stack(bends),
        torch.stack([one.loss for one in taken]).double(),
        losses_at(view, old, loss, [one.batch for one in taken]),
        cross(gradients, gradients, squares),
        nothing if planned is None else cross(gradients, planned),
        # Batch b gave the Hessian of update b - 1: column j is the image on batch j + 1.
        nothing if planned is None else cross(planned, torch.stack(images)).roll(-1, dims=1),
        nothing if planned is None else cross(planned, planned),
    ]
    host = torch.cat([part.reshape(-1) for part in parts]).cpu().numpy()
    found: list[np.ndarray] = []
    start = 0
    for part in parts:
        found.append(host[start : start + part.numel()].reshape(part.shape))
        start += part.numel()
    return Record(*found, method=method)
