"""Probability flux J = rho v of a cloud, at points and on a plane, and its divergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.density.diffusion_tensor import check_diffusion
from foreshock.density.flow import velocity
from foreshock.density.score import Score


@dataclass(frozen=True)
class PlaneFlux:
    """The flux on a rectangular grid in the plane.

    Args:
        x: (a,) First coordinates.
        y: (b,) Second coordinates.
        density: (a, b) rho, per area; sums to about 1 over a grid that holds the cloud.
        flux: (a, b, 2) J, per length and unit time.
        divergence: (a, b) div J = -d_t rho by central differences; 0 in a steady state, driven
            or not.
    """

    x: Tensor
    y: Tensor
    density: Tensor
    flux: Tensor
    divergence: Tensor


def flux(
    score: Score,
    points: Tensor,
    drift: Tensor,
    diffusion: float | Tensor,
    *,
    divergence_diffusion: Tensor | None = None,
) -> Tensor:
    """J = rho (mu - div D - D s) at any points, for dz = mu dt + sqrt(2 D) dW (Itô).

    Refused (ValueError): a score without a normalised density, a D that is not positive definite.

    Args:
        score: Of a method with a density: gaussian, kde, mixture, residual without a kernel.
        points: (m, d) Where.
        drift: (m, d) mu there.
        diffusion: D there: a number, (d,), (d, d) or (m, d, d).
        divergence_diffusion: (m, d) div D there; required for a D (m, d, d), else 0.

    Returns:
        (m, d) J; nan where the score is invalid.

    References:
        Risken, The Fokker-Planck Equation (1996), 4.7. Corrects fokker_planck.md 7.2.

    Examples:
        >>> from foreshock.density import fit_score
        >>> z = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
        >>> j = flux(fit_score(z), torch.ones(1, 1), torch.zeros(1, 1), 1.0)  # -d rho/dz
        >>> round(float(j), 1)  # of N(0, 1): e^-1/2 / sqrt(2 pi) = .242
        0.2
    """
    if not score.validity.valid:
        return torch.full_like(points, torch.nan)
    speed = velocity(drift, diffusion, score.at(points), divergence_diffusion=divergence_diffusion)
    return score.log_density(points).exp()[:, None] * speed


def plane_flux(
    score: Score,
    drift: Callable[[Tensor], Tensor],
    diffusion: float | Tensor,
    x: Tensor,
    y: Tensor,
) -> PlaneFlux:
    """Density, flux and its divergence of a cloud in the plane, for a constant D.

    Args:
        score: Of particles (n, 2), of a method with a density.
        drift: (m, 2) -> (m, 2) mu.
        diffusion: D: a number, (2,) or (2, 2).
        x: (a,) Ascending first coordinates, a >= 3.
        y: (b,) Ascending second coordinates, b >= 3.

    Returns:
        The fields; the differences are of second order inside, of first order on the rim.

    Raises:
        ValueError: If the particles are not in the plane or the grid is too small.

    Examples:
        >>> from foreshock.density import fit_score
        >>> z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> axis = torch.linspace(-4, 4, 41)
        >>> field = plane_flux(fit_score(z), lambda x: -x, 1.0, axis, axis)
        >>> round(float(field.density.sum()) * 0.2**2, 2)
        1.0
    """
    if score.particles.shape[1] != 2 or len(x) < 3 or len(y) < 3:
        raise ValueError(
            "`plane_flux` needs particles (n, 2) and at least 3 grid lines a side. Got particles "
            f"{tuple(score.particles.shape)} and {len(x)} x {len(y)} lines; project first."
        )
    x, y = x.to(score.particles), y.to(score.particles)
    points = torch.cartesian_prod(x, y)
    tensor = check_diffusion(diffusion, points)
    if score.model is None:
        density = points.new_full((len(x), len(y)), torch.nan)
    else:
        density = score.log_density(points).exp().view(len(x), len(y))
    current = flux(score, points, drift(points).detach(), tensor).view(len(x), len(y), 2)
    (along,) = torch.gradient(current[:, :, 0], spacing=(x,), dim=0)
    (across,) = torch.gradient(current[:, :, 1], spacing=(y,), dim=1)
    return PlaneFlux(x, y, density, current, along + across)
