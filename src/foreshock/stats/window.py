r"""Spectrum of a window of W successive updates, and the spectrum that pure noise would have.

Input is the W x W Gram G of the *uncentred* updates δ_1..δ_W, in order of time. With eigenvalues
λ_1 >= ... >= λ_W and σ_j = sqrt(λ_j):

    gap_j = (λ_j - λ_{j+1}) / tr G        k* = argmax_j R_j,  R_j = σ_j/σ_{j+1},  ratio = max R_j
    ρ_l = mean_i G_{i,i+l}/sqrt(G_ii G_{i+l,i+l})        effective rank = (tr G)² / tr(G²)
    weighted k* = argmax_j (σ_j/Σσ) R_j

All but σ and the norm are free of the scale of the updates.

**k* exists for pure noise.** An argmax always has a value: independent updates give k* = 1 or W-1
most often (22 % each at W = 10), the weighted one 1 in 81 % and 2 in 16 %, and autocorrelated ones
a small k* and a large ratio without any learning. So each window carries its null, one of three
(`foreshock.stats.window_null`), and `no_edge` where the observed ratio lies below its 95 %
quantile; under the default also where signs of the updates may be flipped at will (`sign_test`).

**Measured level** (share of pure-noise windows called an edge; nominal 5 %; 400 windows, so
2 % has a standard error of .7 %), W = 10, 20,000 parameters, isotropic noise, spectrum j^(-1/2)
(p = 7,555), spectrum j^-1 (p = 67):

    "effective"   .5 %   .5 %    2 %    without the sign test 2 %, 6 %, 25 %
    "norms"        4 %   43 %   97 %
    "toeplitz"     1 %    3 %   20 %

W of 3, 5 and 6 have no sign test and reach 6, 1 and 3 % at p = 50. Power of "effective" at W = 10
(60 windows): lag-1 autocorrelation .1 is an edge in all, 80 % and 5 % of windows (p = 5,000, 2,154
and 50), .5 in all, all and 78 %.

An edge says "not independent directions". It does not say "learning": ρ_1 = .5 alone makes an edge.
Where one direction carries nearly all of the noise (p about 6), there is no power left at ρ_1 = .5.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import Z95, t_quantile
from foreshock.stats.window_null import (
    NULLS,
    SIGN_WIDTH,
    Null,
    band,
    cosine_covariance,
    effective_dimension,
    lag_means,
    null_grams,
    scatter,
    scatter_law,
    sign_test,
    toeplitz,
)
from foreshock.stats.window_sketch import sketch_sentence
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
    "update/k_star_weighted",
    "update/rho_1",
    "update/rho_2",
    "update/rho_3",
    "update/effective_rank",
    "update/norm",
)

SMALLEST_WIDTH = 3

#: Below this effective dimension the bands lose their level: 4 % outside at 14, 22 % at 6 (W = 10).
FEW_DIMENSIONS = 15

#: Below this effective dimension a Wishart law alone is liberal (see the module). Ad hoc: between
#: the 7,555 where 3 % passed and the 67 where 20 % did.
SMALL_DIMENSION = 1000


def window_pending(
    have: int, width: int, names: tuple[str, ...] = SERIES, *, spacing: int = 0, note: str = ""
) -> dict[str, Estimate]:
    """What a window says before it is full: nothing, and how long that lasts.

    Args:
        have: Updates collected so far, fewer than `width`.
        width: How many are needed.
        names: The series that wait.
        spacing: Steps between snapshots, if known.
        note: What to say before, such as why the window began again.

    Returns:
        A missing estimate for every name.

    Examples:
        >>> window_pending(4, 10)["update/k_star"].reason
        'The update window is filling: 4 of 10 updates so far.'
        >>> window_pending(4, 10, spacing=50)["update/k_star"].reason
        'The update window is filling: 4 of 10 updates so far, in 200 steps; 300 to go.'
    """
    reason = f"{note} The update window is filling: {have} of {width} updates so far".strip()
    if have and spacing:
        reason += f", in {have * spacing} steps; {(width - have) * spacing} to go"
    reason += "."
    return {name: Estimate.missing(reason, n=have) for name in names}


def check_gram(gram: ArrayLike, owner: str, name: str = "gram") -> Array:
    """The Gram as float64, or the reason why it is none.

    Args:
        gram: A square symmetric matrix of products, of at least `SMALLEST_WIDTH` updates.
        owner: Function that asks, for the sentence.
        name: Its argument.

    Returns:
        The matrix; not checked for symmetry where it is not finite.

    Raises:
        ValueError: If it is not square, too small, or not symmetric.
    """
    matrix = np.asarray(gram, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < SMALLEST_WIDTH:
        raise ValueError(
            f"The `{name}` of `{owner}` must be W x W with W >= {SMALLEST_WIDTH}. "
            f"Got shape {matrix.shape}."
        )
    largest = float(np.diagonal(matrix).max())
    if np.isfinite(matrix).all() and not np.allclose(matrix, matrix.T, rtol=0, atol=1e-6 * largest):
        raise ValueError(
            f"The `{name}` of `{owner}` must be symmetric. Pass all products, not a triangle."
        )
    return matrix


def spoiled(gram: Array) -> str:
    """Why nothing can be computed from a Gram; empty if all is well.

    Args:
        gram: As `check_gram` gives it.

    Returns:
        A sentence, or nothing.

    Examples:
        >>> spoiled(np.diag([1.0, 0.0, 2.0]))
        'Update 2 of the window is exactly zero.'
    """
    if not np.isfinite(gram).all():
        return "An update contains nan or inf, so its products do too."
    squares = np.diagonal(gram)
    if squares.min() <= 0:
        return f"Update {int(np.argmin(squares)) + 1} of the window is exactly zero."
    return ""


def few_dimensions(cosines: Array) -> str:
    """What to say of bands where the noise fills too few dimensions; empty if it fills enough.

    Args:
        cosines: (W, W) Cosines of the updates.

    Returns:
        A sentence, or nothing.
    """
    p = effective_dimension(cosines)
    if p >= FEW_DIMENSIONS:
        return ""
    return f"The noise fills about {p:.0f} dimensions: up to half of it lies outside the band."


def window_spectrum(
    gram: ArrayLike,
    *,
    null: Null = "effective",
    parameters: int | None = None,
    sketch: int | None = None,
    draws: int = 199,
    seed: int = 0,
    precision: float = 2.0**-52,
) -> Readings:
    """Spectrum, gaps, k*, autocorrelation and effective rank of a window, each with its null.

    See the module for formulas and for the null. σ, gaps, k*, ratio, effective rank and norm are
    *exact* for this window: `low == value == high`, unless the Gram is of sketches. Their chance is
    in `null`, the band of at least 95 % of windows of the null with these norms, whatever the
    spectrum of the noise (measured: `window_null`); that of the ratio is of isotropic noise, and 4
    to 32 % of pure noise lies outside. Where the noise fills about as few dimensions as there are
    updates, up to half of it lies outside, and `reason` says so.

    ρ_l estimates the autocorrelation of the process. Its variance is Bartlett's, summed over the
    pairs with the covariances of cosines that share updates (`cosine_covariance`, at the measured
    autocorrelation), times the measured 1/p; Student with its degrees of freedom (`scatter_law`).
    Measured coverage over independent and AR(1) updates, ρ to .9, p from 41 to 2,000: 93.8 to
    98.8 %, the latter at .9. Its null
    is +- t/sqrt(p (W-l)).

    **Sketched Gram.** Products of CountSketches of `sketch` dimensions err like a Wishart matrix:
    to first order λ_j errs by sqrt(2/sketch) λ_j, independently over j, which gives the intervals
    (σ_j: 1.96/sqrt(2 sketch) of itself, R: 1.96/sqrt(sketch)). A sketch is linear, so that the
    smallest σ errs by no larger share of itself than the largest: planted spectra down to 1e-5 of
    σ_1 are met to .4 to 1.2 times that. k* ranges over all positions whose ratio could be the
    largest. Every `reason` says so. Measured coverage 94 to 97 %. A ratio within that error of
    1 is `no_edge`. ρ_l has an interval of its own, of the process, in which the error of
    the sketch is one more source of scatter.

    **Cost.** 2 `draws` eigenproblems of W x W: 4 to 5 ms at W = 10 and 199 draws, 16 at 30, 62
    at 64, in 3, 26 and 120 MB with `window_turn`; under ``"toeplitz"`` 6, 26 and 105 ms.

    Args:
        gram: (W, W) Gram of the uncentred updates in order of time, in float64, W >= 3.
        null: Which law `no_edge` and the bands refer to, one of `window_null.NULLS`.
        parameters: Number of parameters; needed by ``null="norms"``.
        sketch: Dimensions of the sketch, if `gram` holds products of sketches.
        draws: Monte-Carlo windows of the null.
        seed: Seed of its private generator.
        precision: Relative error of the entries of the Gram. Products summed in float64 have 2^-52;
            products of float32 sums 2^-24. σ_j below sqrt(W precision) σ_1 is not used in ratios.

    Returns:
        `scalars` with every name in `SERIES`, `arrays` with `update/spectrum` (W,), the σ in
        descending order, and `update/ratios` (W-1,), R_j, nan where σ_{j+1} is below rounding.
        k*, ratio and weighted k* are flagged `no_edge` when the ratio lies inside the null,
        `below_precision` when some σ had to be left out. All scalars are missing if an entry is not
        finite, or an update is exactly zero.

    Raises:
        ValueError: If `null` is unknown or `draws` < 19.

    References:
        Xu, arXiv:2603.28964, for k* and the gap; the null is ours.

    Examples:
        Two alternating directions: rank 2, and ρ_1 = 0, ρ_2 = 1.

        >>> updates = np.eye(2)[np.arange(10) % 2]
        >>> out = window_spectrum(updates @ updates.T).scalars
        >>> [round(out[f"update/{name}"].value, 9) for name in ("effective_rank", "rho_1", "rho_2")]
        [2.0, 0.0, 1.0]
    """
    gram = check_gram(gram, "window_spectrum")
    if draws < 19:
        raise ValueError(
            f"The `draws` of `window_spectrum` must be at least 19 for a 95 % level. Got {draws}."
        )
    if null not in NULLS:
        raise ValueError(f"The `null` of `window_spectrum` must be one of {NULLS}. Got {null!r}.")
    width = len(gram)
    if reason := spoiled(gram):
        return Readings({name: Estimate.missing(reason, n=width) for name in SERIES})
    squares = np.diagonal(gram)
    unit = float(squares.mean())  # rms norm squared; all work is done in this unit
    scaled = gram / unit
    norms = np.sqrt(squares / unit)
    cosines = scaled / np.outer(norms, norms)
    eigenvalues = np.maximum(np.linalg.eigvalsh(scaled)[::-1], 0.0)
    sigma = np.sqrt(eigenvalues)
    resolved = sigma > math.sqrt(width * precision) * sigma[0]

    noise = null_grams(
        cosines, norms, null=null, parameters=parameters, sketch=sketch, draws=draws, seed=seed
    )
    null_values = np.maximum(np.linalg.eigvalsh(noise)[..., ::-1], 0.0)  # (laws, draws, W)
    null_sigma = np.sqrt(null_values)
    error = 0.0 if sketch is None else Z95 * math.sqrt(2.0 / sketch)  # of an eigenvalue, relative

    few = " ".join(filter(None, (sketch_sentence(sketch), few_dimensions(cosines))))

    def number(value: float, slope: Array, noise: Array) -> Estimate:
        """A function of the eigenvalues with d value/dλ_k = `slope`, and the band of its null."""
        half = error * math.sqrt(float(((slope * eigenvalues) ** 2).sum()))
        low, high = value - half, value + half
        return Estimate(value, low, high, n=width, reason=few, null=band(noise))

    root, eye = math.sqrt(unit), np.eye(width)
    scalars = {
        f"update/sigma_{j}": number(
            root * float(sigma[j - 1]),
            root * eye[j - 1] / (2 * max(float(sigma[j - 1]), 1e-300)),
            root * null_sigma[..., j - 1],
        )
        for j in (1, 2)
    }
    trace, square = float(eigenvalues.sum()), float(eigenvalues @ eigenvalues)
    null_trace = null_values.sum(-1)
    for j in (1, 2, 3):
        name = f"update/gap_{j}"
        if j >= width:
            scalars[name] = Estimate.missing(
                f"A window of {width} updates has no eigenvalue {j + 1}; take a wider one.", n=width
            )
            continue
        gap = float(eigenvalues[j - 1] - eigenvalues[j]) / trace
        null_gap = (null_values[..., j - 1] - null_values[..., j]) / null_trace
        scalars[name] = number(gap, (eye[j - 1] - eye[j] - gap) / trace, null_gap)
    scalars |= _edge(sigma, resolved, null_sigma, cosines, null, sketch)
    scalars |= _autocorrelation(cosines, sketch)
    rank = trace**2 / square
    scalars["update/effective_rank"] = number(
        rank,
        2 * rank * (1 / trace - eigenvalues / square),
        null_trace**2 / (null_values**2).sum(-1),
    )
    half = error * math.sqrt(square) / (2 * trace) * root
    scalars["update/norm"] = Estimate(
        root, root - half, root + half, n=width, reason=sketch_sentence(sketch)
    )
    ratios = np.full(width - 1, np.nan)
    np.divide(sigma[:-1], sigma[1:], out=ratios, where=resolved[1:])
    return Readings(
        {name: scalars[name] for name in SERIES},
        {"update/spectrum": root * sigma, "update/ratios": ratios},
    )


def _edge(
    sigma: Array,
    resolved: Array,
    null_sigma: Array,
    cosines: Array,
    null: Null,
    sketch: int | None,
) -> dict[str, Estimate]:
    """k*, its ratio and the weighted k*, with their null and flags."""
    width = len(sigma)
    usable = int(resolved.sum()) - 1  # ratios between neighbours that are both resolved
    if usable < 1:
        missing = Estimate.missing(
            "Only one singular value stands above the rounding of the products.",
            flags=Flag.UNRESOLVED | Flag.BELOW_PRECISION,
            n=width,
        )
        return {f"update/{name}": missing for name in ("k_star", "ratio", "k_star_weighted")}
    ratios = sigma[:usable] / sigma[1 : usable + 1]
    tiny = np.finfo(np.float64).tiny
    null_ratios = null_sigma[..., :usable] / np.maximum(null_sigma[..., 1 : usable + 1], tiny)
    ratio, null_ratio = float(ratios.max()), null_ratios.max(-1)
    error = 0.0 if sketch is None else Z95 / math.sqrt(sketch)
    flags, sentences = Flag.NONE, [sketch_sentence(sketch)] if sketch else []
    # With the window itself as one more draw the level is exact if the null is.
    if (1 + int((null_ratio[0] >= ratio).sum())) / (1 + null_ratio.shape[1]) > 0.05:
        flags |= Flag.NO_EDGE
        sentences.append(
            "Noise with this autocorrelation gives a ratio as large."
            if null == "toeplitz"
            else "Independent updates of these norms give a ratio as large."
        )
    elif null == "effective" and width >= SIGN_WIDTH and sign_test(cosines) > 0.05:
        flags |= Flag.NO_EDGE
        sentences.append("The updates come in no order: flipped signs align them as well.")
    elif sketch is not None and ratio * (1 - error) <= 1:
        flags |= Flag.NO_EDGE
        sentences.append("That error reaches down to a ratio of 1.")
    p = effective_dimension(cosines)
    if not flags and null == "toeplitz" and p < SMALL_DIMENSION:
        sentences.append(
            f"The noise fills about {p:.0f} dimensions: with so few, up to 20 % of pure noise "
            "passes for an edge under this null."
        )
    if not flags and null == "norms":
        sentences.append("Any anisotropy of the noise passes for an edge under this null.")
    if usable < width - 1:
        flags |= Flag.BELOW_PRECISION
        sentences.append(
            f"Singular values {usable + 2} to {width} are below the rounding of the products."
        )
    reason = " ".join(sentences)

    def position(scores: Array, null_scores: Array) -> Estimate:
        """Where the largest score is, and where it could be within the error of the sketch."""
        best = 1.0 + int(scores.argmax())
        could = 1.0 + np.flatnonzero(scores * (1 + error) >= scores.max() * (1 - error))
        ends = (float(could[0]), float(could[-1])) if error else (best, best)
        return Estimate(best, *ends, width, flags, reason, band(1.0 + null_scores.argmax(-1)))

    return {
        "update/k_star": position(ratios, null_ratios),
        "update/ratio": Estimate(
            ratio,
            ratio * (1 - error),
            ratio * (1 + error),
            width,
            flags,
            reason,
            band(null_ratio[:1]),  # of the law that decides
        ),
        # The sum of σ is a common factor, so that it does not move the argmax.
        "update/k_star_weighted": position(
            ratios * sigma[:usable], null_ratios * null_sigma[..., :usable]
        ),
    }


def _autocorrelation(cosines: Array, sketch: int | None) -> dict[str, Estimate]:
    """Mean cosine at lags 1 to 3."""
    width = len(cosines)
    means = lag_means(cosines)
    correlation = toeplitz(means)
    expected, freedom = scatter_law(correlation)
    inverse = scatter(cosines) / expected  # 1/p, unbiased: what Student's law asks for
    independent = effective_dimension(cosines)
    t, null_t = t_quantile(freedom), t_quantile((width - 1) * (width - 2) / 2)
    out = {}
    for lag in (1, 2, 3):
        name = f"update/rho_{lag}"
        pairs = width - lag
        if pairs < 2:
            out[name] = Estimate.missing(
                f"A window of {width} updates has fewer than 2 pairs at lag {lag}.", n=width
            )
            continue
        mean = float(means[lag])
        first = np.arange(pairs)
        covariance = cosine_covariance(correlation, first, first + lag)
        variance = max(float(covariance.mean()), 0.0) * inverse
        half = t * math.sqrt(variance)
        limit = null_t / math.sqrt(independent * pairs)
        out[name] = Estimate(
            mean,
            mean - half,
            mean + half,
            n=pairs,
            reason=sketch_sentence(sketch),
            null=(-limit, limit),
        )
    return out
