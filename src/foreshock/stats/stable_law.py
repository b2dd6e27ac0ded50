"""The symmetric stable law in numbers: density, distribution and samples, in milliseconds.

exp(−|t|^α) is transformed on a fine grid; beyond it the series for large x takes over.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Indices that the grid resolves.
LOWEST, HIGHEST = 0.7, 2.0
STEP = 0.005  # of t: images of the density lie 2π/STEP = 1,257 scales away
POINTS = 1 << 17  # x is then spaced by 2π/(STEP POINTS) = .0096
EDGE = 30.0  # beyond it the series: its first terms fall by a factor of 5 or more at α = .7


@lru_cache(maxsize=128)
def _grid(alpha: float) -> tuple[Array, Array, Array]:
    """Grid of x in [0, EDGE], density and distribution function there."""
    from scipy.special import zeta

    t = STEP * np.arange(POINTS // 2)
    values = np.exp(-np.minimum(t**alpha, 700.0))
    values[0] = 0.5  # the trapezoid rule
    transform = np.fft.rfft(values, POINTS).real
    spacing = 2 * math.pi / (STEP * POINTS)
    count = int(EDGE / spacing) + 2
    # What the trapezoid rule makes of the cusp t^α at 0: −ζ(−α) STEP^(1+α). Riemann's ζ at −α by
    # its functional equation; 0 at α = 2.
    cusp = 2 * (2 * math.pi) ** (-alpha - 1) * -math.sin(math.pi * alpha / 2)
    cusp *= math.gamma(1 + alpha) * float(zeta(1 + alpha))
    density = (STEP * transform[:count] + cusp * STEP ** (1 + alpha)) / math.pi
    x = spacing * np.arange(count)
    steps = (density[1:] + density[:-1]) / 2 * spacing
    below = 0.5 + np.concatenate([[0.0], np.cumsum(steps)])
    return x.astype(np.float64), np.asarray(density, dtype=np.float64), below


def _series(x: Array, alpha: float, *, distribution: bool) -> Array:
    """Density, or P(X > x), for large x: the terms of the asymptotic series while they fall."""
    total, last = np.zeros_like(x), math.inf
    for k in range(1, 20):
        power = alpha * k
        log_size = math.lgamma(power + (not distribution)) - math.lgamma(k + 1)
        if log_size - power * math.log(EDGE) > last:
            break
        last = log_size - power * math.log(EDGE)
        sign = (-1) ** (k + 1) * math.sin(k * math.pi * alpha / 2)
        total += sign * np.exp(log_size - (power + (not distribution)) * np.log(x))
    return total / math.pi


def stable_density(x: ArrayLike, alpha: float) -> Array:
    """Density of the symmetric stable law with characteristic function exp(−|t|^α).

    **Error** 2e-5 relative (α from .7 to 1.95, x from 0 to 200), measured against another library.
    **Cost.** 3 ms for a new α, which is then kept.

    Args:
        x: Any shape.
        alpha: Index, .7 to 2.

    Returns:
        The density, of the same shape.

    References:
        Zolotarev, One-dimensional Stable Distributions (1986), theorem 2.4.2 (large x).

    Examples:
        >>> float(stable_density(0.0, 1.0).round(5)) == round(1 / math.pi, 5)
        True
    """
    size = _checked(x, alpha, "stable_density")
    if alpha == 2:
        return np.exp(-(size**2) / 4) / math.sqrt(4 * math.pi)
    grid, density, _ = _grid(float(alpha))
    inside = np.interp(size, grid, density)
    return np.where(size < EDGE, inside, _series(np.maximum(size, EDGE), alpha, distribution=False))


def stable_distribution(x: ArrayLike, alpha: float) -> Array:
    """Distribution function of the symmetric stable law; see `stable_density`.

    Args:
        x: Any shape.
        alpha: Index, .7 to 2.

    Returns:
        P(X <= x), of the same shape.

    Examples:
        >>> float(stable_distribution(1.0, 1.0).round(4))
        0.75
    """
    size = _checked(x, alpha, "stable_distribution")
    grid, _, below = _grid(float(alpha))
    inside = np.interp(size, grid, below)
    above = _series(np.maximum(size, EDGE), alpha, distribution=True)
    half = np.where(size < EDGE, inside, 1 - above)
    return np.where(np.asarray(x) < 0, 1 - half, half)


def _checked(x: ArrayLike, alpha: float, function: str) -> Array:
    if not LOWEST <= alpha <= HIGHEST:
        raise ValueError(
            f"The `alpha` of `{function}` must lie between {LOWEST} and {HIGHEST}. Got {alpha}."
        )
    return np.abs(np.asarray(x, dtype=np.float64))


def stable_samples(alpha: float, size: int | tuple[int, ...], rng: np.random.Generator) -> Array:
    """Exact samples of the symmetric stable law, by two uniforms each.

    Args:
        alpha: Index in (0, 2]; the scale is 1, so α = 2 is normal with variance 2.
        size: Shape.
        rng: Generator.

    Returns:
        Samples.

    Raises:
        ValueError: If `alpha` lies outside.

    References:
        Chambers, Mallows & Stuck, J. Am. Stat. Assoc. 71 (1976) 340.

    Examples:
        >>> stable_samples(1.5, 3, np.random.default_rng(0)).shape
        (3,)
    """
    if not 0 < alpha <= 2:
        raise ValueError(f"The `alpha` of `stable_samples` must lie in (0, 2]. Got {alpha}.")
    angle = rng.uniform(-math.pi / 2, math.pi / 2, size)
    if alpha == 1:
        return np.tan(angle)
    wait = rng.standard_exponential(size)
    first = np.sin(alpha * angle) / np.cos(angle) ** (1 / alpha)
    return first * (np.cos((1 - alpha) * angle) / wait) ** ((1 - alpha) / alpha)
