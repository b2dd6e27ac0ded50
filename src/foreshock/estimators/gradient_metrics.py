"""Signal and noise of the gradient in other units than those of the weights.

`weight_snr` has the ratio of every single weight; `GradientMetrics` the optimizer's metric, the
metric of the noise (diagonal and ridge, `foreshock.stats.mahalanobis`) and the quantiles over
weights. Apart from `GradientNoise`, since each metric is one more pass over n gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.estimators.gradient_noise import CHUNK
from foreshock.probe.moment import Moment
from foreshock.stats.gram import signal_noise
from foreshock.stats.mahalanobis import LEAST, metric_folds, snr_in_noise_metric
from foreshock.stats.weight_snr import QUANTILES, weight_snr_median
from foreshock.types import Estimate, Readings, SeriesInfo

#: Weights that the quantiles are taken over, evenly spaced: a level is then right to .004 (1 sd).
SAMPLE = 1 << 14

#: A variance below this share of the mean square is rounding: deviations of float64 numbers are
#: right to 1e-16 of the mean, squares of them to 1e-32; of those that cancel again, 1e-24 is left.
ROUNDING = 1e-24

SERIES = (
    SeriesInfo(
        "grad/snr_preconditioned",
        "signal / noise in the optimizer's metric",
        "1",
        "0 ± the degenerate band",
        formula="C of P^(−1/2)·g, P the diagonal metric of the optimizer",
        oracle="grad/snr of gradients scaled by hand; equal to grad/snr under SGD",
        source="signal.md 3-4; langevin.md FAQ",
    ),
    SeriesInfo(
        "grad/snr_diagonal",
        "signal / noise summed over weights, each in its own units",
        "1",
        "0 ± band",
        formula="mean over i ≠ l of (k−3)/(k−1)·Σ_j g_ij·g_lj/v_j, v from the k other batches",
        oracle="planted Σ_j μ_j²/σ_j²; the same number after a ReLU rescaling",
        source="signal.md 12, μ'Σ⁻¹μ with diagonal Σ",
    ),
    SeriesInfo(
        "grad/snr_mahalanobis",
        "signal / noise in the metric of the noise, ridge",
        "1",
        "0 ± band",
        formula="μ'D^(−1/2)·(R + λ)^(−1)·D^(−1/2)·μ, λ = ridge·tr(R)/(k−1), cross-fitted",
        oracle="dense solve with planted μ; the same number after a ReLU rescaling",
        source="signal.md 12, μ'Σ⁻¹μ regularised",
    ),
    SeriesInfo(
        "grad/weight_snr_median",
        "signal / noise of the median weight",
        "1",
        "median of F(1, n−1)/n",
        formula="median over weights of m_j²/v_j",
        oracle="the F law at mean 0",
        source="signal.md 12, per-weight signal to noise",
    ),
    SeriesInfo(
        "grad/weight_snr_quantiles",
        "signal / noise of weights: 5, 25, 50, 75, 95 %",
        "1",
        "quantiles of F(1, n−1)/n",
        array=True,
        formula="quantiles over weights of m_j²/v_j",
        oracle="numpy's quantiles; the F law at mean 0",
        source="signal.md 12, per-weight signal to noise",
    ),
)


def weight_snr(gradients: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Signal to noise of every weight: squared mean over variance of n batch gradients.

    At mean 0 and Gaussian noise n times the ratio follows F(1, n-1), so its mean there is
    (n-1)/(n(n-3)), not 0. Weights with the lowest ratio are those whose batches disagree most,
    which is what pruning by signal to noise sorts by. A weight that no batch moves (0/0) has nan;
    one that all move alike has inf.

    Args:
        gradients: n >= 2 gradients, each one tensor a parameter.

    Returns:
        One float64 tensor of the parameter's shape a parameter.

    Raises:
        ValueError: If there are fewer than 2 gradients.

    Examples:
        >>> weight_snr([[torch.tensor([1.0, 0.0])], [torch.tensor([3.0, 0.0])]])[0].tolist()
        [2.0, nan]
    """
    if len(gradients) < 2:
        raise ValueError(f"`weight_snr` needs at least 2 gradients. Got {len(gradients)}.")
    found = []
    for parts in zip(*gradients, strict=True):
        rows = torch.stack(parts).double()
        mean = rows.mean(0)
        # Not `var`, which takes several times as long along the first dimension.
        variance = (rows - mean).square().sum(0) / (len(rows) - 1)
        found.append(mean.square() / variance)
    return tuple(found)


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
    n, device = len(gradients), gradients[0][0].device
    folds = metric_folds(n) if n >= LEAST else []
    # Row f marks the batches outside fold f: sums over them are one small product.
    outside = torch.ones(len(folds), n, dtype=torch.float64, device=device)
    for row, fold in zip(outside, folds, strict=True):
        row[fold.tolist()] = 0.0
    count = outside.sum(1, keepdim=True)
    zeros = torch.zeros(len(folds) + 1, n, n, dtype=torch.float64, device=device)
    preconditioned, noise = zeros[0], zeros[1:]
    leverage = torch.zeros(n, dtype=torch.float64, device=device)
    stride = math.ceil(sum(g.numel() for g in gradients[0]) / SAMPLE)
    sample, first = [], 0
    for index, parts in enumerate(zip(*gradients, strict=True)):
        rows = torch.stack([part.reshape(-1) for part in parts])
        sample.append(rows[:, first::stride].double())
        first = (first - rows.shape[1]) % stride
        weights = None
        if preconditioner is not None:
            metric = preconditioner[index].reshape(-1)
            weights = torch.where(metric > 0, metric.rsqrt(), 0.0)
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
    return MetricGrams(preconditioned, noise, leverage, torch.cat(sample, dim=1))


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


