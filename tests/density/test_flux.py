"""Flux on a plane: zero at equilibrium, circulating without divergence when driven."""

import math

import pytest
import torch

from foreshock.density import fit_score, flux, plane_flux
from tests.density.clouds import gaussian, two_wells

AXIS = torch.linspace(-3, 3, 61, dtype=torch.float64)


def test_flux_of_a_relaxing_gaussian_at_points() -> None:
    # N(0, s) under mu = -x, D = 1: J = rho (-1 + 1/s) x.
    z = gaussian(4000, 1, 1, variance=0.5, dtype=torch.float64)
    score = fit_score(z)
    points = torch.tensor([[-0.5], [0.7]], dtype=torch.float64)
    exact = torch.exp(-points.square()) / math.sqrt(math.pi) * points
    # s^ is within 4 sqrt(2/n) = 9 %, 1/s - 1 = 1 then within 18 %.
    assert torch.allclose(flux(score, points, -points, 1.0), exact, rtol=0.2)


def test_a_driven_steady_state_circulates_without_divergence() -> None:
    z = gaussian(20_000, 2, 2, dtype=torch.float64)
    spin = torch.tensor([[-1.0, -2.0], [2.0, -1.0]], dtype=torch.float64)
    field = plane_flux(fit_score(z, "gaussian"), lambda x: x @ spin.T, 1.0, AXIS, AXIS)
    points = torch.cartesian_prod(AXIS, AXIS).view(61, 61, 2)
    density = torch.exp(-points.square().sum(2) / 2) / (2 * math.pi)
    around = torch.stack([-2 * points[..., 1], 2 * points[..., 0]], 2) * density[..., None]
    # Moments are known to 1/sqrt(n) = .7 %; |J| reaches .19, each term of div J .3.
    assert (field.flux - around).abs().max() < 0.02
    assert field.divergence[1:-1, 1:-1].abs().max() < 0.03
    still = plane_flux(fit_score(z, "gaussian"), lambda x: -x, 1.0, AXIS, AXIS)
    assert still.flux.abs().max() < 0.01
    # And not steady: div J = -d_t rho of N(0, 1) under mu = -3x, which contracts: d_t rho(0) > 0:
    # d_t s = -2*3 + 2 = -4 a coordinate, d_t log rho(0) = -d/2 d_t s/s = 4.
    falling = plane_flux(fit_score(z, "gaussian"), lambda x: -3 * x, 1.0, AXIS, AXIS)
    assert float(falling.divergence[30, 30]) == pytest.approx(-4 / (2 * math.pi), rel=0.05)


def test_flux_needs_a_density_and_a_plane() -> None:
    score = fit_score(two_wells(1000, 2, 3)[0])
    with pytest.raises(ValueError, match="no normalised density"):
        flux(score, torch.zeros(1, 2), torch.zeros(1, 2), 1.0)
    with pytest.raises(ValueError, match="project first"):
        plane_flux(fit_score(gaussian(50, 3, 0)), lambda x: x, 1.0, AXIS, AXIS)


def test_an_invalid_score_gives_no_flux() -> None:
    score = fit_score(gaussian(500, 1, 4), "kde", bandwidth=2.0)
    assert not score.validity.valid
    assert torch.isnan(flux(score, torch.zeros(1, 1), torch.zeros(1, 1), 1.0)).all()


def test_a_singular_cloud_gives_no_flux() -> None:
    flat = fit_score(torch.ones(50, 2))
    assert torch.isnan(flux(flat, torch.zeros(1, 2), torch.zeros(1, 2), 1.0)).all()
    field = plane_flux(flat, lambda x: -x, 1.0, AXIS[:5], AXIS[:4])
    assert torch.isnan(field.flux).all() and torch.isnan(field.density).all()
