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
    apply,
    check_carried,
    check_diffusion,
    finite_rows,
    matrix,
    row_products,
    solve,
)
from foreshock.density.groups import CLONED, copied, folds
from foreshock.density.jackknife import BAD, groups_without, jackknife, refit
from foreshock.density.score import Score, fit_score
from foreshock.density.score_gaussian import square_bias
from foreshock.types import Estimate

ONE_SIDED = 1.6448536269514722
Means = dict[str, float]


@dataclass(frozen=True)
class Flow:
    """What a cloud with a drift and a diffusion does. Estimates with 95 % intervals.

    All but the bounds are corrected for the bias of the score by the jackknife; the two floats are
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
        - apply(tensor, scores)
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
    each of `refits` groups. With ``refits=0`` the values are plug-ins without bars, for a few n d:
    bars from particle noise under a kept score would be wrong (n = 512: they held the entropy
    production in 92 %, 72 % and 0 % of cases at d = 2, 8, 32, and never at equilibrium).

    The lower bound is A + 2 R + I_D with I_D >= -2 J_SM, J_SM = E[s.Ds/2 + div(D s)] of a score
    fitted to one half of the particles, at the other half, both ways round. It needs `div mu` and a
    constant D, and no validity: it holds for any score.

    Particles must be independent. Coverage (500 clouds, `benchmarks/coverages/density.py`):
    94 to 97 % for all on Gaussian clouds of 512 at d = 2 and d = 32; 98 to 99 % at equilibrium for
    what is 0 or 1 there at most (too wide); bounds 99 to 100 %. Where a kernel residual is active
    (50 clouds of two wells, n = 512, d = 1) 10 were refused; of the rest 88 to 100 %: smoothing is
    a bias that refits share, and the choice of bandwidth is not repeated. The bounds held in all.

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
    fields = _fields(z, drift, diffusion, divergence_drift, divergence_diffusion)
    fisher_bound = production_bound = Estimate.missing("The bounds were not asked for.", n=n)
    # Copies are not independent: neither jackknife nor halves would know.
    cloned = bool(refits or bounds) and copied(z)
    if cloned:
        fisher_bound = production_bound = Estimate.missing(CLONED, flags=BAD, n=n)
    elif bounds:
        fisher_bound, production_bound = _bounds(score, fields)
    if cloned or not score.validity.valid:
        gone = Estimate.missing(CLONED if cloned else score.validity.reason, flags=BAD, n=n)
        return Flow(
            gone, gone, gone, gone, production_bound, gone, gone, fisher_bound, math.nan, math.nan
        )
    whole = _unbiased(fields.means(slice(None), score.values), score)
    parts = []
    for keep in groups_without(score, refits):
        part = refit(score, keep)
        parts.append(_unbiased(fields.means(keep, part.values), part))
    bias = score.validity.bias
    return _summary(whole, parts, n, fisher_bound, production_bound, bias)


def _unbiased(means: Means, score: Score) -> Means:
    """The same with I unbiased where the score is one Gaussian's, unshrunk.

    The jackknife takes the bias to first order in d/n; what is left is d^2.5/n^1.5 standard errors.
    """
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
        A constant force f = 2 on a ring at D = 1/2 keeps the density uniform and produces f^2/D:

        >>> force = torch.full((100, 1), 2.0)
        >>> flow_of_known_score(torch.zeros(100, 1), force, 0.5).entropy_production.value
        8.0
    """
    n = len(scores)
    if scores.dim() != 2 or n < 40:
        raise ValueError(
            "The `scores` of `flow_of_known_score` must be (n >= 40, d). "
            f"Got {tuple(scores.shape)}."
        )
    fields = _fields(scores, drift, diffusion, divergence_drift, divergence_diffusion)
    fold = folds(n, 20, scores.device)
    whole = fields.means(slice(None), scores)
    parts = [fields.means(fold != g, scores[fold != g]) for g in range(20)]
    same = Estimate.missing("The score is known: `entropy_production` and `fisher` need no bound.")
    return _summary(whole, parts, n, same, same)


@dataclass(frozen=True)
class _Fields:
    """Checked fields at the particles: D, b, b . D^-1 b, div mu and div D (each or None)."""

    diffusion: Tensor
    b: Tensor
    spread: Tensor
    source: Tensor | None
    carried: Tensor | None

    def means(self, keep: Tensor | slice, scores: Tensor) -> Means:
        """A, X, I and the inflow -E[b . s] over some particles; by div mu where it is known."""
        part = self.diffusion[keep] if self.diffusion.dim() == 3 else self.diffusion
        cross = float(row_products(self.b[keep], scores).mean())
        inflow = -cross
        if self.source is not None:
            terms = self.source[keep]
            if self.carried is not None:
                terms = terms + row_products(self.carried[keep], scores)
            inflow = float(terms.mean())
        pull = float(row_products(scores, apply(part, scores)).mean())
        return {"A": float(self.spread[keep].mean()), "X": cross, "I": pull, "R": inflow}


