"""Signal and noise of the gradient, and what follows from them, out of one Gram matrix.

The moments, their intervals and the reasons for both are in `foreshock.stats.gram_interval`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.gram_interval import ROUNDING, gram_intervals, gram_moments
from foreshock.stats.gram_looks import look_widening
from foreshock.stats.intervals import clopper_pearson, jackknife_se, t_quantile
from foreshock.stats.noise_dimension import noise_d_eff
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

SERIES = (
    "grad/signal",
    "grad/noise",
    "grad/snr",
    "grad/snr_per_example",
    "grad/noise_scale",
    "grad/p_published",
    "grad/p_align",
    "grad/noise_d_eff",
)


def signal_noise(
    gram: ArrayLike,
    *,
    batch_size: float | None = None,
    sampling: str = "replacement",
    population: int | None = None,
    looks: int = 1,
) -> dict[str, Estimate]:
    r"""Signal, noise, and what follows from them, from the Gram matrix of n batch gradients.

    | series | formula | interval | null |
    |---|---|---|---|
    | `grad/signal` | U = \|m\|^2 - V/n | jackknife | degenerate band around 0 |
    | `grad/noise` | V | jackknife of log V | none: noise never stops |
    | `grad/snr` | C = U/V | jackknife | degenerate band around 0 |
    | `grad/snr_per_example` | C/B | that of C | that of C |
    | `grad/noise_scale` | B/C = V B/U | reciprocal of that of C, may be unbounded | none |
    | `grad/p_published` | C/(1+C) | transformed | transformed |
    | `grad/p_align` | share of i with g_i . m_(-i) > 0 | see `alignment` | around .5 |
    | `grad/noise_d_eff` | tr(S)^2/tr(S^2) | see `noise_d_eff` | none |

    **Bias.** U and V are unbiased; C is a ratio and reads high by a few percent at small n and
    d_eff (1.036 for 1 at n = 20, d_eff = 2.5). p_align estimates the *finite-n* share, whose
    Gaussian truth is Φ(\|mu\|^2 / sqrt(mu'S mu n/(n-1) + tr(S^2)/(n-1))); it is no probability that
    a step helps.

    **Coverage** of the snr interval, measured by `foreshock bench coverage gradient_noise` with
    8,000 cases in each of 180 cells: Gaussian with C >= 1 94-97 %; C < 1 at least 93 %, with a
    median width at most 1.78 x the oracle's; radial Student-t4 at least 88 %; at mu = 0 the signal
    is `unresolved` in at least 98 %. Heavy tails cost coverage because a rare long gradient is
    usually not in the sample.
    The interval of V covers 95-98 % under Gaussian noise and 82-87 % under t4, where V has infinite
    variance. `noise_scale` is the reciprocal of the snr interval, so it covers what that covers.
    Fieller's interval with jackknife covariance covers 88-96 % (Gaussian) and 74-82 % (t4) at C >=
    1: not used. Where snr's interval contains 0 the noise scale is only bounded below,
    `(low, inf)`, and the value itself may lie outside (it is negative when U is).

    **Null.** At mu = 0, C reads within +- t f/V in 95 % or more of draws. The n signs behind
    p_align are dependent there (two of them share one product G_ij, correlation 1/(n-1)), so its
    band is wider than the binomial one by sqrt(1 + 2/π).

    **Target.** Without `population`: the law the batches came from, |mu|^2 and the trace of the
    covariance of a batch as it was drawn. With `population` = N: the training set, |mu|^2 of its
    mean gradient and tr(S1)/B, S1 the covariance of one of its examples, the same two numbers
    whatever the `sampling` of the batches of B:

    | sampling | E U | E V | correction |
    |---|---|---|---|
    | `replacement` | \|mu\|^2 | tr(S1)/B | none |
    | `independent` | \|mu\|^2 | tr(S1)/B (N-B)/(N-1) | V (N-1)/(N-B) |
    | `disjoint` | \|mu\|^2 - tr(S1)/(N-1) | tr(S1)/B N/(N-1) | U + V B/N, V (N-1)/N |

    Disjoint batches that use up the training set (n B = N) give U + V B/N = \|m\|^2, its gradient
    itself. The interval does not know how much of the training set was seen, so it is too wide
    there: it covers more than 95 %.

    **Cost.** O(n^3), one eigvalsh of n x n.

    Args:
        gram: (n, n) Gram matrix G_ij = g_i . g_j of independent batch gradients at frozen
            parameters, in float64.
        batch_size: Examples per batch B; without it the per-example quantities are missing.
        sampling: How the batches were drawn: ``"replacement"``, ``"independent"`` (without
            replacement within a batch) or ``"disjoint"``. Matters with `population` only.
        population: Examples in the training set, to estimate the training set's own signal and
            noise; needs `batch_size`.
        looks: Looks at growing n of which this is one, 1 to 5, if measuring stops at the one whose
            interval suits: the intervals of signal, noise and snr, and of what follows from snr,
            then hold at all looks jointly (`foreshock.stats.gram_looks`).

    Returns:
        One `Estimate` per name in `SERIES`. Every one but `grad/noise` and `grad/p_align` is
        flagged `unresolved` when the interval of the signal contains 0. n < 3, a Gram that is not
        finite, and a zero Gram give missing estimates; identical gradients (full
        batches, or one batch repeated) the squared norm as signal and zero noise, both flagged and
        without an interval, and an infinite, flagged ratio.

    Raises:
        ValueError: If `gram` is not a symmetric square matrix, `batch_size` is not positive, or
            `sampling` and `population` cannot be used.

    References:
        McCandlish et al., arXiv:1812.06162 (noise scale); Efron & Stein, Ann. Stat. 9 (1981) 586.

    Examples:
        True signal 4, noise 100, so C = 0.04; 64 batches resolve it.

        >>> rng = np.random.default_rng(0)
        >>> g = rng.standard_normal((64, 100)) + 0.2
        >>> out = signal_noise(g @ g.T, batch_size=32)
        >>> out["grad/snr"].low < 0.04 < out["grad/snr"].high
        True
        >>> signal_noise(np.eye(2))["grad/snr"].reason
        'An interval needs at least 3 batch gradients. Got 2; take more micro-batches.'
    """
    gram = np.asarray(gram, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"The `gram` of `signal_noise` must be n x n. Got shape {gram.shape}.")
    if batch_size is not None and not batch_size > 0:
        raise ValueError(f"The `batch_size` of `signal_noise` must be positive. Got {batch_size}.")
    n = len(gram)
    offset, stretch = finite_population(n, batch_size, sampling, population)
    if n < 3:
        return _all_missing(
            f"An interval needs at least 3 batch gradients. Got {n}; take more micro-batches.", n
        )
    if not np.isfinite(gram).all():
        return _all_missing("A batch gradient contains nan or inf, so its products do too.", n)
    scale = float(np.trace(gram)) / n
    if not np.allclose(gram, gram.T, rtol=0, atol=1e-6 * abs(scale)):
        raise ValueError(
            "The `gram` of `signal_noise` must be symmetric. Pass all products g_i . g_j, not a "
            "triangle."
        )
    if scale <= 0:
        return _all_missing("Every batch gradient is exactly zero.", n)
    unit = gram / scale  # squares of tiny or huge gradients must neither vanish nor overflow
    if gram_moments(unit).noise <= ROUNDING * n:
        return _noiseless(unit, scale, batch_size)

    widen = look_widening(looks, n)
    intervals = gram_intervals(unit, offset=offset, stretch=stretch, widen=widen)
    signal = intervals["signal"]
    unresolved = bool(signal.low <= 0 <= signal.high)
    flags = Flag.UNRESOLVED if unresolved else Flag.NONE
    reason = "The interval of the signal contains 0." if unresolved else ""
    snr = Estimate(
        *(float(end) for end in intervals["snr"]),
        n=n,
        flags=flags,
        reason=reason,
        null=(float(intervals["null"].low), float(intervals["null"].high)),
    )
    assert snr.null is not None
    unit_noise = float(intervals["noise"].value)
    noise = Estimate(*(scale * float(end) for end in intervals["noise"]), n=n)
    out = {
        "grad/signal": Estimate(
            *(scale * float(end) for end in signal),
            n=n,
            flags=flags,
            reason=reason,
            null=(scale * unit_noise * snr.null[0], scale * unit_noise * snr.null[1]),
        ),
        "grad/noise": noise,
        "grad/snr": snr,
    }
    out |= _per_example(snr, batch_size)
    out["grad/p_published"] = replace(
        snr,
        value=_share(snr.value),
        low=_share(snr.low),
        high=_share(snr.high),
        null=(_share(snr.null[0]), _share(snr.null[1])),
    )
    out["grad/p_align"] = alignment(unit)
    out["grad/noise_d_eff"] = noise_d_eff(unit)
    return out


def finite_population(
    n: int, batch_size: float | None, sampling: str, population: int | None
) -> tuple[float, float]:
    """The corrections of a finite training set: signal U + a V, noise b V.

    Args:
        n: Batches.
        batch_size: Examples per batch B.
        sampling: ``"replacement"``, ``"independent"`` or ``"disjoint"``.
        population: Examples in the training set N, or ``None`` for no correction.

    Returns:
        ``(a, b)``, as the table of `signal_noise` has them.

    Raises:
        ValueError: If the sampling is unknown, or such batches cannot come from such a set.

    Examples:
        >>> finite_population(8, 10, "disjoint", 100)
        (0.1, 0.99)
    """
    if sampling not in ("replacement", "independent", "disjoint"):
        raise ValueError(
            "The `sampling` of `signal_noise` must be 'replacement', 'independent' or 'disjoint'. "
            f"Got {sampling!r}."
        )
    if population is None:
        return 0.0, 1.0
    if batch_size is None:
        raise ValueError("The `population` of `signal_noise` needs `batch_size` too.")
    if sampling == "replacement":
        return 0.0, 1.0
    drawn = batch_size * (n if sampling == "disjoint" else 1)
    if not (drawn < population or (sampling == "disjoint" and drawn == population)):
        raise ValueError(
            f"The `population` of `signal_noise` must exceed what was drawn without replacement, "
            f"{drawn:g} examples. Got {population}."
        )
    if sampling == "independent":
        return 0.0, (population - 1) / (population - batch_size)
    return batch_size / population, (population - 1) / population


def alignment(gram: ArrayLike) -> Estimate:
    """Share of batch gradients that point along the mean of the *other* ones.

    g_i . sum_(j != i) g_j = (row sum i) - G_ii, so the share and all its delete-one values cost
    O(n^2). The signs are dependent through the shared mean, which Clopper-Pearson ignores, and a
    jackknife of a share near 0 or 1 has no spread at all; the interval is the union of both. It
    covers 95-100 % of the coverage grid. At mu = 0 the share is .5 on average for every law
    symmetric about 0.

    Args:
        gram: (n, n) Gram matrix of batch gradients, n >= 3.

    Returns:
        The share, n, and as null the 95 % band around .5 with the dependence of the signs, within
        [0, 1].

    Raises:
        ValueError: If there are fewer than 3 gradients.

    Examples:
        >>> alignment(np.ones((4, 4))).value
        1.0
    """
    gram = np.asarray(gram, dtype=np.float64)
    n = len(gram)
    if n < 3:
        raise ValueError(f"`alignment` needs at least 3 gradients. Got {n}.")
    others = gram.sum(1) - np.diagonal(gram)  # g_i . sum of the others
    hits = others > 0
    value = float(hits.mean())
    hits_without = (others[:, None] - gram > 0) & ~np.eye(n, dtype=bool)  # [i, j]: i, without j
    spread = t_quantile(n - 1) * float(jackknife_se(hits_without.sum(0) / (n - 1)))
    low, high = clopper_pearson(int(hits.sum()), n)
    # Two standardised sums that share one of n-1 terms have correlation 1/(n-1); the arcsine law
    # turns it into that of their signs.
    overlap = (n - 1) * 2 / math.pi * math.asin(1 / (n - 1))
    half = 1.96 * math.sqrt((1 + overlap) / (4 * n))
    return Estimate(
        value,
        max(0.0, min(low, value - spread)),
        min(1.0, max(high, value + spread)),
        n=n,
        null=(max(0.0, 0.5 - half), min(1.0, 0.5 + half)),
    )


def _share(snr: float) -> float:
    """C/(1+C), increasing on (-1, inf); U/V >= -1/n never reaches -1, an interval's end may."""
    if snr <= -1:
        return -math.inf
    return 1.0 if math.isinf(snr) else snr / (1 + snr)


def _per_example(snr: Estimate, batch_size: float | None) -> dict[str, Estimate]:
    """C/B and B/C; both need the batch size."""
    if batch_size is None:
        missing = Estimate.missing(
            "The batch size is unknown; pass batch_size=... to get per-example quantities.", n=snr.n
        )
        return {"grad/snr_per_example": missing, "grad/noise_scale": missing}
    null = snr.null and (snr.null[0] / batch_size, snr.null[1] / batch_size)
    per_example = replace(
        snr,
        value=snr.value / batch_size,
        low=snr.low / batch_size,
        high=snr.high / batch_size,
        null=null,
    )
    if snr.low > 0:
        low, high = batch_size / snr.high, batch_size / snr.low
    elif snr.high > 0:  # any scale above B/high, up to infinity, is compatible
        low, high = batch_size / snr.high, math.inf
    else:
        low, high = -math.inf, math.inf
    noise_scale = Estimate(
        batch_size / snr.value if snr.value else math.inf,
        low,
        high,
        n=snr.n,
        flags=snr.flags,
        reason=snr.reason,
    )
    return {"grad/snr_per_example": per_example, "grad/noise_scale": noise_scale}


def _all_missing(reason: str, n: int) -> dict[str, Estimate]:
    return {name: Estimate.missing(reason, n=n) for name in SERIES}


def _noiseless(unit: Array, scale: float, batch_size: float | None) -> dict[str, Estimate]:
    """Identical gradients: full batches, or one batch repeated; nothing here tells them apart."""
    n = len(unit)
    reason = (
        "The batch gradients are identical: a full batch has no noise to compare with, and of one "
        "batch that is repeated the noise is not known."
    )
    endless = Estimate(math.inf, n=n, flags=Flag.UNRESOLVED, reason=reason)
    out = {name: endless for name in SERIES}
    flags, norm = Flag.BELOW_PRECISION, scale * float(unit.mean())
    out["grad/signal"] = Estimate(norm, n=n, flags=flags, reason=reason)
    out["grad/noise"] = Estimate(0.0, n=n, flags=flags, reason=reason)
    if batch_size is None:
        out |= _per_example(endless, None)
    else:
        out["grad/noise_scale"] = replace(endless, value=0.0)
    out["grad/p_published"] = replace(endless, value=1.0)
    out["grad/p_align"] = alignment(unit)
    out["grad/noise_d_eff"] = Estimate.missing(reason, n=n)
    return out
