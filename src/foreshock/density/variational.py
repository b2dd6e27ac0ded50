"""Lower bound of the entropy production that needs neither div mu nor a right score.

For constant D and any field w, E[v . D^-1 v] >= 2 E[v . w] - E[w . D w], with equality at
w = D^-1 v, and E[v . w] = E[mu . w] + E[div(D w)] by parts. So the bound is a mean over particles
of what is known there. w is fitted to one half and judged at the other, both ways round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.density.diffusion_tensor import check_diffusion, finite_rows, matrix, row_products
from foreshock.density.flow_fields import ONE_SIDED
from foreshock.density.groups import CLONED, copied, folds
from foreshock.density.jackknife import BAD
from foreshock.density.moves_terms import factor, inverse_factor
from foreshock.density.score import Score, fit_score
from foreshock.types import Estimate, Flag

#: Half of fewer says nothing of how its own covariance scatters.
LEAST_BATCHES = 6
LOOSE = "The bound is not above 0: an equilibrium is not excluded."
#: Particles at which div(D w) of a single batch is looked at.
ASKED = 64


@dataclass(frozen=True)
class Field:
    """A field w = a + B' z - s of some particles, to be judged at others."""

    offset: Tensor
    slope: Tensor
    score: Score

    def at(self, z: Tensor) -> Tensor:
        """(m, d) w at (m, d) points."""
        return (self.offset + z.double() @ self.slope) - self.score.at(z).double()

    def divergence(self, z: Tensor, metric: Tensor) -> Tensor:
        """(m,) div(D w)."""
        pull = self.score.divergence(z, metric.to(z.dtype)).double()
        return (self.slope * metric).sum() - pull


def production_bound(score: Score, drift: Tensor, diffusion: float | Tensor) -> Estimate:
    r"""Lower bound of the entropy production E[v . D^-1 v] of a cloud, v = mu - D s, constant D.

    EP >= 2 E[mu . w] + 2 E[div(D w)] - E[w . D w] for any w; here w = D^-1 (affine fit of mu) - s,
    fitted to one half of the particles, judged at the other, both ways round. The score may be
    wrong, and div mu need not be known: a bad w makes the bound loose, not false. Loose by what of
    D^-1 v is in neither the affine fit nor the score, and by E\|s^ - s\|^2, about (d + 2)/(N/2) of
    E[s . D s]. Exact for constant D only: a D of every particle's own is refused.

    Args:
        score: Fitted to the particles; its method is fitted anew to each half.
        drift: (N, d) mu at the particles.
        diffusion: D: a number, (d,) or (d, d).

    Returns:
        The bound; `low` is its one-sided 95 % end, `high` is inf. May be negative.

    Raises:
        ValueError: If D is (N, d, d).

    References:
        Variational form of Seifert, Rep. Prog. Phys. 75 (2012) 126001; Kim, Bae, Lee & Jeong, Phys.
        Rev. Lett. 125 (2020) 140604, for the same with a network as w.

    Examples:
        N(1, 1/4) falling in x^2/2 at D = 1 produces 3.25 nats per unit time:

        >>> from foreshock.density import fit_score
        >>> x = 1 + 0.5 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
        >>> found = production_bound(fit_score(x), -x, 1.0)
        >>> 3 < found.low < 3.25
        True
    """
    z = score.particles
    tensor = check_diffusion(diffusion, z)
    if tensor.dim() == 3:
        raise ValueError(
            "`production_bound` needs a `diffusion` that is the same at every particle: a number, "
            f"(d,) or (d, d). Got {tuple(tensor.shape)}; pass its mean over the particles."
        )
    rows = finite_rows("drift", drift, z).double()
    refused = _refusal(z)
    if refused is not None:
        return refused
    metric = matrix(tensor, z.shape[1]).double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(metric))
    gains, halves = torch.empty_like(rows[:, 0]), []
    even = folds(len(z), 2, z.device) == 0
    for half in (even, ~even):
        field = fit_field(z[~half], rows[~half], inverse, _half_score(score, ~half))
        gains[half] = _gains(field, z[half], rows[half], metric)
        halves.append(gains[half])
    return _summary(halves, [], len(z))


