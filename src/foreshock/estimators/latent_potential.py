"""The measured drift of latents against the slope of the loss: cosine, mobility, temperature."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag


def against_loss(moves: Tensor, slopes: Tensor | str) -> dict[str, Estimate]:
    """Cosine of drift and −∇_z loss, and the temperature tr D/(d m).

    m is the mobility: the regression of the drift on −∇_z loss over all particles and axes. Were
    the drift −m∇loss and D = mT, the cosine would be 1 and T the temperature. Intervals: delete-one
    jackknife over the batches; |μ|² less the noise of its mean, so the cosine is not pulled to 0
    (and may leave [−1, 1] by noise).

    Args:
        moves: (n, N, d) Displacements by each batch.
        slopes: (N, d) ∇_z of every particle's loss, or the sentence why there is none.

    Returns:
        ``latent/loss_cosine`` and ``latent/temperature``.

    Examples:
        >>> moves = torch.randn(8, 50, 2, generator=torch.Generator().manual_seed(0)) - 3
        >>> found = against_loss(moves.double(), torch.full((50, 2), 2.0).double())
        >>> round(found["latent/loss_cosine"].value, 1)
        1.0
    """
    names = ("latent/loss_cosine", "latent/temperature")
    if isinstance(slopes, str):
        return dict.fromkeys(names, Estimate.missing(slopes))
    n, count, d = moves.shape
    power = float(slopes.square().sum())
    if not math.isfinite(power) or not power > 0:
        return dict.fromkeys(names, Estimate.missing("The loss has no slope at the latents."))
    # All that is needed of the moves: products between batches, and with the slope.
    flat = moves.reshape(n, -1)
    gram = (flat @ flat.T).cpu().numpy()
    onto = (-(flat @ slopes.reshape(-1))).cpu().numpy()
    whole = _two(gram, onto, power, count, d)
    parts = []
    for b in range(n):
        rows = np.arange(n) != b
        parts.append(_two(gram[np.ix_(rows, rows)], onto[rows], power, count, d))
    return {
        name: _estimate(whole[i], [part[i] for part in parts], n) for i, name in enumerate(names)
    }


def _two(
    gram: np.ndarray, onto: np.ndarray, power: float, count: int, d: int
) -> tuple[float, float]:
    n = len(gram)
    noise = (np.trace(gram) - gram.sum() / n) / (n - 1)  # sum over particles of tr Cov
    squared = gram.sum() / n**2 - noise / n
    inner = float(onto.mean())
    cosine = inner / math.sqrt(squared * power) if squared > 0 else math.nan
    mobility = inner / power
    temperature = 0.5 * noise / count / (d * mobility) if mobility else math.nan
    return cosine, temperature


def _estimate(whole: float, parts: list[float], n: int) -> Estimate:
    if not all(map(math.isfinite, [whole, *parts])):
        return Estimate.missing("The drift is not resolved from its noise.", n=n)
    error = t_quantile(n - 1) * float(jackknife_se(parts))
    low, high = whole - error, whole + error
    if low <= 0 <= high:
        sentence = "The drift along the loss slope is not resolved from 0."
        return Estimate(whole, low, high, n, Flag.UNRESOLVED, sentence)
    return Estimate(whole, low, high, n)


__all__ = ["against_loss"]
