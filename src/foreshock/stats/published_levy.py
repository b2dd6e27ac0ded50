"""What levy.md publishes: functions of numbers, as written; see `foreshock.stats.published`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def hill_levy(norms: ArrayLike) -> float:
    r"""Hill's tail index of the top tenth, clipped to [1.1, 1.9]. levy.md, Implementation.

    alpha = clip(k / sum log(X_i / X_(k+1)), 1.1, 1.9) with k = int(.1 n).

    **Wrong with it**: at k = 10 its standard deviation is .32 alpha, and norms of Gaussian vectors
    read 1.9 in every draw: the stop, not a measurement.

    Args:
        norms: (n,) Gradient norms of the window, n >= 10 (100 in the listing).

    Returns:
        alpha in [1.1, 1.9].

    Raises:
        ValueError: If fewer than 10 norms are passed.

    Examples:
        >>> hill_levy(np.linspace(1, 2, 100))
        1.9
    """
    ordered = np.sort(np.asarray(norms, dtype=np.float64))
    if ordered.size < 10:
        raise ValueError(f"`hill_levy` needs at least 10 norms. Got {ordered.size}.")
    k = int(0.1 * ordered.size)
    with np.errstate(divide="ignore"):  # a flat tail: k/0, which the clip turns into 1.9
        alpha = k / np.sum(np.log(ordered[-k:] / ordered[-k - 1]))
    return float(np.clip(alpha, 1.1, 1.9))


def d_levy(sigma: float, grad_norm: float, alpha: float) -> float:
    r"""Effective diffusion D = (sigma/|g|)^alpha. levy.md, observable 1.

    **Wrong with it**: it is a pure number: ten times the gradients and ten times the noise leave
    it as it was, whereas a diffusion grows by 10^alpha.

    Args:
        sigma: Scale of the stable noise.
        grad_norm: |g| > 0.
        alpha: Tail index.

    Returns:
        D.

    Examples:
        >>> d_levy(2.0, 1.0, 1.5) == 2**1.5
        True
    """
    return (sigma / grad_norm) ** alpha


def c_levy_text(grad_norm: float, sigma: float, alpha: float, dimension: int) -> float:
    r"""Consolidation ratio, text: C = |g|^2/(2 D d), D = (sigma/|g|)^alpha. levy.md, observable 1.

    **Wrong with it**: D is a pure number, so C has the units of |g|^2: a loss multiplied by 10
    multiplies C by 100, and a window [.8, 1.2] selects nothing.

    Args:
        grad_norm: |g|.
        sigma: Scale of the stable noise.
        alpha: Tail index.
        dimension: d, the number of parameters.

    Returns:
        C.

    Examples:
        >>> c_levy_text(2.0, 2.0, 1.5, 1)
        2.0
    """
    return grad_norm**2 / (2 * d_levy(sigma, grad_norm, alpha) * dimension)


def c_levy_code(norms: ArrayLike, window: int = 100) -> float:
    r"""Consolidation ratio, listing: C = g_n^2/(2 D W), D = (std/g_n)^alpha. levy.md.

    Over the last W = `window` norms: g_n the last, std their plain deviation (divisor W), alpha
    from `hill_levy`.

    **Wrong with it**: W stands where the text has d, so the two forms differ by d/W, and the
    scatter of *norms* stands where the noise of the gradient should; units as in `c_levy_text`.

    Args:
        norms: (n,) Gradient norm of every step so far.
        window: W.

    Returns:
        C.

    Raises:
        ValueError: If there are fewer norms than `window` (the listing returns nothing then).

    Examples:
        >>> round(c_levy_code(np.linspace(1, 2, 100)), 4)
        0.7762
    """
    recent = np.asarray(norms, dtype=np.float64)[-window:]
    if recent.size < window:
        raise ValueError(f"`c_levy_code` needs `window` = {window} norms. Got {recent.size}.")
    diffusion = (float(recent.std()) / float(recent[-1])) ** hill_levy(recent)
    return float(recent[-1]) ** 2 / (2 * diffusion * window)


def s_levy(lr: float, lambda_max: float) -> float:
    r"""Stability margin S = 2/eta - lambda_max. levy.md, observable 2.

    **Wrong with it**: it has the units of a curvature, so the window |S| < .1 is .05 % of the edge
    at eta = .01 and 1 % at eta = .2. The pure number is eta lambda/2.

    Args:
        lr: eta > 0.
        lambda_max: Largest Hessian eigenvalue.

    Returns:
        S.

    Examples:
        >>> s_levy(0.5, 3.0)
        1.0
    """
    return 2.0 / lr - lambda_max


def s_band_levy(s: float) -> str:
    r"""Reading of S: |S| <= .1 edge, above .5 stable, below 0 divergence. levy.md, observable 2.

    **Wrong with it**: .1 to .5 has no name, and "diverges below 0" is what runs at the edge, which
    hover on both sides, disprove; units as in `s_levy`.

    Args:
        s: S.

    Returns:
        ``"edge"``, ``"stable"``, ``"divergence"`` or ``"unnamed"``.

    Examples:
        >>> s_band_levy(0.05), s_band_levy(0.3)
        ('edge', 'unnamed')
    """
    if abs(s) <= 0.1:
        return "edge"
    if s < 0:
        return "divergence"
    return "stable" if s > 0.5 else "unnamed"


def rho_levy(eigenvalues: ArrayLike, threshold: float = 1e-6) -> float:
    r"""Log-determinant rho = sum of log lambda_k over lambda_k > 1e-6. levy.md, observable 3.

    **Wrong with it**: an eigenvalue that crosses the threshold adds or removes log 1e-6 = -13.8,
    28 times the rate that counts as critical; rounding is enough for that. It shifts with the
    scale of the outputs too.

    Args:
        eigenvalues: Eigenvalues of the metric.
        threshold: What counts as positive.

    Returns:
        rho.

    Examples:
        >>> rho_levy([1.0, 1e-9])
        0.0
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    return float(np.log(values[values > threshold]).sum())


