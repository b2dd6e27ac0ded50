r"""Signal and noise of the gradient, from nothing but the Gram matrix of n batch gradients.

Let g_1..g_n be gradients of n independent batches at frozen parameters, with mean mu and covariance
S, and G_ij = g_i . g_j. With the sample mean m and ν = n-1,

    V = sum_i |g_i - m|^2 / ν             unbiased for tr S
    U = |m|^2 - V/n                       unbiased for |mu|^2  (the mean of G_ij over i != j)
    C = U / V                             signal-to-noise ratio of one batch gradient

U may be negative where the signal is weak; it is never clipped, since a clipped estimate is biased
and its average over time is noise. `tr(S)^2` is the square of the trace, `tr(S^2)` the trace of the
square, d_eff = tr(S)^2 / tr(S^2).

**Intervals of U and C.** Delete-one jackknife from the Gram, with three corrections. Each is there
because `bench coverage` failed without it:

1. *Degeneracy.* At mu = 0, U is a degenerate quadratic form with variance f^2 = 2 tr(S^2)^/(n(n-1))
   (over V^2 for C), and the jackknife variance j^2 tends to 2 f^2, not f^2: it counts the quadratic
   part twice. So s^2 = max(j^2 - f^2, f^2).
2. *Law-free tr(S^2).* The usual Gaussian correction of ||S^||^2 is far off for heavy tails. We take
   the fourth-order U-statistic over distinct indices, unbiased for every law with a covariance. It
   can be negative, since it is a difference; then it says "smaller than I resolve" and f = 0.
3. *Skewness.* If mu points along a noisy direction u, Var U = f^2 + 4 |mu|^2 u'Su/n grows with
   |mu|, so a low U comes with a low s and the interval ends too early above. Stabilising that
   variance moves the upper end by q^2 u'Su/n <= q^2 lambda_1/n. Nothing in g_1..g_n tells u where
   mu is weak, so the upper end is moved by 2.9 lambda_1^/n, lambda_1^ = (lambda_max(G centred) -
   V)/(n-1).

    low = C - t_{n-1} s,    high = C + t_{n-1} s + 2.9 lambda_1^/(n V)

Measured over n in {8, 20, 50}, d_eff in {2.5, 21, 500}, random mu and mu along the noisiest
direction: see `signal_noise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import jackknife_se, t_quantile

Array = NDArray[np.float64]

#: How far the upper end moves, in lambda_1/n. The bound of variance stabilisation is 1.96^2 = 3.84,
#: reached only for mu exactly along the top eigenvector. Chosen on bench coverage between
#: too little coverage (below 92 % at 2.1) and too much width (above 1.8 x the oracle's at 3.2).
SKEW = 2.9

#: Noise below this share of the trace is rounding of the n x n sums, not noise.
ROUNDING = 64 * float(np.finfo(np.float64).eps)


class Interval(NamedTuple):
    """Values with the ends of their 95 % intervals, one per Gram matrix of a stack."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class GramMoments:
    """What a stack of Gram matrices says about signal and noise; every array is (...) or (..., n).

    Args:
        n: Number of gradients.
        signal: U.
        noise: V.
        trace_square: Unbiased tr(S^2); may be negative.
        top: Largest eigenvalue of S, with the trace of the noise in it removed; >= 0.
        signal_without: (..., n) U without gradient i.
        noise_without: (..., n) V without gradient i.
    """

    n: int
    signal: Array
    noise: Array
    trace_square: Array
    top: Array
    signal_without: Array
    noise_without: Array


