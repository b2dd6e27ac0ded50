"""Two-way jackknife intervals: over batches, whose noise particles share, and over particles.

The variance is the sum of the two jackknives'. Noise of a single particle in a single batch is in
both, so where nothing else scatters it is counted twice and the interval is 1.4 times too wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.stats.intervals import jackknife_se, t_quantile

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Replicas:
    """A statistic of everything, without each batch, and without each group of particles."""

    whole: float
    batches: Array
    particles: Array

    @property
    def finite(self) -> bool:
        """Whether every value is."""
        return math.isfinite(self.whole + float(self.batches.sum() + self.particles.sum()))

    def map(self, link: Callable[[float], float]) -> Replicas:
        """The same of a function of the statistic."""
        return Replicas(
            link(self.whole),
            np.array([link(float(value)) for value in self.batches]),
            np.array([link(float(value)) for value in self.particles]),
        )

    @property
    def heaviest(self) -> float:
        """Share that one batch has of the jackknife variance over batches; 0 where that is 0."""
        squares = (self.batches - self.batches.mean()) ** 2
        total = float(squares.sum())
        return float(squares.max()) / total if total > 0 else 0.0

    @property
    def batch_bias(self) -> float:
        """First-order bias from few batches."""
        return _bias(self.whole, self.batches)

    @property
    def particle_bias(self) -> float:
        """First-order bias from few particles, and from the score being fitted to them."""
        return _bias(self.whole, self.particles)


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; `heaviest` as `Replicas` has it."""

    value: float
    low: float
    high: float
    heaviest: float = 0.0

    def map(self, link: Callable[[float], float]) -> Interval:
        """The same of an increasing function."""
        return Interval(link(self.value), link(self.low), link(self.high), self.heaviest)


#: Where there is none.
NOTHING = Interval(math.nan, math.nan, math.nan)


def linear(replicas: Replicas, *, batches: bool) -> Interval:
    """Symmetric interval; the bias from few batches is taken off if asked."""
    value = replicas.whole - replicas.particle_bias - (replicas.batch_bias if batches else 0.0)
    error = _half(replicas)
    return Interval(value, value - error, value + error, replicas.heaviest)


def logarithmic(replicas: Replicas) -> Interval:
    """Of something positive and unbiased, such as a variance: symmetric in its logarithm."""
    value = replicas.whole - replicas.particle_bias
    least = min(value, replicas.whole, float(replicas.batches.min()))
    if not min(least, float(replicas.particles.min())) > 0:
        return NOTHING
    factor = math.exp(_half(replicas.map(math.log)))
    return Interval(value, value / factor, value * factor, replicas.heaviest)


def square(replicas: Replicas, scale: float) -> Interval:
    """Of an unbiased square that may be 0 or negative: symmetric in asinh(x/scale).

    `scale` is the standard error of the square where the truth is 0. There a square is degenerate
    and a jackknife without floor misses it; far above, its error grows with it, as on a log scale.

    Args:
        replicas: Of the square.
        scale: Positive.

    Returns:
        The interval.
    """
    if not scale > 0:
        return NOTHING
    value = replicas.whole - replicas.particle_bias
    least = 1 / (1 + (replicas.whole / scale) ** 2)  # scale^2 times the squared slope of asinh
    centre = math.asinh(value / scale)
    error = _half(replicas.map(lambda x: math.asinh(x / scale)), floor=least)
    low, high = scale * math.sinh(centre - error), scale * math.sinh(centre + error)
    return Interval(value, low, high, replicas.heaviest)


def skewed(replicas: Replicas, scale: float) -> Interval:
    """Of a signed sum of squares: Hall's interval, by the third cumulant of both jackknives.

    Where the truth is degenerate a jackknife counts the variance `scale`^2 of that twice, so it is
    taken off, but never below `scale`^2.

    Args:
        replicas: Of the sum.
        scale: Standard error where the truth is degenerate; 0 if it is nowhere.

    Returns:
        The interval.

    References:
        Hall, J. R. Stat. Soc. B 54 (1992) 221.
    """
    value = replicas.whole - replicas.particle_bias
    shared, own = variance_of(replicas.batches), variance_of(replicas.particles)
    shared = max(shared - scale**2, scale**2)
    error, quantile = standard_error(shared, own, len(replicas.batches), len(replicas.particles))
    if error == 0:
        return Interval(value, value, value)
    third = (_third(replicas.batches) + _third(replicas.particles)) / error**3
    ends = []
    for t in (quantile, -quantile):
        # T + g T^2/3 + g^2 T^3/27 + g/6 is normal to first order in the skewness g; T by inverse.
        inverse = t
        if abs(third) > 1e-6:
            inverse = 3 / third * (float(np.cbrt(1 + third * (t - third / 6))) - 1)
        ends.append(value - error * inverse)
    return Interval(value, ends[0], ends[1], replicas.heaviest)


def logit(replicas: Replicas) -> Interval:
    """Of a share in (0, 1): symmetric, and corrected, in log(p/(1 - p))."""
    linked = linear(replicas.map(lambda p: math.log(p / (1 - p))), batches=True)
    return linked.map(lambda x: 1 / (1 + math.exp(-x)))


def signed_root(x: float) -> float:
    """sign(x) sqrt(|x|)."""
    return math.copysign(math.sqrt(abs(x)), x)


def _bias(whole: float, parts: Array) -> float:
    return (len(parts) - 1) * (float(parts.mean()) - whole)


def variance_of(parts: Array) -> float:
    """Jackknife variance of a statistic from its values without each part."""
    return float(jackknife_se(parts)) ** 2


def _third(parts: Array) -> float:
    """Third cumulant of the mean of the influences."""
    n = len(parts)
    influences = (n - 1) * (parts.mean() - parts)
    return float((influences**3).sum()) / n**3


def _half(replicas: Replicas, *, floor: float = 0.0) -> float:
    shared = max(variance_of(replicas.batches), floor)
    own = variance_of(replicas.particles)
    error, quantile = standard_error(shared, own, len(replicas.batches), len(replicas.particles))
    return error * quantile


def standard_error(shared: float, own: float, batches: int, groups: int) -> tuple[float, float]:
    """Standard error, and Student's quantile at Welch and Satterthwaite's degrees of freedom."""
    total = shared + own
    if not total > 0:
        return 0.0, 0.0
    freedom = total**2 / (shared**2 / (batches - 1) + own**2 / (groups - 1))
    return math.sqrt(total), t_quantile(freedom)
