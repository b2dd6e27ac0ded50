"""Flow of a cloud of particles: consolidation, velocity, irreversibility, entropy production.

For dz = mu dt + sqrt(2 D) dW (Itô) the density moves as d_t rho = -div(rho v) with the velocity
v = mu - div D - D s, s = grad log rho. Everything below is a function of four means,
A = E[b . D^-1 b], X = E[b . s], I = E[s . D s] and R = E[div mu], with b = mu - div D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.density.diffusion_tensor import (
    check_carried,
    check_diffusion,
    covariant,
    finite_rows,
)
from foreshock.density.flow_fields import Means, check_fields, lower_bounds
from foreshock.density.groups import CLONED, copied, folds
from foreshock.density.jackknife import BAD, groups_without, jackknife, refit
from foreshock.density.score import Score
from foreshock.density.score_gaussian import square_bias
from foreshock.types import Estimate


@dataclass(frozen=True)
class Flow:
    """What a cloud with a drift and a diffusion does. Estimates with 95 % intervals.

    All but the bounds are corrected for the bias of the score; the two floats are
    the plain plug-in values, whose bias is E|s|^2 being too large by about d/n.

    Args:
        consolidation: C, 1/1; C^2 = A/I. Drift against diffusive pull.
        cosine: X/sqrt(A I), in [-1, 1]. With C it says where the cloud is: C = 1 and cosine 1 is
            equilibrium.
        irreversibility: E|v|^2/(A + I) in D^-1 norm, in [0, 2]; 0 at equilibrium, 1 where drift
            and pull are orthogonal.
        entropy_production: E[v . D^-1 v] per unit time, in nats.
        entropy_production_bound: A lower bound of it that holds for any score; `low` is its
            one-sided 95 % end, `high` is inf.
        entropy_rate: dH/dt of the differential entropy, in nats per unit time.
        fisher: I = E[s . D s], per unit time.
        fisher_bound: A lower bound of it, one-sided.
        consolidation_plug_in: C without bias correction: too low.
        entropy_production_plug_in: Entropy production without bias correction: too large.
    """

    consolidation: Estimate
    cosine: Estimate
    irreversibility: Estimate
    entropy_production: Estimate
    entropy_production_bound: Estimate
    entropy_rate: Estimate
    fisher: Estimate
    fisher_bound: Estimate
    consolidation_plug_in: float
    entropy_production_plug_in: float


def velocity(
    drift: Tensor,
    diffusion: float | Tensor,
    scores: Tensor,
    *,
    divergence_diffusion: Tensor | None = None,
) -> Tensor:
    """Velocity of the density, v = mu - div D - D s (Itô), at every particle.

    A D that is not symmetric positive definite, one of every particle's own without its
    divergence, or a shape that does not fit, is refused (ValueError).

    Args:
        drift: (n, d) mu.
        diffusion: D: a number, (d,), (d, d) or (n, d, d).
        scores: (n, d) s.
        divergence_diffusion: (n, d) div D; required for a D (n, d, d), else 0.

    Returns:
        (n, d) v. Zero everywhere is equilibrium; zero flux divergence alone is a steady state.

    Examples:
        >>> x = torch.tensor([[1.0], [2.0]])
        >>> velocity(-x, 1.0, -x)  # N(0, 1) in the potential x^2/2 at temperature 1
        tensor([[0.],
                [0.]])
    """
    tensor = check_diffusion(diffusion, scores)
    check_carried(tensor, divergence_diffusion)
    still = torch.zeros_like(scores)
    carried = still if divergence_diffusion is None else divergence_diffusion
    return (
        finite_rows("drift", drift, scores)
        - finite_rows("divergence_diffusion", carried, scores)
        - covariant(tensor, scores)
    )


def flow(
    score: Score,
    drift: Tensor,
    diffusion: float | Tensor,
    *,
    divergence_drift: Tensor | None = None,
    divergence_diffusion: Tensor | None = None,
    refits: int = 20,
    bounds: bool = True,
) -> Flow:
    r"""All scalar observables of a cloud at one time, for dz = mu dt + sqrt(2 D) dW (Itô).

    C^2 = A/I and the entropy production A - 2 X + I do not move under z -> A z. Intervals and bias
    correction: delete-group jackknife with the score refitted (bandwidth and weight kept) without
    each of `refits` groups; where the score is one Gaussian's, I is made unbiased exactly first
    (`square_bias`), which no jackknife does at d^2 > n. With ``refits=0`` there are no bars.

    The lower bound is A + 2 R + I_D with I_D >= -2 J_SM, J_SM = E[s.Ds/2 + div(D s)] of a score
    fitted to one half of the particles, at the other half, both ways round. It needs `div mu` and a
    constant D, and no validity: it holds for any score.

    Particles must be independent; many copies are refused. What is right within its interval and
    what is not (`benchmarks/coverages/density.py`, 100 to 500 clouds a cell):

    * Gaussian clouds, no kernel, n >= 2 d + 10: 93 to 97 % at (n, d) = (128, 2), (512, 2), (256, 4)
      and (320, 32); 95 to 100 % with all correlations .9 at (100, 16). What is 0 or 1 at most at
      equilibrium: 98 to 99 % there (too wide). Bounds 98 to 100 %.
    * Any other cloud under a Gaussian score (skewed, heavy-tailed, several wells) is refused where
      its moments show it; 0.4 % of Gaussian clouds at (128, 2) and 4 % at
      (100, 16) are refused too. What n particles do not
      show is missed: two wells at d = 32, n = 512.
    * With a kernel or a mixture, or shrunk, every estimate is flagged INVALID_DENSITY and says so:
      smoothing is a bias that refits share. The bounds held in 98 % of two wells on a line.
    * An interval wider than its scale (A + I for the entropy production) is flagged UNRESOLVED.

    Args:
        score: Fitted to the particles.
        drift: (n, d) mu at the particles.
        diffusion: D: a number, (d,), (d, d) or (n, d, d).
        divergence_drift: (n,) div mu; without it dH/dt uses -E[mu . s] and there is no bound.
        divergence_diffusion: (n, d) div D at the particles; required for a D (n, d, d).
        refits: Groups of the jackknife, 0 or at least 5.
        bounds: Whether to fit the two half-clouds for the bounds.

    Returns:
        The observables; refused ones are nan with the sentence of the score's validity.

    Raises:
        ValueError: If D is not symmetric positive definite, a shape does not fit, or `refits` is
            out of range.

    References:
        Seifert, Rep. Prog. Phys. 75 (2012) 126001; Hyvärinen, JMLR 6 (2005) 695; Boffi &
        Vanden-Eijnden, arXiv:2309.12991. Corrects fokker_planck.md 7.1 and 7.3.

    Examples:
        N(1, 1/4) falling in x^2/2 at D = 1: C^2 = s(s + m^2) = 5/16, entropy production
        s + m^2 - 2 + 1/s = 3.25.

        >>> from foreshock.density import fit_score
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = 1 + 0.5 * torch.randn(4000, 1, generator=generator)
        >>> found = flow(fit_score(x), -x, 1.0, divergence_drift=-torch.ones(4000))
        >>> found.entropy_production.low < 3.25 < found.entropy_production.high
        True
        >>> found.entropy_production_bound.low < 3.25
        True
    """
    z = score.particles
    n = len(z)
    if refits and not 5 <= refits <= n:
        raise ValueError(
            f"The `refits` of `flow` must be 0 or lie between 5 and n. Got {refits} of {n}."
        )
    fields = check_fields(z, drift, diffusion, divergence_drift, divergence_diffusion)
    fisher_bound = production_bound = Estimate.missing("The bounds were not asked for.", n=n)
    # Copies are not independent: neither jackknife nor halves would know.
    cloned = bool(refits or bounds) and copied(z)
    if cloned:
        fisher_bound = production_bound = Estimate.missing(CLONED, flags=BAD, n=n)
    elif bounds:
        fisher_bound, production_bound = lower_bounds(score, fields)
    if cloned or not score.validity.valid:
        gone = Estimate.missing(CLONED if cloned else score.validity.reason, flags=BAD, n=n)
        return Flow(
            gone, gone, gone, gone, production_bound, gone, gone, fisher_bound, math.nan, math.nan
        )
    plain = fields.means(slice(None), score.covariant(fields.root))
    whole = _unbiased(plain, score)
    parts = []
    for keep in groups_without(score, refits):
        part = refit(score, keep)
        pull = part.covariant(fields.root_at(keep))
        parts.append(_unbiased(fields.means(keep, pull), part))
    return _summary(plain, whole, parts, n, (fisher_bound, production_bound), score.validity.bias)


def _unbiased(means: Means, score: Score) -> Means:
    """The same with I unbiased where the score is one Gaussian's, unshrunk."""
    # The jackknife takes the bias to first order in d/n: d^2.5/n^1.5 standard errors are left.
    if score.method == "mixture" or score.selection.weight or score.selection.shrinkage:
        return means
    return means | {"I": means["I"] / square_bias(*score.particles.shape)}