def gram_moments(gram: ArrayLike) -> GramMoments:
    """U, V, tr(S^2), the top eigenvalue of S, and U and V without each gradient in turn.

    The delete-one values follow from row sums and the diagonal, O(n^2) for all n of them. With the
    centred Gram K, e_i = K_ii and ν = n-1: V_(-i) = (ν V - e_i n/ν)/(ν-1). tr(S^2) is the mean of
    (x_i.x_j)^2 - 2 x_i.x_j x_j.x_k + x_i.x_j x_k.x_l over distinct i, j, k, l, which needs n >= 4
    and is unbiased for every law; at n = 3 the Gaussian form ν^2/((ν-1)(ν+2)) (||K||^2/ν^2 - V^2/ν)
    takes its place.

    Args:
        gram: (..., n, n) Gram matrices, n >= 3.

    Returns:
        The moments, one per matrix of the stack.

    Raises:
        ValueError: If the matrices are not square or n < 3.

    References:
        Chen, Zhang & Zhong, J. Am. Stat. Assoc. 105 (2010) 810, for the U-statistic of tr(S^2).

    Examples:
        >>> g = np.array([[1.0, 0.0], [1.0, 2.0], [4.0, 0.0], [2.0, 2.0]])
        >>> moments = gram_moments(g @ g.T)
        >>> bool(np.isclose(moments.noise, g.var(0, ddof=1).sum()))
        True
    """
    gram = np.asarray(gram, dtype=np.float64)
    if gram.ndim < 2 or gram.shape[-1] != gram.shape[-2] or gram.shape[-1] < 3:
        raise ValueError(
            f"The `gram` of `gram_moments` must be (..., n, n) with n >= 3. Got shape {gram.shape}."
        )
    n = gram.shape[-1]
    nu = n - 1
    rows = gram.mean(-1)  # (..., n)
    mean_square = rows.mean(-1)  # |m|^2
    centred = gram - rows[..., :, None] - rows[..., None, :] + mean_square[..., None, None]
    energy = np.einsum("...ii->...i", centred)  # |g_i - m|^2
    trace = energy.sum(-1)
    noise = trace / nu
    signal = mean_square - noise / n
    noise_without = (nu * noise[..., None] - energy * n / nu) / (nu - 1)
    diagonal = np.einsum("...ii->...i", gram)
    mean_without = (n * n * mean_square[..., None] - 2 * n * rows + diagonal) / nu**2
    signal_without = mean_without - noise_without / nu
    frobenius = np.einsum("...ij,...ij->...", centred, centred)
    if n >= 4:
        # Rows of K sum to 0, so its off-diagonal row sums are -e_i: all sums over distinct indices
        # reduce to e and the Frobenius norm.
        fourth = np.einsum("...i,...i->...", energy, energy)
        off = frobenius - fourth
        trace_square = (
            off / (n * nu)
            - 2 * (fourth - off) / (n * nu * (n - 2))
            + (trace**2 - 4 * fourth + 2 * off) / (n * nu * (n - 2) * (n - 3))
        )
    else:
        trace_square = nu**2 / ((nu - 1) * (nu + 2)) * (frobenius / nu**2 - noise**2 / nu)
    # lambda_max of the centred Gram is about (n-1) lambda_1 + V: every other direction adds to it.
    top = np.maximum(np.linalg.eigvalsh(centred)[..., -1] - noise, 0.0) / nu
    return GramMoments(n, signal, noise, trace_square, top, signal_without, noise_without)


def gram_intervals(
    gram: ArrayLike, *, offset: float = 0.0, stretch: float = 1.0, widen: float = 1.0
) -> dict[str, Interval]:
    """95 % intervals of signal, noise and snr, for a whole stack of Gram matrices.

    The same code serves one Gram in a monitor and 2,000 in the coverage benchmark. Formulas in the
    docstring of the module. `noise` is positive and right-skewed, so its jackknife interval is
    taken in log V, with the Gaussian variance 2 tr(S^2)/((n-1) V^2) as floor.

    Args:
        gram: (..., n, n) Gram matrices with V > 0, n >= 3.
        offset: a of the signal U + a V, and
        stretch: b of the noise b V, which correct for a finite training set.
        widen: Factor on the half-widths, for another level than 95 % (the null keeps its).

    Returns:
        `"signal"`, `"noise"`, `"snr"`: values and intervals, each (...); and `"null"`: the band
        that snr reads at mu = 0, with value 0.

    Examples:
        >>> g = np.random.default_rng(0).standard_normal((1000, 8, 5))
        >>> null = gram_intervals(g @ g.swapaxes(1, 2))["snr"]
        >>> bool(np.mean((null.low <= 0) & (null.high >= 0)) > 0.95)
        True
    """
    moments = gram_moments(gram)
    n = moments.n
    signal, noise = moments.signal + offset * moments.noise, stretch * moments.noise
    signal_without = moments.signal_without + offset * moments.noise_without
    student = widen * t_quantile(n - 1)
    degenerate = 2 * np.maximum(moments.trace_square, 0.0) / (n * (n - 1))  # Var U at mu = 0
    shift = widen * SKEW * moments.top / n

    def around(value: Array, without: Array, scale: Array) -> Interval:
        floor = degenerate / scale**2
        spread = student * np.sqrt(np.maximum(jackknife_se(without) ** 2 - floor, floor))
        return Interval(value, value - spread, value + spread + shift / scale)

    # If one gradient carries all the noise, V without it is 0 and C without it infinite. Rounding
    # then bounds them: the intervals come out as wide as they should, and finite.
    noise_without = np.maximum(stretch * moments.noise_without, ROUNDING * noise[..., None])
    snr = around(signal / noise, signal_without / noise_without, noise)
    # Gaussian floor of Var log V: the jackknife of a scale is too short at small d_eff without it.
    log_floor = n * degenerate / moments.noise**2
    log_jackknife = jackknife_se(np.log(noise_without)) ** 2
    log_spread = student * np.sqrt(np.maximum(log_jackknife, log_floor))
    # tr(S^2)^ averages n(n-1)/2 products, hence the degrees of freedom.
    band = t_quantile(n * (n - 1) / 2) * np.sqrt(degenerate) / noise
    return {
        "signal": around(signal, signal_without, np.ones_like(signal)),
        "noise": Interval(noise, noise * np.exp(-log_spread), noise * np.exp(log_spread)),
        "snr": snr,
        "null": Interval(np.zeros_like(band), -band, band),
    }
