"""Delete-group jackknife over particles with the score refitted: the bars of this package."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from foreshock.density.groups import folds
from foreshock.density.score import Score, fit_score
from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

#: Flags of what an invalid score refuses.
BAD = Flag.INVALID_DENSITY | Flag.UNRESOLVED


def groups_without(score: Score, groups: int) -> list[Tensor]:
    """Masks of the particles without each group."""
    fold = folds(len(score.particles), max(groups, 1), score.particles.device)
    return [fold != g for g in range(groups)]


def refit(score: Score, keep: Tensor) -> Score:
    """The same fit to fewer particles: same bandwidth, weight and number of components."""
    return fit_score(
        score.particles[keep],
        score.method,
        selection=score.selection,
        block=score.block,
        judged=False,
    )


def jackknife(
    whole: float, parts: list[float], n: int, *, bias: str = "", scale: float = math.inf
) -> Estimate:
    """Estimate from delete-group values, bias-corrected to first order; bare without groups.

    Args:
        whole: The statistic of all particles.
        parts: The same without each group.
        n: Particles.
        bias: The sentence that says what the interval does not hold; flags the estimate.
        scale: Half-width above which the interval says nothing; flags the estimate.

    Returns:
        The estimate; refused where a statistic is not finite.

    Examples:
        >>> jackknife(1.0, [0.9, 1.0, 1.1, 1.0, 1.0], 50).value
        1.0
        >>> jackknife(1.0, [0.9, 1.0, 1.1, 1.0, 1.0], 50, scale=0.2).flags.names
        ('unresolved',)
    """
    groups = len(parts)
    if not all(map(math.isfinite, [whole, *parts])):
        return Estimate.missing(
            "0/0: drift or score vanish, or a part has no score.", flags=BAD, n=n
        )
    value, low, high = whole, math.nan, math.nan
    flags, reason = Flag.INVALID_DENSITY if bias else Flag.NONE, bias
    if groups:
        error = t_quantile(groups - 1) * float(jackknife_se(parts))
        value = groups * whole - (groups - 1) * float(np.mean(parts))
        low, high = value - error, value + error
        if error > scale:
            flags |= Flag.UNRESOLVED
            reason = (
                "The interval is wider than what it measures: a few particles decide. Take more "
                "particles, or clouds in which every mode holds many."
            )
    return Estimate(value, low, high, n, flags, reason)
