r"""Local learning coefficient from the losses of Langevin chains, and its value on a quadratic."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

#: Split R-hat above which the chains are said to disagree; 1.01 needs thousands of draws.
#: Relaxation times that the chains must last: after 3 a flat direction is at 95 % of its variance.
LEAST_RELAXATIONS = 3.0
LARGEST_R_HAT = 1.2
#: Acceptance below which the step is taken to be unstable rather than the weights to be many.
LEAST_ACCEPTANCE = 0.01
SERIES = ("llc/lambda", "llc/r_hat", "llc/ess", "llc/acceptance")


def llc_quadratic(curvatures: ArrayLike, n_beta: float, gamma: float, step: float = 0.0) -> float:
    r"""What Langevin sampling of finite γ and finite step reads on a quadratic, exactly.

    On L = 1/2 Σ h_i w_i², started where it stays, w' = w − (ε/2) a_i w + √ε ξ with
    a_i = nβ h_i + γ has the stationary variance ε/(1 − (1 − εa_i/2)²) = 1/(a_i (1 − εa_i/4)), so

        nβ E[L] = 1/2 Σ_i nβ h_i / (a_i (1 − ε a_i/4)).

    At γ, ε → 0 every direction with h > 0 counts 1/2: λ = d/2 for a regular model. A direction
    with nβ h below γ counts less (γ bounds its excursion); a finite step makes each count more.

    Args:
        curvatures: (d,) Eigenvalues h_i of the Hessian, nβ h_i + γ > 0.
        n_beta: nβ.
        gamma: Localisation γ.
        step: ε; 0 for the continuous diffusion.

    Returns:
        The value; infinite where the step is unstable, ε a_i >= 4.

    Raises:
        ValueError: If some nβ h_i + γ is not positive.

    Examples:
        >>> llc_quadratic([1.0, 1.0, 0.0], n_beta=100.0, gamma=0.001) > 0.9999
        True
        >>> llc_quadratic([1.0], n_beta=1.0, gamma=1.0, step=1.0)
        0.5
    """
    h = np.asarray(curvatures, dtype=np.float64)
    a = n_beta * h + gamma
    if not (a > 0).all():
        raise ValueError(
            "The `curvatures` of `llc_quadratic` must leave n_beta h + gamma positive. "
            f"Got a smallest value of {a.min()}."
        )
    slack = 1 - step * a / 4
    if (slack <= 0).any():
        return math.inf
    return float((0.5 * n_beta * h / (a * slack)).sum())


def split_r_hat(chains: ArrayLike) -> float:
    """Split R-hat: spread between half chains against the spread within, 1 where they agree.

    sqrt((n−1)/n + B/W) with W the mean within-half variance and B the variance of the half means.
    It sees drift and disagreement; chains that all start at one point and have not moved yet agree
    perfectly, which it cannot see.

    Args:
        chains: (C, T) at least 4 draws each.

    Returns:
        R-hat; nan where nothing varies.

    Raises:
        ValueError: If a chain has fewer than 4 draws.

    References:
        Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 11.4.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> abs(split_r_hat(rng.standard_normal((4, 1000))) - 1) < 0.01
        True
    """
    x = np.asarray(chains, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 4:
        raise ValueError(f"`split_r_hat` needs (C, T) with T >= 4. Got {x.shape}.")
    n = x.shape[1] // 2
    halves = np.concatenate([x[:, :n], x[:, -n:]])
    within = float(halves.var(1, ddof=1).mean())
    if not within > 0:
        return math.nan
    return math.sqrt((n - 1) / n + float(halves.mean(1).var(ddof=1)) / within)


def effective_draws(chains: ArrayLike) -> float:
    """Effective sample size of the mean over all chains, by Geyer's initial positive sequence.

    CT / (1 + 2 Σ ρ_k), ρ_k the autocorrelation about the mean of *all* chains, summed in pairs
    until a pair is not positive. Drift and disagreement make it small.

    Args:
        chains: (C, T).

    Returns:
        Effective draws, nan where nothing varies. Antithetic chains can exceed CT.

    References:
        Geyer, Stat. Sci. 7 (1992) 473; Vehtari et al., Bayesian Anal. 16 (2021) 667.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> 3000 < effective_draws(rng.standard_normal((4, 1000))) < 5000
        True
    """
    x = np.asarray(chains, dtype=np.float64)
    count, length = x.shape
    centred = x - x.mean()
    spectrum = np.fft.rfft(centred, 2 * length, axis=1)
    lags = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :length].mean(0)
    if not lags[0] > 0:
        return math.nan
    rho = lags / lags[0]
    total = 0.0
    for k in range(0, length - 1, 2):
        pair = rho[k] + rho[k + 1]
        if pair <= 0:
            break
        total += pair
    return float(count * length / max(2 * total - 1, 1 / length))


def llc_summary(
    losses: ArrayLike,
    initial: float,
    n_beta: float,
    log_ratios: ArrayLike,
    *,
    relaxations: float = math.inf,
) -> dict[str, Estimate]:
    r"""λ^ = nβ (mean loss of the chains − loss at their start), and the health of the sampler.

    Interval: Student's t over the means of the chains, which are independent given the weights and
    the data. It holds what longer chains of this γ, nβ and step would read; that this differs from
    the learning coefficient of the model (finite nβ, γ, step: see `llc_quadratic`) is outside it.

    Flags: `not_converged` where the chains are shorter than 3 relaxation times of a flat direction
    (the loss they have not reached yet is missing from λ^, and no comparison of the chains shows
    it), split R-hat exceeds 1.2, the acceptance is below 1 % (a step that
    is unstable in some direction, with few weights) or the estimate lies below 0 (the start is no
    minimum of this loss, and λ is not defined there); `unresolved` where the interval holds 0.

    Args:
        losses: (C, T) Loss at every kept draw.
        initial: Loss at the start.
        n_beta: nβ.
        log_ratios: (C, T) Log of the Metropolis ratio of every move, for the acceptance an adjusted
            sampler would have. Near 1: the step is short enough; it falls with the number of
            weights long before the bias of the step matters.
        relaxations: Length of the chains, burn-in included, in relaxation times of a direction
            without curvature: moves · step · γ/2.

    Returns:
        ``llc/lambda``, ``llc/r_hat``, ``llc/ess``, ``llc/acceptance``; all missing where a chain
        left the finite numbers.

    Raises:
        ValueError: If there are fewer than 2 chains.

    References:
        Lau, Furman, Wang, Murfet & Wei, arXiv:2308.12108 (2023).

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> found = llc_summary(rng.gamma(1.0, 1.0, (4, 500)), 0.0, 1.0, np.zeros((4, 500)))
        >>> found["llc/lambda"].low < 1.0 < found["llc/lambda"].high
        True
    """
    x = np.asarray(losses, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"`llc_summary` needs the losses (C, T) of 2 chains. Got {x.shape}.")
    if not math.isfinite(initial):
        return dict.fromkeys(SERIES, Estimate.missing("The loss of the probe is not finite."))
    if not np.isfinite(x).all():
        lost = Estimate.missing(
            "A Langevin chain diverged; take a smaller `step` or a larger `gamma`.",
            flags=Flag.UNRESOLVED | Flag.NOT_CONVERGED,
        )
        return dict.fromkeys(SERIES, lost)
    count = len(x)
    means = n_beta * (x.mean(1) - initial)
    value = float(means.mean())
    half = t_quantile(count - 1) * float(means.std(ddof=1)) / math.sqrt(count)
    r_hat, ess = split_r_hat(x), effective_draws(x)
    ratios = np.asarray(log_ratios, dtype=np.float64)
    accepted = float(np.exp(np.minimum(ratios, 0.0)).mean())
    flags, reasons = Flag.NONE, []
    if relaxations < LEAST_RELAXATIONS:
        flags |= Flag.NOT_CONVERGED
        reasons.append(
            f"The chains last {relaxations:.2g} relaxation times of a flat direction, so flat ones "
            "are missing; take more `burn_in` and `draws`, or a larger `gamma`."
        )
    if not accepted >= LEAST_ACCEPTANCE:  # nan as well
        flags |= Flag.NOT_CONVERGED
        reasons.append(f"A Metropolis test would accept {accepted:.2g} of the moves.")
    if not r_hat <= LARGEST_R_HAT and not math.isnan(r_hat):
        flags |= Flag.NOT_CONVERGED
        reasons.append(f"The chains have not mixed (split R-hat {r_hat:.2f}).")
    if value < 0:
        flags |= Flag.NOT_CONVERGED
        reasons.append("The loss falls along the chains: the weights are at no minimum of it.")
    if value - half <= 0 <= value + half:
        flags |= Flag.UNRESOLVED
        reasons.append("The interval contains 0.")
    still = Estimate.missing("The loss does not vary along the chains.")
    return {
        "llc/lambda": Estimate(
            value, value - half, value + half, n=count, flags=flags, reason=" ".join(reasons)
        ),
        "llc/r_hat": still if math.isnan(r_hat) else Estimate.exact(r_hat, n=count),
        "llc/ess": still if math.isnan(ess) else Estimate.exact(ess, n=x.size),
        "llc/acceptance": Estimate.exact(accepted, n=ratios.size),
    }
