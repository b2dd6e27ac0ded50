r"""Diffusion that is sent back to the origin at random times: exact results.

A reset is a Poisson event of rate r that puts the particle back to where it started. Sources:
M. Evans and S. Majumdar, PRL 106, 160601 (2011); S. Reuveni, PRL 116, 170601 (2016); A. Pal and
S. Reuveni, PRL 118, 030603 (2017).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import lambertw

from foreshock.simulators.door import Array, finite, not_negative, positive

#: a L at the optimum: the root of a L/2 = 1 - exp(-a L), 1.59362...
OPTIMAL_DISTANCE = float(2 + lambertw(-2 * math.exp(-2)).real)


def reset_density(x: ArrayLike, rate: float, diffusion: float) -> Array:
    r"""Stationary density of free diffusion with resets to 0: (a/2) exp(-a |x|), a = sqrt(r/D).

    Variance 2 D/r, kurtosis 6. It is stationary but carries a current: no equilibrium.

    Args:
        x: Positions.
        rate: r, resets/time.
        diffusion: D.

    Returns:
        The density, of the shape of `x`.

    Examples:
        >>> reset_density([0.0, np.log(2.0)], 1.0, 1.0)
        array([0.5 , 0.25])
    """
    positive("reset_density", rate=rate, diffusion=diffusion)
    finite("reset_density", x=x)
    a = math.sqrt(rate / diffusion)
    return a / 2 * np.exp(-a * np.abs(np.asarray(x, np.float64)))


def reset_passage_time(rate: float, distance: float, diffusion: float) -> float:
    r"""Mean time of free diffusion with resets to reach a point at distance L: (e^{aL} - 1)/r.

    a = sqrt(r/D). Without resets the mean is infinite; it is finite for every r > 0.

    Args:
        rate: r > 0.
        distance: L > 0, from the reset point, where the particle also starts.
        diffusion: D.

    Returns:
        The mean time.

    Examples:
        >>> round(reset_passage_time(1.0, 1.0, 1.0), 3)
        1.718
    """
    positive("reset_passage_time", rate=rate, distance=distance, diffusion=diffusion)
    return math.expm1(math.sqrt(rate / diffusion) * distance) / rate


def optimal_reset_rate(distance: float, diffusion: float) -> float:
    r"""Rate that minimises `reset_passage_time`: D (1.5936.../L)^2.

    d/dr of (e^{aL} - 1)/r vanishes where aL/2 = 1 - e^{-aL}; aL = 2 + W(-2/e^2), W Lambert's.

    Args:
        distance: L.
        diffusion: D.

    Returns:
        r.

    Examples:
        >>> round(math.sqrt(optimal_reset_rate(1.0, 1.0)), 4)
        1.5936
    """
    positive("optimal_reset_rate", distance=distance, diffusion=diffusion)
    return diffusion * (OPTIMAL_DISTANCE / distance) ** 2


def reset_slope(mean: float, second_moment: float) -> float:
    r"""What the first few resets do to any mean passage time: d<T_r>/dr at r = 0.

    <T>^2 - <T^2>/2 = <T>^2 (1 - CV^2)/2. Negative, so resets help, exactly where the coefficient
    of variation of the passage time without resets is above 1.

    Args:
        mean: <T> without resets.
        second_moment: <T^2> without resets.

    Returns:
        The slope, time^2.

    Raises:
        ValueError: If no distribution has these moments.

    Examples:
        >>> reset_slope(1.0, 2.0)  # an exponential time: resets change nothing
        0.0
    """
    positive("reset_slope", mean=mean, second_moment=second_moment)
    if second_moment < mean**2 * (1 - 1e-12):
        raise ValueError(
            f"The `second_moment` of `reset_slope` cannot be below mean^2 = {mean**2:.6g}. "
            f"Got {second_moment}. Pass <T^2>, not the variance."
        )
    return mean**2 - second_moment / 2


def drift_passage_cv(velocity: float, distance: float, diffusion: float) -> float:
    r"""Coefficient of variation of the time to drift over a distance: sqrt(2 D/(v L)).

    The passage time is inverse Gaussian, mean L/v, variance 2 D L/v^3. Resets help exactly where
    the Peclet number v L/(2 D) is below 1.

    Args:
        velocity: v > 0, towards the target.
        distance: L.
        diffusion: D.

    Returns:
        The coefficient of variation.

    Examples:
        >>> drift_passage_cv(2.0, 1.0, 1.0)
        1.0
    """
    positive("drift_passage_cv", velocity=velocity, distance=distance, diffusion=diffusion)
    return math.sqrt(2 * diffusion / (velocity * distance))


def drift_reset_passage_time(
    rate: float, velocity: float, distance: float, diffusion: float
) -> float:
    r"""Mean time of a drifting particle with resets to cover L: (e^{bL} - 1)/r.

    b = (sqrt(v^2 + 4 D r) - v)/(2 D), from <T_r> = (1 - phi(r))/(r phi(r)) with the Laplace
    transform phi(r) = e^{-bL} of the passage time. At r = 0 it is L/v.

    Args:
        rate: r >= 0.
        velocity: v > 0, towards the target.
        distance: L.
        diffusion: D.

    Returns:
        The mean time.

    Examples:
        >>> drift_reset_passage_time(0.0, 2.0, 1.0, 1.0)
        0.5
    """
    positive("drift_reset_passage_time", velocity=velocity, distance=distance, diffusion=diffusion)
    not_negative("drift_reset_passage_time", rate=rate)
    if rate == 0:
        return distance / velocity
    # 2 r/(sqrt(...) + v) is b without the cancellation at small r.
    b = 2 * rate / (math.sqrt(velocity**2 + 4 * diffusion * rate) + velocity)
    return math.expm1(b * distance) / rate
