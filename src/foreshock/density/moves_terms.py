"""Means that a measured flow is a function of: of all batches and particles, and without a part.

Large sums are taken once, in float64 on the device of the moves; what is left is (n, d, d) at most
and is handled by numpy, so leaving out a batch or a group of particles costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.density.groups import folds

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """Means over particles, from n batches.

    Args:
        batches: n.
        particles: N.
        square: (d, d) mean_i mu_i mu_i', mu_i the mean move of particle i.
        scatter: (n, d, d) mean_i e_ib e_ib', e_ib = move less mu_i.
        shared: (d, d) Covariance over batches of the mean move of the particles.
        mixed: (d, d) mean_i mu_i s_i'; nan without a score.
        pull: (d, d) mean_i s_i s_i', unbiased where that is known; nan without a score.
        noise: Diffusion of training over that of these batches.
        fraction: Share of the population that the batches are, drawn without replacement.
    """

    batches: int
    particles: int
    square: Array
    scatter: Array
    shared: Array
    mixed: Array
    pull: Array
    noise: float = 1.0
    fraction: float = 0.0

    @property
    def covariance(self) -> Array:
        """(d, d) Unbiased covariance of one move over batches, mean over particles."""
        return self.scatter.sum(0) / (self.batches - 1)

    @property
    def diffusion(self) -> Array:
        """(d, d) D: half the covariance, times the noise of training over that of the batches."""
        return self.noise / 2 * self.covariance

    @property
    def cross(self) -> float:
        """X = E[mu . s]."""
        return float(np.trace(self.mixed))

    @property
    def left(self) -> float:
        """What of the covariance of a move is left in the mean of all batches."""
        return (1 - self.fraction) / self.batches

    @property
    def trace(self) -> float:
        """Trace of D."""
        return float(np.trace(self.diffusion))

    @cached_property
    def power(self) -> float:
        """A = E[mu . D^-1 mu], see `drift_power`; several observables are functions of it."""
        return drift_power(self)

    @property
    def drift_square(self) -> float:
        """E|mu|^2 without the noise of n batches; may be negative."""
        return float(np.trace(self.square)) - self.left * float(np.trace(self.covariance))

    @property
    def fisher(self) -> float:
        """I = E[s . D s]."""
        return float(np.sum(self.pull * self.diffusion))

    @property
    def speed_square(self) -> float:
        r"""E\|mu - D s\|^2 without the noise of mu and of D; may be negative.

        tr P D^2 of an estimated D is too large by tr P Var D, which the scatter over batches tells.
        """
        d, n = self.diffusion, self.batches
        parts = self.noise * n / (2 * (n - 1)) * self.scatter - d
        twice = d @ d - np.einsum("bij,bjk->ik", parts, parts) / (n * (n - 1))
        crossed = float(np.sum(self.mixed * d))
        return self.drift_square - 2 * crossed + float(np.sum(self.pull * twice))


def factor(scatter: Array) -> Array | None:
    """W with W S W' = 1 for S the mean of the (n, d, d) scatter; None where S is singular."""
    covariance = scatter.mean(0)
    variances = covariance.diagonal()
    if not np.all(variances > 0):
        return None
    scale = np.sqrt(variances)
    try:
        root = np.linalg.cholesky(covariance / scale[:, None] / scale)
    except np.linalg.LinAlgError:
        return None
    # Moves are float32 at best: what is thinner than their rounding is none.
    if root.diagonal().min() < 1e-5:
        return None
    return np.linalg.inv(root) / scale


def inverse_factor(scatter: Array, whitening: Array) -> float:
    r"""Factor h that makes h D^-1 unbiased, from how the whitened scatter T_b scatters.

    With v = mean_b \|T_b - 1\|^2: h = 1 - v/((n-1) d c), which is Hartlap's (nu - d - 1)/nu at the
    degrees of freedom nu that match v. c = ((n-1)(d+1) - 2)/((n+1)(d+1)) is what in-sample
    whitening takes from E v where all particles share one Gaussian noise: there E h =
    (n - d - 2)/(n - 1), and h, which has no scale, is independent of D, so that h D^-1 is unbiased
    exactly. Where noise is independent v is 1/N of that.

    Args:
        scatter: (n, d, d) e_b e_b', mean over particles.
        whitening: (d, d) Its `factor`.

    Returns:
        The factor.
    """
    n, d = len(scatter), len(whitening)
    white = whitening @ scatter @ whitening.T
    excess = float(np.sum(white * white)) / n - d
    shrink = ((n - 1) * (d + 1) - 2) / ((n + 1) * (d + 1))
    return 1 - excess / ((n - 1) * d * shrink)


