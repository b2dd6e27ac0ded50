"""What langevin.md publishes: functions of numbers, as written; see `foreshock.stats.published`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def d_gradients_langevin(gradients: ArrayLike) -> float:
    r"""Diffusion from batch gradients: D = Var(g)/2, the mean over coordinates. langevin.md, FAQ.

    The text does not say how a vector has one variance; the mean over coordinates of the unbiased
    variance is the reading that its C = |g|^2/(D d) needs.

    **Wrong with it**: it has no learning rate, so it is no diffusion of theta: per step that is
    eta^2 Var(g)/2.

    Args:
        gradients: (n, d) Gradients at one theta, n >= 2.

    Returns:
        D.

    Examples:
        >>> d_gradients_langevin([[1.0, 0.0], [3.0, 0.0]])
        0.5
    """
    return float(np.asarray(gradients, dtype=np.float64).var(0, ddof=1).mean() / 2)


def d_parameters_langevin(parameters: ArrayLike) -> float:
    r"""Diffusion from a trajectory: D = Var(theta)/T over its T points. langevin.md, FAQ.

    Mean over coordinates of the unbiased variance, as in `d_gradients_langevin`.

    **Wrong with it**: for free diffusion it reads D (T + 1)/(3 T), a third of D; for a stationary
    process it tends to 0 as T grows; drift counts as diffusion.

    Args:
        parameters: (T, d) Parameters at T steps, T >= 2.

    Returns:
        D.

    Examples:
        >>> d_parameters_langevin([[0.0], [2.0]])
        1.0
    """
    theta = np.asarray(parameters, dtype=np.float64)
    return float(theta.var(0, ddof=1).mean() / len(theta))


def c_langevin(grad_squared: float, diffusion: float, dimension: int) -> float:
    r"""Consolidation ratio C = |grad L|^2/(D d). langevin.md, section 3.

    **Wrong with it**: with D = Var(g)/2 it is twice the C of signal.md and no second witness; with
    the D of the equation it has units, and equilibrium reads Tr(H)/d instead of 1.

    Args:
        grad_squared: |grad L|^2.
        diffusion: D.
        dimension: d.

    Returns:
        C.

    Examples:
        >>> c_langevin(4.0, 0.5, 2)
        4.0
    """
    return grad_squared / (diffusion * dimension)


def regime_langevin(c: float, tolerance: float) -> str:
    r"""Regime: C >> 10 deterministic, 1 to 10 transitional, about 1 critical, C < 1 diffusive.

    langevin.md, section 3. ">> 10" is read as "> 10"; "about 1" has no width there, so none here.

    **Wrong with it**: C equilibrates at Tr(H)/d, so the unit of theta chooses the regime.

    Args:
        c: C.
        tolerance: Half-width of the critical band.

    Returns:
        ``"deterministic"``, ``"transitional"``, ``"critical"`` or ``"diffusive"``.

    Examples:
        >>> regime_langevin(20.0, 0.1), regime_langevin(0.95, 0.1)
        ('deterministic', 'critical')
    """
    if abs(c - 1) <= tolerance:
        return "critical"
    if c < 1:
        return "diffusive"
    return "deterministic" if c > 10 else "transitional"


def d_eff_langevin(lr: float, grad_variance: float, batch: int) -> float:
    r"""Effective diffusion D_eff = alpha^2 sigma^2/B. langevin.md, learning rate sensitivity.

    **Wrong with it**: alpha^2 sigma^2/B is the variance of one step, which is 2 D, not D; and a
    sigma^2 measured between batches is divided by B twice.

    Args:
        lr: alpha, the learning rate.
        grad_variance: sigma^2 of a per-example gradient coordinate.
        batch: B.

    Returns:
        D_eff.

    Examples:
        >>> d_eff_langevin(0.5, 8.0, 2)
        1.0
    """
    return lr**2 * grad_variance / batch


def lr_for_batch_langevin(lr: float, batch: int, new_batch: int) -> float:
    r"""Learning rate for another batch size: alpha ~ sqrt(B), called linear. langevin.md.

    **Wrong with it**: it keeps alpha^2/B, the noise of a step; the temperature alpha/B, which the
    Gibbs law of the same document needs, falls as 1/sqrt(B).

    Args:
        lr: alpha at `batch`.
        batch: B.
        new_batch: The other B.

    Returns:
        The learning rate at `new_batch`.

    Examples:
        >>> lr_for_batch_langevin(0.1, 32, 128)
        0.2
    """
    return lr * math.sqrt(new_batch / batch)


def alpha_opt_langevin(diffusion: float, lambda_max: float) -> float:
    r"""Optimal learning rate 2 D/lambda_max, D = Var(g)/2. langevin.md, experiment 3.

    **Wrong with it**: it has the units of a loss: ten times the loss gives ten times the rate,
    where the best rate is a tenth; without noise it says 0.

    Args:
        diffusion: D.
        lambda_max: Largest Hessian eigenvalue.

    Returns:
        The learning rate.

    Examples:
        >>> alpha_opt_langevin(0.5, 4.0)
        0.25
    """
    return 2 * diffusion / lambda_max


def kramers_rate_langevin(omega0: float, barrier: float, diffusion: float) -> float:
    r"""Escape rate (omega_0/2 pi) exp(-dE/D). langevin.md, theorem 2.

    **Wrong with it**: overdamped escape goes with sqrt(omega_0 |omega_b|): the curvature at the
    barrier is missing, a factor sqrt(2) in the quartic double well.

    Args:
        omega0: Curvature at the minimum.
        barrier: dE.
        diffusion: D.

    Returns:
        The rate.

    Examples:
        >>> round(kramers_rate_langevin(2.0, 0.25, 0.05), 6)
        0.002145
    """
    return omega0 / (2 * math.pi) * math.exp(-barrier / diffusion)


def escape_time_langevin(barrier: float, diffusion: float) -> float:
    r"""Escape time exp(dE/D), 0 below dE = 1e-10. langevin.md, listing.

    **Wrong with it**: it is not one over the document's own rate and has no unit of time, and it
    jumps from 0 to 1.

    Args:
        barrier: dE.
        diffusion: D.

    Returns:
        The time.

    Examples:
        >>> escape_time_langevin(0.0, 0.1), escape_time_langevin(1e-9, 0.1) > 1
        (0.0, True)
    """
    return 0.0 if barrier < 1e-10 else math.exp(barrier / diffusion)


def error_bound_langevin(
    gap: float, lambda_min: float, time: float, diffusion: float, dimension: int
) -> float:
    r"""Bound on the excess loss: gap exp(-lambda_min t) + D d/lambda_min. langevin.md, theorem 4.

    **Wrong with it**: a parabola equilibrates at D d/2 whatever its curvature, above this bound as
    soon as lambda > 2.

    Args:
        gap: L_0 - L*.
        lambda_min: Smallest Hessian eigenvalue.
        time: t.
        diffusion: D.
        dimension: d.

    Returns:
        The bound.

    Examples:
        >>> error_bound_langevin(1.0, 2.0, 0.0, 0.1, 10)
        1.5
    """
    return gap * math.exp(-lambda_min * time) + diffusion * dimension / lambda_min


def uncertainty_bound_langevin(diffusion: float) -> float:
    r"""Lower bound D/2 on sd(theta) sd(grad L), for any density. langevin.md, theorem 1.

    **Wrong with it**: a narrow density on a parabola has sd(theta) sd(grad) = h Var(theta), as
    small as one likes.

    Args:
        diffusion: D.

    Returns:
        The bound.

    Examples:
        >>> uncertainty_bound_langevin(0.5)
        0.25
    """
    return diffusion / 2


def adaptive_lr_langevin(lr: float, c: float) -> float:
    r"""Learning rate by C: times 1.5 below .5, times .7 above 20. langevin.md, recommendation 2.

    **Wrong with it**: it raises the rate where signal.md cuts it to a tenth, and where the same
    document says to reduce it (C < 1); applied at every step it grows without limit.

    Args:
        lr: Learning rate.
        c: C.

    Returns:
        The new learning rate.

    Examples:
        >>> adaptive_lr_langevin(0.5, 0.4), adaptive_lr_langevin(0.5, 1.0)
        (0.75, 0.5)
    """
    if c < 0.5:
        return lr * 1.5
    return lr * 0.7 if c > 20 else lr


def alert_langevin(c: float, previous: float) -> bool:
    r"""Grokking alert: C < 2 and falling. langevin.md, grokking.

    **Wrong with it**: any noisy C below 2 falls at every other measurement.

    Args:
        c: C now.
        previous: C before.

    Returns:
        Whether it fires.

    Examples:
        >>> alert_langevin(1.5, 1.7), alert_langevin(2.5, 3.0)
        (True, False)
    """
    return c < 2 and c < previous
