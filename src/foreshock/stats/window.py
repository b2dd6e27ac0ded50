r"""Spectrum of a window of W successive updates, and the spectrum that pure noise would have.

Input is the W x W Gram G of the *uncentred* updates δ_1..δ_W, in order of time. With eigenvalues
λ_1 >= ... >= λ_W and σ_j = sqrt(λ_j):

    gap_j = (λ_j - λ_{j+1}) / tr G        k* = argmax_j σ_j/σ_{j+1},  ratio = its maximum
    ρ_l = mean_i G_{i,i+l}/sqrt(G_ii G_{i+l,i+l})        effective rank = (tr G)^2 / tr(G^2)

All but σ and the norm are free of the scale of the updates.

**k* exists for pure noise.** An argmax always has a value: independent updates give k* = 1 or W-1
most often, and autocorrelated ones a small k* and a large ratio without any learning. So each
window carries its null: updates of the observed norms in independent random directions of an
effective dimension p, and `no_edge` where the observed ratio lies below the null's 95 % quantile.

**Effective dimension.** Cosines of independent updates have mean 0 and mean square 1/p =
tr(S^2)/tr(S)^2. We take the variance of the off-diagonal cosines *around their mean at each lag*,
over all lags: momentum and drift move the means and must not pass for a small p, or they would hide
behind a null as wide as themselves. The variance has ν = (W-1)(W-2)/2 degrees of freedom; the null
draws p^ χ^2_ν/ν in place of p^, so that its quantile pays for p^ being an estimate.

**Measured level** (share of pure-noise windows called an edge; nominal 5 %, 400 windows), W = 10,
20,000 parameters: isotropic noise 3 %, spectrum j^(-1/2) (p = 7,555) 7 %, spectrum j^-1 (p = 67)
19 %. So an edge means little where one direction carries most of the noise. Power: with lag-1
autocorrelation .1 every window of the first two is an edge, .5 gives 87 % of the third.

An edge says "not independent directions". It does not say "learning": ρ_1 = .5 alone makes an edge.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import t_quantile
from foreshock.types import Estimate, Flag, Readings

Array = NDArray[np.float64]

SERIES = (
    "update/sigma_1",
    "update/sigma_2",
    "update/gap_1",
    "update/gap_2",
    "update/gap_3",
    "update/k_star",
    "update/ratio",
    "update/rho_1",
    "update/rho_2",
    "update/rho_3",
    "update/effective_rank",
    "update/norm",
)

SMALLEST_WIDTH = 3

#: p is rounded to this step of log p before the null is drawn, so that windows share cached draws.
#: 5 % of p is 2.5 % of a ratio's excess over 1, far below the Monte-Carlo error of 199 draws.
LOG_STEP = 0.05


def window_pending(have: int, width: int) -> dict[str, Estimate]:
    """What a window says before it is full: nothing, and how long that lasts.

    Args:
        have: Updates collected so far, fewer than `width`.
        width: W.

    Returns:
        A missing estimate for every name in `SERIES`.

    Examples:
        >>> window_pending(4, 10)["update/k_star"].reason
        'The update window is filling: 4 of 10 updates so far.'
    """
    reason = f"The update window is filling: {have} of {width} updates so far."
    return {name: Estimate.missing(reason, n=have) for name in SERIES}


def window_spectrum(
    gram: ArrayLike, *, draws: int = 199, seed: int = 0, precision: float = 2.0**-52
) -> Readings:
    """Spectrum, gaps, k*, autocorrelation and effective rank of a window, each with its null.

    See the module for formulas and for the null. σ, gaps, k*, ratio, effective rank and norm are
    *exact* for this window: `low == value == high`. Their chance is in `null`, the band of 95 % of
    windows of independent updates with these norms. ρ_l is a mean over W-l pairs, its interval is
    that of a mean (Student, W-l-1 degrees of freedom), which takes the pairs as independent: too
    short when updates are strongly autocorrelated. Its null is +- 1.96/sqrt(p (W-l)).

    **Cost.** `draws` eigenproblems of W x W: 1.5 ms at W = 10 and 199 draws, 3.5 ms at W = 20.

    Args:
        gram: (W, W) Gram of the uncentred updates in order of time, in float64, W >= 3.
        draws: Monte-Carlo windows of the null.
        seed: Seed of its private generator.
        precision: Relative error of the entries of the Gram. Products summed in float64 have 2^-52;
            products of float32 sums 2^-24. σ_j below sqrt(W precision) σ_1 is not used in ratios.

    Returns:
        `scalars` with every name in `SERIES`, `arrays` with `update/spectrum` (W,), the σ in
        descending order. `update/k_star` and `update/ratio` are flagged `no_edge` when the ratio
        lies inside the null, `below_precision` when some σ had to be left out. All scalars are
        missing if an entry is not finite, or an update is exactly zero.

    Raises:
        ValueError: If `gram` is not a symmetric square matrix with W >= 3, or `draws` < 19.

    References:
        Xu, arXiv:2603.28964, for k* and the gap; the null is ours.

    Examples:
        Two alternating directions: rank 2, and ρ_1 = 0, ρ_2 = 1.

        >>> updates = np.eye(2)[np.arange(10) % 2]
        >>> out = window_spectrum(updates @ updates.T).scalars
        >>> [round(out[f"update/{name}"].value, 9) for name in ("effective_rank", "rho_1", "rho_2")]
        [2.0, 0.0, 1.0]
    """
    gram = np.asarray(gram, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) < SMALLEST_WIDTH:
        raise ValueError(
            f"The `gram` of `window_spectrum` must be W x W with W >= {SMALLEST_WIDTH}. "
            f"Got shape {gram.shape}."
        )
    if draws < 19:
        raise ValueError(
            f"The `draws` of `window_spectrum` must be at least 19 for a 95 % level. Got {draws}."
        )
    width = len(gram)
    if not np.isfinite(gram).all():
        return _missing("An update contains nan or inf, so its products do too.", width)
    squares = np.diagonal(gram)
    if squares.min() <= 0:
        still = int(np.argmin(squares))
        return _missing(f"Update {still + 1} of the window is exactly zero.", width)
    if not np.allclose(gram, gram.T, rtol=0, atol=1e-6 * float(squares.max())):
        raise ValueError(
            "The `gram` of `window_spectrum` must be symmetric. Pass all products, not a triangle."
        )
    unit = float(squares.mean())  # rms norm squared; all work is done in this unit
    scaled = gram / unit
    norms = np.sqrt(squares / unit)
    cosines = scaled / np.outer(norms, norms)
    eigenvalues = np.maximum(np.linalg.eigvalsh(scaled)[::-1], 0.0)
    sigma = np.sqrt(eigenvalues)
    resolved = sigma > math.sqrt(width * precision) * sigma[0]

    p = effective_dimension(cosines)
    noise = null_cosines(width, round(math.log(p) / LOG_STEP), draws, seed)
    null_values = np.maximum(
        np.linalg.eigvalsh(noise * np.outer(norms, norms))[:, ::-1], 0.0
    )  # (draws, W)
    null_sigma = np.sqrt(null_values)

    root = math.sqrt(unit)
    scalars = {
        f"update/sigma_{j}": _exact(root * float(sigma[j - 1]), root * null_sigma[:, j - 1], width)
        for j in (1, 2)
    }
    trace = float(eigenvalues.sum())
    null_trace = null_values.sum(1)
    for j in (1, 2, 3):
        name = f"update/gap_{j}"
        if j >= width:
            scalars[name] = Estimate.missing(
                f"A window of {width} updates has no eigenvalue {j + 1}; take a wider one.", n=width
            )
            continue
        null_gap = (null_values[:, j - 1] - null_values[:, j]) / null_trace
        scalars[name] = _exact(float(eigenvalues[j - 1] - eigenvalues[j]) / trace, null_gap, width)
    scalars |= _edge(sigma, resolved, null_sigma)
    scalars |= _autocorrelation(cosines, p)
    scalars["update/effective_rank"] = _exact(
        trace**2 / float(eigenvalues @ eigenvalues),
        null_trace**2 / np.einsum("ij,ij->i", null_values, null_values),
        width,
    )
    scalars["update/norm"] = Estimate.exact(root, n=width)
    return Readings({name: scalars[name] for name in SERIES}, {"update/spectrum": root * sigma})


def effective_dimension(cosines: ArrayLike) -> float:
    r"""tr(S)^2/tr(S^2) of the updates' noise, from the scatter of their cosines at each lag.

    p^ = (ν-2)/ν over the pooled variance of the cosines around their mean at each lag, with
    ν = (W-1)(W-2)/2 degrees of freedom; (ν-2)/ν removes the bias of the reciprocal at large p. The
    relative error is about sqrt(2/ν): 24 % at W = 10, which is enough, since the null depends on
    sqrt(p). Kept within [W, 1e15]: below W the null's Wishart law would be singular.

    Args:
        cosines: (W, W) Matrix with unit diagonal, W >= 3.

    Returns:
        p^.

    Examples:
        >>> g = np.random.default_rng(0).standard_normal((10, 5000))
        >>> g /= np.linalg.norm(g, axis=1, keepdims=True)
        >>> 2000 < effective_dimension(g @ g.T) < 12000
        True
    """
    matrix = np.asarray(cosines, dtype=np.float64)
    width = len(matrix)
    scatter, freedom = 0.0, 0
    for lag in range(1, width - 1):
        diagonal = np.diagonal(matrix, lag)
        scatter += float(((diagonal - diagonal.mean()) ** 2).sum())
        freedom += width - lag - 1
    unbiased = max(freedom - 2, 1)  # W = 3 has a single degree of freedom
    return min(max(unbiased / max(scatter, 1e-300), float(width)), 1e15)


@lru_cache(maxsize=256)
def null_cosines(width: int, log_p: int, draws: int, seed: int) -> Array:
    """Cosine matrices of W independent Gaussian directions in exp(`log_p` LOG_STEP) dimensions.

    Bartlett's decomposition of a Wishart matrix, L L' with normals below the diagonal and
    sqrt(chi^2_{p-i}) on it, needs no vector of p numbers. Each draw has its own p, see the module.

    Args:
        width: W.
        log_p: log p in steps of `LOG_STEP`.
        draws: Number of matrices.
        seed: Seed of the private generator.

    Returns:
        (draws, W, W), read-only, since it is cached.

    Examples:
        >>> null_cosines(4, 100, 19, 0).shape
        (19, 4, 4)
    """
    rng = np.random.default_rng([seed, width, log_p])
    freedom = (width - 1) * (width - 2) / 2
    p = math.exp(log_p * LOG_STEP) * rng.chisquare(freedom, draws) / freedom
    p = np.maximum(p, width)
    lower = np.tril(rng.standard_normal((draws, width, width)), -1)
    rows = np.arange(width)
    lower[:, rows, rows] = np.sqrt(rng.chisquare(p[:, None] - rows))
    gram = lower @ lower.swapaxes(1, 2)
    norms = np.sqrt(np.einsum("dii->di", gram))
    cosines = gram / (norms[:, :, None] * norms[:, None, :])
    cosines.flags.writeable = False
    return cosines


def _edge(sigma: Array, resolved: Array, null_sigma: Array) -> dict[str, Estimate]:
    """k* and its ratio, with their null and flags."""
    width = len(sigma)
    usable = int(resolved.sum()) - 1  # ratios between neighbours that are both resolved
    if usable < 1:
        missing = Estimate.missing(
            "Only one singular value stands above the rounding of the products.",
            flags=Flag.UNRESOLVED | Flag.BELOW_PRECISION,
            n=width,
        )
        return {"update/k_star": missing, "update/ratio": missing}
    ratios = sigma[:usable] / sigma[1 : usable + 1]
    tiny = np.finfo(np.float64).tiny
    null_ratios = null_sigma[:, :usable] / np.maximum(null_sigma[:, 1 : usable + 1], tiny)
    best = int(np.argmax(ratios))
    ratio = float(ratios[best])
    null_ratio = null_ratios.max(1)
    flags, sentences = Flag.NONE, []
    # With the window itself as one more draw the level is exact if the null is.
    if (1 + int((null_ratio >= ratio).sum())) / (1 + len(null_ratio)) > 0.05:
        flags |= Flag.NO_EDGE
        sentences.append("Independent updates of these norms give a ratio as large.")
    if usable < width - 1:
        flags |= Flag.BELOW_PRECISION
        sentences.append(
            f"Singular values {usable + 2} to {width} are below the rounding of the products."
        )
    reason = " ".join(sentences)
    low, high = np.quantile(null_ratio, [0.025, 0.975])
    k_low, k_high = np.quantile(1 + null_ratios.argmax(1), [0.025, 0.975])
    return {
        "update/k_star": Estimate(
            best + 1.0, best + 1.0, best + 1.0, width, flags, reason, (float(k_low), float(k_high))
        ),
        "update/ratio": Estimate(
            ratio, ratio, ratio, width, flags, reason, (float(low), float(high))
        ),
    }


def _autocorrelation(cosines: Array, p: float) -> dict[str, Estimate]:
    """Mean cosine at lags 1 to 3."""
    width = len(cosines)
    out = {}
    for lag in (1, 2, 3):
        name = f"update/rho_{lag}"
        pairs = width - lag
        if pairs < 2:
            out[name] = Estimate.missing(
                f"A window of {width} updates has fewer than 2 pairs at lag {lag}.", n=width
            )
            continue
        values = np.diagonal(cosines, lag)
        mean = float(values.mean())
        spread = t_quantile(pairs - 1) * float(values.std(ddof=1)) / math.sqrt(pairs)
        half = 1.96 / math.sqrt(p * pairs)
        out[name] = Estimate(mean, mean - spread, mean + spread, n=pairs, null=(-half, half))
    return out


def _exact(value: float, null: Array, width: int) -> Estimate:
    """A number without error, and the 95 % band of its null."""
    low, high = np.quantile(null, [0.025, 0.975])
    return Estimate(value, value, value, n=width, null=(float(low), float(high)))


def _missing(reason: str, width: int) -> Readings:
    return Readings({name: Estimate.missing(reason, n=width) for name in SERIES})