def drho_levy_text(rho: float, previous: float, interval: float) -> float:
    r"""Rate of the log-determinant: (rho(t) - rho(t - dt))/dt. levy.md, observable 3.

    **Wrong with it**: between two probe batches it moves by 1 to 3 without any learning, more than
    its threshold .5, which also depends on what one calls a unit of time.

    Args:
        rho: rho now.
        previous: rho before.
        interval: dt.

    Returns:
        d rho/dt.

    Examples:
        >>> drho_levy_text(3.0, 1.0, 4.0)
        0.5
    """
    return (rho - previous) / interval


def drho_levy_code(history: Sequence[float]) -> float:
    r"""Rate of the log-determinant, listing: last difference, whatever the distance. levy.md.

    **Wrong with it**: 0 stands for "not known yet", which reads as lazy training; and logging
    every tenth step makes it ten times larger.

    Args:
        history: rho of every call so far.

    Returns:
        The last difference, 0 if there is none.

    Examples:
        >>> drho_levy_code([1.0, 3.0]), drho_levy_code([1.0])
        (2.0, 0.0)
    """
    return float(history[-1] - history[-2]) if len(history) > 1 else 0.0


def components_levy(c: float, s: float, rate: float, threshold: float = 0.5) -> dict[str, bool]:
    r"""Component flags: C in [.8, 1.2], S in [-.1, .1], |d rho/dt| > .5. levy.md.

    **Wrong with it**: each compares a number that has units with a fixed band, so a loss in other
    units has other flags.

    Args:
        c: C.
        s: S.
        rate: d rho/dt.
        threshold: tau; the text calls it task-dependent, the listing has .5.

    Returns:
        ``stochastic``, ``spectral`` and ``geometric``.

    Examples:
        >>> components_levy(1.0, 0.0, -0.2)
        {'stochastic': True, 'spectral': True, 'geometric': False}
    """
    return {
        "stochastic": 0.8 <= c <= 1.2,
        "spectral": -0.1 <= s <= 0.1,
        "geometric": abs(rate) > threshold,
    }


def is_critical_levy(c: float, s: float, rate: float, threshold: float = 0.5) -> bool:
    r"""Whether all three components of `components_levy` are critical. levy.md.

    **Wrong with it**: as the parts; the conjunction depends on the units of the loss.

    Args:
        c: C.
        s: S.
        rate: d rho/dt.
        threshold: tau.

    Returns:
        The conjunction.

    Examples:
        >>> is_critical_levy(1.0, 0.0, 0.7)
        True
    """
    return all(components_levy(c, s, rate, threshold).values())


def partial_regime_levy(c: float, s: float, rate: float, threshold: float = 0.5) -> str:
    r"""Regime by the unified law and its three partial cases. levy.md, unified law.

    All of `components_levy`: aligned. C ~ 1 and S >> 0: exploratory but stable. S ~ 0 and C >> 1:
    edge-walking. \|r\| large and C << 1: noisy flux. The text gives no numbers for >> and <<: C is
    read as outside its window, S as above .5, where the text calls it stable.

    **Wrong with it**: most triples have no name, and units choose among the others, as in
    `components_levy`.

    Args:
        c: C.
        s: S.
        rate: d rho/dt.
        threshold: tau.

    Returns:
        ``"aligned"``, ``"exploratory"``, ``"edge-walking"``, ``"noisy flux"`` or ``"unnamed"``.

    Examples:
        >>> partial_regime_levy(1.0, 0.0, 0.7), partial_regime_levy(1.0, 2.0, 0.0)
        ('aligned', 'exploratory')
    """
    near = components_levy(c, s, rate, threshold)
    if all(near.values()):
        return "aligned"
    if near["stochastic"] and s_band_levy(s) == "stable":
        return "exploratory"
    if near["spectral"] and c > 1 and not near["stochastic"]:
        return "edge-walking"
    if near["geometric"] and c < 1 and not near["stochastic"]:
        return "noisy flux"
    return "unnamed"


def phi_levy(
    c: float,
    s: float,
    rate: float,
    sigma1: float = 0.3,
    sigma2: float = 0.15,
    sigma3: float = 0.5,
    mu: float = 1.0,
) -> float:
    r"""Phi = exp(-[(C-1)^2/2 sigma1^2 + S^2/2 sigma2^2 + (r-mu)^2/2 sigma3^2]). levy.md.

    **Wrong with it**: the rule takes |r| > tau, Phi only r near +1: at r = -1, C = 1, S = 0 all
    flags are set and Phi = 3e-4. As a probability per step it is 1 at its peak.

    Args:
        c: C.
        s: S.
        rate: r = d rho/dt.
        sigma1: Width in C.
        sigma2: Width in S.
        sigma3: Width in r.
        mu: Centre in r.

    Returns:
        Phi in [0, 1].

    Examples:
        >>> phi_levy(1.0, 0.0, 1.0)
        1.0
    """
    exponent = (c - 1) ** 2 / (2 * sigma1**2) + s**2 / (2 * sigma2**2)
    return math.exp(-(exponent + (rate - mu) ** 2 / (2 * sigma3**2)))
