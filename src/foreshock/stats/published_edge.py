"""What spectral_edge.md publishes, its companions' forms included; see `stats.published`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def k_star_raw(sigma: ArrayLike) -> int:
    r"""Gap position k* = argmax_j sigma_j/sigma_(j+1), counted from 1. spectral_edge.md.

    **Wrong with it**: it exists for noise: without any signal it is 1 or W - 1 in over 40 % of
    windows of 10 updates, and autocorrelated noise puts it at 1 to 3.

    Args:
        sigma: (W,) Singular values of the update window, descending and positive.

    Returns:
        k*.

    Examples:
        >>> k_star_raw([4.0, 3.0, 1.0])
        2
    """
    s = np.asarray(sigma, dtype=np.float64)
    return int(np.argmax(s[:-1] / s[1:])) + 1


def k_star_weighted(sigma: ArrayLike) -> int:
    r"""Gap position k* = argmax_j (sigma_j/sum sigma)(sigma_j/sigma_(j+1)). Companion scripts.

    **Wrong with it**: the weight favours 1, which it names in about 80 % of windows of pure noise;
    and it is not the k* of spectral_edge.md.

    Args:
        sigma: (W,) Singular values, descending and positive.

    Returns:
        k*.

    Examples:
        >>> k_star_weighted([4.0, 3.5, 2.9])
        1
    """
    s = np.asarray(sigma, dtype=np.float64)
    return int(np.argmax(s[:-1] / s.sum() * (s[:-1] / s[1:]))) + 1


def g_singular(sigma: ArrayLike, k: int) -> float:
    r"""Gap, first meaning: g = sigma_k - sigma_(k+1). Theory behind spectral_edge.md.

    **Wrong with it**: it has the units of an update, so every learning-rate schedule moves it.

    Args:
        sigma: (W,) Singular values, descending.
        k: Position from 1.

    Returns:
        g.

    Examples:
        >>> g_singular([4.0, 3.0, 1.0], 2)
        2.0
    """
    s = np.asarray(sigma, dtype=np.float64)
    return float(s[k - 1] - s[k])


def g_eigenvalue(sigma: ArrayLike, k: int) -> float:
    r"""Gap, second meaning: g = sigma_k^2 - sigma_(k+1)^2. Implied by spectral_edge.md.

    **Wrong with it**: it has the units of a squared update: half the learning rate, a quarter of g.

    Args:
        sigma: (W,) Singular values, descending.
        k: Position from 1.

    Returns:
        g.

    Examples:
        >>> g_eigenvalue([4.0, 3.0, 1.0], 2)
        8.0
    """
    s = np.asarray(sigma, dtype=np.float64)
    return float(s[k - 1] ** 2 - s[k] ** 2)


def g_23(sigma: ArrayLike) -> float:
    r"""Gap, third meaning: g = sigma_2^2 - sigma_3^2, wherever k* is. Companion scripts.

    **Wrong with it**: it follows the squared norm of the updates: fixed random directions whose
    norms decay give the "collapse" too.

    Args:
        sigma: (W,) Singular values, descending, W >= 3.

    Returns:
        g.

    Examples:
        >>> g_23([4.0, 3.0, 1.0])
        8.0
    """
    return g_eigenvalue(sigma, 2)


def alpha_clip(eigenvalues: ArrayLike, previous: ArrayLike, constant: float = 1.0) -> np.ndarray:
    r"""Stability of mode j, first form: max(0, 1 - c sum (Delta lambda)^2/gap_j^2).

    gap_j = min over k != j of |lambda_j - lambda_k|, here of the current window (the source does
    not say which). Companion scripts of spectral_edge.md. A vanishing gap gives 0.

    **Wrong with it**: the W x W Gram lives in time-index space: in a stationary process its
    eigenvalues stay while the modes in parameter space rotate, so it reads 1 on modes that turn.

    Args:
        eigenvalues: (W,) Eigenvalues of this window's Gram, W >= 2.
        previous: (W,) Eigenvalues of the window before, in the same order.
        constant: c.

    Returns:
        (W,) alpha_j in [0, 1].

    Examples:
        >>> alpha_clip([4.0, 2.0], [3.0, 2.0])
        array([0.75, 0.75])
    """
    now = np.asarray(eigenvalues, dtype=np.float64)
    change = float(((now - np.asarray(previous, dtype=np.float64)) ** 2).sum())
    distance = np.abs(now[:, None] - now[None, :])
    np.fill_diagonal(distance, np.inf)
    gap = distance.min(1)
    out = np.zeros_like(now)
    apart = gap > 0
    out[apart] = np.maximum(0.0, 1.0 - constant * change / gap[apart] ** 2)
    return out


def alpha_halves(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    r"""Stability of mode j, second form: |<v_j of the first half-window, v_j of the second>|.

    Companion scripts of spectral_edge.md.

    **Wrong with it**: it is another quantity under the name of `alpha_clip`, and near-equal modes
    swap places, so it reads 0 on a plane that did not move.

    Args:
        first: (k, p) Unit modes of the first half-window, one per row.
        second: (k, p) Unit modes of the second.

    Returns:
        (k,) alpha_j in [0, 1].

    Examples:
        >>> alpha_halves([[1.0, 0.0]], [[0.6, 0.8]])
        array([0.6])
    """
    overlap = np.asarray(first, dtype=np.float64) * np.asarray(second, dtype=np.float64)
    return np.abs(overlap.sum(1))


def a_adiabatic(gram_change: float, lr: float, gap: float) -> float:
    r"""Adiabatic parameter A = |Delta G|_F/(eta g^2). spectral_edge.md.

    **Wrong with it**: under delta -> c delta, eta -> c eta it goes as 1/c if g is a difference of
    singular values, as 1/c^3 if of eigenvalues: "A ~ 1" has no meaning across runs or schedules.

    Args:
        gram_change: Frobenius norm of the change of the Gram.
        lr: eta.
        gap: g, in one of its meanings.

    Returns:
        A.

    Examples:
        >>> a_adiabatic(1.0, 0.25, 2.0)
        1.0
    """
    return gram_change / (lr * gap**2)


def a_band(a: float, factor: float) -> str:
    r"""Reading of A: << 1 plateau, about 1 transition, >> 1 forgetting. spectral_edge.md.

    The text gives no width, so `factor` has no default: from 1/`factor` to `factor` is "about 1".

    **Wrong with it**: see `a_adiabatic`: the unit of the updates chooses the band.

    Args:
        a: A.
        factor: Width of the transition, above 1.

    Returns:
        ``"plateau"``, ``"transition"`` or ``"forgetting"``.

    Examples:
        >>> a_band(0.01, 3.0), a_band(1.5, 3.0)
        ('plateau', 'transition')
    """
    if a < 1 / factor:
        return "plateau"
    return "forgetting" if a > factor else "transition"


def bbp_ratio(sigma: ArrayLike, parameters: int) -> float:
    r"""Smallest singular value over the BBP threshold: sigma_W/(nu (p (W-1))^(1/4)).

    nu^2 = (mean of the floor(W/2) smallest sigma^2)/p. Companion scripts of spectral_edge.md.

    **Wrong with it**: it compares an *observed* sigma, noise included, with the threshold of a
    *planted* one: pure noise reads (p/(W - 1))^(1/4), 65 at p = 1.6e8, and passes as "all signal".

    Args:
        sigma: (W,) Singular values, descending, W >= 2.
        parameters: p.

    Returns:
        The ratio.

    Examples:
        >>> round(bbp_ratio([1.0, 1.0], 10_000), 6)
        10.0
    """
    s = np.asarray(sigma, dtype=np.float64)
    nu = math.sqrt(float((s[-(s.size // 2) :] ** 2).mean()) / parameters)
    return float(s[-1]) / (nu * (parameters * (s.size - 1)) ** 0.25)


def mode_importance(alpha: float, train: float, heldout: float) -> float:
    r"""Part of mode j in the loss: alpha_j <v_j, grad L_train> <v_j, grad L_val>.

    Loss decomposition behind spectral_edge.md.

    **Wrong with it**: over an orthonormal basis the plain products, without alpha, already add up
    to <grad L_train, grad L_val>, the first-order effect of a step; weighted parts miss it.

    Args:
        alpha: alpha_j.
        train: <v_j, grad L_train>.
        heldout: <v_j, grad L_val>.

    Returns:
        The importance.

    Examples:
        >>> mode_importance(0.5, 2.0, 3.0)
        3.0
    """
    return alpha * train * heldout


def gap_flow(
    lr: float,
    decay: float,
    window: int,
    curvature: tuple[float, float],
    sigma: tuple[float, float],
    gradient: tuple[float, float],
) -> tuple[float, float, float]:
    r"""The three terms of dg/dt, for modes k and k+1: curvature asymmetry, damping, driving.

        -eta (h_k - h_k+1) d_mean,   -eta (h_mean + omega) g,   eta W (G_k^2/d_k - G_k+1^2/d_k+1)

    with g = d_k - d_(k+1). Theory behind spectral_edge.md.

    **Wrong with it**: the driving lacks a factor eta (its units are loss/theta, not theta); under a
    constant gradient, where the gap stands still, it is not 0; the first two terms expand one.

    Args:
        lr: eta.
        decay: omega.
        window: W.
        curvature: h_k, h_(k+1).
        sigma: d_k, d_(k+1).
        gradient: |G_k|, |G_(k+1)|.

    Returns:
        The three terms; their sum is dg/dt.

    Examples:
        >>> gap_flow(0.5, 0.0, 2, (1.0, 1.0), (2.0, 1.0), (2.0, 1.0))
        (-0.0, -0.5, 1.0)
    """
    (h1, h2), (d1, d2), (g1, g2) = curvature, sigma, gradient
    return (
        -lr * (h1 - h2) * (d1 + d2) / 2,
        -lr * ((h1 + h2) / 2 + decay) * (d1 - d2),
        lr * window * (g1**2 / d1 - g2**2 / d2),
    )


def sigma_steady(window: int, curvature: float, gradient: float) -> float:
    r"""Steady singular value d = sqrt(W/h) |G|. Companion scripts of spectral_edge.md.

    **Wrong with it**: no learning rate: under a slowly varying gradient d = eta sqrt(W) |G| by
    definition, so half the rate halves d and leaves this as it was.

    Args:
        window: W.
        curvature: h > 0.
        gradient: |G|.

    Returns:
        d.

    Examples:
        >>> sigma_steady(9, 1.0, 2.0)
        6.0
    """
    return math.sqrt(window / curvature) * gradient


def krylov_bound(curvatures: ArrayLike, lr: float, window: int) -> int:
    r"""Upper bound on k*: how many curvatures are at least 1/(eta W). spectral_edge.md, theory.

    **Wrong with it**: W counts snapshots; with a stride of s steps the window lasts s W steps, and
    the count is of another threshold.

    Args:
        curvatures: Hessian eigenvalues h_j.
        lr: eta.
        window: W.

    Returns:
        The count.

    Examples:
        >>> krylov_bound([5.0, 1.0, 0.1], 0.1, 10)
        2
    """
    return int((np.asarray(curvatures, dtype=np.float64) >= 1 / (lr * window)).sum())
