"""What signal to noise in several metrics is made of: one pass over n gradients, on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from foreshock.estimators.gradient_noise import CHUNK
from foreshock.probe.groups import Group
from foreshock.stats.mahalanobis import LEAST, metric_folds
from foreshock.stats.weight_snr import QUANTILES

#: Weights that the quantiles are taken over, evenly spaced: a level is then right to .004 (1 sd).
SAMPLE = 1 << 14

#: A variance below this share of the mean square is rounding: deviations of float64 numbers are
#: right to 1e-16 of the mean, squares of them to 1e-32; of those that cancel again, 1e-24 is left.
ROUNDING = 1e-24


class MetricGrams(NamedTuple):
    """Products of n gradients in several metrics, on the device.

    Args:
        preconditioned: (n, n) in the optimizer's metric; zeros without one.
        noise: (folds, n, n) in the variance of the batches outside each fold; none for few batches.
        leverage: (n,) as `snr_in_noise_metric` takes it.
        sample: (n, c) gradients of evenly spaced weights.
    """

    preconditioned: Tensor
    noise: Tensor
    leverage: Tensor
    sample: Tensor


def metric_grams(
    gradients: Sequence[Sequence[Tensor]], preconditioner: Sequence[Tensor] | None
) -> MetricGrams:
    """One pass over n gradients for all metrics, in float64.

    Args:
        gradients: n gradients, each one tensor a parameter, on one device.
        preconditioner: The diagonal P, one tensor a parameter. A weight with P = 0, which never
            had a gradient, is left out.

    Returns:
        The products. Extra memory: n copies of the largest parameter.

    Examples:
        >>> g = [[torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 2.0])]]
        >>> metric_grams(g, [torch.tensor([1.0, 4.0])]).preconditioned.tolist()
        [[1.0, 1.0], [1.0, 2.0]]
    """
    return metric_part_grams(gradients, preconditioner, {})[0]


def metric_part_grams(
    gradients: Sequence[Sequence[Tensor]],
    preconditioner: Sequence[Tensor] | None,
    parts: Mapping[str, Sequence[tuple[int, Group]]],
) -> list[MetricGrams]:
    """The same for the whole gradient and for parts of it.

    All but the samples are sums over weights, so they are taken a parameter at a time and added up
    over all and over those of a part; only heads, which cut a parameter, need sums of their own.

    Args:
        gradients: n gradients, each one tensor a parameter, on one device.
        preconditioner: The diagonal P, one tensor a parameter, or ``None``.
        parts: Name of a part to pairs (index of a parameter, group), from `resolve_groups`.

    Returns:
        The products of the whole, then those of the parts in their order. A part without a weight
        has zeros, and a sample of no columns.

    Examples:
        >>> g = [[torch.tensor([1.0]), torch.tensor([2.0])], [torch.ones(1), torch.ones(1)]]
        >>> _, part = metric_part_grams(g, [torch.ones(1)] * 2, {"a": [(1, Group("a", "."))]})
        >>> part.preconditioned.tolist(), part.sample.tolist()
        ([[4.0, 2.0], [2.0, 1.0]], [[2.0], [1.0]])
    """
    n, device = len(gradients), gradients[0][0].device
    folds = metric_folds(n) if n >= LEAST else []
    # Row f marks the batches outside fold f: sums over them are one small product.
    outside = torch.ones(len(folds), n, dtype=torch.float64, device=device)
    for row, fold in zip(outside, folds, strict=True):
        row[fold.tolist()] = 0.0

    def sums(index: int, group: Group | None) -> Tensor:
        take = (lambda tensor: tensor) if group is None else group.take
        rows = torch.stack([take(g[index]).reshape(-1) for g in gradients])
        metric = None if preconditioner is None else take(preconditioner[index]).reshape(-1)
        return _metric_sums(rows, metric, outside)

    every = [sums(index, None) for index in range(len(gradients[0]))]
    found = [_metric_grams(torch.stack(every).sum(0), n, _sample(gradients))]
    for members in parts.values():
        total = torch.zeros_like(every[0])
        for index, group in members:
            total += every[index] if group.head is None else sums(index, group)
        sliced = [[group.take(g[index]) for index, group in members] for g in gradients]
        found.append(_metric_grams(total, n, _sample(sliced)))
    return found


def _metric_sums(rows: Tensor, metric: Tensor | None, outside: Tensor) -> Tensor:
    """The sums of `MetricGrams` over the weights of one parameter, as one vector.

    Args:
        rows: ``(n, d)`` gradients.
        metric: ``(d,)`` diagonal of the optimizer's metric, or ``None``.
        outside: ``(folds, n)`` 1 for the batches outside each fold.

    Returns:
        ``((1 + folds) n² + n,)`` float64.
    """
    n, folds = len(rows), len(outside)
    count = outside.sum(1, keepdim=True)
    total = torch.zeros((1 + folds) * n * n + n, dtype=torch.float64, device=rows.device)
    products, leverage = total[:-n].view(1 + folds, n, n), total[-n:]
    preconditioned, noise = products[0], products[1:]
    weights = None if metric is None else torch.where(metric > 0, metric.rsqrt(), 0.0)
    for start in range(0, rows.shape[1], CHUNK):
        columns = slice(start, start + CHUNK)
        block = rows[:, columns].double()
        if weights is not None:
            scaled = block * weights[columns]
            preconditioned.addmm_(scaled, scaled.T)
        if not folds:
            continue
        mean = block.mean(0)
        deviation = block - mean
        squares = deviation.square()
        # From deviations, not from values, so that little cancels.
        variance = (outside @ squares - (outside @ deviation).square() / count) / (count - 1)
        every = squares.sum(0) / (n - 1)
        least = ROUNDING * (every + mean.square())
        inverse = torch.where(variance > least, 1 / variance, 0.0)  # (folds, c)
        scaled = (inverse[:, None] * block).reshape(-1, block.shape[1])
        noise.view(-1, n).addmm_(scaled, block.T)
        inverse = torch.where(every > least, 1 / every, 0.0)
        own = ((n - 3) / (n - 1)) * mean.square() * inverse - 1 / n
        leverage += squares @ (own * inverse)
    return total


def _metric_grams(total: Tensor, n: int, sample: Tensor) -> MetricGrams:
    products = total[:-n].view(-1, n, n)
    return MetricGrams(products[0], products[1:], total[-n:], sample)


def _sample(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Gradients of evenly spaced weights, ``(n, c)`` in float64."""
    stride = math.ceil(sum(g.numel() for g in gradients[0]) / SAMPLE)
    sample, first = [], 0
    for parts in zip(*gradients, strict=True):
        if not parts[0].numel():
            continue
        chosen = [part.reshape(-1)[first::stride] for part in parts]
        sample.append(torch.stack(chosen).double())
        first = (first - parts[0].numel()) % stride
    return torch.cat(sample, dim=1) if sample else torch.zeros(len(gradients), 0)


