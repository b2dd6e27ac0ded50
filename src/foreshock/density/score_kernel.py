"""Kernel sums over particles in blocks of rows: weighted means, log sums, effective sample size.

Two matrix products per bandwidth (Gram, weighted means) and one exponential per pair; the (n, n)
matrix never exists. Rows are normalised by a softmax, so nothing under- or overflows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.density.score_gaussian import Gaussian

#: Dimensions up to which matrix products write their result by columns.
FEW_COLUMNS = 16


@dataclass(frozen=True)
class KernelSums:
    """Sums over centres c_j with weights w_j = K_h(q - c_j) / sum, at every query q.

    Args:
        mean: (m, d) sum_j w_j c_j.
        square: (m,) sum_j w_j c_j' M c_j.
        log_sum: (m,) log sum_j exp(-|q - c_j|^2 / 2 h^2), without any constant; nan unless asked.
        ess: (m,) 1 / sum_j w_j^2, the number of centres that matter.
    """

    mean: Tensor
    square: Tensor
    log_sum: Tensor
    ess: Tensor


def kernel_sums(
    queries: Tensor,
    centres: Tensor,
    bandwidth: float,
    *,
    leave_out: bool = False,
    metric: Tensor | None = None,
    norms: Tensor | None = None,
    logs: bool = False,
    block: int = 256,
) -> KernelSums:
    """Weighted sums under a Gaussian kernel.

    Cost 4 m n d multiply-adds' flops and m n exponentials; memory block * n numbers.

    Args:
        queries: (m, d) Where.
        centres: (n, d) Of what; centred near 0, since distances come from a Gram matrix.
        bandwidth: h.
        leave_out: Whether query i is centre i, which then does not count for itself.
        metric: (d, d) M of `KernelSums.square`; the identity if None.
        norms: (n,) |c_j|^2, where known.
        logs: Whether `log_sum` is wanted; one more exponential per pair.
        block: Rows at a time.

    Returns:
        The sums.

    Examples:
        >>> points = torch.tensor([[0.0], [1.0]])
        >>> kernel_sums(points, points, 0.5, leave_out=True).mean.tolist()
        [[1.0], [0.0]]
    """
    m, n = len(queries), len(centres)
    precision = bandwidth**-2
    norms = centres.square().sum(1) if norms is None else norms
    weighted = norms if metric is None else ((centres @ metric) * centres).sum(1)
    offset = -0.5 * precision * norms
    buffer = centres.new_empty(min(block, m), n)
    # Few columns by columns: the product then takes a third of the time, as one of few rows.
    d = centres.shape[1]
    means = centres.new_empty(d, m).T if d <= FEW_COLUMNS else centres.new_empty(m, d)
    squares, ess = centres.new_empty(m), centres.new_empty(m)
    log_sum = centres.new_full((m,), torch.nan)
    for start in range(0, m, block):
        rows = queries[start : start + block]
        here = slice(start, start + len(rows))
        weights = buffer[: len(rows)]
        # |q|^2 is the same for a whole row: it cancels in the weights.
        torch.addmm(offset, rows, centres.T, alpha=precision, out=weights)
        if leave_out:
            weights.diagonal(start).fill_(-torch.inf)
        if logs:
            shift = 0.5 * precision * rows.square().sum(1)
            log_sum[here] = torch.logsumexp(weights, 1) - shift
        # One pass that keeps each row in cache: a fifth of all time less than max, exp and sum.
        torch.softmax(weights, 1, out=weights)
        torch.mm(weights, centres, out=means[here])
        torch.mv(weights, weighted, out=squares[here])
        torch.linalg.vector_norm(weights, dim=1, out=ess[here])
    return KernelSums(means, squares, log_sum, ess.pow_(-2))


def kernel_score(
    queries: Tensor, sums: KernelSums, bandwidth: float, metric: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Score of the kernel density, (E_w c - q)/h^2, and tr(M grad s) at the queries.

    tr(M grad s) = -tr(M)/h^2 + (E_w[c' M c] - (E_w c)' M (E_w c))/h^4.

    Args:
        queries: (m, d) Where.
        sums: Its `kernel_sums`, with the same `metric`.
        bandwidth: h.
        metric: (d, d) M; the identity if None.

    Returns:
        Score (m, d) and its divergence (m,).

    Examples:
        One centre is a Gaussian of variance h^2:

        >>> q, centre = torch.tensor([[1.0]]), torch.tensor([[0.0]])
        >>> kernel_score(q, kernel_sums(q, centre, 0.5), 0.5)
        (tensor([[-4.]]), tensor([-4.]))
    """
    score = (sums.mean - queries).div_(bandwidth**2)
    return score, kernel_divergence(sums, bandwidth, metric)


