"""Means and shares of independent samples, with their textbook intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foreshock.stats.intervals import clopper_pearson, t_quantile
from foreshock.types import Estimate, Flag


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean of independent values with Student's t interval.

    Unbiased; the interval is exact for Gaussian values and asymptotic otherwise.

    Args:
        values: ``(n,)``.

    Returns:
        The mean; flagged where n is 1 or a value is not finite.

    Examples:
        >>> e = mean_interval([1.0, 2.0, 3.0])
        >>> round(e.low, 2), e.value, round(e.high, 2)
        (-0.48, 2.0, 4.48)
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n == 0 or not np.isfinite(x).all():
        return Estimate.missing("A value is nan or infinite." if n else "There is no value.", n=n)
    mean = float(x.mean())
    if n == 1:
        sentence = "One value has no spread to judge it by."
        return Estimate(mean, -math.inf, math.inf, n=1, flags=Flag.UNRESOLVED, reason=sentence)
    half = t_quantile(n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n=n)


def proportion(successes: int, trials: int) -> Estimate:
    """Share of successes with the Clopper-Pearson interval, which never covers less than 95 %.

    Args:
        successes: How many.
        trials: Of how many.

    Returns:
        The share; missing without a trial.

    Examples:
        >>> e = proportion(24, 24)
        >>> e.value, round(e.low, 3), e.high
        (1.0, 0.858, 1.0)
    """
    if trials == 0:
        return Estimate.missing("There is no trial.")
    low, high = clopper_pearson(successes, trials)
    return Estimate(successes / trials, low, high, n=trials)