def _fields(
    z: Tensor,
    drift: Tensor,
    diffusion: float | Tensor,
    divergence_drift: Tensor | None,
    divergence_diffusion: Tensor | None,
) -> _Fields:
    """Checks what is given and computes b = mu - div D."""
    tensor = check_diffusion(diffusion, z)
    check_carried(tensor, divergence_diffusion)
    b, carried = finite_rows("drift", drift, z), None
    if divergence_diffusion is not None:
        carried = finite_rows("divergence_diffusion", divergence_diffusion, z)
        b = b - carried
    if divergence_drift is not None and (
        divergence_drift.shape != (len(z),)
        or not math.isfinite(float(divergence_drift.detach().double().sum()))
    ):
        raise ValueError(
            f"The `divergence_drift` must be finite and ({len(z)},). "
            f"Got {tuple(divergence_drift.shape)}."
        )
    source = None if divergence_drift is None else divergence_drift.detach().double()
    return _Fields(tensor, b, row_products(b, solve(tensor, b)), source, carried)


def _summary(
    whole: Means,
    parts: list[Means],
    n: int,
    fisher_bound: Estimate,
    production_bound: Estimate,
    bias: str = "",
) -> Flow:
    """All observables from the means of all particles and of all but each group."""

    if whole["I"] < 0 or (whole["I"] == 0 and bias):
        gone = Estimate.missing(
            "E[s.Ds] came out negative: the score is not that of this cloud.", flags=BAD, n=n
        )
        return Flow(
            gone, gone, gone, gone, production_bound, gone, gone, fisher_bound, math.nan, math.nan
        )

    def estimate(statistic: Callable[[Means], float], scale: float) -> Estimate:
        values = [statistic(part) for part in parts]
        found = jackknife(statistic(whole), values, n, bias=bias, scale=scale)
        if statistic is _fisher and found.value < 0:
            return Estimate.missing(
                "E[s.Ds] came out negative: a few particles decide.", flags=BAD, n=n
            )
        return found

    both = whole["A"] + whole["I"]
    return Flow(
        estimate(_consolidation, _consolidation(whole)),
        estimate(_cosine, 1.0),
        estimate(_irreversibility, 1.0),
        estimate(_production, both),
        production_bound,
        estimate(lambda m: m["R"] + m["I"], abs(whole["R"]) + whole["I"]),
        estimate(_fisher, whole["I"]),
        fisher_bound,
        _consolidation(whole),
        _production(whole),
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


def _bounds(score: Score, fields: _Fields) -> tuple[Estimate, Estimate]:
    """Lower bounds of I and of the entropy production, each with its one-sided interval."""
    z, diffusion = score.particles, fields.diffusion
    n, d = z.shape
    if diffusion.dim() == 3 or (fields.carried is not None and bool(fields.carried.any())):
        gone = Estimate.missing(
            "The lower bound needs a D that is the same at every particle.", n=n
        )
        return gone, gone
    if n < 16:
        gone = Estimate.missing(f"Half a cloud of {n} is too few to fit a score to.", n=n)
        return gone, gone
    metric = matrix(diffusion, d)
    gains, halves = torch.empty_like(fields.spread), []
    even = folds(n, 2, z.device) == 0
    for half in (even, ~even):
        # Chosen anew on the other half: a kept choice would have seen this one. Not so whether the
        # covariance is shrunk, else halving the cloud would change the kind of fit (and the frame
        # would matter), unless the half is too small to do without.
        few = score.selection.shrinkage or n // 2 < d + 10
        fitted = fit_score(
            z[~half],
            score.method,
            shrinkage=None if few else 0.0,
            block=score.block,
            judged=False,
        )
        values = fitted.at(z[half])
        pull = row_products(values, apply(diffusion, values))
        gains[half] = -pull - 2 * fitted.divergence(z[half], metric).double()
        halves.append(half)
    fisher = _one_sided(gains, halves)
    if fields.source is None:
        return fisher, Estimate.missing("The lower bound needs `divergence_drift`.", n=n)
    return fisher, _one_sided(fields.spread + 2 * fields.source + gains, halves)


def _one_sided(terms: Tensor, halves: list[Tensor]) -> Estimate:
    """Mean of per-particle terms with a lower 95 % end; the halves have means of their own."""
    if not bool(torch.isfinite(terms).all()):
        return Estimate.missing(
            "The score of half the particles is not finite.", flags=BAD, n=len(terms)
        )
    means = [float(terms[half].mean()) for half in halves]
    variances = [float(terms[half].var()) / int(half.sum()) for half in halves]
    value = sum(means) / 2
    return Estimate(value, value - ONE_SIDED * math.sqrt(sum(variances)) / 2, math.inf, len(terms))
