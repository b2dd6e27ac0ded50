"""What is refused before particles move: readings of the schedules, the step, kinked decoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import Isotropic, ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.particles import Engine, State, step
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.schedules import (
    Constant,
    Cosine,
    Exponential,
    Schedules,
    constant_schedules,
)
from foreshock.simulators.stability import check_smooth, check_stable
from tests.simulators.decoders import generator, tanh_decoder


def test_stiffness_of_gibbs_mode_is_that_of_the_mobility_of_a_given_matrix() -> None:
    """M = diag(20, 1), K = diag(10, 1): M K has 200, and Euler grows above dt = 2/200 = .01."""
    shape = SharedMatrix(torch.diag(torch.tensor([20.0, 1.0])))
    well = Quadratic(torch.diag(torch.tensor([10.0, 1.0])))
    ends = {}
    for dt in (0.0095, 0.0105):
        engine = Engine(well, constant_schedules(1.0, 0.1), dt, shape=shape)
        state, source = State(torch.ones(20, 2)), generator(1)
        for _ in range(400):
            state = step(engine, state, source)
        ends[dt] = float(state.z.abs().max())
    assert ends[0.0095] < 100 < 1e6 < ends[0.0105]
    check_stable(Engine(well, constant_schedules(1.0, 0.1), 0.0095, shape=shape), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"curvature 200, so eta \* dt .* Use dt < 0.01,"):
        check_stable(engine, torch.zeros(4, 2))
    published = Engine(well, constant_schedules(1.0, 0.1), 0.19, shape=shape, mode="published")
    check_stable(published, torch.zeros(4, 2))


@pytest.mark.parametrize("kind", [ParticleFisher, SharedFisher])
def test_the_entropy_weight_takes_its_share_of_the_mobility(kind) -> None:
    """A = 3: F = H = 9. D = 1 + F + 9, T = 10: mobility (10 + 9)/10 = 1.9, limit 2/17.1 = .117."""
    potential = DecoderPotential(lambda p: 3 * p, torch.zeros(4, 1), dimension=1)
    schedules = constant_schedules(1.0, 1.0, 9.0)
    z = torch.zeros(4, 1)
    check_stable(Engine(potential, schedules, 0.116, shape=kind(1.0)), z)
    with pytest.raises(ValueError, match="curvature 17.1"):
        check_stable(Engine(potential, schedules, 0.118, shape=kind(1.0)), z)


def test_the_largest_rate_of_the_run_decides() -> None:
    """eta rises from .1 to 1 within t = 3: stable at first (dt eta k = .3), then 3."""
    rising = Schedules("own", Cosine(0.1, 1.0, 3.0), Constant(0.1), Constant(0.0))
    engine = Engine(Quadratic(10.0), rising, 0.3)
    check_stable(engine, torch.zeros(4, 1))
    check_stable(engine, torch.zeros(4, 1), steps=4)  # eta(.9) = .29: dt eta k = .86
    with pytest.raises(ValueError, match=r"unstable at t = 3: .* Use dt < 0.2, best"):
        check_stable(engine, torch.zeros(4, 1), steps=11)
    with pytest.raises(ValueError, match="unstable: the stiffest"):
        check_stable(engine, torch.zeros(4, 1), first=10)


def test_the_share_of_the_matrix_is_read_at_every_step_too() -> None:
    """lambda falls, so the mobility eta (M + lambda I)/(1 + lambda) rises to M = 20."""
    falling = Schedules("own", Constant(1.0), Constant(1.0), Exponential(19.0, 1.0))
    engine = Engine(Quadratic(1.0), falling, 0.2, shape=SharedMatrix(torch.tensor([[20.0]])))
    check_stable(engine, torch.zeros(4, 1))  # (20 + 19)/20 = 1.95
    with pytest.raises(ValueError, match=r"unstable at t = 9\.8"):
        check_stable(engine, torch.zeros(4, 1), steps=50)


def test_every_reading_of_a_schedule_is_checked_before_the_run() -> None:
    ends = Schedules("own", Cosine(1.0, 0.0, 0.05), Constant(0.1), Constant(0.0))
    engine = Engine(Quadratic(1.0), ends, 0.01)
    check_stable(engine, torch.zeros(4, 1), steps=5)
    with pytest.raises(ValueError, match=r"rate of the `schedules` .* at t = 0\.05, where nothing"):
        check_stable(engine, torch.zeros(4, 1), steps=6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [Isotropic(), SharedFisher(0.2), ParticleFisher(0.2)])
def test_a_diffusion_below_the_resolution_of_the_floats_is_none(dtype, shape) -> None:
    """D = 1e-45 in float32, 1e-310 in float64: D/T would be 0 times inf; it is plain descent."""
    tiny = 1e-45 if dtype == torch.float32 else 1e-310
    potential = DecoderPotential(
        tanh_decoder().to(dtype), torch.zeros(20, 4, dtype=dtype), dimension=3
    )
    z = torch.randn(20, 3, generator=generator(2), dtype=dtype)
    for mode in ("gibbs", "published"):
        engine = Engine(potential, constant_schedules(0.5, tiny), 0.1, shape=shape, mode=mode)
        after = step(engine, State(z), generator(3)).z
        torch.testing.assert_close(after, z - 0.05 * potential.gradient(z))


def mlp(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 8), *layers, nn.Linear(8, 3))


BARE = mlp(nn.ReLU())


@pytest.mark.parametrize(
    ("decode", "named"),
    [
        (mlp(nn.ReLU()), "ReLU"),
        (mlp(nn.Tanh(), nn.Linear(8, 8), nn.LeakyReLU()), "LeakyReLU"),
        (BARE.forward, "linear in pieces"),  # a function: its layers are not seen
    ],
)
def test_kinked_decoders_are_refused_where_the_kinks_count(decode, named: str) -> None:
    potential = DecoderPotential(decode, torch.zeros(50, 3), dimension=2)
    z = torch.randn(50, 2, generator=generator(4))
    engine = Engine(potential, constant_schedules(), 0.01, shape=ParticleFisher(0.2))
    with pytest.raises(ValueError, match=rf"has kinks \(.*{named}\).*div F.*`SharedFisher`"):
        check_smooth(engine, z)
    for shape, mode in (
        (ParticleFisher(0.2), "published"),
        (SharedFisher(0.2), "gibbs"),
        (ParticleFisher(0.0), "gibbs"),
    ):
        fine = Engine(potential, constant_schedules(), 0.01, shape=shape, mode=mode)
        check_smooth(fine, z)
        assert torch.isfinite(step(fine, State(z), generator(5)).z).all()


@pytest.mark.parametrize("decode", [mlp(nn.Softplus()), mlp(), mlp(nn.ELU()), torch.sin])
def test_smooth_and_linear_decoders_are_not(decode) -> None:
    targets = torch.zeros(50, 2 if decode is torch.sin else 3)
    potential = DecoderPotential(decode, targets, dimension=2)
    z = torch.randn(50, 2, generator=generator(4))
    check_smooth(Engine(potential, constant_schedules(), 0.01, shape=ParticleFisher(0.2)), z)


def test_no_derivative_sees_the_divergence_that_lies_on_a_kink() -> None:
    """Why it is refused: decode z -> |z| + z/2 has F = 1/4 and 9/4, a jump, and div F = 0 a.e."""
    potential = DecoderPotential(lambda z: z.abs() + z / 2, torch.zeros(20, 1), dimension=1)
    z = torch.linspace(-1, 1, 20)[:, None]
    torch.testing.assert_close(potential.fisher(z)[:, 0], torch.where(z > 0, 2.25, 0.25))
    assert not potential.fisher_divergence(z, torch.ones_like(z)).any()
    engine = Engine(potential, constant_schedules(), 0.01, shape=ParticleFisher(2.0))
    with pytest.raises(ValueError, match="linear in pieces"):
        check_smooth(engine, z)
