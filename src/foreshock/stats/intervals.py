"""Intervals shared by several estimators: exact binomial, ratio of two estimates, jackknife.

Only `numpy` is imported with the module. Quantiles come from `scipy.special`, imported where it is
used; `scipy.stats` would cost half a second at the first measurement.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Two-sided 95 % quantile of the standard normal law.
Z95 = 1.959963984540054


def t_quantile(df: float, level: float = 0.95) -> float:
    r"""Two-sided quantile of Student's t law: P(\|t\| <= q) = `level`.

    Args:
        df: Degrees of freedom, > 0.
        level: Probability between the two quantiles.

    Returns:
        The positive quantile.

    Raises:
        ValueError: If `df` is not positive.

    Examples:
        >>> round(t_quantile(7), 3)
        2.365
    """
    from scipy.special import stdtrit

    if not df > 0:
        raise ValueError(f"The `df` of `t_quantile` must be positive. Got {df}.")
    return float(stdtrit(df, 0.5 + level / 2))


def clopper_pearson(successes: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval for a share of independent trials.

    Covers at least `level` for every true share (it is conservative: the discreteness of the
    binomial is paid in width). Dependent trials void the guarantee.

    Args:
        successes: Number of successes, 0 to `trials`.
        trials: Number of trials, at least 1.
        level: Coverage.

    Returns:
        `(low, high)`, inside [0, 1].

    Raises:
        ValueError: If `successes` does not lie between 0 and `trials`, or `trials` < 1.

    References:
        Clopper & Pearson, Biometrika 26 (1934) 404.

    Examples:
        With no success in n trials the upper end is 1 - 0.025^(1/n).

        >>> low, high = clopper_pearson(0, 10)
        >>> low, bool(np.isclose(high, 1 - 0.025**0.1))
        (0.0, True)
    """
    from scipy.special import betaincinv

    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            "The `successes` of `clopper_pearson` must lie between 0 and `trials` >= 1. "
            f"Got {successes} of {trials}."
        )
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = (
        1.0
        if successes == trials
        else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    )
    return low, high


def fieller(
    numerator: float,
    denominator: float,
    variance_numerator: float,
    variance_denominator: float,
    covariance: float,
    quantile: float = Z95,
) -> tuple[tuple[float, float], ...]:
    """The set of ratios r = E a / E b that two correlated estimates a, b do not reject.

    All r with (a - r b)^2 <= q^2 (Var a - 2 r Cov(a, b) + r^2 Var b). The set is an interval where
    b differs from 0 significantly. Otherwise it runs through infinity: the complement of an
    interval, or the whole line. It is returned as it is, as disjoint pieces; nothing is clipped.

    Args:
        numerator: Estimate a.
        denominator: Estimate b.
        variance_numerator: Var a, >= 0.
        variance_denominator: Var b, >= 0.
        covariance: Cov(a, b).
        quantile: q: normal or Student quantile of the two-sided level.

    Returns:
        One or two pieces `(low, high)` in ascending order, with infinite ends where unbounded.

    Raises:
        ValueError: If a variance is negative.

    References:
        Fieller, J. R. Stat. Soc. B 16 (1954) 175.

    Examples:
        Bounded, complement of an interval, whole line:

        >>> [tuple(round(end, 2) for end in p) for p in fieller(2.0, 1.0, 0.01, 0.01, 0.0)]
        [(1.63, 2.53)]
        >>> [tuple(round(end, 2) for end in p) for p in fieller(3.0, 0.5, 0.01, 0.1, 0.0)]
        [(-inf, -25.03), (2.67, inf)]
        >>> fieller(0.0, 0.0, 1.0, 1.0, 0.0)
        ((-inf, inf),)
    """
    if variance_numerator < 0 or variance_denominator < 0:
        raise ValueError(
            "The variances of `fieller` must not be negative. "
            f"Got {variance_numerator} and {variance_denominator}."
        )
    square = quantile * quantile
    # a2 r^2 - 2 a1 r + a0 <= 0
    a2 = denominator**2 - square * variance_denominator
    a1 = numerator * denominator - square * covariance
    a0 = numerator**2 - square * variance_numerator
    discriminant = a1 * a1 - a2 * a0
    if a2 > 0:
        root = math.sqrt(max(discriminant, 0.0))  # not negative but for rounding: r = a/b solves it
        return (((a1 - root) / a2, (a1 + root) / a2),)
    if a2 == 0:
        if a1 == 0:
            return ((-math.inf, math.inf),)
        bound = a0 / (2 * a1)
        return ((bound, math.inf),) if a1 > 0 else ((-math.inf, bound),)
    if discriminant <= 0:
        return ((-math.inf, math.inf),)
    root = math.sqrt(discriminant)
    return ((-math.inf, (a1 + root) / a2), ((a1 - root) / a2, math.inf))


def jackknife_se(leave_one_out: ArrayLike) -> Array:
    """Standard error from delete-one (or delete-a-group) values of a statistic.

    SE^2 = (n-1)/n * sum_i (T_(-i) - mean)^2. For a mean it equals s/sqrt(n) exactly; for a smooth
    function of means it is right to first order and free of any law. For a *degenerate* statistic
    (a quadratic form of a mean that is 0) its square is too large by a factor of about 2.

    Args:
        leave_one_out: (..., n) The statistic without item i, or without group i.

    Returns:
        (...) Standard errors.

    Raises:
        ValueError: If there are fewer than 2 values.

    References:
        Efron & Stein, Ann. Stat. 9 (1981) 586.

    Examples:
        >>> x = np.array([1.0, 2.0, 4.0, 8.0])
        >>> means = (x.sum() - x) / 3
        >>> bool(np.isclose(jackknife_se(means), x.std(ddof=1) / 2))
        True
    """
    values = np.asarray(leave_one_out, dtype=np.float64)
    n = values.shape[-1]
    if n < 2:
        raise ValueError(f"`jackknife_se` needs at least 2 values. Got {n}.")
    deviation = values - values.mean(-1, keepdims=True)
    return np.sqrt((n - 1) / n * np.einsum("...i,...i->...", deviation, deviation))
