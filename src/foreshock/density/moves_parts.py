"""Terms of a measured flow without each batch and each group of particles, and their estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from foreshock.density.groups import CLONED, copied
from foreshock.density.jackknife import BAD, groups_without, refit
from foreshock.density.moves_intervals import Interval, Replicas
from foreshock.density.moves_terms import Array, Sums, Terms, factor
from foreshock.density.score import Score
from foreshock.density.score_gaussian import square_bias
from foreshock.types import Estimate, Flag

RIGID = (
    "In some direction the batches do not differ, so the diffusion is singular there: drop that "
    "direction, or give the probe more batches."
)
NOISELESS = "Training takes the whole data at once: no noise, so no diffusion to compare with."
WIDE = (
    "The interval is wider than what it measures: a few particles or batches decide. "
    "Take more of both."
)
HEAVY = (
    "One batch makes {share:.0f} % of the scatter between batches: with noise so heavy, or batches "
    "so few, the interval may be too narrow."
)
#: Share of the jackknife variance of one batch beyond which that is said, of 24 batches or more
#: and of 16 or fewer: of few a single one often has half, whatever the noise.
HEAVIEST, HEAVIEST_OF_FEW = 0.5, 0.75

#: Relative rounding of float32 moves, beyond which neither jackknife sees.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Parts:
    """Terms of everything and without each part, and what is refused (empty if nothing is)."""

    score: Score
    sums: Sums
    whole: Terms
    batches: list[Terms]
    groups: list[Terms]
    no_inverse: str
    no_score: str
    cloned: bool

    def replicas(self, statistic: Callable[[Terms], float]) -> Replicas:
        """A statistic of everything and without each part."""
        return Replicas(
            statistic(self.whole),
            np.array([statistic(part) for part in self.batches]),
            np.array([statistic(part) for part in self.groups]),
        )


def collect(score: Score, moves: Tensor, refits: int, *, noise: float, fraction: float) -> Parts:
    """All sums, and the score without each group of particles."""
    n, _, d = moves.shape
    sums = Sums(moves, refits, noise=noise, fraction=fraction)
    cloned = copied(score.particles)
    no_score = CLONED if cloned else "" if score.validity.valid else score.validity.reason
    crosses = np.full((n, d, d), math.nan) if no_score else sums.crosses(score.values)
    whole = sums.without_group(None, crosses.mean(0), _pull(score))
    groups = []
    for group, keep in enumerate(groups_without(score, refits)):
        mixed, pull = np.full((d, d), math.nan), whole.pull
        if not no_score:
            part = refit(score, keep)
            mixed = (sums.mean[keep].T @ part.values.double()).cpu().numpy() / int(keep.sum())
            pull = _pull(part)
        groups.append(sums.without_group(group, mixed, pull))
    no_inverse = ""
    if noise == 0:
        no_inverse = NOISELESS
    elif 3 * d > n - 1:
        no_inverse = (
            f"{d} dimensions need at least {3 * d + 1} batches to measure the diffusion in all; "
            f"there are {n}. Project to at most {(n - 1) // 3}, or give the probe more batches."
        )
    elif factor(whole.scatter) is None:
        no_inverse = RIGID
    batches = sums.without_batches(whole, crosses)
    return Parts(score, sums, whole, batches, groups, no_inverse, no_score, cloned)


def degenerate(gram: Array) -> float:
    """Standard error of an unbiased |mu|^2 where mu is 0: sqrt(2/(n(n-1)) E[k_bc^2])."""
    n = len(gram)
    off = float((gram**2).sum() - (gram.diagonal() ** 2).sum()) / (n * (n - 1))
    return math.sqrt(2 / (n * (n - 1)) * off)


def _pull(score: Score) -> Array:
    """(d, d) mean of s s', unbiased where the score is one Gaussian's, unshrunk."""
    values = score.values.double()
    plain = (values.T @ values / len(values)).cpu().numpy()
    if score.method == "mixture" or score.selection.weight or score.selection.shrinkage:
        return plain
    return plain / square_bias(*score.particles.shape)


def estimate(
    parts: Parts,
    found: Interval,
    *,
    scored: bool = False,
    scale: float = math.inf,
    hidden: str = "",
    flagged: str = "",
    varying: str = "",
    null: tuple[float, float] | None = None,
) -> Estimate:
    """An interval as an estimate with its flags.

    Args:
        parts: What was measured.
        found: The interval.
        scored: Whether it rests on the score, whose bias flags it.
        scale: Half-width beyond which the interval says nothing.
        hidden: What is said where it holds 0; nothing is if empty.
        flagged: Why it is not resolved in any case, if it is not.
        varying: Why a constant D is wrong for it, if it is.
        null: Of the estimate.

    Returns:
        The estimate.
    """
    n = parts.whole.batches
    if not math.isfinite(found.value):
        reason = "0/0: a part of the particles or batches has no score, drift or noise."
        return Estimate.missing(reason, flags=BAD if scored else Flag.UNRESOLVED, n=n)
    flags, reasons = Flag.NONE, []
    if scored and parts.score.validity.bias:
        flags, reasons = Flag.INVALID_DENSITY, [parts.score.validity.bias]
    if parts.cloned:
        flagged = CLONED
    if hidden and found.low <= 0 <= found.high:
        flagged = hidden
    if (found.high - found.low) / 2 > scale:
        flagged = flagged or WIDE
    if flagged:
        flags |= Flag.UNRESOLVED
        reasons.append(flagged)
    if varying:
        flags |= Flag.VARYING_DIFFUSION
        reasons.append(varying)
    if found.heaviest > max(HEAVIEST, min(HEAVIEST_OF_FEW, 12 / n)):
        reasons.append(HEAVY.format(share=100 * found.heaviest))
    return Estimate(found.value, found.low, found.high, n, flags, " ".join(reasons), null)
