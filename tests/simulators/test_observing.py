"""What one moment shows where D differs between particles, or its divergence is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreshock.density import flow
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.observing import observe
from foreshock.simulators.particles import Engine, State, motion
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.schedules import constant_schedules
from tests.simulators.decoders import generator, twisted


def divergence_of_fisher(potential: DecoderPotential, z: Tensor) -> Tensor:
    """sum_j d_j F_ij by differentiating the Jacobian, without signs."""

    def fisher(point: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(
            lambda p: potential.decode(p[None])[0], point, create_graph=True
        )
        return jacobian.T @ jacobian / potential.noise_scale**2

    slopes = torch.stack([torch.autograd.functional.jacobian(fisher, p) for p in z])
    return torch.einsum("nijj->ni", slopes)


def test_both_modes_of_the_particles_own_diffusion_are_observed_without_hutchinsons_noise() -> None:
    """b = mu - div D: in gibbs exactly -(D/T) grad L, in published -eta grad L - div D by all axes.

    Two motions of other random signs read the same C, so no sign enters.
    """
    potential, z = twisted(300)
    for mode in ("gibbs", "published"):
        engine = Engine(
            potential, constant_schedules(0.5, 0.5), 0.01, shape=ParticleFisher(0.3), mode=mode
        )
        values = []
        for seed in (12, 13):
            moved = motion(engine, State(z), generator(seed))
            found, score = observe(engine, State(z), moved, generator(14), refits=0, bounds=False)
            values.append((found["c"].value, found["entropy_production"].value))
        assert values[0] == pytest.approx(values[1], rel=1e-9)
        # The value itself, with div F from autodiff of the Jacobian in b = mu - div D.
        tensor = 0.5 * (torch.eye(3) + 0.3 * potential.fisher(z))
        if mode == "gibbs":
            b = -(tensor @ potential.gradient(z)[..., None])[..., 0]  # D/T, T = 1
        else:
            b = -0.5 * potential.gradient(z) - 0.5 * 0.3 * divergence_of_fisher(potential, z)
        exact = flow(
            score, b, tensor, divergence_diffusion=torch.zeros_like(z), refits=0, bounds=False
        )
        assert values[0][0] == pytest.approx(exact.consolidation.value, rel=1e-6)


def test_div_mu_of_a_shared_diffusion_is_minus_the_trace_of_mobility_times_hessian() -> None:
    """dH/dt = -E tr(M H) + E[s.D s]: both modes through the series, by the exact Hessian."""
    from foreshock.simulators.observing import _source

    potential, z = twisted(300)
    engine = Engine(potential, constant_schedules(0.5, 0.5), 0.01, shape=SharedFisher(0.3))
    moved = motion(engine, State(z), generator(15))
    draws = torch.stack(
        [_source(engine, z, moved, generator(seed)) for seed in range(200)]
    )  # fmt: skip
    mobility = moved.mobility
    assert isinstance(mobility, Tensor)
    exact = -(potential.hessian(z) * mobility).sum((1, 2))
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 5 * error + 1e-9).all()  # 300 particles: 5, not 4
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    flat = Engine(
        Quadratic(3.0, dimension=2), constant_schedules(0.5, 0.5), 0.01, shape=SharedMatrix(matrix)
    )
    moved = motion(flat, State(z[:, :2].float()), generator(16))
    found = _source(flat, z[:, :2].float(), moved, generator(17))
    assert found is not None
    torch.testing.assert_close(found, torch.full((300,), -0.5 * 3 * 3.0))
