"""Index of a symmetric stable law from a sample: quantiles, logarithms, block sums, and scaling.

All four read *something* below 2 on laws of finite variance. Nothing is clipped: above 2 a reading
says "lighter than any stable law".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import Z95, t_quantile
from foreshock.stats.stable_fit import looks_stable
from foreshock.types import Estimate

Array = NDArray[np.float64]

#: (q95 - q05)/(q75 - q25) of the symmetric stable law at α = .30, .35, ..., 2. From quantiles by
#: root finding on Nolan's integral of the distribution function (Commun. Stat. Stoch. Models 13
#: (1997) 759), adaptive quadrature to 1e-11; exact at α = 1 (Cauchy) and 2 (normal). The tests
#: recompute entries from another library's distribution function.
QUANTILE_RATIOS = (
    *(553.00616770, 225.60487991, 115.03659553, 68.03958386, 44.63511825, 31.56556929),
    *(23.61218923, 18.43961658, 14.89376696, 12.35752234, 10.47908337, 9.04701613),
    *(7.92849245, 7.03686589, 6.31375151, 5.71867571, 5.22286890, 4.80542324),
    *(4.45085059, 4.14749390, 3.88646995, 3.66094606, 3.46562472, 3.29635185),
    *(3.14979508, 3.02317046, 2.91402916, 2.82012752, 2.73938223, 2.66988162),
    *(2.60991372, 2.55798456, 2.51281829, 2.47334225, 2.43866364),
)
SMALLEST_ALPHA = 0.3
PROBABILITIES = np.array([0.05, 0.25, 0.75, 0.95])
#: Below this the 5 % quantile lies within the smallest two samples.
SMALLEST_N = 40
#: Var log|X| of a symmetric stable law is π²/6 (1/α² + 1/2).
LOG_VARIANCE = math.pi**2 / 6


@lru_cache(maxsize=1)
def _table() -> tuple[Callable[..., Array], float, float]:
    """Spline α(log ν), and where and how steeply it ends at α = 2."""
    from scipy.interpolate import CubicSpline

    logs = np.log(QUANTILE_RATIOS[::-1])
    alphas = np.linspace(2.0, SMALLEST_ALPHA, len(logs))
    spline = CubicSpline(logs, alphas)
    return spline, float(logs[0]), float(spline(logs[0], 1))


def alpha_of_quantile_ratio(ratio: ArrayLike) -> Array:
    """α of the symmetric stable law with this (q95 - q05)/(q75 - q25).

    Below the ratio of the normal law, 2.4387, no stable law exists; α is continued above 2 as a
    straight line in the log of the ratio, so that a sample of a normal law is not cut at 2. Above
    553 (α < .3) there is no table and the result is nan.

    Args:
        ratio: Ratios, any shape.

    Returns:
        α of the same shape.

    Examples:
        >>> float(alpha_of_quantile_ratio(6.31375151).round(6))  # Cauchy
        1.0
    """
    return alpha_of_log_ratio(np.log(np.asarray(ratio, dtype=np.float64)))


def alpha_of_log_ratio(logs: Array) -> Array:
    """`alpha_of_quantile_ratio` from the logs of the ratios, which cannot overflow."""
    spline, end, slope = _table()
    inside = spline(np.clip(logs, end, math.log(QUANTILE_RATIOS[0])))
    alpha = inside + slope * np.minimum(logs - end, 0.0)
    return np.where(logs <= math.log(QUANTILE_RATIOS[0]), alpha, np.nan)


def quantile_ratio(samples: Array) -> float:
    """(q95 - q05)/(q75 - q25); infinite or nan where the quartiles coincide."""
    ends = np.quantile(samples, PROBABILITIES)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((ends[3] - ends[0]) / (ends[2] - ends[1]))


def mcculloch(samples: ArrayLike, *, null: tuple[float, float] | None = None) -> Estimate:
    r"""Index of a symmetric stable law from four quantiles (McCulloch), any location and scale.

    ν = (q95 − q05)/(q75 − q25) falls from 553 at α = .3 to 2.4387 at α = 2 and is looked up in a
    table. It reads the shape between the 5 % and 95 % quantiles, not the tail.

    **Uncertainty.** Delta method on log ν with the distances of neighbouring order statistics for
    the densities at the four quantiles, so the interval holds for the ν of *any* smooth law.

    **Bias.** For stable laws +.02 to +.08 at n = 200, below .02 at n = 1,000; standard deviation
    .11 (α = 1.2) to .27 (α = 2) at n = 200. **No test of stability**: Student-t with 3 degrees of
    freedom reads 1.5, a Gaussian with lognormal scales 1.1. See `clt_scaling`.

    **Cost.** One sort: .1 ms at n = 1,000.

    Args:
        samples: (n,) Independent samples.
        null: Band to attach.

    Returns:
        α^ with its interval, never clipped (above 2: lighter than normal). Missing below 40
        samples, where a sample is not finite, where the quartiles coincide, or where α < .3.

    References:
        McCulloch, Commun. Stat. Simul. 15 (1986) 1109.

    Examples:
        >>> cauchy = np.random.default_rng(0).standard_cauchy(2000)
        >>> found = mcculloch(cauchy)
        >>> found.low < 1 < found.high
        True
    """
    values, trouble = checked(samples, "mcculloch", SMALLEST_N)
    if trouble:
        return Estimate.missing(trouble, n=values.size)
    n = values.size
    ordered = np.sort(values)
    q = np.quantile(ordered, PROBABILITIES)
    outer, inner = q[3] - q[0], q[2] - q[1]
    if inner == 0:
        return Estimate.missing("Half of the samples are equal: the quartiles coincide.", n=n)
    # d quantile / d probability, from order statistics one standard error to either side.
    half = np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / n)
    upper = np.minimum(PROBABILITIES + half, 1)
    lower = np.maximum(PROBABILITIES - half, 0)
    slope = (np.quantile(ordered, upper) - np.quantile(ordered, lower)) / (upper - lower)
    smaller = np.minimum.outer(PROBABILITIES, PROBABILITIES)
    covariance = (smaller - np.outer(PROBABILITIES, PROBABILITIES)) * np.outer(slope, slope) / n
    weights = np.array([-1 / outer, 1 / inner, -1 / inner, 1 / outer])  # gradient of log ν
    se = math.sqrt(max(float(weights @ covariance @ weights), 0.0))
    log_ratio = math.log(outer / inner)
    alpha, low, high = (
        float(a) for a in alpha_of_log_ratio(log_ratio + Z95 * se * np.array([0.0, 1.0, -1.0]))
    )
    if math.isnan(alpha):
        return Estimate.missing(f"The quantiles belong to an index below {SMALLEST_ALPHA}.", n=n)
    return Estimate(alpha, 0.0 if math.isnan(low) else low, high, n=n, null=null)


def alpha_of_log_variance(variance: float) -> float:
    """α with Var log|X| = π²/6 (1/α² + 1/2); infinite at or below π²/12, where none exists."""
    inverse_square = variance / LOG_VARIANCE - 0.5
    return 1 / math.sqrt(inverse_square) if inverse_square > 0 else math.inf


def log_moment(samples: ArrayLike, *, null: tuple[float, float] | None = None) -> Estimate:
    r"""Index of a symmetric stable law from the variance of log|X|, X centred at 0.

    Var log|X| = π²/6 (1/α² + 1/2), whatever the scale. It weighs values near 0 as much as the tail,
    so a location that is off by more than the scale/n spoils it: centre first.

    **Uncertainty.** The interval of the variance on the log scale (delta method; the fourth moment
    of log|X| is the observed one or that of the stable law, whichever is larger), mapped to α; the
    upper end is infinite where the variance reaches π²/12. **Bias.** The variance is unbiased; α^
    is not: at α = 2 by +.23 at n = 200 (standard deviation .8) and +.05 at n = 1,000 (.24).
    **Cost.** n logarithms.

    Args:
        samples: (n,) Independent samples of a law symmetric about 0.
        null: Band to attach.

    Returns:
        α^, above 2 where the law is lighter than normal. Missing if the variance of log|X| is at or
        below π²/12, if a sample is 0 or not finite, or below 40 samples.

    References:
        Ma & Nikias, IEEE Trans. Signal Process. 43 (1995) 2669.

    Examples:
        >>> found = log_moment(np.random.default_rng(0).standard_cauchy(2000))
        >>> found.low < 1 < found.high
        True
    """
    values, trouble = checked(samples, "log_moment", SMALLEST_N, nonzero=True)
    n = values.size
    if trouble:
        return Estimate.missing(trouble, n=n)
    logs = np.log(np.abs(values))
    square = (logs - logs.mean()) ** 2
    variance = float(square.sum()) / (n - 1)
    if variance == 0:
        return Estimate.missing("All samples have the same size: there is no tail.", n=n)
    alpha = alpha_of_log_variance(variance)
    # Fourth cumulant of log|X| for the stable law of this index; the larger of the two variances,
    # since a few dozen logarithms seldom hold the value near 0 that makes the fourth moment.
    fourth = math.pi**4 * (1 / 16 + (1 / alpha**4 - 1 / 16) / 15)
    scatter = max(float(square.var(ddof=1)), fourth + 2 * variance**2)
    spread = math.exp(Z95 * math.sqrt(scatter / n) / variance)
    if math.isinf(alpha):
        return Estimate.missing(
            "The variance of log|X| lies below π²/12, less than that of any stable law.", n=n
        )
    return Estimate(
        alpha,
        alpha_of_log_variance(variance * spread),
        alpha_of_log_variance(variance / spread),
        n=n,
        null=null,
    )


def invert(inverse: float, half: float) -> tuple[float, float, float]:
    """α, low and high from 1/α ± half; the upper end is infinite where 1/α may be 0 or less."""
    alpha = 1 / inverse if inverse != 0 else math.inf
    low = 1 / (inverse + half) if inverse + half > 0 else -math.inf
    return alpha, low, 1 / (inverse - half) if inverse > half else math.inf


def block(
    samples: ArrayLike, m: int | None = None, *, null: tuple[float, float] | None = None
) -> Estimate:
    r"""Index of a symmetric stable law from sums of m: they grow like m^(1/α) (Mohammadi).

    1/α^ = (mean log|Y| − mean log|X|)/log m, with Y the sums of blocks of m consecutive samples.

    **Uncertainty.** log|Y_j| − mean of log|X| within block j is independent over blocks: Student's
    interval of their mean, exact for 1/α up to the normality of that mean. **Bias.** 1/α^ is
    unbiased for stable laws. For other laws the answer depends on m, and on the *order*: a scale
    shared within blocks reads 2 where the shuffled samples read 1.2.

    **Cost.** n logarithms.

    Args:
        samples: (n,) Independent samples of a law symmetric about 0; what exceeds a multiple of m
            is left out.
        m: Samples a block; √n if not given.
        null: Band to attach.

    Returns:
        α^, with an infinite upper end where 1/α may be 0. Missing below 40 samples or 3 blocks, if
        a sample or a sum is 0 or not finite, or if the sums are no larger than the samples.

    Raises:
        ValueError: If `samples` is not one-dimensional or `m` is less than 2.

    References:
        Mohammadi, Mohammadpour & Ogata, Metrika 78 (2015) 549, corollary 2.4; used for gradient
        noise by Simsekli et al., arXiv:1901.06053.

    Examples:
        >>> found = block(np.random.default_rng(0).standard_cauchy(2000))
        >>> found.low < 1 < found.high
        True
    """
    if m is not None and m < 2:
        raise ValueError(f"The `m` of `block` must be at least 2. Got {m}.")
    values, trouble = checked(samples, "block", SMALLEST_N, nonzero=True)
    if trouble:
        return Estimate.missing(trouble, n=values.size)
    m = m or max(2, math.isqrt(values.size))
    blocks = values.size // m
    if blocks < 3:
        return Estimate.missing(f"An interval needs 3 blocks of {m}. Got {blocks}.", n=values.size)
    parts = values[: blocks * m].reshape(blocks, m)
    sums = parts.sum(1)
    if (sums == 0).any():
        return Estimate.missing("A block sums to exactly 0.", n=values.size)
    growth = (np.log(np.abs(sums)) - np.log(np.abs(parts)).mean(1)) / math.log(m)
    inverse = float(growth.mean())
    if inverse <= 0:
        return Estimate.missing("Sums are no larger than samples: no stable law.", n=blocks)
    half = t_quantile(blocks - 1) * float(growth.std(ddof=1)) / math.sqrt(blocks)
    return Estimate(*invert(inverse, half), n=blocks, null=null)


@dataclass(frozen=True, slots=True)
class CltScaling:
    """How the index changes when samples are summed: constant for a stable law, else towards 2.

    Args:
        groups: Samples a sum.
        alphas: McCulloch's index of those sums, one a group size.
        rise: Index at the largest sums minus index at the smallest.
        finite_variance_not_rejected: False only if the samples look like a stable law with α < 2 in
            all that is tested. Neither answer is a proof: see `clt_scaling`.
    """

    groups: tuple[int, ...]
    alphas: tuple[Estimate, ...]
    rise: Estimate
    finite_variance_not_rejected: bool


def clt_scaling(samples: ArrayLike, groups: Sequence[int] = (1, 4, 16)) -> CltScaling:
    r"""Index of sums of 1, 4, 16 samples, and whether they look like a stable law with α < 2.

    Sums of a stable law are stable with the same α; sums of a law of finite variance approach the
    normal law, but as late as they please, so no finite sample refutes *every* law of finite
    variance. `finite_variance_not_rejected` is False only if (i) at the largest sums the 95 %
    interval of α lies below 2, (ii) the interval of the rise contains 0, and (iii) runs of 8
    samples have the growth and the shape of one stable law (`stable_fit`, p > .2).

    **Share of "rejected"**, in 1,000 samples of n = 1,600 (100 sums of 16), then 200 of 16,000.
    Infinite variance: stable 1.8 .03, .27; stable 1.5 .13, .76; stable 1.2 .37, .75. Finite: normal
    .002, .005; Laplace .003, 0; Student-t with 3 degrees of freedom .013, 0, with 2.1 .033, 0;
    normal times lognormal .001, 0. Normal with standard deviation 1 (probability p), else s:

        s        p = .02       .05           .10           .20           .30
        <= .01   0, 0          0, 0          0, 0          0, 0          0, 0
        .1       .036, 0       .062, 0       .016, 0       0, 0          0, 0
        .15      .018, .065    .034, 0       .018, 0       0, 0          0, 0
        .3       .005, .02     .007, .035    .011, 0       .006, 0       .003, 0

    A power law over one decade that is then cut off passes for a stable one. "Not rejected" is no
    proof of a finite variance either.

    **Cost.** One sort a group size, .4 ms at n = 1,600; 3 ms where (i) and (ii) hold.

    Args:
        samples: (n,) Independent samples; consecutive ones are summed.
        groups: Increasing numbers of samples a sum; n / max(groups) must be 40 or more.

    Returns:
        The indices, the rise (its interval treats the two ends as independent, which is wide), and
        the verdict. Missing indices (too few sums) leave finite variance not rejected.

    Raises:
        ValueError: If `groups` are not at least two increasing positive numbers.

    References:
        Feller, An Introduction to Probability Theory II, VI.1 (sums of stable laws).

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> clt_scaling(rng.standard_cauchy(4000)).finite_variance_not_rejected
        False
        >>> clt_scaling(rng.laplace(size=4000)).finite_variance_not_rejected
        True
    """
    sizes = tuple(int(g) for g in groups)
    if (
        len(sizes) < 2
        or sizes[0] < 1
        or any(b <= a for a, b in zip(sizes, sizes[1:], strict=False))
    ):
        raise ValueError(
            f"The `groups` of `clt_scaling` must be two or more increasing numbers. Got {groups}."
        )
    values, _ = checked(samples, "clt_scaling", 1)
    alphas = []
    for size in sizes:
        count = values.size // size
        alphas.append(mcculloch(values[: count * size].reshape(count, size).sum(1)))
    rise, kept = rise_and_verdict(alphas[0], alphas[-1])
    kept = kept or not looks_stable(values)
    return CltScaling(sizes, tuple(alphas), rise, kept)


def rise_and_verdict(first: Estimate, last: Estimate) -> tuple[Estimate, bool]:
    """Rise of the index from small to large sums, and whether a finite variance stands.

    Args:
        first: Index at the smallest sums.
        last: Index at the largest sums.

    Returns:
        The rise (half widths added in quadrature), and False only if `last` lies below 2 and the
        index does not rise.

    Examples:
        >>> flat = Estimate(1.5, 1.4, 1.6)
        >>> rise_and_verdict(flat, flat)[1]
        False
    """
    if not (first.resolved and last.resolved):
        return Estimate.missing(last.reason or first.reason, n=last.n), True
    value = last.value - first.value
    low = value - math.hypot(last.value - last.low, first.high - first.value)
    high = value + math.hypot(last.high - last.value, first.value - first.low)
    rise = Estimate(value, low, high, n=last.n)
    return rise, not (last.high < 2 and low <= 0 <= high)


def checked(
    samples: ArrayLike, function: str, smallest: int, *, nonzero: bool = False
) -> tuple[Array, str]:
    """Samples as float64, and a sentence that says why nothing can be read from them.

    Args:
        samples: (n,).
        function: Name for the error sentence.
        smallest: Fewest samples.
        nonzero: Whether a 0 is trouble.

    Returns:
        The samples over the largest size among them (every reader is free of scale, and sums and
        differences of huge values must not overflow), and the sentence or "".

    Raises:
        ValueError: If they are not one-dimensional.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"The `samples` of `{function}` must be one-dimensional. Got {values.shape}."
        )
    if values.size < smallest:
        return values, f"The index needs at least {smallest} samples. Got {values.size}."
    if not np.isfinite(values).all():
        return values, "A sample is nan or inf."
    if nonzero and (values == 0).any():
        return values, "A sample is exactly 0: its logarithm does not exist."
    largest = float(np.max(np.abs(values)))
    return values / largest if largest > 0 else values, ""