def flow_of_known_score(
    scores: Tensor,
    drift: Tensor,
    diffusion: float | Tensor,
    *,
    divergence_drift: Tensor | None = None,
    divergence_diffusion: Tensor | None = None,
) -> Flow:
    """The observables of `flow` where the score is known, as on a grid or in a closed form.

    Nothing is fitted, so there is no bias but that of ratios; the bars hold the sampling of the
    particles only (delete-group jackknife, 20 groups). The bounds are the values themselves.

    Args:
        scores: (n, d) True s at n >= 40 independent particles.
        drift: (n, d) mu.
        diffusion: D: a number, (d,), (d, d) or (n, d, d).
        divergence_drift: (n,) div mu.
        divergence_diffusion: (n, d) div D; required for a D (n, d, d).

    Returns:
        The observables.

    Raises:
        ValueError: If D is not symmetric positive definite, a shape does not fit, or n < 40.

    Examples:
        A constant force f = 2 on a ring at D = 1/4 keeps the density uniform and produces f^2/D:

        >>> force = torch.full((100, 1), 2.0)
        >>> flow_of_known_score(torch.zeros(100, 1), force, 0.25).entropy_production.value
        16.0
    """
    n = len(scores)
    if scores.dim() != 2 or n < 40:
        raise ValueError(
            "The `scores` of `flow_of_known_score` must be (n >= 40, d). "
            f"Got {tuple(scores.shape)}."
        )
    fields = check_fields(scores, drift, diffusion, divergence_drift, divergence_diffusion)
    fold = folds(n, 20, scores.device)
    pull = covariant(fields.root, scores)
    whole = fields.means(slice(None), pull)
    parts = [fields.means(fold != g, pull[fold != g]) for g in range(20)]
    same = Estimate.missing("The score is known: `entropy_production` and `fisher` need no bound.")
    return _summary(whole, whole, parts, n, (same, same), "")


