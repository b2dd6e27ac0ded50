"""Fields of a flow at the particles, their means, and lower bounds that hold for any score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.density.diffusion_tensor import (
    check_carried,
    contravariant,
    covariant,
    finite_rows,
    matrix,
    rooted,
    row_products,
)
from foreshock.density.groups import folds
from foreshock.density.jackknife import BAD
from foreshock.density.score import Score, fit_score
from foreshock.types import Estimate

ONE_SIDED = 1.6448536269514722
Means = dict[str, float]


@dataclass(frozen=True)
class Fields:
    """Checked fields at the particles.

    Args:
        diffusion: D.
        root: R with R R' = D. What follows is in coordinates where D is the identity.
        drift: (n, d) R^-1 (mu - div D).
        carried: (n, d) R^-1 div D, or None.
        source: (n,) div mu, or None.
    """

    diffusion: Tensor
    root: Tensor
    drift: Tensor
    carried: Tensor | None
    source: Tensor | None

    def root_at(self, keep: Tensor | slice) -> Tensor:
        """R of some of the particles."""
        return self.root[keep] if self.root.dim() == 3 else self.root

    def means(self, keep: Tensor | slice, pull: Tensor) -> Means:
        """A, X, I and the inflow -E[b . s] over some particles; by div mu where it is known.

        Args:
            keep: Which particles.
            pull: R's of these.

        Returns:
            The means.
        """
        drift = self.drift[keep]
        cross = float(row_products(drift, pull).mean())
        inflow = -cross
        if self.source is not None:
            terms = self.source[keep]
            if self.carried is not None:
                terms = terms + row_products(self.carried[keep], pull)
            inflow = float(terms.mean())
        spread = float(row_products(drift, drift).mean())
        fisher = float(row_products(pull, pull).mean())
        return {"A": spread, "X": cross, "I": fisher, "R": inflow}


def check_fields(
    z: Tensor,
    drift: Tensor,
    diffusion: float | Tensor,
    divergence_drift: Tensor | None,
    divergence_diffusion: Tensor | None,
) -> Fields:
    """Checks what is given, and takes it to where D is the identity."""
    tensor, root = rooted(diffusion, z)
    check_carried(tensor, divergence_diffusion)
    moved, carried = contravariant(root, finite_rows("drift", drift, z)), None
    if divergence_diffusion is not None:
        given = finite_rows("divergence_diffusion", divergence_diffusion, z)
        carried = contravariant(root, given)
        moved = moved - carried
    if divergence_drift is not None and (
        divergence_drift.shape != (len(z),)
        or not math.isfinite(float(divergence_drift.detach().double().sum()))
    ):
        raise ValueError(
            f"The `divergence_drift` must be finite and ({len(z)},). "
            f"Got {tuple(divergence_drift.shape)}."
        )
    source = None if divergence_drift is None else divergence_drift.detach().double()
    return Fields(tensor, root, moved, carried, source)


def lower_bounds(score: Score, fields: Fields) -> tuple[Estimate, Estimate]:
    """Lower bounds of I and of the entropy production, each with its one-sided interval."""
    z, diffusion = score.particles, fields.diffusion
    n, d = z.shape
    if diffusion.dim() == 3 or (fields.carried is not None and bool(fields.carried.any())):
        gone = Estimate.missing(
            "The lower bound needs a D that is the same at every particle.", n=n
        )
        return gone, gone
    if n < 16:
        gone = Estimate.missing(f"Half a cloud of {n} is too few to fit a score to.", n=n)
        return gone, gone
    metric = matrix(diffusion, d)
    spread = row_products(fields.drift, fields.drift)
    gains, halves = torch.empty_like(spread), []
    even = folds(n, 2, z.device) == 0
    for half in (even, ~even):
        # Chosen anew on the other half: a kept choice would have seen this one. Not so whether the
        # covariance is shrunk, else halving the cloud would change the kind of fit (and the frame
        # would matter), unless the half is too small to do without.
        few = score.selection.shrinkage or n // 2 < d + 10
        fitted = fit_score(
            z[~half],
            score.method,
            shrinkage=None if few else 0.0,
            block=score.block,
            judged=False,
        )
        values = fitted.at(z[half])
        pull = covariant(fields.root, values)
        gains[half] = -row_products(pull, pull) - 2 * fitted.divergence(z[half], metric).double()
        halves.append(half)
    fisher = _one_sided(gains, halves)
    if fields.source is None:
        return fisher, Estimate.missing("The lower bound needs `divergence_drift`.", n=n)
    return fisher, _one_sided(spread + 2 * fields.source + gains, halves)


def _one_sided(terms: Tensor, halves: list[Tensor]) -> Estimate:
    """Mean of per-particle terms with a lower 95 % end; the halves have means of their own."""
    if not bool(torch.isfinite(terms).all()):
        return Estimate.missing(
            "The score of half the particles is not finite.", flags=BAD, n=len(terms)
        )
    means = [float(terms[half].mean()) for half in halves]
    variances = [float(terms[half].var()) / int(half.sum()) for half in halves]
    value = sum(means) / 2
    return Estimate(value, value - ONE_SIDED * math.sqrt(sum(variances)) / 2, math.inf, len(terms))
