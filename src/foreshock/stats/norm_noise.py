r"""Gradient signal and noise from squared norms alone, over a block of steps.

Norms of small and of large batches at the same weights give U and V without bias, but not the
variance of either, which needs products between gradients. So the interval comes from how U and V
scatter over a block of measured steps, under stationarity, and a drift test says when that fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

#: Measured steps in a full block; older ones are dropped.
BLOCK = 64
#: Measured steps below which nothing is said.
ENOUGH = 16
#: Parts that the block is cut into for the jackknife. More would need a longer block if the steps
#: are correlated, fewer would widen t's quantile.
PARTS = 16
#: Level of the drift test in a stationary block of uncorrelated steps, over both of its halves.
DRIFT_LEVEL = 0.01
DRIFT = "Signal or noise drifted within the block of steps: the numbers are averages over it."
NO_GRAM = "Norms alone do not say which way gradients point; use the source 'probe'."


@dataclass(frozen=True)
class NormRow:
    r"""Squared gradient norms of one step at two batch sizes.

    Args:
        small: Mean of \|g\|^2 over the small batches (examples, or ranks).
        big: \|g\|^2 of the large batch, the mean of the small ones.
        small_size: Examples in a small batch.
        big_size: Examples in the large one.
    """

    small: float
    big: float
    small_size: float
    big_size: float

    @property
    def signal(self) -> float:
        r"""U = (B_big \|G_big\|^2 - B_small \|G_small\|^2) / (B_big - B_small)."""
        total = self.big_size * self.big - self.small_size * self.small
        return total / (self.big_size - self.small_size)

    @property
    def noise(self) -> float:
        """V_1, the noise of one example: difference of the squared norms over that of 1/B."""
        return (self.small - self.big) / (1 / self.small_size - 1 / self.big_size)

    @property
    def usable(self) -> bool:
        """Whether both sizes differ and all is finite."""
        finite = math.isfinite(self.small) and math.isfinite(self.big)
        return finite and self.big_size > self.small_size > 0


def norm_noise(rows: Sequence[NormRow], *, sized: bool = True) -> dict[str, Estimate]:
    r"""Signal, noise and their ratio from a block of steps of which only norms are known.

    | series | formula | interval |
    |---|---|---|
    | `grad/signal` | mean of U over the block | block jackknife, t |
    | `grad/noise` | mean of V_1 over the block, divided by B | block jackknife of its log |
    | `grad/snr` | C = B sum(U) / sum(V_1) | block jackknife, t |
    | `grad/snr_per_example` | C/B | that of C |
    | `grad/noise_scale` | B/C | reciprocal of that of C, may be unbounded |
    | `grad/p_published` | C/(1+C) | transformed |

    B is the mean large batch of the block. With per-example norms the small batch is one example.

    **Bias.** U and V_1 of a step are unbiased for its weights; sums are divided, never averaged
    ratios. What is estimated is the average over the block. C has the bias of a ratio, O(1/block).

    **Drift.** Kendall's tau of the parts' sums against time, for U and for V_1, at level .005 each:
    a stationary block of uncorrelated steps is flagged `nonstationary` in at most 1 %. Steps that
    are correlated are flagged more often, and a linear drift of one standard deviation of the parts
    over the block mostly is not. A drift widens the jackknife interval.

    **Coverage** (`foreshock bench coverage norm_noise`, 1,000 cases in each of 18 cells: 16 and 64
    steps, examples and 4 ranks, C_1 = 0, .02, 1, spectra of effective dimension 24 and 2.4): at 64
    steps signal and snr 92.2-95.9 %, noise 93.9-96.0 %; at 16 steps 93.5-95.4 % and 94.1-96.2 %,
    but signal and snr only 89.7-90.7 % at C_1 <= .02 and effective dimension 2.4, where U of a step
    is skewed. Of the stationary blocks .3-1.3 % were flagged.

    **Null.** At mu = 0, C reads within +- t se in 95 %; the se is that of the block, so the band
    is too wide where there is a signal.

    Args:
        rows: Measured steps, oldest first; the last 64 that are usable count.
        sized: Whether the sizes are examples, not only right relative to each other.

    Returns:
        One `Estimate` per series of the table; missing below 16 usable steps.

    References:
        McCandlish et al., arXiv:1812.06162, appendix A (U and V from two batch sizes).

    Examples:
        Per-example gradients in 50 dimensions, signal 2, noise of one example 50.

        >>> rng = np.random.default_rng(0)
        >>> rows = []
        >>> for _ in range(64):
        ...     g = rng.standard_normal((32, 50)) + 0.2
        ...     small, big = (g**2).sum(1).mean(), (g.mean(0) ** 2).sum()
        ...     rows.append(NormRow(small, big, 1, 32))
        >>> found = norm_noise(rows)
        >>> found["grad/noise_scale"].low < 50 / 2 < found["grad/noise_scale"].high
        True
        >>> norm_noise(rows[:5])["grad/snr"].reason
        'Norms need a block of at least 16 measured steps for an interval; there are 5.'
    """
    kept = [row for row in rows if row.usable][-BLOCK:]
    k = len(kept)
    names = ("signal", "noise", "snr", "snr_per_example", "noise_scale", "p_published")
    if k < ENOUGH:
        sentence = (
            f"Norms need a block of at least {ENOUGH} measured steps for an interval; "
            f"there are {k}."
        )
        return {f"grad/{name}": Estimate.missing(sentence, n=k) for name in names}
    size = float(np.mean([row.big_size for row in kept]))
    cut = np.array_split(np.arange(k), min(k, PARTS))
    signal, noise = (np.array([getattr(r, f) for r in kept]) for f in ("signal", "noise"))
    scale = float(np.abs(noise).mean())
    if not (math.isfinite(scale) and noise.sum() > 1e-12 * scale * k):
        sentence = "The examples of a batch have one and the same gradient norm: there is no noise."
        return {f"grad/{name}": Estimate.missing(sentence, n=k) for name in names}
    lengths = np.array([len(part) for part in cut])
    u, v = (np.array([x[part].sum() for part in cut]) for x in (signal / scale, noise / scale))
    # Sums without one part each, as means of the steps that are left.
    u_without, v_without = ((x.sum() - x) / (k - lengths) for x in (u, v))
    if not (v_without > 0).all():
        sentence = "The noise of the block is not resolved from 0: its estimate changes sign."
        return {f"grad/{name}": Estimate.missing(sentence, n=k) for name in names}
    t = t_quantile(len(cut) - 1)
    flags, reason = Flag.NONE, ""
    if _drifts(u / lengths) or _drifts(v / lengths):
        flags, reason = Flag.NONSTATIONARY, DRIFT
    u_mean, v_mean = float(u.sum() / k), float(v.sum() / k)
    u_half = t * float(jackknife_se(u_without))
    v_half = t * float(jackknife_se(np.log(v_without)))
    out = {
        "grad/noise": Estimate(
            scale * v_mean / size,
            scale * v_mean / size * math.exp(-v_half),
            scale * v_mean / size * math.exp(v_half),
            n=k,
            flags=flags,
            reason=reason,
        )
    }
    if abs(u_mean) <= u_half:
        flags |= Flag.UNRESOLVED
        reason = f"The interval of the signal contains 0. {reason}".strip()
    out["grad/signal"] = Estimate(
        scale * u_mean,
        scale * (u_mean - u_half),
        scale * (u_mean + u_half),
        n=k,
        flags=flags,
        reason=reason,
        null=(-scale * u_half, scale * u_half),
    )
    half = t * float(jackknife_se(u_without / v_without))
    ratio = u_mean / v_mean
    band = u_half / v_mean

    ends = ratio, ratio - half, ratio + half
    each = Estimate(*ends, n=k, flags=flags, reason=reason, null=(-band, band))
    snr = each.times(size)
    unknown = Estimate.missing("The batch size is unknown; pass batch_size=...", n=k)
    out["grad/snr"] = snr
    out["grad/snr_per_example"] = each if sized else unknown
    out["grad/noise_scale"] = _reciprocal(each) if sized else unknown
    assert snr.null is not None
    ends = (_share(x) for x in (snr.value, snr.low, snr.high))
    null = (_share(snr.null[0]), _share(snr.null[1]))
    out["grad/p_published"] = Estimate(*ends, n=k, flags=flags, reason=reason, null=null)
    return out


def _reciprocal(ratio: Estimate) -> Estimate:
    """1/C_1; unbounded where the interval of C_1 contains 0."""
    if ratio.low > 0:
        low, high = 1 / ratio.high, 1 / ratio.low
    else:
        low, high = (1 / ratio.high if ratio.high > 0 else -math.inf), math.inf
    value = 1 / ratio.value if ratio.value else math.inf
    return Estimate(value, low, high, n=ratio.n, flags=ratio.flags, reason=ratio.reason)


def _share(snr: float) -> float:
    return snr / (1 + snr) if snr > -1 else -math.inf


def _drifts(parts: Array) -> bool:
    """Whether the parts of a block rise or fall more steadily than chance, at half the level.

    Kendall's S with its normal law, continuity corrected; `scipy.stats` would take a second to load
    in the middle of a run.

    Args:
        parts: Means of the parts of the block, oldest first.

    Returns:
        Whether they drift.
    """
    from scipy.special import ndtri

    n = len(parts)
    later = np.sign(parts[None, :] - parts[:, None])
    steadily = abs(float(np.triu(later, 1).sum())) - 1
    return bool(steadily > -ndtri(DRIFT_LEVEL / 4) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18))
