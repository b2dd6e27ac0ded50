"""The flux field of a cloud on its first two axes, as it is stored and drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.density import fit_score, plane_flux
from foreshock.types import Estimate, Flag

#: How far the grid reaches beyond the outermost particles, as a share of their span.
MARGIN = 0.1


def plane_of(
    z: Tensor, drift: Tensor, diffusion: Tensor, lines: int
) -> tuple[dict[str, Any], Estimate]:
    """Density, flux and its divergence on a grid over the first two axes.

    The marginal density of two axes obeys an equation of its own, whose drift is the mean of the
    drift given these two: a kernel regression here, with the bandwidth of the kernel density. For
    a picture; the numbers come from all axes.

    Args:
        z: (N, d) Particles.
        drift: (N, d) Their drift.
        diffusion: (d, d) D.
        lines: Grid lines a side; 0 for no field.

    Returns:
        Arrays by series name, empty where there is no plane, and √E(div J/ρ)² over the grid.

    Examples:
        >>> z = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> arrays, rate = plane_of(z, -z, torch.eye(2), 12)
        >>> arrays["latent/plane"].shape, rate.resolved
        ((4, 12, 12), True)
    """
    if z.shape[1] < 2 or not lines:
        return {}, Estimate.missing("A plane needs two axes, and `plane` grid lines.")
    if not bool(torch.isfinite(drift).all() and torch.isfinite(diffusion).all()):
        return {}, Estimate.missing("There is no drift to draw.")
    flat, pull = z[:, :2].contiguous(), drift[:, :2]
    spread = flat.amax(0) - flat.amin(0)
    tensor = diffusion[:2, :2]
    if not float(spread.min()) > 0 or not float(torch.linalg.eigvalsh(tensor).min()) > 0:
        return {}, Estimate.missing("Nothing moves, or the cloud is flat: there is no flux.")
    low, high = flat.amin(0) - MARGIN * spread, flat.amax(0) + MARGIN * spread
    axes = [torch.linspace(float(low[i]), float(high[i]), lines, dtype=z.dtype) for i in (0, 1)]
    fitted = fit_score(flat, "kde")
    if not fitted.validity.valid:
        return {}, Estimate.missing(
            fitted.validity.reason, flags=Flag.INVALID_DENSITY | Flag.UNRESOLVED
        )
    width = fitted.selection.bandwidth * flat.std(0)

    def regressed(points: Tensor) -> Tensor:
        """Mean drift of the particles around each point."""
        gap = torch.cdist(points / width, flat / width).square()
        # Far from every particle the nearest one speaks, not 0/0.
        weights = torch.softmax(-gap / 2, 1)
        return weights @ pull

    field = plane_flux(fitted, regressed, tensor, axes[0], axes[1])
    stack = torch.stack([field.density, field.flux[..., 0], field.flux[..., 1], field.divergence])
    total = float(field.density.sum())
    # div J/ρ squared, averaged over ρ; where ρ vanishes so does its weight.
    inside = field.density > 1e-3 * field.density.max()
    rate = field.divergence[inside].square() / field.density[inside]
    arrays = {
        "latent/plane": stack.float().cpu().numpy(),
        "latent/plane_axes": torch.stack(axes).cpu().numpy().astype(np.float64),
    }
    return arrays, Estimate.plain(math.sqrt(float(rate.sum()) / total))
