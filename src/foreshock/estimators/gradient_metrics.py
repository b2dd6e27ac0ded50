"""Signal and noise of the gradient in other units than those of the weights.

`weight_snr` has the ratio of every single weight; `GradientMetrics` the optimizer's metric, the
metric of the noise (diagonal and ridge, `foreshock.stats.mahalanobis`) and the quantiles over
weights. Apart from `GradientNoise`, since each metric is one more pass over n gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.estimators.gradient_metrics_products import (
    MetricGrams,
    metric_part_grams,
    sample_ratios,
)
from foreshock.probe.groups import Groups, check_groups, resolve_groups
from foreshock.probe.moment import Moment
from foreshock.stats.gram import signal_noise
from foreshock.stats.mahalanobis import snr_in_noise_metric
from foreshock.stats.weight_snr import QUANTILES, weight_snr_median
from foreshock.types import Estimate, Readings, SeriesInfo

SERIES = (
    SeriesInfo(
        "grad/snr_preconditioned",
        "signal / noise in the optimizer's metric",
        "1",
        "0 ± the degenerate band",
        layered=True,
        formula="C of P^(−1/2)·g, P the diagonal metric of the optimizer",
        oracle="grad/snr of gradients scaled by hand; equal to grad/snr under SGD",
        source="signal.md 3-4; langevin.md FAQ",
    ),
    SeriesInfo(
        "grad/snr_diagonal",
        "signal / noise summed over weights, each in its own units",
        "1",
        "0 ± band",
        layered=True,
        formula="mean over i ≠ l of (k−3)/(k−1)·Σ_j g_ij·g_lj/v_j, v from the k other batches",
        oracle="planted Σ_j μ_j²/σ_j²; the same number after a ReLU rescaling",
        source="signal.md 12, μ'Σ⁻¹μ with diagonal Σ",
    ),
    SeriesInfo(
        "grad/snr_mahalanobis",
        "signal / noise in the metric of the noise, ridge",
        "1",
        "0 ± band",
        layered=True,
        formula="μ'D^(−1/2)·(R + λ)^(−1)·D^(−1/2)·μ, λ = ridge·tr(R)/(k−1), cross-fitted",
        oracle="dense solve with planted μ; the same number after a ReLU rescaling",
        source="signal.md 12, μ'Σ⁻¹μ regularised",
    ),
    SeriesInfo(
        "grad/weight_snr_median",
        "signal / noise of the median weight",
        "1",
        "median of F(1, n−1)/n",
        layered=True,
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
#: What is also written for a part of the model.
SCALARS = tuple(info.name for info in SERIES if not info.array)


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
        groups: Parts of the model to measure beside the whole, as ``grad/snr_diagonal@part``:
            ``"layer"``, ``"block"``, a dict of name to pattern, or a list of `Group`. The diagonal
            form of parts that partition the weights sums to that of the whole; the ridge of a part
            is set by its own noise, and the quantiles are of the whole only. Costs half as much
            again for the three layers of that MLP.

    Raises:
        ValueError: If ``ridge`` is not positive or ``groups`` cannot be used.

    Examples:
        >>> GradientMetrics().name
        'gradient_metrics'
    """

    ridge: float = 1.0
    stride: int = 0
    groups: Groups = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", check_groups(self.groups, "GradientMetrics"))
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
        parts = resolve_groups(self.groups, moment.view)
        if n < 3:
            few = Estimate.missing(f"Signal and noise need at least 3 batches. Got {n}.", n=n)
            tails = ["", *(f"@{part}" for part in parts)]
            return state, Readings({f"{name}{tail}": few for tail in tails for name in SCALARS})
        metric, lack = None, "The optimizer of this run is not known."
        if moment.optimizer is not None:
            metric, lack = moment.optimizer.preconditioner()
        found = metric_part_grams([one.gradient for one in taken], metric, parts)
        pieces = [piece for one in found if one.sample.numel() for piece in _pieces(one)]
        host = torch.cat(pieces).cpu().numpy()
        read = iter(np.split(host, np.cumsum([len(piece) for piece in pieces])[:-1]))
        scalars: dict[str, Estimate] = {}
        arrays: dict[str, NDArray[np.float64]] = {}
        for part, one in zip(("", *parts), found, strict=True):
            if not one.sample.numel():
                empty = Estimate.missing(f"The group {part!r} finds no trainable parameter.")
                scalars |= {f"{name}@{part}": empty for name in SCALARS}
                continue
            own, noise, leverage, ratios = (next(read) for _ in range(4))
            noise = noise.reshape(-1, n, n)
            estimates = snr_in_noise_metric(noise, leverage, ridge=self.ridge)
            estimates["grad/snr_preconditioned"] = (
                Estimate.missing(lack, n=n)
                if metric is None
                else signal_noise(own.reshape(n, n))["grad/snr"]
            )
            estimates["grad/weight_snr_median"] = _median(ratios, n)
            tail = f"@{part}" if part else ""
            scalars |= {f"{name}{tail}": estimate for name, estimate in estimates.items()}
            if not part and not math.isnan(estimates["grad/weight_snr_median"].value):
                arrays["grad/weight_snr_quantiles"] = ratios[: len(QUANTILES)].copy()
        return state, Readings(scalars, arrays)


def _pieces(grams: MetricGrams) -> list[Tensor]:
    """What goes to the host of one part, as vectors."""
    pieces = (grams.preconditioned, grams.noise, grams.leverage, sample_ratios(grams.sample))
    return [piece.reshape(-1) for piece in pieces]


def _median(ratios: NDArray[np.float64], n: int) -> Estimate:
    """The median over weights, from `sample_ratios` on the host."""
    five = len(QUANTILES)
    return weight_snr_median(
        float(ratios[five // 2]),
        ratios[five + 1 : five + 1 + n],
        ratios[five + 1 + n :].reshape(n, n),
        int(ratios[five]),
    )
