"""Escape over a barrier by the formula of Eyring and Kramers, asymptotic for barrier >> T.

Exact times and rates are in `foreshock.simulators.exact_kramers`.

Sources: P. Hanggi, P. Talkner and M. Borkovec, Rev. Mod. Phys. 62, 251 (1990); A. Bovier et al.,
J. Eur. Math. Soc. 6, 399 (2004) (d dimensions).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foreshock.simulators.door import finite, positive
from foreshock.simulators.exact_kramers import Energy, well_decay_rate


def eyring_kramers_rate(
    curvature_well: float,
    curvature_barrier: float,
    barrier: float,
    temperature: float,
    *,
    mobility: float = 1.0,
) -> float:
    r"""Escape rate over one barrier in one dimension, asymptotic for barrier >> T.

    k = M sqrt(U''(a) |U''(b)|)/(2 pi) exp(-barrier/T). Too large by a relative O(T/barrier): for
    U = (x^2 - 1)^2 by 10.7, 5.6, 4.3 and 2.0 % at barrier/T = 4, 8, 10 and 20 (exact: lambda_1/2).

    Args:
        curvature_well: U''(a) > 0 at the minimum.
        curvature_barrier: |U''(b)| at the maximum.
        barrier: U(b) - U(a) > 0.
        temperature: T.
        mobility: M.

    Returns:
        The rate, 1/time.

    Examples:
        >>> round(eyring_kramers_rate(8.0, 4.0, 1.0, 1 / 4), 5)
        0.01649
    """
    positive(
        "eyring_kramers_rate",
        curvature_well=curvature_well,
        curvature_barrier=curvature_barrier,
        barrier=barrier,
        temperature=temperature,
        mobility=mobility,
    )
    curvature = math.sqrt(curvature_well * curvature_barrier)
    return mobility * curvature / (2 * math.pi) * math.exp(-barrier / temperature)


def eyring_kramers_rate_nd(
    hessian_well: ArrayLike,
    hessian_saddle: ArrayLike,
    barrier: float,
    temperature: float,
    *,
    mobility: float = 1.0,
) -> float:
    r"""Escape rate over one saddle in d dimensions, isotropic mobility, for barrier >> T.

    k = M |lambda_-|/(2 pi) sqrt(det H_a/|det H_b|) exp(-barrier/T), lambda_- the one negative
    eigenvalue at the saddle. Determinants by logarithms, so d may be large.

    Args:
        hessian_well: (d, d) Hessian at the minimum, positive definite.
        hessian_saddle: (d, d) Hessian at the saddle, exactly one negative eigenvalue.
        barrier: U(saddle) - U(minimum) > 0.
        temperature: T.
        mobility: M.

    Returns:
        The rate, 1/time.

    Raises:
        ValueError: If the points are not a minimum and a saddle of index 1.

    Examples:
        >>> h_well, h_saddle = np.diag([8.0, 3.0]), np.diag([-4.0, 3.0])
        >>> round(eyring_kramers_rate_nd(h_well, h_saddle, 1.0, 1 / 4), 5)
        0.01649
    """
    positive("eyring_kramers_rate_nd", barrier=barrier, temperature=temperature, mobility=mobility)
    finite("eyring_kramers_rate_nd", hessian_well=hessian_well, hessian_saddle=hessian_saddle)
    well = np.linalg.eigvalsh(np.asarray(hessian_well, np.float64))
    saddle = np.linalg.eigvalsh(np.asarray(hessian_saddle, np.float64))
    if well.shape != saddle.shape or not well[0] > 0:
        raise ValueError(
            "The `hessian_well` of `eyring_kramers_rate_nd` must be that of a minimum, of the same "
            f"dimension as the saddle's. Its smallest eigenvalue is {well[0]:.3g}. "
            "Relax the point to a minimum first."
        )
    if not (saddle[0] < 0 and np.all(saddle[1:] > 0)):
        raise ValueError(
            "The `hessian_saddle` of `eyring_kramers_rate_nd` must have exactly one negative "
            f"eigenvalue and none at 0. Got {int((saddle < 0).sum())} negative of {saddle.size}, "
            f"the second smallest {saddle[min(1, saddle.size - 1)]:.3g}. "
            "The formula holds at the lowest saddle of index 1."
        )
    log_ratio = (np.log(well).sum() - np.log(np.abs(saddle)).sum()) / 2
    log_rate = math.log(mobility * -saddle[0] / (2 * math.pi)) + log_ratio - barrier / temperature
    return math.exp(log_rate)


def finite_barrier_ratio(
    energy: Energy,
    temperature: float,
    well: float,
    barrier: float,
    curvature_well: float,
    curvature_barrier: float,
) -> float:
    r"""Eyring-Kramers over exact, for a **symmetric** double well: what the asymptotics cost.

    k_EK/(lambda_1/2). A measured rate must be compared with the exact one: a precise interval
    around the asymptotic rate has to exclude it.

    Args:
        energy: U, vectorised, symmetric about `barrier`.
        temperature: T.
        well: Position of a minimum.
        barrier: Position of the barrier.
        curvature_well: U'' at the minimum.
        curvature_barrier: |U''| at the barrier.

    Returns:
        The ratio, above 1 for the usual shapes.

    Raises:
        ValueError: If U is not symmetric about the barrier.

    Examples:
        >>> round(finite_barrier_ratio(lambda x: (x**2 - 1) ** 2, 1 / 8, -1, 0, 8, 4), 3)
        1.056
    """
    apart = np.linspace(0, 1.5 * abs(well - barrier), 7)
    left, right = energy(barrier - apart), energy(barrier + apart)
    if not np.allclose(left, right, rtol=1e-9, atol=1e-9 * float(np.ptp(left))):
        raise ValueError(
            "The `energy` of `finite_barrier_ratio` must be symmetric about the barrier: otherwise "
            "lambda_1 is the sum of two different hop rates. Compare "
            "`eyring_kramers_rate` with 1/`mean_first_passage_time` instead."
        )
    height = float(energy(np.array([barrier]))[0] - energy(np.array([well]))[0])
    exact = well_decay_rate(energy, temperature, well, barrier) / 2
    return eyring_kramers_rate(curvature_well, curvature_barrier, height, temperature) / exact
