r"""Do several losses pull the weights the same way? From one Gram matrix of all their gradients.

With g_ai the gradient of loss a on batch i, means m_a, true means mu_a, and batches in common,

    U_ab = mean over i != j of g_ai . g_bj = m_a . m_b - Cov_ab/n     unbiased for mu_a . mu_b
    C_ab = U_ab / sqrt(V_a V_b)          V_a the noise of loss a; C_aa is its signal-to-noise ratio
    cos_ab = U_ab / sqrt(U_aa U_bb)      of the true means, not of the noisy ones

Losses on one batch share its noise, so m_a . m_b is off by Cov_ab/n = sum_i (g_ai - m_a) .
(g_bi - m_b)/(n(n-1)), and |m_a| is too long by V_a/n: the plain cosine of mean gradients is pulled
towards the correlation of their noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.gram import signal_noise
from foreshock.stats.gram_interval import ROUNDING, gram_moments
from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Conflict:
    """How the gradients of several losses agree.

    Args:
        cosine: Pair (a, b) to the cosine of the mean gradients.
        snr: Pair to C_ab, pairs (a, a) among them.
        cosine_matrix: (K, K) values of the cosine; nan where it is missing.
        snr_matrix: (K, K) values of C_ab.
    """

    cosine: dict[tuple[str, str], Estimate]
    snr: dict[tuple[str, str], Estimate]
    cosine_matrix: Array
    snr_matrix: Array

    def worst(self) -> tuple[Estimate, Estimate]:
        """The lowest cosine and the lowest C_ab over different losses.

        Each is the estimate of that pair; the lowest of many noisy numbers is biased downwards, and
        the interval does not know that it was picked.

        Returns:
            Cosine and C_ab; missing where every pair is.
        """
        return _lowest(self.cosine), _lowest(self.snr)


def loss_conflict(gram: ArrayLike, names: Sequence[str]) -> Conflict:
    """C_ab and the conflict cosine of every pair of losses, with intervals.

    **Intervals.** Delete-one jackknife over batches, all losses of a batch at once, with t_(n-1)
    and the degenerate floor of `gram_interval` (2 E(s_ij^2)/(n(n-1)) with s the symmetrised
    products, at mu = 0); C_aa is `grad/snr` of that loss. A cosine is `unresolved` with the
    interval (-1, 1) while the signal of one of its losses is: then nothing is known of the
    direction; where that signal is negative the cosine is missing. Its value is a ratio of unbiased
    numbers and may exceed 1.
    Coverage by `foreshock bench coverage gradient_metrics`, n in {8, 20}, d_eff of the noise 2.5
    and 100, cosine -.8, 0, .8: 94-100 % for both, conservative where the signal is weak.

    Args:
        gram: (K n, K n) products of all gradients: n batches of the first loss, then the second.
        names: K names of losses.

    Returns:
        Estimates by pair, in the order of the names, and the two matrices.

    Raises:
        ValueError: If there are fewer than 2 names or the shape does not fit.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> a = np.array([1.0, 0.0]) + rng.normal(size=(16, 2)) / 4
        >>> b = np.array([-1.0, 1.0]) + rng.normal(size=(16, 2)) / 4
        >>> g = np.concatenate([a, b])
        >>> found = loss_conflict(g @ g.T, ["a", "b"]).cosine["a", "b"]
        >>> found.low < -(0.5**0.5) < found.high < 0
        True
    """
    gram = np.asarray(gram, dtype=np.float64)
    k = len(names)
    if k < 2 or gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.shape[0] % k:
        raise ValueError(
            "The `gram` of `loss_conflict` must be (K n, K n) with K >= 2 names. "
            f"Got shape {gram.shape} and {k} names."
        )
    n = len(gram) // k
    diagonal = gram.diagonal().reshape(k, n)
    sentence = ""
    if n < 3:
        sentence = f"An interval needs at least 3 batches. Got {n}."
    elif not np.isfinite(gram).all():
        sentence = "A gradient contains nan or inf, so its products do too."
    elif not (diagonal.sum(1) > 0).all():
        sentence = "The gradient of a loss is exactly zero on every batch."
    pairs = list(itertools.combinations_with_replacement(range(k), 2))
    if sentence:
        nothing = np.full((k, k), math.nan)
        everyone = {(names[a], names[b]): Estimate.missing(sentence, n=n) for a, b in pairs}
        apart = {pair: e for pair, e in everyone.items() if pair[0] != pair[1]}
        return Conflict(apart, everyone, nothing, nothing.copy())
    # Each loss in units of its own: one of 1e-30 must not vanish beside one of 1e30.
    unit = np.sqrt(diagonal.mean(1))
    blocks = gram.reshape(k, n, k, n).transpose(0, 2, 1, 3)
    blocks = blocks / np.multiply.outer(unit, unit)[:, :, None, None]
    moments = gram_moments((blocks + blocks.swapaxes(2, 3)) / 2)
    signal, signal_without = moments.signal, moments.signal_without
    floor = 2 * np.maximum(moments.trace_square, 0.0) / (n * (n - 1))

    def interval(scale: Array, scale_without: Array) -> tuple[Array, Array, Array]:
        """Value, half width and half width at mu = 0 of the signals over sqrt(scale_a scale_b)."""
        product = np.sqrt(np.multiply.outer(scale, scale))
        without = signal_without / np.sqrt(scale_without[:, None] * scale_without[None])
        least = floor / product**2
        # The plain jackknife counts the degenerate part twice. Taken off, as `gram_interval` does,
        # the interval of a small negative cosine would be too narrow (.91).
        error = np.sqrt(np.maximum(jackknife_se(without) ** 2, least))
        student = t_quantile(n - 1)
        return signal / product, student * error, student * np.sqrt(least)

    index = np.arange(k)
    noise = np.maximum(moments.noise[index, index], 0.0)
    noisy = noise > ROUNDING * n
    # One batch may carry all the noise; rounding then bounds what is left without it.
    bounded = np.maximum(noise, ROUNDING * n)
    left = np.maximum(moments.noise_without[index, index], ROUNDING * bounded[:, None])
    ratio = interval(bounded, left)
    length, length_without = signal[index, index], signal_without[index, index]
    plain = t_quantile(n - 1) * np.sqrt(
        np.maximum(jackknife_se(length_without) ** 2 - floor[index, index], floor[index, index])
    )
    known = (length - plain > 0) & (length_without > 0).all(1)
    tiny = np.finfo(np.float64).tiny ** 0.25
    angle = interval(np.maximum(length, tiny), np.maximum(length_without, tiny))

    cosine: dict[tuple[str, str], Estimate] = {}
    snr: dict[tuple[str, str], Estimate] = {}
    for a, b in pairs:
        pair = (names[a], names[b])
        if a == b:
            snr[pair] = signal_noise(blocks[a, a])["grad/snr"]
            continue
        if noisy[a] and noisy[b]:
            snr[pair] = _estimate(*(float(part[a, b]) for part in ratio), n=n)
        else:
            sentence = "The batch gradients of a loss are identical: no noise to compare with."
            snr[pair] = Estimate.missing(sentence, n=n)
        weak = " and ".join(repr(names[i]) for i in (a, b) if not known[i])
        if not weak:
            cosine[pair] = _estimate(*(float(part[a, b]) for part in angle), n=n)
            continue
        reason = f"The signal of {weak} is not resolved, so its direction is not either."
        if length[a] > 0 and length[b] > 0:
            value = float(angle[0][a, b])
            cosine[pair] = Estimate(value, -1.0, 1.0, n=n, flags=Flag.UNRESOLVED, reason=reason)
        else:
            cosine[pair] = Estimate.missing(reason, n=n)
    return Conflict(cosine, snr, _matrix(cosine, names, 1.0), _matrix(snr, names, math.nan))


def _estimate(value: float, spread: float, null: float, *, n: int) -> Estimate:
    low, high = value - spread, value + spread
    flags = Flag.UNRESOLVED if low <= 0 <= high else Flag.NONE
    reason = "The interval contains 0: neither conflict nor agreement is shown." if flags else ""
    return Estimate(value, low, high, n=n, flags=flags, reason=reason, null=(-null, null))


def _matrix(found: dict[tuple[str, str], Estimate], names: Sequence[str], diagonal: float) -> Array:
    """Values by pair as a symmetric matrix."""
    place = {name: i for i, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), math.nan)
    np.fill_diagonal(matrix, diagonal)
    for (a, b), estimate in found.items():
        matrix[place[a], place[b]] = matrix[place[b], place[a]] = estimate.value
    return matrix


def _lowest(found: dict[tuple[str, str], Estimate]) -> Estimate:
    apart = [e for (a, b), e in found.items() if a != b]
    return min(apart, key=lambda e: math.inf if math.isnan(e.value) else e.value)
