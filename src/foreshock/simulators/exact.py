r"""Exact results for diffusions with a linear drift or none: the oracles of the simulators.

Convention of the whole package: dx = mu(x, t) dt + sqrt(2 D) dW, **Ito**. The Ornstein-Uhlenbeck
process here has mu = -k x and constant D, one value for all coordinates or one for each: arrays
broadcast, the **last axis is the coordinate**, and what is a sum over coordinates (KL, entropy
production, ...) drops it. A plain number is one coordinate. Everything is numpy, closed form, and
exact up to rounding; nothing is sampled, so these are floats and arrays, not `Estimate`.

Others: `exact_linear` (matrix drift, rings, discrete chains), `exact_kramers` (escape) and
`eyring_kramers` (its limit), `exact_resets`, `exact_levy`, `exact_published` (what fokker_planck
claims, beside the truth).
Sources: H. Risken, The Fokker-Planck Equation, 2nd ed. (1989), chapters 3 to 5; U. Seifert, Rep.
Prog. Phys. 75, 126001 (2012).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from foreshock.simulators.door import Array, finite, not_negative, positive


def _coordinates(*values: ArrayLike) -> list[Array]:
    """The values broadcast against each other, with at least one axis: that of coordinates."""
    return list(np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, np.float64)) for v in values)))


def _number(value: Array) -> float | Array:
    """A float where nothing but the coordinates was an axis."""
    return float(value) if value.ndim == 0 else value


def ou_mean(mean: ArrayLike, stiffness: ArrayLike, time: ArrayLike) -> Array:
    r"""Mean of the Ornstein-Uhlenbeck process: m(t) = m(0) exp(-k t).

    Args:
        mean: (..., d) Mean at time 0.
        stiffness: k, a rate (1/time).
        time: t.

    Returns:
        (..., d) The mean at t.

    Examples:
        >>> ou_mean([1.0, 2.0], 1.0, np.log(2.0))
        array([0.5, 1. ])
    """
    not_negative("ou_mean", time=time)
    finite("ou_mean", mean=mean, stiffness=stiffness)
    m, k, t = _coordinates(mean, stiffness, time)
    return m * np.exp(-k * t)


def ou_variance(
    variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike, time: ArrayLike
) -> Array:
    r"""Variance of the Ornstein-Uhlenbeck process: s(t) = D/k + (s(0) - D/k) exp(-2 k t).

    k = 0 is free diffusion, s(0) + 2 D t.

    Args:
        variance: (..., d) Variance of each coordinate at time 0.
        stiffness: k, a rate; may be 0 or negative (an unstable direction).
        diffusion: D, length^2/time.
        time: t.

    Returns:
        (..., d) The variance at t.

    Examples:
        >>> round(float(ou_variance(0.0, 1.0, 1.0, 2.0)[0]), 4)
        0.9817
        >>> float(ou_variance(0.0, 0.0, 1.0, 2.0)[0])
        4.0
    """
    not_negative("ou_variance", variance=variance, diffusion=diffusion, time=time)
    finite("ou_variance", stiffness=stiffness)
    s, k, d, t = _coordinates(variance, stiffness, diffusion, time)
    free = k == 0
    safe = np.where(free, 1.0, k)
    gained = np.where(free, 2 * t, -np.expm1(-2 * safe * t) / safe)
    return s * np.exp(-2 * k * t) + d * gained


def ou_stationary_variance(stiffness: ArrayLike, diffusion: ArrayLike) -> Array:
    r"""Stationary variance D/k of the Ornstein-Uhlenbeck process.

    Args:
        stiffness: k > 0.
        diffusion: D.

    Returns:
        (..., d) The variance of each coordinate.

    Examples:
        >>> ou_stationary_variance(2.0, 1.0)
        array([0.5])
    """
    positive("ou_stationary_variance", stiffness=stiffness)
    not_negative("ou_stationary_variance", diffusion=diffusion)
    k, d = _coordinates(stiffness, diffusion)
    return d / k


def gaussian_entropy(variance: ArrayLike) -> float | Array:
    r"""Differential entropy of independent normals: H = sum (1 + log 2 pi s)/2, in nats.

    Args:
        variance: (..., d) Variance of each coordinate.

    Returns:
        (...) The entropy. It depends on the unit of x; its differences do not.

    Examples:
        >>> round(gaussian_entropy([1.0]), 4)
        1.4189
    """
    positive("gaussian_entropy", variance=variance)
    (s,) = _coordinates(variance)
    return _number(np.sum(1 + np.log(2 * np.pi * s), -1) / 2)


def gaussian_kl(
    mean: ArrayLike, variance: ArrayLike, mean_ref: ArrayLike, variance_ref: ArrayLike
) -> float | Array:
    r"""Divergence KL(N(m, s) | N(m', s')) of independent normals, in nats.

    Args:
        mean: (..., d) m.
        variance: (..., d) s.
        mean_ref: (..., d) m'.
        variance_ref: (..., d) s'.

    Returns:
        (...) sum (s/s' - 1 - log(s/s') + (m - m')^2/s')/2.

    Examples:
        >>> gaussian_kl([1.0, 0.0], 1.0, 0.0, 1.0)
        0.5
    """
    positive("gaussian_kl", variance=variance, variance_ref=variance_ref)
    finite("gaussian_kl", mean=mean, mean_ref=mean_ref)
    m, s, m_ref, s_ref = _coordinates(mean, variance, mean_ref, variance_ref)
    excess = s / s_ref - 1
    return _number(np.sum(excess - np.log1p(excess) + (m - m_ref) ** 2 / s_ref, -1) / 2)


def gaussian_w2_squared(
    mean: ArrayLike, variance: ArrayLike, mean_ref: ArrayLike, variance_ref: ArrayLike
) -> float | Array:
    r"""**Squared** Wasserstein-2 distance of independent normals: |m - m'|^2 + |sd - sd'|^2.

    Args:
        mean: (..., d) m.
        variance: (..., d) s.
        mean_ref: (..., d) m'.
        variance_ref: (..., d) s'.

    Returns:
        (...) W2 squared, length^2.

    Examples:
        >>> gaussian_w2_squared([1.0, 0.0], 4.0, 0.0, 1.0)
        3.0
    """
    not_negative("gaussian_w2_squared", variance=variance, variance_ref=variance_ref)
    finite("gaussian_w2_squared", mean=mean, mean_ref=mean_ref)
    m, s, m_ref, s_ref = _coordinates(mean, variance, mean_ref, variance_ref)
    return _number(np.sum((m - m_ref) ** 2 + (np.sqrt(s) - np.sqrt(s_ref)) ** 2, -1))


def ou_kl(
    mean: ArrayLike, variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike
) -> float | Array:
    r"""Divergence of N(m, s) from the stationary law N(0, D/k), in nats.

    With r = s k/D, KL = sum (r - 1 - log r + k m^2/D)/2. Times the temperature it is the excess
    free energy.

    Args:
        mean: (..., d) m.
        variance: (..., d) s.
        stiffness: k.
        diffusion: D.

    Returns:
        (...) KL.

    Examples:
        >>> ou_kl([1.0, 1.0], 1.0, 1.0, 1.0)
        1.0
    """
    return gaussian_kl(mean, variance, 0.0, ou_stationary_variance(stiffness, diffusion))


def ou_kl_rate(
    mean: ArrayLike, variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike
) -> float | Array:
    r"""dKL/dt along the flow, by the chain rule on `ou_kl` and the equations of m and s.

    dm/dt = -k m, ds/dt = 2 (D - k s). It equals minus `ou_entropy_production`, which is computed
    from the velocity instead: the identity is a test, not a definition.

    Args:
        mean: (..., d) m.
        variance: (..., d) s.
        stiffness: k.
        diffusion: D.

    Returns:
        (...) dKL/dt, nats/time, never positive.

    Examples:
        >>> ou_kl_rate([1.0], 1.0, 1.0, 1.0)
        -1.0
    """
    positive("ou_kl_rate", variance=variance, stiffness=stiffness, diffusion=diffusion)
    m, s, k, d = _coordinates(mean, variance, stiffness, diffusion)
    of_variance = (k / d - 1 / s) / 2 * 2 * (d - k * s)
    of_mean = k * m / d * (-k * m)
    return _number(np.sum(of_variance + of_mean, -1))


def ou_w2_squared(
    mean: ArrayLike, variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike
) -> float | Array:
    r"""**Squared** W2 distance of N(m, s) from the stationary law: |m|^2 + sum (sd - sd*)^2.

    Args:
        mean: (..., d) m.
        variance: (..., d) s.
        stiffness: k.
        diffusion: D.

    Returns:
        (...) W2 squared.

    Examples:
        >>> ou_w2_squared([2.0], 1.0, 1.0, 1.0)
        4.0
    """
    return gaussian_w2_squared(mean, variance, 0.0, ou_stationary_variance(stiffness, diffusion))


def ou_consolidation(
    mean: ArrayLike, variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike
) -> float | Array:
    r"""Consolidation ratio C = sqrt(E[mu . D^-1 mu] / E[s . D s]), s the score; dimensionless.

    For one k, D and variance it is C^2 = k^2 s (s + |m|^2/d)/D^2. Invariant under z -> A z.
    C = 1 together with a zero velocity is equilibrium, not criticality.

    Args:
        mean: (..., d) m.
        variance: (..., d) s.
        stiffness: k.
        diffusion: D.

    Returns:
        (...) C.

    Examples:
        >>> ou_consolidation(np.zeros(8), 1.0, 2.0, 2.0)
        1.0
    """
    positive("ou_consolidation", variance=variance, diffusion=diffusion)
    finite("ou_consolidation", mean=mean, stiffness=stiffness)
    m, s, k, d = _coordinates(mean, variance, stiffness, diffusion)
    drift = np.sum(k**2 * (s + m**2) / d, -1)
    return _number(np.sqrt(drift / np.sum(d / s, -1)))


def ou_entropy_production(
    mean: ArrayLike, variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike
) -> float | Array:
    r"""Total entropy production E[v . D^-1 v], v = mu - D grad log rho, nats/time.

    v = -k x + D (x - m)/s, so E = sum ((D/s - k)^2 s + k^2 m^2)/D. Never negative, 0 only at
    stationarity (an isotropic trap keeps detailed balance).

    Args:
        mean: (..., d) m.
        variance: (..., d) s.
        stiffness: k.
        diffusion: D.

    Returns:
        (...) The rate.

    Examples:
        >>> ou_entropy_production([1.0, 0.0], 0.5, 1.0, 1.0)
        2.0
    """
    positive("ou_entropy_production", variance=variance, diffusion=diffusion)
    finite("ou_entropy_production", mean=mean, stiffness=stiffness)
    m, s, k, d = _coordinates(mean, variance, stiffness, diffusion)
    return _number(np.sum(((d / s - k) ** 2 * s + (k * m) ** 2) / d, -1))


def ou_entropy_rate(
    variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike
) -> float | Array:
    r"""dH/dt = E[div mu] + E[s . D s] = sum (D/s - k), nats/time: signed, and no production.

    The part of the entropy production that the system keeps; the rest, E[mu . D^-1 mu + div mu],
    is heat over temperature.

    Args:
        variance: (..., d) s.
        stiffness: k.
        diffusion: D.

    Returns:
        (...) dH/dt.

    Examples:
        >>> ou_entropy_rate([0.25, 0.25], 1.0, 1.0)
        6.0
    """
    positive("ou_entropy_rate", variance=variance, diffusion=diffusion)
    finite("ou_entropy_rate", stiffness=stiffness)
    s, k, d = _coordinates(variance, stiffness, diffusion)
    return _number(np.sum(d / s - k, -1))


def free_diffusion_radius(dimension: int, diffusion: float, time: float) -> float:
    r"""E|x(t) - x(0)| of free diffusion: sqrt(2 D t) sqrt(2) Gamma((d+1)/2)/Gamma(d/2).

    It lies between sqrt(2 D t (d - 1/2)) and sqrt(2 D t d), the root mean square: the mean radius
    is *below* the root mean square, by Jensen.

    Args:
        dimension: d >= 1.
        diffusion: D.
        time: t.

    Returns:
        The mean radius.

    Examples:
        >>> round(free_diffusion_radius(1, 0.5, 1.0), 6)  # sqrt(2/pi)
        0.797885
    """
    positive("free_diffusion_radius", dimension=dimension)
    not_negative("free_diffusion_radius", diffusion=diffusion, time=time)
    chi = math.sqrt(2) * math.exp(gammaln((dimension + 1) / 2) - gammaln(dimension / 2))
    return math.sqrt(2 * diffusion * time) * chi


def gibbs_density(nodes: ArrayLike, energy: ArrayLike, temperature: float) -> Array:
    r"""Gibbs density exp(-U/T)/Z at equally spaced nodes, Z by the trapezoid rule over the nodes.

    Safe against overflow for any U. At nodes that reach where the density is negligible, or over
    a period, the trapezoid rule is exact to rounding for smooth U.

    Args:
        nodes: (n,) Equally spaced positions.
        energy: (n,) U at the nodes.
        temperature: T > 0, in the unit of U.

    Returns:
        (n,) The density at the nodes.

    Raises:
        ValueError: If nodes and energies differ in shape, or the nodes are not equally spaced.

    Examples:
        >>> x = np.linspace(-8, 8, 401)
        >>> p = gibbs_density(x, x**2 / 2, 1.0)
        >>> bool(np.allclose(p, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)))
        True
    """
    positive("gibbs_density", temperature=temperature)
    finite("gibbs_density", nodes=nodes, energy=energy)
    x, u = np.asarray(nodes, np.float64), np.asarray(energy, np.float64)
    if x.shape != u.shape:
        raise ValueError(
            f"`gibbs_density` needs one energy for each node. Got {u.shape} for {x.shape}."
        )
    gaps = np.diff(x)
    if not (gaps.size and gaps[0] > 0 and np.allclose(gaps, gaps[0])):
        raise ValueError(
            "The `nodes` of `gibbs_density` must be at least 2, increasing and equally spaced. "
            "Use `np.linspace`, or `stationary(energy_grid(...))` for others."
        )
    weight = np.exp(-(u - u.min()) / temperature)
    return weight / np.trapezoid(weight, x)
