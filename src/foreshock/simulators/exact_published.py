r"""What fokker_planck claims in closed form, each beside what is true.

Functions named ``published_...`` are as written there and wrong as their docstrings say; the others
are the corrections. `tests/simulators/test_published_formulas.py` shows each failure by a number.
langevin's closed forms are in `foreshock.stats.published`; their corrections are
`exact_kramers.eyring_kramers_rate`, `exact_linear.stationary_energy`, `convergence_bound` and
`sgd_temperature`. Nothing named ``published`` is recommended for use.

Sources: fokker_planck, sections 3 to 10; R. Jordan, D. Kinderlehrer and F. Otto, SIAM J. Math.
Anal. 29, 1 (1998); D. Bakry and M. Emery (1985); F. Otto and C. Villani, J. Funct. Anal. 173, 361
(2000).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foreshock.simulators.door import not_negative, positive


def drift_entropy_product(
    grad_loss: ArrayLike, grad_entropy: ArrayLike, eta: float, weight: float
) -> float:
    r"""Left side of theorem 1: <mu, g> with mu = -eta (grad L + lambda g), g its "grad H".

    Args:
        grad_loss: (d,) grad L.
        grad_entropy: (d,) g.
        eta: eta.
        weight: lambda.

    Returns:
        The product.

    Examples:
        >>> drift_entropy_product([-2.0], [1.0], 1.0, 1.0)
        1.0
    """
    loss, g = np.asarray(grad_loss, np.float64), np.asarray(grad_entropy, np.float64)
    return float(-eta * (loss + weight * g) @ g)


def published_drift_entropy_bound(
    grad_loss: ArrayLike, eta: float, weight: float, lipschitz: float
) -> float:
    r"""Right side of theorem 1: -c_1 |grad L|^2 + c_2 lambda, as published.

    c_1 = eta/(2 lambda L_lip^2), c_2 = eta.

    **Wrong with it**: the last line of the proof turns + |grad L|^2 into - |grad L|^2; at
    eta = lambda = L_lip = 1, g = 1, grad L = -2 the left side is 1 and this bound is -1. True is
    an identity, dH/dt = E[div mu] + E[s . D s]: `exact.ou_entropy_rate`.

    Args:
        grad_loss: (d,) grad L.
        eta: eta.
        weight: lambda.
        lipschitz: L_lip.

    Returns:
        The claimed upper bound.

    Examples:
        >>> published_drift_entropy_bound([-2.0], 1.0, 1.0, 1.0)
        -1.0
    """
    positive("published_drift_entropy_bound", weight=weight, lipschitz=lipschitz)
    square = float(np.sum(np.asarray(grad_loss, np.float64) ** 2))
    return -eta / (2 * weight * lipschitz**2) * square + eta * weight


def published_fisher_limit(fisher: ArrayLike) -> float:
    r"""Largest gamma for which I + gamma F is positive definite, as published: 1/lambda_max(F).

    **Wrong with it**: for gamma >= 0 and F >= 0 it is positive definite for *every* gamma. The
    limit is on the other side: `fisher_limit`.

    Args:
        fisher: (d, d) F.

    Returns:
        The claimed limit.

    Examples:
        >>> published_fisher_limit(np.diag([4.0, 1.0]))
        0.25
    """
    largest = float(np.linalg.eigvalsh(np.asarray(fisher, np.float64))[-1])
    return 1 / largest if largest > 0 else math.inf


def fisher_limit(fisher: ArrayLike) -> float:
    r"""Smallest gamma for which I + gamma F stays positive definite: above -1/lambda_max(F).

    Args:
        fisher: (d, d) F, positive semidefinite, not 0.

    Returns:
        -1/lambda_max; gamma has the unit of 1/F.

    Examples:
        >>> fisher_limit(np.diag([4.0, 1.0]))
        -0.25
    """
    return -published_fisher_limit(fisher)


def published_exploration_radius(dimension: int, diffusion: float, time: float) -> float:
    r"""Lower bound on the radius after a reset, as published: sqrt(2 d beta t).

    **Wrong with it**: it is the root mean square of free diffusion, and Jensen's inequality goes
    the other way, E|x| <= sqrt(E|x|^2): `exact.free_diffusion_radius` is always below it. With any
    restoring drift even the mean square is below it: `exact.ou_variance`.

    Args:
        dimension: d.
        diffusion: beta_reset, the D of the boost.
        time: Delta t.

    Returns:
        The claimed lower bound.

    Examples:
        >>> published_exploration_radius(2, 1.0, 1.0)
        2.0
    """
    not_negative("published_exploration_radius", diffusion=diffusion, time=time)
    return math.sqrt(2 * dimension * diffusion * time)


def published_effective_temperature(diffusion: ArrayLike, drift: ArrayLike) -> float:
    r"""Effective temperature Tr(D)/|mu|, as published.

    **Wrong with it**: it has the unit of a length, so loss/T_eff is no number; it diverges at every
    minimum; and it grows with the dimension. With mu = -eta grad L and D = const it is D/eta.

    Args:
        diffusion: (d, d) D.
        drift: (d,) mu.

    Returns:
        T_eff; ``inf`` where the drift vanishes.

    Examples:
        >>> published_effective_temperature(np.eye(2), [2.0, 0.0])
        1.0
    """
    size = float(np.linalg.norm(np.asarray(drift, np.float64)))
    trace = float(np.trace(np.asarray(diffusion, np.float64)))
    return trace / size if size else math.inf


def published_kl_rate(d_min: float, kappa: float, d_max: float, weight: float) -> float:
    r"""Rate sigma of KL <= KL_0 exp(-sigma t) in theorem 4, as published.

    sigma = 2 D_0/(kappa + D_1/lambda).

    **Wrong with it**: kappa bounds the curvature from *above*, which gives no rate (a flat loss
    satisfies it and never converges on the line); kappa + D_1/lambda adds different units; the
    rate must not grow with D at fixed drift. True is `kl_rate`.

    Args:
        d_min: D_0, smallest diffusion.
        kappa: Upper bound on the Hessian of the loss.
        d_max: D_1, largest diffusion.
        weight: lambda.

    Returns:
        The claimed rate.

    Examples:
        >>> published_kl_rate(1.0, 1.0, 1.0, 1.0)
        1.0
    """
    positive("published_kl_rate", d_min=d_min, kappa=kappa, d_max=d_max, weight=weight)
    return 2 * d_min / (kappa + d_max / weight)


def published_kl_rate_proof(d_min: float, kappa: float, d_max: float, weight: float) -> float:
    r"""The rate that theorem 4's own proof gives: 2 D_0 rho_0, as published.

    rho_0 = D_0/(kappa D_1/lambda + D_1^2/lambda^2).

    **Wrong with it**: it differs from the theorem's by the factor D_0 lambda/D_1.

    Args:
        d_min: D_0.
        kappa: kappa.
        d_max: D_1.
        weight: lambda.

    Returns:
        The rate.

    Examples:
        >>> published_kl_rate_proof(1.0, 1.0, 1.0, 2.0) / published_kl_rate(1.0, 1.0, 1.0, 2.0)
        2.0
    """
    positive("published_kl_rate_proof", d_min=d_min, kappa=kappa, d_max=d_max, weight=weight)
    ratio = d_max / weight
    return 2 * d_min * d_min / (kappa * ratio + ratio**2)


def kl_rate(eta: float, curvature: float) -> float:
    r"""Rate of KL(t) <= KL(0) exp(-rate t), 2 eta m: mu = -eta grad L, constant D, Hess L >= m > 0.

    Bakry and Emery's criterion: a *lower* bound on the curvature, and D drops out. Attained by
    the mean of an Ornstein-Uhlenbeck process; its variance alone relaxes at twice the rate.

    Args:
        eta: eta.
        curvature: m.

    Returns:
        The rate, 1/time.

    Examples:
        >>> kl_rate(0.5, 2.0)
        2.0
    """
    positive("kl_rate", eta=eta, curvature=curvature)
    return 2 * eta * curvature


def published_entropy_production(
    variance: ArrayLike, stiffness: ArrayLike, diffusion: ArrayLike
) -> float:
    r"""The integral of J . grad log rho, as published; for an OU process sum (k - D/s).

    **Wrong with it**: integrated by parts it is minus dH/dt. It is negative whenever the density
    spreads, 0 in every steady state, driven or not, and its time integral is H(0) - H(inf) instead
    of the KL it is said to exceed. True is `exact.ou_entropy_production`.

    Args:
        variance: (d,) s.
        stiffness: k.
        diffusion: D.

    Returns:
        The claimed production.

    Examples:
        >>> published_entropy_production([0.25, 0.25], 1.0, 1.0)
        -6.0
    """
    positive("published_entropy_production", variance=variance)
    s, k, d = np.broadcast_arrays(np.atleast_1d(variance), stiffness, diffusion)
    return float(np.sum(k - d / s))


def published_talagrand_bound(kl: float, temperature: float) -> float:
    r"""Bound on W2 squared, as published: 2 T_eff KL.

    **Wrong with it**: the constant is that of the log-Sobolev inequality and not the temperature;
    true is `talagrand_bound`. A shifted normal of curvature below 1 violates it.

    Args:
        kl: KL.
        temperature: T_eff.

    Returns:
        The claimed bound.

    Examples:
        >>> published_talagrand_bound(0.5, 1.0)
        1.0
    """
    not_negative("published_talagrand_bound", kl=kl, temperature=temperature)
    return 2 * temperature * kl


def talagrand_bound(kl: float, temperature: float, curvature: float) -> float:
    r"""Bound on W2 squared from exp(-L/T)/Z with Hess L >= m: (2 T/m) KL. Otto and Villani.

    The log-Sobolev constant is m/T. Equality for shifted normals.

    Args:
        kl: KL(rho | Gibbs).
        temperature: T.
        curvature: m.

    Returns:
        The bound, length^2.

    Examples:
        >>> talagrand_bound(0.5, 1.0, 0.25)
        4.0
    """
    not_negative("talagrand_bound", kl=kl)
    positive("talagrand_bound", temperature=temperature, curvature=curvature)
    return 2 * temperature * kl / curvature


def published_mixing_time(kl: float, temperature: float, distance: float) -> float:
    r"""Time to come within W2 = eps of equilibrium, as published: (2 T/eps^2) log(KL_0/eps^2).

    **Wrong with it**: the rate of relaxation is not in it, so it has no unit of time; KL_0/eps^2 is
    no number. True is `mixing_time`.

    Args:
        kl: KL_0.
        temperature: T_eff.
        distance: eps.

    Returns:
        The claimed time.

    Examples:
        >>> published_mixing_time(1.0, 1.0, 1.0)
        0.0
    """
    positive("published_mixing_time", kl=kl, temperature=temperature, distance=distance)
    return 2 * temperature / distance**2 * math.log(kl / distance**2)


def mixing_time(kl: float, rate: float, lsi: float, distance: float) -> float:
    r"""Time after which W2 <= eps for certain: (1/rate) log(2 KL_0/(m eps^2)), at least 0.

    Args:
        kl: KL_0.
        rate: Rate of the decay of KL, such as `kl_rate`.
        lsi: m, the log-Sobolev constant of the Gibbs law, curvature/temperature.
        distance: eps.

    Returns:
        The time.

    Examples:
        >>> round(mixing_time(0.5 * np.e, 2.0, 1.0, 1.0), 9)
        0.5
    """
    positive("mixing_time", kl=kl, rate=rate, lsi=lsi, distance=distance)
    return max(0.0, math.log(2 * kl / (lsi * distance**2)) / rate)


def published_reset_count(minima: int, strength: float) -> float:
    r"""Resets needed to reach the global optimum among K minima, as published.

    log K/log(1 + alpha).

    **Wrong with it**: none is needed. Langevin dynamics at a fixed temperature is ergodic and
    arrives in the Kramers time, `exact_kramers.mean_first_passage_time`; resets help exactly where
    the passage time has a coefficient of variation above 1, `exact_resets.reset_slope`.

    Args:
        minima: K.
        strength: alpha, the share that is replaced.

    Returns:
        The claimed lower bound.

    Examples:
        >>> round(published_reset_count(100, 0.2), 1)
        25.3
    """
    positive("published_reset_count", minima=minima, strength=strength)
    return math.log(minima) / math.log1p(strength)
