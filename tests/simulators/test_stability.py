"""What is refused before particles move: readings of the schedules, the step, kinked decoders."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import Isotropic, ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.particles import Engine, State, step
from foreshock.simulators.potentials import DoubleWell, Quadratic, Quartic
from foreshock.simulators.recording import RunStoppedError, run_engine
from foreshock.simulators.schedules import (
    Constant,
    Cosine,
    Exponential,
    Schedules,
    constant_schedules,
)
from foreshock.simulators.stability import check_smooth, check_stable, refuse_astray, spaced
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


def cliff(z: torch.Tensor) -> torch.Tensor:
    """Slope 1 up to 3, and 31 behind: curvature up to 961 there."""
    return z + 30 * nn.functional.softplus(8 * (z - 3)) / 8


def two_sides(dt: float, *, behind: float) -> tuple[Engine, torch.Tensor]:
    """100 particles that stay before the cliff, and 100 drawn to where it begins."""
    targets = torch.cat([torch.zeros(100, 1), torch.full((100, 1), 8.0)])
    z = torch.cat([torch.zeros(100, 1), torch.full((100, 1), behind)])
    potential = DecoderPotential(cliff, targets, dimension=1)
    return Engine(potential, constant_schedules(diffusion=0.05), dt), z


@pytest.mark.parametrize("last", [0.0, 1.0])
def test_the_verdict_does_not_depend_on_the_order_of_the_particles(last: float) -> None:
    """16 on top of the barrier, curvature -4, and 484 in the well, 8: dt = .26 > 2/8 is unstable.

    All on top likewise: the wells are where they go.
    """
    z = torch.cat([torch.zeros(16, 1), torch.full((484, 1), last)])
    for rows in (z, z.flip(0)):
        for dt, fine in ((0.24, True), (0.26, False)):
            engine = Engine(DoubleWell(), constant_schedules(diffusion=0.02), dt)
            if fine:
                check_stable(engine, rows)
                continue
            with pytest.raises(ValueError, match="curvature 8, .* Use dt < 0.25"):
                check_stable(engine, rows)


def test_every_particle_has_its_own_target_and_none_is_left_out() -> None:
    engine, z = two_sides(0.01, behind=3.2)
    with pytest.raises(ValueError, match="unstable: the stiffest mode has curvature"):
        check_stable(engine, z)
    check_stable(engine, z[:100].repeat(2, 1))


@pytest.mark.parametrize("every", [10, 400])
def test_a_run_that_comes_to_a_steep_place_is_stopped_there(every: int) -> None:
    """At dt = 2e-4 the energy is .025 = T/2 (equipartition of a bowl); at .01 it reads 8."""
    engine, z = two_sides(0.01, behind=0.0)
    with pytest.raises(
        RunStoppedError, match="particles looked at have come to: .* Use dt"
    ) as stop:
        run_engine(engine, z, 400, generator=generator(6), every=every, observed=False)
    assert torch.equal(stop.value.recorded.path[0], z) and len(stop.value.recorded.path) < 41
    engine, z = two_sides(2e-4, behind=3.1)
    calm = run_engine(engine, z, 2000, generator=generator(6), every=1000, observed=False)
    energy = engine.potential.energy(calm.path[-1])[100:]
    assert float(energy.mean()) == pytest.approx(0.025, abs=4 * 0.025 * math.sqrt(2 / 100))


def test_looks_on_the_way_touch_nothing() -> None:
    engine, z = two_sides(2e-4, behind=3.1)
    source, state = generator(7), State(z)
    for _ in range(200):
        state = step(engine, state, source)
    run = run_engine(engine, z, 200, generator=generator(7), every=20, observed=False)
    assert torch.equal(run.final.z, state.z)


def test_one_particle_in_a_steep_place_for_a_moment_stops_nothing() -> None:
    """More than one, and more than a hundredth; of a single one, that one."""
    for bad, looked, stopped in ((1, 16, False), (2, 16, True), (2, 256, False), (3, 256, True),
                                 (1, 1, True), (0, 1, False)):  # fmt: skip
        curvatures = np.ones(looked)
        curvatures[:bad] = 21.0
        if not stopped:
            refuse_astray(0.1, 1.0, 5.0, curvatures)
            continue
        with pytest.raises(ValueError, match=rf"at t = 5, where {bad} of {looked} particles"):
            refuse_astray(0.1, 1.0, 5.0, curvatures)


@pytest.mark.parametrize("n", [1, 15, 16, 31, 200, 1000])
def test_all_particles_get_their_turn(n: int) -> None:
    seen = [range(n)[spaced(n, look)] for look in range(n)]
    assert len({len(one) for one in seen}) == 1 and min(n, 16) <= len(seen[0]) < 32
    assert len({i for one in seen for i in one}) > n - max(1, n // 16)


def test_a_hessian_that_is_not_a_number_has_a_sentence() -> None:
    # Finite at 0, where its derivatives are not.
    potential = DecoderPotential(lambda z: z.abs().sqrt(), torch.ones(20, 1), dimension=1)
    with pytest.raises(ValueError, match="Hessian of `DecoderPotential` holds nan or inf"):
        check_stable(Engine(potential, constant_schedules(), 0.1), torch.zeros(20, 1))


@pytest.mark.parametrize("product", [1.5, 1.92])
def test_a_long_stable_step_is_warned_of_with_the_bias_it_has(product: float) -> None:
    """Euler's variance over T/k is 1/(1 - dt k/2), 4 and 25; 5 standard errors of 4,000."""
    engine = Engine(Quadratic(2.0), constant_schedules(), product / 2)
    exact = 1 / (1 - product / 2)
    with pytest.warns(RuntimeWarning, match=rf"makes the variance {exact:.3g} times the exact one"):
        run = run_engine(
            engine, torch.zeros(4000, 1), 200, generator=generator(8), every=200, observed=False
        )
    found = float(run.final.z.var()) * 2.0
    assert found == pytest.approx(exact, rel=5 * math.sqrt(2 / 4000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short = Engine(Quadratic(2.0), constant_schedules(), 0.5)
        run_engine(short, torch.zeros(9, 1), 2, generator=generator(8), observed=False)


def test_a_warm_up_is_judged_where_the_particles_are_by_then() -> None:
    potential = Quartic(1.0)
    start = torch.full((200, 1), 3.0, dtype=torch.float64)  # there k = 27, at 0 none
    schedules = replace(constant_schedules(), rate=lambda t: min(1.0, 0.02 + t / 20))
    engine = Engine(potential, schedules, 2.5 / 27)
    found = run_engine(engine, start, 600, generator=generator(), observed=False, every=100)
    # The law of x⁴/4 at D = 1: <x⁴> = 1, at 5 standard errors of 200 and Euler's bias of about 5 %.
    assert found.final.z.pow(4).mean().item() == pytest.approx(1.0, abs=0.8)
    with pytest.raises(ValueError, match="unstable: the stiffest mode has curvature 27"):
        check_stable(Engine(potential, constant_schedules(), 2.5 / 27), start, steps=600)


def test_a_rate_that_rises_between_looks_stops_the_run() -> None:
    # A cliff beyond 3 to which the second half is pulled, from 0; no minima are named.
    def decode(z: torch.Tensor) -> torch.Tensor:
        return z + 30 * nn.functional.softplus(8 * (z - 3)) / 8

    targets = torch.cat([torch.zeros(100, 1), torch.full((100, 1), 8.0)])
    potential = DecoderPotential(decode, targets, 1)
    late = replace(constant_schedules(diffusion=0.01), rate=lambda t: 0.01 if t < 1.0 else 1.0)
    with pytest.raises((RunStoppedError, ValueError), match="unstable at t = "):
        run_engine(
            Engine(potential, late, 0.01), torch.zeros(200, 1), 400,
            generator=generator(), observed=False, every=10,
        )  # fmt: skip


def test_a_stiff_start_is_no_bias_of_the_law() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        start = torch.full((50, 1), 3.0)  # curvature 104 there, 8 in the wells
        engine = Engine(DoubleWell(), constant_schedules(), 1.3 / 104)
        run_engine(engine, start, 40, generator=generator(), observed=False, every=40)
    assert not said
