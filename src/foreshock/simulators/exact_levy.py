r"""Exact results for jumps: alpha-stable noise of characteristic function exp(-t |sigma k|^alpha).

dx = mu dt + sigma dL, E exp(i k L_t) = exp(-t |k|^alpha): at alpha = 2 this is Brownian motion
with D = sigma^2 (variance 2 t), and *not* variance t. Sources: R. Getoor, Trans. AMS 101, 75
(1961); A. Chechkin et al., Chem. Phys. 284, 233 (2002); P. Imkeller and I. Pavlyukevich,
J. Phys. A 39, L237 (2006); levy (the document whose simulations these check).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gamma, gammaln

from foreshock.simulators.door import Array, finite, not_negative, positive, stability_index


def stable_tail_constant(alpha: float) -> float:
    r"""Constant c of the stable law of unit scale: density c/|x|^{1+alpha} far out.

    c = Gamma(1 + alpha) sin(pi alpha/2)/pi, also that of the jump rate,
    nu(dx) = c dx/|x|^{1+alpha}. A tail has probability P(X > x) ~ (c/alpha) x^{-alpha}.
    At alpha = 2 it is 0: no power tail.

    Args:
        alpha: Index in (0, 2].

    Returns:
        c.

    Examples:
        >>> bool(np.isclose(stable_tail_constant(1.0), 1 / np.pi))  # Cauchy: 1/(pi x^2)
        True
    """
    stability_index("stable_tail_constant", alpha)
    return 0.0 if alpha == 2 else float(gamma(1 + alpha)) * math.sin(math.pi * alpha / 2) / math.pi


def cauchy_quartic_density(x: ArrayLike) -> Array:
    r"""Stationary density of dx = -x^3 dt + dL with Cauchy noise: 1/(pi (1 - x^2 + x^4)).

    Bimodal in a potential with one minimum: maxima at +-1/sqrt(2), of height 4/(3 pi).

    Args:
        x: Positions.

    Returns:
        The density.

    Examples:
        >>> cauchy_quartic_density([0.0, np.sqrt(0.5)]).round(4)
        array([0.3183, 0.4244])
    """
    finite("cauchy_quartic_density", x=x)
    square = np.asarray(x, np.float64) ** 2
    return 1 / (math.pi * (1 - square + square**2))


def getoor_exit_time(
    distance: ArrayLike,
    alpha: float,
    *,
    dimension: int = 1,
    radius: float = 1.0,
    scale: float = 1.0,
) -> Array:
    r"""Mean time of free isotropic alpha-stable motion to leave a ball, started inside.

    (R^2 - |x|^2)^{alpha/2} Gamma(d/2)/((2 sigma)^alpha Gamma(1 + alpha/2) Gamma((d + alpha)/2)).
    At alpha = 2 it is that of Brownian motion, (R^2 - |x|^2)/(2 d D), D = sigma^2.

    Args:
        distance: |x| of the start from the centre.
        alpha: Index in (0, 2].
        dimension: d.
        radius: R.
        scale: sigma.

    Returns:
        The mean time, 0 from outside.

    Examples:
        >>> float(getoor_exit_time(0.0, 1.0))
        1.0
        >>> float(getoor_exit_time(0.0, 2.0, dimension=2))
        0.25
    """
    stability_index("getoor_exit_time", alpha)
    positive("getoor_exit_time", dimension=dimension, radius=radius, scale=scale)
    not_negative("getoor_exit_time", distance=distance)
    inside = np.maximum(radius**2 - np.asarray(distance, np.float64) ** 2, 0)
    log_constant = (
        gammaln(dimension / 2)
        - alpha * math.log(2 * scale)
        - gammaln(1 + alpha / 2)
        - gammaln((dimension + alpha) / 2)
    )
    return inside ** (alpha / 2) * math.exp(log_constant)


def ou_levy_scale(
    stiffness: float, alpha: float, *, scale: float = 1.0, time: float = math.inf
) -> float:
    r"""Scale of x(t) under dx = -k x dt + sigma dL from a point: stable again, of this scale.

    sigma ((1 - exp(-alpha k t))/(alpha k))^{1/alpha}; its limit sigma/(alpha k)^{1/alpha} is the
    stationary law. At alpha = 2 the variance is 2 scale^2 = D/k.

    Args:
        stiffness: k > 0.
        alpha: Index in (0, 2].
        scale: sigma.
        time: t.

    Returns:
        The scale s of exp(-|s k|^alpha).

    Raises:
        ValueError: If the time is negative or nan.

    Examples:
        >>> ou_levy_scale(2.0, 1.0)
        0.5
    """
    stability_index("ou_levy_scale", alpha)
    positive("ou_levy_scale", stiffness=stiffness, scale=scale)
    if not time >= 0:
        raise ValueError(f"The `time` of `ou_levy_scale` must not be negative. Got {time}.")
    return scale * (-math.expm1(-alpha * stiffness * time) / (alpha * stiffness)) ** (1 / alpha)


def imkeller_pavlyukevich_rate(alpha: float, scale: float, left: float, right: float) -> float:
    r"""Rate of leaving (-a, b) around a minimum at 0 under weak stable noise, for scale -> 0.

    sigma^alpha (c/alpha) (a^-alpha + b^-alpha), c of `stable_tail_constant`: the rate of the one
    jump that is long enough. The height of the barrier does not enter, only its distance; the
    power law in the noise is the opposite of Kramers' exponential.

    Args:
        alpha: Index in (0, 2).
        scale: sigma, small.
        left: a > 0, distance of the left edge.
        right: b > 0, distance of the right edge.

    Returns:
        The rate.

    Raises:
        ValueError: If alpha is 2: without jumps the rate is Kramers'.

    Examples:
        >>> round(imkeller_pavlyukevich_rate(1.5, 0.05, 1.0, 1.0), 6)
        0.00446
    """
    stability_index("imkeller_pavlyukevich_rate", alpha)
    positive("imkeller_pavlyukevich_rate", scale=scale, left=left, right=right)
    if alpha == 2:
        raise ValueError(
            "`imkeller_pavlyukevich_rate` is the rate of single jumps, and alpha = 2 has none. "
            "Use `eyring_kramers_rate`."
        )
    tails = left**-alpha + right**-alpha
    return scale**alpha * stable_tail_constant(alpha) / alpha * tails


def sphere_cosine(time: float, alpha: float, *, scale: float = 1.0, radius: float = 1.0) -> float:
    r"""Mean cosine of the angle travelled on a sphere by the isotropic stable motion.

    exp(-t (2 sigma^2/R^2)^{alpha/2}): the motion is Brownian at a stable clock, its generator is
    -sigma^alpha (-Laplace-Beltrami)^{alpha/2}, and the cosine belongs to the eigenvalue -2/R^2. At
    alpha = 2 it is e^{-2 D t/R^2}, D = sigma^2.

    Args:
        time: t.
        alpha: Index in (0, 2].
        scale: sigma.
        radius: R.

    Returns:
        E cos(angle).

    Examples:
        >>> round(sphere_cosine(1.0, 2.0), 4)
        0.1353
    """
    stability_index("sphere_cosine", alpha)
    positive("sphere_cosine", scale=scale, radius=radius)
    not_negative("sphere_cosine", time=time)
    return math.exp(-time * (2 * scale**2 / radius**2) ** (alpha / 2))
