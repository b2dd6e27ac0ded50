"""The median weight's signal to noise, judged against the F law."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foreshock.stats.gram_interval import gram_moments
from foreshock.stats.intervals import Z95, jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

#: Levels of the quantiles over weights.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def weight_snr_null(n: int, level: float) -> float:
    """Quantile of m^2/v of one weight at zero mean: F(1, n-1)/n for Gaussian gradients.

    Args:
        n: Batches.
        level: Probability below it.

    Returns:
        The quantile.

    Raises:
        ValueError: If n < 2 or the level does not lie in (0, 1).

    Examples:
        >>> round(weight_snr_null(8, 0.5), 4)
        0.0632
    """
    from scipy.special import fdtri

    if n < 2 or not 0 < level < 1:
        raise ValueError(
            "`weight_snr_null` needs n >= 2 and a `level` between 0 and 1. "
            f"Got n={n}, level={level}."
        )
    return float(fdtri(1, n - 1, level)) / n


def weight_snr_median(
    median: float, without: ArrayLike, standardised: ArrayLike, weights: int
) -> Estimate:
    r"""Median over weights of m^2/v, its interval over batches, and its band at zero mean.

    The interval is the delete-one jackknife of the logarithm, for what n batches show on average (a
    weight's own ratio mu^2/s^2 is smaller: m^2 holds s^2/n of noise). It covers 97-100 % where the
    weights' noise is independent or the mean 0, and 84-91 % where noise that all weights share
    (correlation .3) meets a mean of .3 standard deviations. The null is the median of F(1, n-1)/n,
    with levels .5 +- .98/sqrt(d_eff): d_eff = c^2/tr(R^2) of c weights counts how many are
    independent, since the indicators of two weights with correlation rho have a correlation of at
    most rho^2 or so.

    Args:
        median: Median over c weights.
        without: (n,) The median without each batch.
        standardised: (n, n) Gram matrix of the centred gradients over their standard deviations.
        weights: c, those that any batch moves.

    Returns:
        The median; missing where no weight moves or a gradient is not finite; flagged where all
        batches are alike.

    Examples:
        >>> weight_snr_median(math.nan, [1.0] * 4, np.eye(4), 0).reason
        'No batch moves any weight, or a gradient is nan.'
    """
    left = np.asarray(without, dtype=np.float64)
    gram = np.asarray(standardised, dtype=np.float64)
    n = len(left)
    if math.isnan(median) or weights < 1 or not np.isfinite(gram).all():
        return Estimate.missing("No batch moves any weight, or a gradient is nan.", n=n)
    if not (math.isfinite(median) and np.isfinite(left).all()):
        sentence = "All batches move half of the weights alike: there is no noise to compare with."
        return Estimate(median, n=n, flags=Flag.UNRESOLVED, reason=sentence)
    independent = weights / max(float(gram_moments(gram).trace_square) / weights, 1.0)
    width = Z95 / 2 / math.sqrt(max(independent, 1.0))
    null = tuple(
        weight_snr_null(n, min(max(level, 1e-6), 1 - 1e-6)) for level in (0.5 - width, 0.5 + width)
    )
    if not (median > 0 and (left > 0).all()):
        sentence = "Most weights have a mean gradient of exactly 0, which has no relative error."
        return Estimate(
            median, n=n, flags=Flag.UNRESOLVED, reason=sentence, null=(null[0], null[1])
        )
    spread = math.exp(min(t_quantile(n - 1) * float(jackknife_se(np.log(left))), 700.0))
    return Estimate(median, median / spread, median * spread, n=n, null=(null[0], null[1]))
