"""What signal.md publishes: functions of numbers, as written; see `foreshock.stats.published`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

#: The margin S and the dimension d_H that the listing of section 11.1 ships instead of estimates.
PLACEHOLDER_S = 0.1
PLACEHOLDER_D_H = 1.5


def c_signal(gradients: ArrayLike) -> float:
    r"""Consolidation ratio, listing: C = |m|^2 / (V + 1e-10), of n batch gradients.

    m is their mean and V the sum over coordinates of the unbiased variance. signal.md, 11.1.

    **Wrong with it**: E|m|^2 = |mu|^2 + V/n, so pure noise reads +1/n instead of 0; and gradients
    of norm 1e-5 meet the 1e-10.

    Args:
        gradients: (n, d) Gradients, n >= 2.

    Returns:
        C.

    Examples:
        >>> c_signal([[1.0, 0.0], [3.0, 0.0]])
        1.9999999999
    """
    g = np.asarray(gradients, dtype=np.float64)
    return float((g.mean(0) ** 2).sum() / (g.var(0, ddof=1).sum() + 1e-10))


def c_signal_text(mean: ArrayLike, covariance: ArrayLike) -> float:
    r"""Consolidation ratio, text: C = |mu|^2 / Tr(Sigma). signal.md, 3.1.

    **Wrong with it**: called invariant under reparametrisation (3.3), it is so only under
    rotations: stretching one coordinate by 10 moves it by up to 100.

    Args:
        mean: (d,) mu, the expected batch gradient.
        covariance: (d, d) Sigma, the covariance of a batch gradient.

    Returns:
        C.

    Examples:
        >>> c_signal_text([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
        0.5
    """
    mu = np.asarray(mean, dtype=np.float64)
    return float(mu @ mu / np.trace(np.asarray(covariance, dtype=np.float64)))


def p_signal(c: float) -> float:
    r"""Probability that a step helps: p = C/(1 + C). signal.md, 4.1.

    **Wrong with it**: it is no probability of anything; for isotropic Gaussian noise
    P(g.mu > 0) = Phi(sqrt(C d)), above 1/2 at every C > 0.

    Args:
        c: C.

    Returns:
        p.

    Examples:
        >>> p_signal(3.0)
        0.75
    """
    return c / (1 + c)


def p_gauss_signal(c: float) -> float:
    r"""Probability that a step is aligned, Gaussian: p = Phi(sqrt(C)). signal.md, 4.1.

    **Wrong with it**: with C = |mu|^2/(d sigma^2) the exact value is Phi(sqrt(C d)); the factor d
    is lost. It also disagrees with C/(1 + C), said to be its logistic approximation.

    Args:
        c: C >= 0.

    Returns:
        p.

    Examples:
        >>> round(p_gauss_signal(1.0), 4)
        0.8413
    """
    return 0.5 * math.erfc(-math.sqrt(c / 2))


def odds_signal(p: float) -> float:
    r"""Odds that a step helps rather than hurts: p/(1 - p), which is C again. signal.md, 4.2.

    **Wrong with it**: the odds of g.mu > 0 at C = d = 1 are 5.3, not 1; and the odds of a step are
    not a speed of convergence.

    Args:
        p: p < 1.

    Returns:
        The odds.

    Examples:
        >>> odds_signal(0.75)
        3.0
    """
    return p / (1 - p)


def phase_signal(p: float, tolerance: float) -> str:
    r"""Learning phase: p < 1/2 exploration, p ~ 1/2 transition, p > 1/2 generalization.

    signal.md, section 5. The text gives no width for "about 1/2", so it has no default here.

    **Wrong with it**: C grows in proportion to the batch size, so the phase of one and the same
    model is chosen by B.

    Args:
        p: p.
        tolerance: Half-width of the transition.

    Returns:
        ``"exploration"``, ``"transition"`` or ``"generalization"``.

    Examples:
        >>> phase_signal(0.2, 0.05), phase_signal(0.52, 0.05)
        ('exploration', 'transition')
    """
    if abs(p - 0.5) <= tolerance:
        return "transition"
    return "exploration" if p < 0.5 else "generalization"


_STATES = ("failing", "sub-threshold", "critical", "learning", "strong")
_ACTIONS = (
    "stop and change learning rate, batch size or architecture",
    "halve the learning rate, enlarge the batch, check the data",
    "watch closely and change nothing abruptly",
    "go on, perhaps with a slightly larger learning rate",
    "enlarge the learning rate, or stop and deploy",
)


def _band(value: float, edges: Sequence[float]) -> int:
    """Index of the band of `value`; an edge belongs to the band above it, as in listing 11.3."""
    return sum(not value < edge for edge in edges)


def state_signal(p: float) -> str:
    r"""State of training by p, edges .40, .50, .60, .75. signal.md, 12.1.

    **Wrong with it**: healthy small-batch training reads "failing" to its end: C_1 = .005 and
    B = 32 give p = .14.

    Args:
        p: p.

    Returns:
        ``"failing"``, ``"sub-threshold"``, ``"critical"``, ``"learning"`` or ``"strong"``.

    Examples:
        >>> state_signal(0.55)
        'critical'
    """
    return _STATES[_band(p, (0.40, 0.50, 0.60, 0.75))]


def state_by_c_signal(c: float) -> str:
    r"""State of training by the other column of the same table: C edges .67, 1, 1.5, 3.

    signal.md, 12.1.

    **Wrong with it**: p = .40 is C = 2/3, not .67, so between them the two columns disagree.

    Args:
        c: C.

    Returns:
        The state.

    Examples:
        >>> state_by_c_signal(2.0)
        'learning'
    """
    return _STATES[_band(c, (0.67, 1.0, 1.5, 3.0))]


def action_signal(state: str) -> str:
    r"""What the table advises in a state, in our words. signal.md, 12.1.

    **Wrong with it**: the advice follows B, so it says "stop" and "go faster" about one model.

    Args:
        state: A state of `state_signal`.

    Returns:
        The advice.

    Raises:
        ValueError: If the state is none of the five.

    Examples:
        >>> action_signal("critical")
        'watch closely and change nothing abruptly'
    """
    if state not in _STATES:
        raise ValueError(f"The `state` of `action_signal` must be one of {_STATES}. Got {state!r}.")
    return _ACTIONS[_STATES.index(state)]


def s_signal(lr: float, lambda_max: float) -> float:
    r"""Stability margin S = 2 eta - lambda_max. signal.md, 6.1.

    **Wrong with it**: it subtracts a curvature from a learning rate: theta -> c theta, which
    leaves training as it was, moves eta by c^2 and lambda by 1/c^2. The edge is eta lambda = 2;
    the document derives that and keeps the other form. Stable runs are negative in the definition
    and called wide-margined when positive (8.3).

    Args:
        lr: eta.
        lambda_max: Largest Hessian eigenvalue.

    Returns:
        S.

    Examples:
        >>> s_signal(0.5, 3.0)
        -2.0
    """
    return 2 * lr - lambda_max


def d_h_signal(dimension: int, alpha: float) -> float:
    r"""Effective dimension d_H = min(d, alpha). signal.md, 6.2.

    **Wrong with it**: alpha <= 2, so every model with two parameters or more reads alpha; nothing
    can collapse from d.

    Args:
        dimension: d, the number of parameters.
        alpha: Tail index.

    Returns:
        d_H.

    Examples:
        >>> d_h_signal(1_000_000, 1.5)
        1.5
    """
    return float(min(dimension, alpha))


def i_signal(p: float, s: float = PLACEHOLDER_S, d_h: float = PLACEHOLDER_D_H) -> float:
    r"""Intelligence coefficient I = p S / d_H, with the placeholders the listing ships.

    signal.md, section 6 and 11.1. Pass `s_signal` and `d_h_signal` for the measured form.

    **Wrong with it**: with the placeholders I <= 1/15 < .1, so every run "stagnates"; with the
    measured S every stable run is negative, hence "diverging".

    Args:
        p: p.
        s: S, default the placeholder .1.
        d_h: d_H, default the placeholder 1.5.

    Returns:
        I.

    Examples:
        >>> round(i_signal(0.75), 3), i_signal(0.75, s=2.0, d_h=1.5)
        (0.05, 1.0)
    """
    return p * s / d_h


def i_state_signal(i: float) -> str:
    r"""State by I: above .5 healthy, .1 to .5 transition, below .1 stagnation, below 0 divergence.

    signal.md, 6.3.

    **Wrong with it**: see `i_signal`: as shipped it is a constant.

    Args:
        i: I.

    Returns:
        ``"healthy"``, ``"transition"``, ``"stagnation"`` or ``"divergence"``.

    Examples:
        >>> i_state_signal(0.05)
        'stagnation'
    """
    if i < 0:
        return "divergence"
    if i < 0.1:
        return "stagnation"
    return "healthy" if i > 0.5 else "transition"


def adaptive_lr_signal(base_lr: float, p: float) -> float:
    r"""Learning rate by phase: times .1, .5, 1, 1.5, 2, with edges p = .40, .50, .60, .75.

    signal.md, 11.3.

    **Wrong with it**: the factor follows the batch size at which p is measured, and it jumps by 5
    at p = .40.

    Args:
        base_lr: Base learning rate.
        p: p.

    Returns:
        The scaled learning rate.

    Examples:
        >>> adaptive_lr_signal(0.25, 0.8)
        0.5
    """
    return base_lr * (0.1, 0.5, 1.0, 1.5, 2.0)[_band(p, (0.40, 0.50, 0.60, 0.75))]


def early_stop_signal(
    p: Sequence[float], c: Sequence[float], i: Sequence[float], window: int = 10
) -> tuple[bool, str]:
    r"""Whether to stop: p < .45 throughout the window, or C never rising in it, or I < 0.

    signal.md, 11.4. The three rules are tried in this order; before `window` values none is.

    **Wrong with it**: small batches keep p < .45 in healthy runs, so the first rule stops them at
    once; the third never fires with the shipped placeholders and always with the measured S.

    Args:
        p: p of every evaluation so far.
        c: C likewise.
        i: I likewise.
        window: How many of the last evaluations are looked at.

    Returns:
        Whether to stop, and which rule: ``"p"``, ``"c"``, ``"i"``, ``"short"`` or ``"none"``.

    Examples:
        >>> early_stop_signal([0.3] * 10, [0.4] * 10, [0.02] * 10)
        (True, 'p')
    """
    if len(p) < window:
        return False, "short"
    if all(value < 0.45 for value in p[-window:]):
        return True, "p"
    last = list(c[-window:])
    if last[-1] < last[0] and all(a >= b for a, b in zip(last, last[1:], strict=False)):
        return True, "c"
    return (True, "i") if i[-1] < 0 else (False, "none")


def hill_signal(samples: ArrayLike, n_tail: int = 100) -> float:
    r"""Hill's tail index, clipped to [1, 2]: 1/(mean log(X_i/(X_k+1 + 1e-10)) + 1e-10).

    signal.md, 11.5.

    **Wrong with it**: Gaussian norms read the upper stop 2 and any sample below about 1e-10 the
    lower stop 1: the clip prints a plausible index for every input.

    Args:
        samples: (n,) Gradient coordinates or norms; magnitudes are taken. n > `n_tail`.
        n_tail: Number k of tail samples.

    Returns:
        alpha in [1, 2].

    Raises:
        ValueError: If there are not more than `n_tail` samples.

    Examples:
        >>> pareto = np.random.default_rng(0).pareto(1.5, 10_000) + 1
        >>> round(hill_signal(pareto), 1)
        1.5
    """
    magnitudes = np.sort(np.abs(np.asarray(samples, dtype=np.float64)))[::-1]
    if magnitudes.size <= n_tail:
        raise ValueError(
            f"`hill_signal` needs more than `n_tail` = {n_tail} samples. Got {magnitudes.size}."
        )
    with np.errstate(divide="ignore"):  # all samples zero: -inf, which the clip turns into 1
        mean_log = float(np.mean(np.log(magnitudes[:n_tail] / (magnitudes[n_tail] + 1e-10))))
    return float(np.clip(1.0 / (mean_log + 1e-10), 1.0, 2.0))