def sample_ratios(sample: Tensor) -> Tensor:
    """What the quantiles over weights need, as one vector for the host.

    Args:
        sample: (n, c) gradients of c weights in float64.

    Returns:
        The five quantiles of m²/v over weights that any batch moves, their number, the medians
        without each batch (n), and the (n, n) Gram matrix of the standardised gradients.

    Examples:
        >>> sample_ratios(torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64))[:6].tolist()
        [4.0, 4.0, 4.0, 4.0, 4.0, 1.0]
    """
    n = len(sample)
    mean = sample.mean(0)
    deviation = sample - mean
    squares = deviation.square()
    variance = squares.sum(0) / (n - 1)
    ratio = mean.square() / variance
    count = (~ratio.isnan()).sum().double()
    levels = torch.tensor(QUANTILES, dtype=torch.float64, device=sample.device)
    quantiles = torch.nanquantile(ratio, levels)
    mean_without = mean - deviation / (n - 1)
    variance_without = ((n - 1) * variance - squares * (n / (n - 1))) / (n - 2)
    # Where one batch alone moves a weight, the rest has 0/0, not a ratio of roundings.
    rounding = 64 * torch.finfo(torch.float64).eps * variance
    ratio_without = mean_without.square() / variance_without
    ratio_without[variance_without <= rounding] = math.nan
    medians = ratio_without.nanmedian(dim=1).values
    standard = torch.where(variance > 0, deviation / variance.sqrt(), 0.0)
    gram = standard @ standard.T
    return torch.cat([quantiles, count[None], medians, gram.reshape(-1)])