def kernel_divergence(sums: KernelSums, bandwidth: float, metric: Tensor | None = None) -> Tensor:
    """(m,) tr(M grad s) of `kernel_score`, by itself."""
    mean = sums.mean
    trace = mean.shape[1] if metric is None else float(metric.trace())
    spread = sums.square - ((mean if metric is None else mean @ metric) * mean).sum(1)
    return spread.div_(bandwidth**4).sub_(trace / bandwidth**2)


def reference_bandwidth(n: int, d: int) -> float:
    """Bandwidth for the gradient of a density, in units of its standard deviation.

    (4/((d+4) n))^(1/(d+6)): best for a Gaussian; wider than for the density, n^(-1/(d+4)).

    Args:
        n: Particles.
        d: Dimension.

    Returns:
        h.

    References:
        Chacon, Duong & Wand, Statistica Sinica 21 (2011) 807.

    Examples:
        >>> round(reference_bandwidth(2048, 2), 3)
        0.366
    """
    return (4 / ((d + 4) * n)) ** (1 / (d + 6))


@dataclass(frozen=True)
class KernelModel:
    """Score -linear y + weight s_kde(y) in whitened coordinates y: Gaussian, residual or KDE.

    Args:
        gaussian: The whitening.
        centres: (n, d) Whitened particles.
        linear: Weight of the Gaussian pull.
        bandwidth: h.
        weight: Weight of the kernel score; 0 for a Gaussian.
        block: Rows of the kernel matrix at a time.
    """

    gaussian: Gaussian
    centres: Tensor
    linear: float
    bandwidth: float
    weight: float
    block: int

    def _kernel(self, y: Tensor, metric: Tensor | None) -> tuple[Tensor, Tensor]:
        sums = kernel_sums(y, self.centres, self.bandwidth, metric=metric, block=self.block)
        return kernel_score(y, sums, self.bandwidth, metric)

    def score(self, points: Tensor) -> Tensor:
        """(m, d) grad log density."""
        y = self.gaussian.whiten(points)
        score = -self.linear * y
        if self.weight:
            score = score + self.weight * self._kernel(y, None)[0]
        return self.gaussian.colour(score)

    def divergence(self, points: Tensor, metric: Tensor) -> Tensor:
        """(m,) tr(M grad s)."""
        whitening = self.gaussian.whitening
        inner = whitening @ metric @ whitening.T
        result = points.new_full((len(points),), -self.linear * float(inner.trace()))
        if self.weight:
            y = self.gaussian.whiten(points)
            result += self.weight * self._kernel(y, inner)[1]
        return result

    def log_density(self, points: Tensor) -> Tensor | None:
        """(m,) log density, or None for a Gaussian with a kernel residual: it has no constant."""
        y = self.gaussian.whiten(points)
        n, d = self.centres.shape
        if self.weight and self.linear:
            return None
        if not self.weight:
            # `linear` is the Hartlap factor: the density of the score that is used.
            constant = self.gaussian.log_det - 0.5 * d * math.log(2 * math.pi / self.linear)
            return constant - 0.5 * self.linear * y.square().sum(1)
        sums = kernel_sums(y, self.centres, self.bandwidth, logs=True, block=self.block)
        constant = d * math.log(self.bandwidth) + 0.5 * d * math.log(2 * math.pi) + math.log(n)
        return self.gaussian.log_det - constant + sums.log_sum
