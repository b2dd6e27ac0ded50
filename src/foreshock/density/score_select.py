"""Choice of bandwidth and weight of a kernel residual by the leave-one-out Hyvarinen score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foreshock.density.score_kernel import kernel_score, kernel_sums
from foreshock.density.score_record import Selection

#: Bandwidths tried, in units of `reference_bandwidth`.
BANDWIDTHS = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0)
#: A kernel part must lower the leave-one-out score by this many standard errors to be used. Without
#: it (0) noise is taken for structure: error .142 instead of .0035 in one of four N(0, I), d = 2.
GATE = 2.0
#: Largest weight of the kernel residual. Above 1 it undoes the smoothing of narrow structure: a cap
#: of 2 instead of 1 more than halves the error of a ring of width .3 (.041 against .098).
MOST_WEIGHT = 2.0


def hyvarinen(squares: Tensor, divergence: Tensor) -> float:
    """Hyvärinen's score, E|s|^2/2 + E div s, from |s|^2 and div s of every particle."""
    return float(torch.add(divergence, squares, alpha=0.5).mean())


def select(
    y: Tensor,
    norms: Tensor,
    factors: Tensor,
    divergence: Tensor,
    widths: tuple[float, ...],
    block: int,
) -> Selection:
    """Bandwidth and weight of the residual with the least leave-one-out Hyvärinen score.

    Args:
        y: (n, d) Whitened particles.
        norms: (n,) |y_i|^2.
        factors: (n,) f of the Gaussian scores f_i y_i.
        divergence: (n,) Their divergences.
        widths: Bandwidths to try, rising.
        block: Rows of the kernel matrix at a time.

    Returns:
        The choice; weight 0 if no kernel part is worth it.
    """
    n, d = y.shape
    root, square = math.sqrt(n), norms * factors.square()
    # What the Gaussian alone would gain by a factor: no reason to call the kernel in.
    factor = -float((square + divergence).mean() / square.mean())
    rescaled = factor * (square + divergence) + 0.5 * factor**2 * square
    tried: list[tuple[Selection, Tensor]] = []
    for h in widths:
        sums = kernel_sums(y, y, h, leave_out=True, norms=norms, block=block)
        kernel, kernel_divergence = kernel_score(y, sums, h)
        residual = kernel + y / (1 + h * h)
        # J - J_gauss = p (g + div s_G) + w b + (p^2 g + 2 p w c + w^2 a)/2 for (1 + p) s_G + w r,
        # particle by particle: least where two linear equations hold.
        a, c = residual.square().sum(1), (y * residual).sum(1) * factors
        b = c + kernel_divergence + d / (1 + h * h)
        slope = torch.stack([(square + divergence).mean(), b.mean()]).double()
        curve = torch.stack([square.mean(), c.mean(), c.mean(), a.mean()]).double().view(2, 2)
        solution, failed = torch.linalg.solve_ex(curve, -slope)
        extra, weight = (float(part) for part in solution)
        if int(failed) or not 0 < weight <= MOST_WEIGHT or not abs(extra) < 1:
            extra, weight = 0.0, min(max(-float(slope[1] / curve[1, 1]), 0.0), MOST_WEIGHT)
        change = extra * (square + divergence) + weight * b
        change += 0.5 * extra**2 * square + extra * weight * c + 0.5 * weight**2 * a
        gain = change - rescaled
        if float(gain.mean()) < -GATE * float(gain.std()) / root:
            tried.append((Selection(h, weight, pull=1 + extra), change))
    if not tried:
        return Selection(widths[-1], 0.0)
    least = min(tried, key=lambda one: float(one[1].mean()))[1]
    # The widest that is no worse than the best by one standard error of their difference: lonely
    # particles make J of narrow kernels noisy (d = 1, n = 512: one of six errs by .3).
    for choice, change in reversed(tried):
        excess = change - least
        if float(excess.mean()) <= float(excess.std()) / root:
            return choice
    return tried[-1][0]