def drift_power(terms: Terms) -> float:
    """A = (h mean_i mu_i . D^-1 mu_i - 2 d/n)/noise, without the bias of D^-1 and of mu.

    D is here that of the batches. The second term is exact: mean_i tr(D^-1 2 D_i/n) = 2 d/n; of
    batches drawn without replacement only 1 - fraction of it is there.

    Args:
        terms: Means over particles.

    Returns:
        A, which may be negative; nan where D is singular or training has no noise.
    """
    whitening = factor(terms.scatter)
    if whitening is None or not terms.noise > 0:
        return float("nan")
    n, d = terms.batches, len(whitening)
    plain = 2 * (n - 1) / n * float(np.trace(whitening @ terms.square @ whitening.T))
    return (inverse_factor(terms.scatter, whitening) * plain - 2 * d * terms.left) / terms.noise


class Sums:
    """Sums over groups of particles, from which any terms follow without a second pass."""

    def __init__(
        self, moves: Tensor, groups: int, *, noise: float = 1.0, fraction: float = 0.0
    ) -> None:
        self.noise, self.fraction = noise, fraction
        self.batches, self.particles, self.dimension = moves.shape
        self.fold = folds(self.particles, groups, moves.device)
        self.groups = groups
        self.moves = moves.detach().double()
        self.mean = self.moves.mean(0)
        self.deviation = self.moves - self.mean
        squares, scatters, lines, counts = [], [], [], []
        for g in range(groups):
            inside = self.fold == g
            mean, deviation = self.mean[inside], self.deviation[:, inside]
            squares.append(mean.T @ mean)
            scatters.append(deviation.mT @ deviation)
            lines.append(deviation.sum(1))
            counts.append(int(inside.sum()))
        self.counts = np.array(counts)
        self.squares = torch.stack(squares).cpu().numpy()
        self.scatters = torch.stack(scatters).cpu().numpy()
        self.lines = torch.stack(lines).cpu().numpy()

    def inside(self, rows: Tensor) -> list[Tensor]:
        """The (n, N_g, d) rows of every group of particles."""
        return [rows[:, self.fold == g] for g in range(self.groups)]

    def gram(self, whitening: Array) -> Array:
        """(n, n) mean_i (W e_ib) . (W e_ic)."""
        rows = self.deviation @ torch.as_tensor(whitening).to(self.deviation).T
        flat = rows.reshape(self.batches, -1)
        return (flat @ flat.T / self.particles).cpu().numpy()

    def crosses(self, scores: Tensor) -> Array:
        """(n, d, d) mean_i of move s', of every batch."""
        found = torch.einsum("bni,nj->bij", self.moves, scores.double())
        return found.cpu().numpy() / len(scores)

    def without_group(self, group: int | None, mixed: Array, pull: Array) -> Terms:
        """Terms of the particles that are not in a group; of all for None."""
        keep = np.arange(self.groups) != (-1 if group is None else group)
        count = int(self.counts[keep].sum())
        lines = self.lines[keep].sum(0) / count
        return Terms(
            self.batches,
            count,
            self.squares[keep].sum(0) / count,
            self.scatters[keep].sum(0) / count,
            lines.T @ lines / (self.batches - 1),
            mixed,
            pull,
            self.noise,
            self.fraction,
        )

    def without_batches(self, whole: Terms, crosses: Array) -> list[Terms]:
        """Terms without each batch, the scores kept: exactly those of the other batches."""
        n, d = self.batches, self.dimension
        moved = (self.mean.T @ self.deviation).cpu().numpy() / self.particles
        lines = self.lines.sum(0) / self.particles
        flat = self.deviation.transpose(1, 2).reshape(n * d, self.particles)
        products = (flat @ flat.T / self.particles).reshape(n, d, n, d).cpu().numpy()
        found = []
        for b in range(n):
            # mu without b is mu - e_b/(n-1), so deviations from it are e_c + e_b/(n-1).
            square = whole.square - (moved[b] + moved[b].T) / (n - 1)
            square += whole.scatter[b] / (n - 1) ** 2
            across = np.delete(products[:, :, b], b, 0) / (n - 1)
            rest = np.delete(whole.scatter, b, 0) + across + across.swapaxes(1, 2)
            rest += whole.scatter[b] / (n - 1) ** 2
            shared = whole.shared * (n - 1) - np.outer(lines[b], lines[b]) * n / (n - 1)
            found.append(
                replace(
                    whole,
                    batches=n - 1,
                    fraction=whole.fraction * (n - 1) / n,
                    square=square,
                    scatter=rest,
                    shared=shared / (n - 2),
                    mixed=np.delete(crosses, b, 0).mean(0),
                )
            )
        return found