@dataclass(frozen=True)
class GradientMetrics:
    """Signal to noise of the gradient in the metrics of the optimizer, of the noise, and by weight.

    C = |μ|²/Tr Σ adds up weights of different units: rescale a ReLU layer by a and the next by 1/a,
    and the function stays, but C does not. Here each weight counts in units of its own noise
    (``grad/snr_diagonal``, ``grad/snr_mahalanobis``, ``grad/weight_snr_*``: unchanged by any
    rescaling of single weights), or in the units of the optimizer (``grad/snr_preconditioned``).
    The first two are cross-fitted and need 7 batches; they are sums over weights, so they grow with
    the model, and ``grad/snr_mahalanobis`` also with n (its ridge does): compare at equal n.

    Bias: at zero mean none, under any law. ``snr_diagonal`` is unbiased under Gaussian noise of a
    batch gradient and reads high where gradients have rare long ones (radial t4: 1.5 times the
    truth at n = 8, 1.27 times at n = 20). ``weight_snr_median`` is what n batches show, noise
    included: compare with its null.

    Cost: the gradients of the probe's batches are shared with `GradientNoise`; on top come five
    products of n x n over all weights, 7 to 9 training steps of an MLP of 235,000 weights (batch
    256, n = 8, one thread).

    Args:
        ridge: λ of ``grad/snr_mahalanobis`` in units of the mean of the eigenvalues of the noise
            that the batches can see.

    Raises:
        ValueError: If ``ridge`` is not positive.

    Examples:
        >>> GradientMetrics().name
        'gradient_metrics'
    """

    ridge: float = 1.0
    stride: int = 0

    def __post_init__(self) -> None:
        if not (self.ridge > 0 and math.isfinite(self.ridge)):
            raise ValueError(
                f"The `ridge` of `GradientMetrics` must be positive. Got {self.ridge}."
            )

    @property
    def name(self) -> str:
        """Family name."""
        return "gradient_metrics"

    @property
    def needs(self) -> frozenset[str]:
        """The probe."""
        return frozenset({"probe"})

    @property
    def price(self) -> float:
        """A backward pass a batch, if nobody else has taken them, and the products."""
        return 16.0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return SERIES

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        taken = moment.batch_gradients
        n = len(taken)
        if n < 3:
            sentence = f"Signal and noise need at least 3 batches. Got {n}."
            names = [s.name for s in SERIES if not s.array]
            return state, Readings(dict.fromkeys(names, Estimate.missing(sentence, n=n)))
        metric, lack = None, "The optimizer of this run is not known."
        if moment.optimizer is not None:
            metric, lack = moment.optimizer.preconditioner()
        grams = metric_grams([one.gradient for one in taken], metric)
        pieces = (grams.preconditioned, grams.noise, grams.leverage, sample_ratios(grams.sample))
        record = torch.cat([piece.reshape(-1) for piece in pieces]).cpu().numpy()
        ends = np.cumsum([piece.numel() for piece in pieces])[:-1]
        own, noise, leverage, ratios = np.split(record, ends)
        scalars: dict[str, Estimate] = {}
        if metric is None:
            scalars["grad/snr_preconditioned"] = Estimate.missing(lack, n=n)
        else:
            scalars["grad/snr_preconditioned"] = signal_noise(own.reshape(n, n))["grad/snr"]
        scalars |= snr_in_noise_metric(noise.reshape(-1, n, n), leverage, ridge=self.ridge)
        return state, _with_weights(scalars, ratios, n)


def _with_weights(scalars: dict[str, Estimate], ratios: NDArray[np.float64], n: int) -> Readings:
    """Adds the quantiles over weights, from `sample_ratios` on the host."""
    five = len(QUANTILES)
    median = weight_snr_median(
        float(ratios[five // 2]),
        ratios[five + 1 : five + 1 + n],
        ratios[five + 1 + n :].reshape(n, n),
        int(ratios[five]),
    )
    scalars["grad/weight_snr_median"] = median
    arrays = {} if math.isnan(median.value) else {"grad/weight_snr_quantiles": ratios[:five].copy()}
    return Readings(scalars, arrays)
