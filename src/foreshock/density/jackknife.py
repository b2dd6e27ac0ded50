"""Delete-group jackknife over particles with the score refitted: the bars of this package."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from foreshock.density.score import Score, fit_score
from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

#: Flags of what an invalid score refuses.
BAD = Flag.INVALID_DENSITY | Flag.UNRESOLVED


def groups_without(score: Score, groups: int) -> list[Tensor]:
    """Masks of the particles without each group; every groups-th particle is one group."""
    fold = torch.arange(len(score.particles), device=score.particles.device) % max(groups, 1)
    return [fold != g for g in range(groups)]


def refit(score: Score, keep: Tensor) -> Score:
    """The same fit to fewer particles: same bandwidth, weight and number of components."""
    return fit_score(
        score.particles[keep], score.method, selection=score.selection, block=score.block
    )


def jackknife(whole: float, parts: list[float], n: int) -> Estimate:
    """Estimate from delete-group values, bias-corrected to first order; bare without groups."""
    groups = len(parts)
    if not groups and math.isfinite(whole):
        return Estimate.plain(whole)
    if not all(map(math.isfinite, [whole, *parts])):
        return Estimate.missing("0/0: drift or score vanish, or a part has no score.", flags=BAD)
    error = t_quantile(groups - 1) * float(jackknife_se(parts))
    value = groups * whole - (groups - 1) * float(np.mean(parts))
    return Estimate(value, value - error, value + error, n=n)