def _summary(
    plain: Means,
    whole: Means,
    parts: list[Means],
    n: int,
    lower: tuple[Estimate, Estimate],
    bias: str,
) -> Flow:
    """All observables from the means of all particles and of all but each group."""
    fisher_bound, production_bound = lower

    def estimate(statistic: Callable[[Means], float], scale: float) -> Estimate:
        values = [statistic(part) for part in parts]
        return jackknife(statistic(whole), values, n, bias=bias, scale=scale)

    fisher = estimate(_fisher, whole["I"])
    if fisher.value < 0:  # the correction exceeds the square itself
        gone = Estimate.missing(
            "E[s.Ds] came out negative: a few particles decide.", flags=BAD, n=n
        )
        return Flow(
            gone, gone, gone, gone, production_bound, gone, gone, fisher_bound, math.nan, math.nan
        )
    both = whole["A"] + whole["I"]
    return Flow(
        estimate(_consolidation, _consolidation(whole)),
        estimate(_cosine, 1.0),
        estimate(_irreversibility, 1.0),
        estimate(_production, both),
        production_bound,
        estimate(lambda m: m["R"] + m["I"], abs(whole["R"]) + whole["I"]),
        fisher,
        fisher_bound,
        _consolidation(plain),
        _production(plain),
    )


def _fisher(m: Means) -> float:
    return m["I"]


def _consolidation(m: Means) -> float:
    return math.sqrt(m["A"] / m["I"]) if m["I"] > 0 else math.nan


def _cosine(m: Means) -> float:
    return m["X"] / math.sqrt(m["A"] * m["I"]) if m["A"] * m["I"] > 0 else math.nan


def _irreversibility(m: Means) -> float:
    return _production(m) / (m["A"] + m["I"]) if m["A"] + m["I"] > 0 else math.nan


def _production(m: Means) -> float:
    return m["A"] - 2 * m["X"] + m["I"]
