r"""Exact results for a matrix drift, on rings, and for discrete chains and quadratic losses.

dx = mu dt + sqrt(2 D) dW, Ito. Sources: C. Gardiner, Handbook of Stochastic Methods (1985), 4.4.6
(linear drift); R. L. Stratonovich (1958) and P. Reimann et al., PRL 87, 010602 (2001) (tilted
ring); U. Seifert, PRL 95, 040602 (2005) (entropy production); S. Mandt, M. Hoffman and D. Blei,
JMLR 18 (2017) (chains).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_continuous_lyapunov

from foreshock.simulators.door import Array, finite, not_negative, positive


def lyapunov_covariance(drift: ArrayLike, diffusion: ArrayLike) -> Array:
    r"""Stationary covariance S of dx = -A x dt + sqrt(2 D) dW: A S + S A' = 2 D.

    Args:
        drift: (d, d) A; every eigenvalue must have a positive real part.
        diffusion: (d, d) D, symmetric and positive semidefinite.

    Returns:
        (d, d) S.

    Raises:
        ValueError: If A is not stable (no stationary law exists), or D is no diffusion matrix.

    Examples:
        >>> lyapunov_covariance([[2, 0.8], [0.8, 1]], np.diag([1, 0.1])).round(4)
        array([[ 0.5941, -0.2353],
               [-0.2353,  0.2882]])
    """
    a, d = _square("lyapunov_covariance", drift, diffusion)
    slowest = float(np.linalg.eigvals(a).real.min())
    if not slowest > 0:
        raise ValueError(
            "The `drift` of `lyapunov_covariance` must pull inwards: the eigenvalue of A with the "
            f"smallest real part has {slowest:.3g}, so there is no stationary law. "
            "The drift is -A x: check its sign."
        )
    lowest = float(np.linalg.eigvalsh((d + d.T) / 2).min())
    if not np.allclose(d, d.T) or lowest < -1e-12 * max(1.0, float(np.abs(d).max())):
        raise ValueError(
            "The `diffusion` of `lyapunov_covariance` must be symmetric and positive semidefinite. "
            f"Its smallest eigenvalue is {lowest:.3g}. For noise B dW pass B B'/2."
        )
    covariance = np.asarray(solve_continuous_lyapunov(a, 2 * d), np.float64)
    return (covariance + covariance.T) / 2


def lyapunov_entropy_production(drift: ArrayLike, diffusion: ArrayLike) -> float:
    r"""Steady entropy production of dx = -A x dt + sqrt(2 D) dW, nats/time.

    The velocity is v = -(A - D S^-1) x, so EP = tr(V' D^-1 V S), V = A - D S^-1. It is 0 exactly
    where the process keeps detailed balance, A D = D A'.

    Args:
        drift: (d, d) A.
        diffusion: (d, d) D, positive definite.

    Returns:
        The rate.

    Raises:
        ValueError: If D is singular: an entropy production with a noiseless direction is infinite
            or undefined.

    Examples:
        >>> round(lyapunov_entropy_production([[2, 0.8], [0.8, 1]], np.diag([1, 0.1])), 3)
        1.728
    """
    a, d = _square("lyapunov_entropy_production", drift, diffusion)
    s = lyapunov_covariance(a, d)
    if np.linalg.cond(d) > 1e14:
        raise ValueError(
            "The `diffusion` of `lyapunov_entropy_production` is singular, so a direction has no "
            "noise and its entropy production is not defined. Leave that direction out."
        )
    velocity = a - d @ np.linalg.inv(s)
    return float(np.trace(velocity.T @ np.linalg.solve(d, velocity @ s)))


def _square(function: str, drift: ArrayLike, diffusion: ArrayLike) -> tuple[Array, Array]:
    """Both as (d, d) float arrays, or a refusal."""
    finite(function, drift=drift, diffusion=diffusion)
    a, d = np.asarray(drift, np.float64), np.asarray(diffusion, np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.shape != d.shape:
        raise ValueError(
            f"The `drift` and `diffusion` of `{function}` must be two (d, d) matrices. "
            f"Got {a.shape} and {d.shape}. For one D in all directions pass D * np.eye(d)."
        )
    return a, d


def rotational_entropy_production(stiffness: float, rotation: float) -> float:
    r"""Steady entropy production of the plane trap with rotation: 2 omega^2/k, nats/time.

    mu = -k x + omega (-x_2, x_1), isotropic D. The density is that of the trap alone, N(0, D/k),
    and the velocity is the rotation: EP = omega^2 E|x|^2/D, from which D drops.

    Args:
        stiffness: k.
        rotation: omega, rad/time.

    Returns:
        The rate.

    Examples:
        >>> round(rotational_entropy_production(2.0, 1.2), 4)
        1.44
    """
    positive("rotational_entropy_production", stiffness=stiffness)
    finite("rotational_entropy_production", rotation=rotation)
    return 2 * rotation**2 / stiffness


def ring_entropy_production(force: float, diffusion: float) -> float:
    r"""Steady entropy production of a constant drift f on a ring: f^2/D, nats/time.

    The density is uniform, so its entropy does not change and -dH/dt is 0.

    Args:
        force: f, the drift (length/time).
        diffusion: D.

    Returns:
        The rate.

    Examples:
        >>> ring_entropy_production(3.0, 2.0)
        4.5
    """
    positive("ring_entropy_production", diffusion=diffusion)
    finite("ring_entropy_production", force=force)
    return force**2 / diffusion


def tilted_ring_velocity(
    energy: Callable[[Array], Array],
    force: float,
    temperature: float,
    *,
    period: float = 2 * math.pi,
    mobility: float = 1.0,
    points: int = 256,
) -> float:
    r"""Mean velocity in a tilted periodic potential, by Stratonovich's formula.

    mu = -M (V'(x) - f), D = T M, V of period L. With W(x) = V(x) - f x,

        v = L (1 - exp(-f L/T)) / int_0^L I(x) dx,
        I(x) = (1/D) int_x^{x+L} exp((W(y) - W(x))/T) dy.

    The outer integral is a trapezoid sum over a period, the inner one Gauss-Legendre in the cube
    root of y - x, which resolves the decay over T/f after a steep tilt: both converge faster than
    any power of the number of points.

    Args:
        energy: V, vectorised, of period L.
        force: f, the tilt (energy/length).
        temperature: T.
        period: L.
        mobility: M.
        points: Nodes of either integral; 256 resolve barriers of about 100 T.

    Returns:
        The mean velocity, length/time.

    Examples:
        >>> round(tilted_ring_velocity(lambda x: 0 * x, 2.0, 1.0), 9)
        2.0
        >>> round(tilted_ring_velocity(np.cos, 0.5, 0.5), 6)  # slowed by the barriers
        0.175593
    """
    positive(
        "tilted_ring_velocity",
        temperature=temperature,
        period=period,
        mobility=mobility,
        points=points,
    )
    finite("tilted_ring_velocity", force=force)
    if force < 0:  # the mirror image; keeps the exponent below bounded
        return -tilted_ring_velocity(
            lambda x: energy(-x),
            -force,
            temperature,
            period=period,
            mobility=mobility,
            points=points,
        )
    x = np.arange(points, dtype=np.float64) * (period / points)
    u, weight = np.polynomial.legendre.leggauss(points)
    root = (u + 1) / 2
    ahead, weight = period * root**3, weight * period * 1.5 * root**2
    tilted = (energy(x[:, None] + ahead) - energy(x)[:, None] - force * ahead) / temperature
    inner = np.exp(tilted) @ weight
    crossing = inner.sum() * (period / points) / (temperature * mobility)
    return float(-period * math.expm1(-force * period / temperature) / crossing)


def chain_variance(lr: float, stiffness: ArrayLike, diffusion: ArrayLike, dt: float = 1.0) -> Array:
    r"""Stationary variance of the chain x <- x - lr k x + sqrt(2 D dt) xi: exact at any lr.

    2 D dt/(lr k (2 - lr k)). For small lr k it is D dt/(lr k): the temperature is D dt/lr, and
    not D. With lr = dt it is Euler-Maruyama of the Ornstein-Uhlenbeck process.

    Args:
        lr: Learning rate, or step of the scheme.
        stiffness: (..., d) k > 0, with lr k < 2.
        diffusion: (..., d) D.
        dt: Time that one step of the noise stands for.

    Returns:
        (..., d) The variance of each coordinate.

    Raises:
        ValueError: If lr k >= 2 for a coordinate: the chain diverges.

    Examples:
        >>> chain_variance(0.01, 1.0, 0.001, 1.0).round(4)
        array([0.1005])
    """
    positive("chain_variance", lr=lr, stiffness=stiffness, dt=dt)
    not_negative("chain_variance", diffusion=diffusion)
    k = np.atleast_1d(np.asarray(stiffness, np.float64))
    if np.any(lr * k >= 2):
        raise ValueError(
            f"The chain of `chain_variance` diverges: lr k = {lr * k.max():.3g}, and 2 is the edge "
            f"of stability. Take lr below {2 / k.max():.3g}."
        )
    return 2 * np.asarray(diffusion, np.float64) * dt / (lr * k * (2 - lr * k))


def stationary_energy(dimension: int, temperature: float) -> float:
    r"""Mean energy above the minimum of any d-dimensional quadratic at equilibrium: T d/2.

    Equipartition: the curvature drops out. With mobility 1, T is D.

    Args:
        dimension: d.
        temperature: T.

    Returns:
        E[U] - min U.

    Examples:
        >>> stationary_energy(4, 1.0)
        2.0
    """
    positive("stationary_energy", dimension=dimension)
    not_negative("stationary_energy", temperature=temperature)
    return temperature * dimension / 2


def convergence_bound(
    gap: float, time: float, lambda_min: float, trace: float, temperature: float
) -> float:
    r"""Bound on E[L(x_t)] - L* for a strongly convex loss under dx = -grad L dt + sqrt(2 T) dW.

    gap exp(-2 m t) + T tr(H)/(2 m), m the smallest and tr(H) the largest trace of the Hessian.
    Ito: d E[L]/dt = -E|grad L|^2 + T E[tr H], and |grad L|^2 >= 2 m (L - L*). On an isotropic
    quadratic the floor is attained: T d/2.

    Args:
        gap: E[L(x_0)] - L*.
        time: t.
        lambda_min: m > 0, a lower bound on the curvature everywhere.
        trace: An upper bound on tr H everywhere.
        temperature: T.

    Returns:
        The bound.

    Examples:
        >>> convergence_bound(1.0, 1e9, 10.0, 40.0, 1.0)
        2.0
    """
    positive("convergence_bound", lambda_min=lambda_min, trace=trace)
    not_negative("convergence_bound", gap=gap, time=time, temperature=temperature)
    return gap * math.exp(-2 * lambda_min * time) + temperature * trace / (2 * lambda_min)


def sgd_temperature(lr: float, variance: float, batch: int) -> float:
    r"""Temperature of SGD with isotropic noise, time = lr * steps: T = lr sigma^2/(2 B).

    A step of noise has variance lr^2 sigma^2/B = 2 T lr. Constant T therefore needs lr
    proportional to B. Of weak order 1 in lr, not exact (Li, Tai and E, ICML 2017).

    Args:
        lr: Learning rate.
        variance: sigma^2, variance of one example's gradient coordinate.
        batch: B.

    Returns:
        T, in the unit of the loss.

    Examples:
        >>> sgd_temperature(0.1, 2.0, 10)
        0.01
    """
    positive("sgd_temperature", lr=lr, batch=batch)
    not_negative("sgd_temperature", variance=variance)
    return lr * variance / (2 * batch)