def measured_bound(score: Score, moves: Tensor, *, noise: float = 1.0) -> Estimate:
    """`production_bound` where mu and D are measured: judged by the other half of the batches too.

    A product of two noisy means of the same batches is biased; of different ones it is not. So w
    comes from half the particles and half the batches, and mu and D it is judged by from the other
    halves, all four ways. The standard error adds that of particles and of batches.

    Args:
        score: Fitted to the particles.
        moves: (n, N, d) Displacement of every particle under each batch.
        noise: Diffusion of training over that of these batches, positive.

    Returns:
        The bound, one-sided; unresolved where it is not above 0.
    """
    z = score.particles
    refused = _refusal(z)
    if refused is not None:
        return refused
    n, count = moves.shape[:2]
    if n < LEAST_BATCHES:
        return Estimate.missing(f"Half of {n} batches is too few to fit a field to.", n=n)
    moves = moves.detach().double()
    even, first = folds(count, 2, z.device) == 0, folds(n, 2, z.device) == 0
    gains = moves.new_zeros(count)
    shares = moves.new_zeros(n)
    for half in (even, ~even):
        fitted = _half_score(score, ~half)
        for judges in (first, ~first):
            seen = moves[~judges][:, ~half]
            inverse = _inverse(seen)
            if inverse is None:
                return Estimate.missing("Half the batches do not span the noise.", n=n)
            field = fit_field(z[~half], seen.mean(0), inverse / noise, fitted)
            judged = moves[judges][:, half]
            mean = judged.mean(0)
            deviation = judged - mean
            m = len(judged)
            scatter = deviation.mT @ deviation / (2 * deviation.shape[1]) * (noise * m / (m - 1))
            gains[half] += _gains(field, z[half], mean, scatter.mean(0)) / 2
            w = field.at(z[half])
            # Linear in D: that of each batch gives the scatter over batches, for which a few
            # particles do; with a kernel a divergence at all of them is dear.
            few = z[half][:ASKED]
            ones = torch.stack([field.divergence(few, part).mean() for part in scatter])
            squares = torch.einsum("bij,ij->b", scatter, w.T @ w / len(w))
            crosses = torch.einsum("bni,ni->b", judged, w) / len(w)
            shares[judges] += (2 * crosses + 2 * ones - squares) / 2
    parts = [gains[even], gains[~even]]
    return _summary(parts, [shares[first], shares[~first]], n)


def fit_field(z: Tensor, drift: Tensor, inverse: Tensor, score: Score) -> Field:
    """Field w = D^-1 (affine fit of mu) - s."""
    centre, mean = z.double().mean(0), drift.mean(0)
    slope = torch.linalg.lstsq(z.double() - centre, drift - mean).solution @ inverse
    return Field(mean @ inverse - centre @ slope, slope, score)


def _gains(field: Field, z: Tensor, drift: Tensor, metric: Tensor) -> Tensor:
    """(m,) Terms 2 mu . w + 2 div(D w) - w . D w."""
    w = field.at(z)
    return row_products(2 * drift - w @ metric, w) + 2 * field.divergence(z, metric)


def _inverse(moves: Tensor) -> Tensor | None:
    """(d, d) D^-1 of some batches, shrunk so that its mean is right; None if it is singular."""
    deviation = moves - moves.mean(0)
    scatter = (deviation.mT @ deviation / deviation.shape[1]).cpu().numpy()
    whitening = factor(scatter)
    if whitening is None:
        return None
    n = len(moves)
    # A field shrunk to 0 is valid, one turned round only loose.
    shrink = max(inverse_factor(scatter, whitening), 0.0)
    return torch.as_tensor(shrink * 2 * (n - 1) / n * whitening.T @ whitening).to(moves)


def _half_score(score: Score, keep: Tensor) -> Score:
    """The same kind of score of half the particles, everything else chosen anew."""
    z = score.particles[keep]
    few = score.selection.shrinkage or len(z) < z.shape[1] + 10
    shrinkage = None if few else 0.0
    return fit_score(z, score.method, shrinkage=shrinkage, block=score.block, judged=False)


def _refusal(z: Tensor) -> Estimate | None:
    n, d = z.shape
    if n < max(16, 2 * (d + 2)):
        return Estimate.missing(f"Half a cloud of {n} is too few to fit a field to.", n=n)
    return Estimate.missing(CLONED, flags=BAD, n=n) if copied(z) else None


def _summary(particles: list[Tensor], batches: list[Tensor], n: int) -> Estimate:
    """Mean of the halves with its one-sided end; halves have means of their own."""
    if not all(bool(torch.isfinite(part).all()) for part in particles):
        return Estimate.missing("The score of half the particles is not finite.", flags=BAD, n=n)
    value = sum(float(part.mean()) for part in particles) / 2
    variance = sum(float(part.var()) / len(part) for part in particles + batches) / 4
    low = value - ONE_SIDED * math.sqrt(variance)
    if low <= 0:
        return Estimate(value, low, math.inf, n, Flag.UNRESOLVED, LOOSE)
    return Estimate(value, low, math.inf, n)
