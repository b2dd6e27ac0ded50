"""The measured drift of latents against the slope of the loss: cosine, mobility, temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.density.groups import folds
from foreshock.density.moves_intervals import Replicas, square, standard_error, variance_of
from foreshock.stats.intervals import fieller
from foreshock.types import Estimate, Flag

#: Jackknife groups of particles.
GROUPS = 20
NAMES = ("latent/loss_cosine", "latent/temperature")
NO_MOBILITY = "The drift along the loss slope is not told from 0."
NO_DRIFT = "The drift is not told from its noise."
NO_NOISE = "Training takes the whole data at once: no noise, so no temperature."


@dataclass(frozen=True)
class _Sums:
    """Of some particles: products between batches, of batches with −∇loss, and of slopes."""

    gram: NDArray[np.float64]
    onto: NDArray[np.float64]
    power: float
    count: int

    def less(self, other: _Sums) -> _Sums:
        """The same without some of them."""
        return _Sums(
            self.gram - other.gram,
            self.onto - other.onto,
            self.power - other.power,
            self.count - other.count,
        )

    def without(self, batch: int) -> _Sums:
        """The same without a batch."""
        keep = np.arange(len(self.onto)) != batch
        return _Sums(self.gram[np.ix_(keep, keep)], self.onto[keep], self.power, self.count)


def against_loss(moves: Tensor, slopes: Tensor | str, *, noise: float = 1.0) -> dict[str, Estimate]:
    """Cosine of drift and −∇_z loss, and the temperature tr D/(d m).

    m is the mobility: the regression of the drift on −∇_z loss over all particles and axes. Were
    the drift −m∇loss and D = mT, the cosine would be 1 and T the temperature. |μ|² is less the
    noise of its mean, so the cosine is not pulled to 0 (and may leave [−1, 1] by noise).

    Intervals: Fieller's sets of the ratios tr D/(d m) and E[−μ·∇loss]/√E|∇loss|² to √E|μ|², with
    the variances of a delete-one jackknife over batches and a delete-group one over particles
    added. Where the interval of m holds 0 (that of E|μ|² for the cosine) the set is not an
    interval: then it is (−∞, ∞) and the value is unresolved.

    Measured of 192 particles, 200 clouds a cell, (n, d) = (8, 2), (16, 2) and (25, 8), mobilities
    .15 to 1 at D = 1, noise own, half or all shared: T 89 to 100 %, the cosine 95 to 100 %, what is
    unresolved counted as it is. Where T is seldom resolved those that are lie on one side.

    Args:
        moves: (n, N, d) Displacements by each batch.
        slopes: (N, d) ∇_z of every particle's loss, or the sentence why there is none.
        noise: Diffusion of training over that of these batches; D, and with it T, grows with it.

    Returns:
        ``latent/loss_cosine`` and ``latent/temperature``.

    Raises:
        ValueError: If `noise` is negative or not finite.

    Examples:
        >>> moves = torch.randn(8, 50, 2, generator=torch.Generator().manual_seed(0)) - 3
        >>> found = against_loss(moves.double(), torch.full((50, 2), 2.0).double())
        >>> round(found["latent/loss_cosine"].value, 1)
        1.0
    """
    if not 0 <= noise < math.inf:
        raise ValueError(
            f"The `noise` of `against_loss` must be finite and at least 0. Got {noise}."
        )
    if isinstance(slopes, str):
        return dict.fromkeys(NAMES, Estimate.missing(slopes))
    n, count, d = moves.shape
    if not bool(torch.isfinite(moves).all()):
        return dict.fromkeys(NAMES, Estimate.missing("Some displacements are not finite."))
    moves, slopes = moves.detach().double(), slopes.detach().double()
    power = float(slopes.square().sum())
    if not math.isfinite(power) or not power > 0:
        return dict.fromkeys(NAMES, Estimate.missing("The loss has no slope at the latents."))
    if not bool(moves.any()):
        return dict.fromkeys(NAMES, Estimate.missing("Nothing moves."))
    groups = min(GROUPS, count)
    fold = folds(count, groups, moves.device)
    sums = [_sums(moves[:, fold == g], slopes[fold == g]) for g in range(groups)]
    whole = _Sums(
        np.sum([part.gram for part in sums], 0),
        np.sum([part.onto for part in sums], 0),
        power,
        count,
    )
    batches = [whole.without(b) for b in range(n)]
    parts = [whole.less(part) for part in sums]

    def replicas(statistic: Callable[[_Sums], float]) -> Replicas:
        return Replicas(
            statistic(whole),
            np.array([statistic(part) for part in batches]),
            np.array([statistic(part) for part in parts]),
        )

    mobility = replicas(_mobility)
    if noise:
        heat = replicas(lambda s: noise / 2 * _noise(s) / (d * s.count))
        temperature = _ratio(heat, mobility, n, NO_MOBILITY)
    else:
        temperature = Estimate.missing(NO_NOISE, n=n)
    return dict(zip(NAMES, (_cosine(replicas, whole, n), temperature), strict=True))


def _cosine(
    replicas: Callable[[Callable[[_Sums], float]], Replicas], whole: _Sums, n: int
) -> Estimate:
    squares = replicas(_squared)
    every = np.concatenate([[squares.whole], squares.batches, squares.particles])
    if not np.all(every > 0):
        return Estimate.missing(NO_DRIFT, n=n)
    onto = replicas(lambda s: float(s.onto.mean()) / math.sqrt(s.power * s.count))
    found = _ratio(onto, squares.map(math.sqrt), n, NO_DRIFT)
    deviations = _centred(whole.gram) / whole.count
    off = float((deviations**2).sum() - (deviations.diagonal() ** 2).sum())
    scale = math.sqrt(2 * off) / (n * (n - 1))  # of |μ|² where μ is 0
    if scale > 0 and square(squares, scale).low <= 0:
        return Estimate(found.value, -math.inf, math.inf, n, Flag.UNRESOLVED, NO_DRIFT)
    if found.low <= 0 <= found.high and not found.flags:
        return Estimate(found.value, found.low, found.high, n, Flag.UNRESOLVED, NO_MOBILITY)
    return found


def _ratio(top: Replicas, bottom: Replicas, n: int, unbounded: str) -> Estimate:
    """Fieller's interval of a ratio; the whole line where the bottom is not told from 0."""
    if not bottom.whole or not top.finite or not bottom.finite:
        return Estimate.missing(unbounded, n=n)
    value = top.whole / bottom.whole
    tops, bottoms, sums, apart = [], [], [], []
    for a, b in ((top.batches, bottom.batches), (top.particles, bottom.particles)):
        tops.append(variance_of(a))
        bottoms.append(variance_of(b))
        sums.append(variance_of(a + b))
        apart.append(variance_of(a - value * b))
    counts = len(top.batches), len(top.particles)
    error, quantile = standard_error(apart[0], apart[1], *counts)
    if error == 0:
        return Estimate(value, value, value, n)
    covariance = (sum(sums) - sum(tops) - sum(bottoms)) / 2
    pieces = fieller(top.whole, bottom.whole, sum(tops), sum(bottoms), covariance, quantile)
    if len(pieces) == 1 and all(map(math.isfinite, pieces[0])):
        return Estimate(value, float(pieces[0][0]), float(pieces[0][1]), n)
    return Estimate(value, -math.inf, math.inf, n, Flag.UNRESOLVED, unbounded)


def _sums(moves: Tensor, slopes: Tensor) -> _Sums:
    flat = moves.reshape(len(moves), -1)
    onto = (-(flat @ slopes.reshape(-1))).cpu().numpy()
    gram = (flat @ flat.T).cpu().numpy()
    return _Sums(gram, onto, float(slopes.square().sum()), len(slopes))


def _centred(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    return gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()


def _noise(sums: _Sums) -> float:
    """Sum over particles of the trace of the covariance of a move."""
    n = len(sums.gram)
    return float(np.trace(sums.gram) - sums.gram.sum() / n) / (n - 1)


def _squared(sums: _Sums) -> float:
    """E|μ|² without the noise of n batches."""
    n = len(sums.gram)
    return (float(sums.gram.sum()) / n**2 - _noise(sums) / n) / sums.count


def _mobility(sums: _Sums) -> float:
    return float(sums.onto.mean()) / sums.power


__all__ = ["against_loss"]
