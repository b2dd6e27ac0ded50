"""The engine's step: moments of the scheme, structure of its modes, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreshock.simulators import schedules
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import (
    Isotropic,
    ParticleFisher,
    SharedFisher,
    SharedMatrix,
)
from foreshock.simulators.particles import Engine, State, motion, move, step
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.schedules import constant_schedules
from foreshock.simulators.stability import check_stable
from tests.simulators.decoders import generator, tanh_decoder


def clones(n: int) -> tuple[DecoderPotential, Tensor]:
    z = torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64).repeat(n, 1)
    targets = torch.zeros(n, 4, dtype=torch.float64)
    return DecoderPotential(tanh_decoder(), targets, dimension=3, noise_scale=0.7), z


def moments_of_step(engine: Engine, z: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    moved = step(engine, State(z), generator(seed)).z - z
    return moved.mean(0), torch.cov(moved.T)


def gaussian_error(covariance: Tensor, n: int) -> Tensor:
    d = covariance.diagonal()
    return ((d[:, None] * d + covariance.square()) / n).sqrt()


@pytest.mark.parametrize("mode", ["published", "gibbs"])
@pytest.mark.parametrize("shape", [Isotropic(), ParticleFisher(0.6), SharedFisher(0.6)])
def test_one_step_has_the_mean_and_covariance_of_its_definition(shape, mode: str) -> None:
    """40,000 clones, dt = .01: mean mu dt and covariance 2 D dt, within 4.5 standard errors.

    F is the exact Jacobian's; div F the exact one over all signs; all in float64. The published
    mode of `ParticleFisher` is the fused pass, the others are not.
    """
    n, dt, eta, base, lam = 40_000, 0.01, 0.5, 0.8, 0.3
    potential, z = clones(n)
    engine = Engine(potential, constant_schedules(eta, base, lam), dt, shape=shape, mode=mode)
    one = potential.rows(slice(0, 1))
    gradient, fisher = one.gradient(z[:1])[0], one.fisher(z[:1])[0]
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=z.dtype)] * 3)
    slope = torch.stack([one.fisher_divergence(z[:1], s[None]) for s in signs]).mean(0)[0]
    gamma = getattr(shape, "gamma", 0.0)
    d = (base + eta * lam) * torch.eye(3).double() + base * gamma * fisher
    drift = -eta * gradient
    if mode == "gibbs":
        drift = -(d @ gradient) / (base / eta + lam)
        if isinstance(shape, ParticleFisher):
            drift = drift + base * gamma * slope
    mean, covariance = moments_of_step(engine, z, 21)
    # A shared F is one draw for all, of relative error sqrt(2/n) in a direction: 4.5 of it.
    slack = 4.5 * math.sqrt(2 / n) if isinstance(shape, SharedFisher) else 0.0
    bound = 4.5 * (2 * dt * d.diagonal() / n).sqrt() + dt * slack * drift.abs().max()
    # div F by random signs scatters each particle's drift: its part of the error of the mean.
    spread = (
        potential.rows(slice(0, 400))
        .fisher_divergence(z[:400], signs[torch.arange(400) % 8])
        .std(0)
    )
    bound = bound + 4.5 * dt * base * gamma * spread / math.sqrt(n)
    assert ((mean - dt * drift).abs() < bound).all()
    bound = 4.5 * gaussian_error(2 * dt * d, n) + slack * (2 * dt * d).abs().max()
    # The scatter of div F adds dt^2 Var to the covariance: below 1 % of 2 D dt here.
    bound = bound + (base * gamma * dt * spread).square().max()
    assert ((covariance - 2 * dt * d).abs() < bound).all()


def test_t1_ornstein_uhlenbeck_cloud_has_the_moments_of_the_chain_at_every_time() -> None:
    """m <- (1 - eta k dt) m, s <- (1 - eta k dt)^2 s + 2 (D + eta lambda) dt, within 4 se.

    Against the SDE's m e^{-eta k t} and s* + (s - s*) e^{-2 eta k t} the chain is off by O(dt).
    """
    n, dt, eta, base, lam, k = 20_000, 0.01, 0.5, 0.4, 0.6, 2.0
    engine = Engine(Quadratic(k, dimension=2), constant_schedules(eta, base, lam), dt)
    z = 1.5 + 0.5 * torch.randn(n, 2, generator=generator(1), dtype=torch.float64)
    state, source = State(z), generator(2)
    mean, variance, keep = 1.5, 0.25, 1 - eta * k * dt
    for i in range(1, 121):
        state = step(engine, state, source)
        mean, variance = keep * mean, keep**2 * variance + 2 * (base + eta * lam) * dt
        if i in (1, 10, 120):
            assert ((state.z.mean(0) - mean).abs() < 4.5 * math.sqrt(variance / n)).all()
            assert ((state.z.var(0) - variance).abs() < 4.5 * variance * math.sqrt(2 / n)).all()
    stationary = (base / eta + lam) / k
    exact = stationary + (0.25 - stationary) * math.exp(-2 * eta * k * 1.2)
    assert variance == pytest.approx(exact, rel=eta * k * dt)


def test_entropy_weight_is_the_same_as_that_much_more_diffusion() -> None:
    """Same seed, D + eta lambda: bitwise the same path."""
    z = torch.randn(50, 2, generator=generator(3))
    well = Quadratic(1.0, dimension=2)
    one = Engine(well, constant_schedules(0.5, 0.25, 0.5), 0.01)
    other = Engine(well, constant_schedules(0.5, 0.5, 0.0), 0.01)
    assert torch.equal(step(one, State(z), generator(4)).z, step(other, State(z), generator(4)).z)


def test_schedules_are_read_at_the_time_of_the_step() -> None:
    """Noise-free descent with eta(t) = 1/(1 + t): product of (1 - dt/(1 + k dt))."""
    rate = schedules.InverseTime(1.0, 1.0)
    zero = schedules.Constant(0.0)
    engine = Engine(Quadratic(1.0), schedules.Schedules("own", rate, zero, zero), 0.1)
    state, source, exact = State(torch.ones(1, 1, dtype=torch.float64)), generator(0), 1.0
    for k in range(20):
        exact *= 1 - 0.1 / (1 + k * 0.1)
        state = step(engine, state, source)
    assert float(state.z) == pytest.approx(exact, rel=1e-12)


def test_step_is_motion_and_move() -> None:
    z = torch.randn(40, 2, generator=generator(5))
    engine = Engine(Quadratic(1.0, dimension=2), constant_schedules(), 0.01)
    source = generator(6)
    by_parts = move(engine, State(z), motion(engine, State(z), source), source)
    assert torch.equal(by_parts.z, step(engine, State(z), generator(6)).z)


def test_a_step_leaves_its_input_and_the_decoder_alone() -> None:
    potential, z = clones(30)
    before = z.clone()
    engine = Engine(potential, constant_schedules(), 0.01, shape=SharedFisher(0.1))
    after = step(engine, State(z), generator(7))
    assert torch.equal(z, before) and not after.z.requires_grad
    assert all(p.grad is None for p in potential.decode.parameters())


def test_no_noise_at_all_is_gradient_descent_whatever_its_shape_would_be() -> None:
    z = torch.randn(40, 3, generator=generator(8), dtype=torch.float64)
    potential, _ = clones(40)
    for shape in (Isotropic(), ParticleFisher(0.2), SharedFisher(0.2), SharedMatrix(torch.eye(3))):
        engine = Engine(potential, constant_schedules(0.5, 0.0), 0.1, shape=shape)
        after = step(engine, State(z), generator(9)).z
        torch.testing.assert_close(after, z - 0.05 * potential.gradient(z))


def test_gibbs_multiplies_the_drift_by_the_matrix_of_the_noise() -> None:
    """D = D_0 M + eta lambda I: mean step -(D/T) grad L dt, by zero noise in the mean of +-z."""
    matrix = torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    engine = Engine(
        Quadratic(1.0, dimension=2),
        constant_schedules(0.5, 0.4, 0.2),
        0.1,
        shape=SharedMatrix(matrix),
    )
    z = torch.randn(5, 2, generator=generator(8), dtype=torch.float64)
    moved = motion(engine, State(z), generator(9))
    d = 0.4 * matrix + 0.1 * torch.eye(2)
    torch.testing.assert_close(moved.drift, -z @ d / (0.4 / 0.5 + 0.2))
    torch.testing.assert_close(moved.tensor.value(2), d)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_run_keeps_the_dtype_of_its_particles(dtype: torch.dtype) -> None:
    engine = Engine(
        Quadratic(1.0, dimension=2), constant_schedules(), 0.01, shape=SharedMatrix(torch.eye(2))
    )
    assert step(engine, State(torch.zeros(5, 2, dtype=dtype)), generator()).z.dtype == dtype


def test_unstable_steps_are_refused_with_one_that_is_stable() -> None:
    stiff = Engine(Quadratic(torch.tensor([1.0, 50.0])), constant_schedules(rate=0.5), dt=0.1)
    with pytest.raises(ValueError, match=r"curvature 50, so eta \* dt .* Use dt < 0.08"):
        check_stable(stiff, torch.zeros(4, 2))
    check_stable(Engine(stiff.potential, constant_schedules(rate=0.5), dt=0.079), torch.zeros(4, 2))


def test_the_stiffness_of_gibbs_mode_includes_the_noise() -> None:
    """Linear decoder A = 3: H = F = 9, mobility eta (1 + gamma F) = 10: limit 2/90."""
    potential = DecoderPotential(lambda p: 3 * p, torch.zeros(4, 1), dimension=1)
    shape = ParticleFisher(1.0)
    z = torch.zeros(4, 1)
    check_stable(Engine(potential, constant_schedules(), 0.2, shape=shape, mode="published"), z)
    check_stable(Engine(potential, constant_schedules(), 0.022, shape=shape), z)
    with pytest.raises(ValueError, match="curvature 90"):
        check_stable(Engine(potential, constant_schedules(), 0.0223, shape=shape), z)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dt": 0.0}, "`dt` of `Engine` must be positive and finite. Got 0.0"),
        ({"dt": math.nan}, "`dt` of `Engine` must be positive"),
        ({"mode": "ito"}, "must be 'gibbs' or 'published'. Got 'ito'"),
        ({"shape": SharedFisher(0.1)}, "couples the noise to a decoder, .* is a `Quadratic`"),
        (
            {"schedules": schedules.Schedules("own", *[schedules.Constant(0.0)] * 3)},
            "rate of the `schedules` of `Engine` must be positive. Got 0.0",
        ),
        (
            {"schedules": schedules.Schedules("own", lambda t: 1.0, lambda t: -1.0, lambda t: 0.0)},
            "diffusion of the `schedules` of `Engine` must be at least 0. Got -1.0",
        ),
    ],
)
def test_unfit_engines_are_refused(change: dict, sentence: str) -> None:
    fields = {"potential": Quadratic(1.0), "schedules": constant_schedules(), "dt": 0.1, **change}
    with pytest.raises(ValueError, match=sentence):
        Engine(**fields)


def test_t11_the_step_needs_no_density_and_so_survives_where_the_published_one_is_nan() -> None:
    """d = 128, h = .1 in float32: (2 pi h^2)^{d/2} underflows, and the published step is nan (B2).

    Ours is finite there, at d = 512, and with all particles in one place.
    """
    d, h = 128, torch.tensor(0.1)
    z = torch.randn(8, d, generator=generator(22))
    norm = 8 * (2 * torch.pi * h**2) ** (d / 2)
    assert norm == 0
    kernel = torch.exp(-torch.cdist(z, z).square() / (2 * h**2))
    rho = kernel.sum(1, keepdim=True) / norm
    slope = -(kernel[:, :, None] * (z[:, None] - z)).sum(1) / (h**2 * norm)
    assert torch.isnan(-slope * (1 + rho.log())).all()
    for dimension in (d, 512):
        engine = Engine(Quadratic(1.0, dimension=dimension), constant_schedules(entropy=1.0), 0.01)
        for z in (torch.randn(8, dimension, generator=generator(23)), torch.zeros(8, dimension)):
            assert torch.isfinite(step(engine, State(z), generator(24)).z).all()


def test_b5_one_factor_serves_all_particles_of_a_shared_matrix() -> None:
    """The tensor of a shared diffusion holds two (d, d) matrices, not n of them."""
    potential, z = clones(200)
    tensor = SharedFisher(0.1).tensor(
        z, potential.linearise(z), 1.0, generator=generator(25), noise_scale=0.7
    )
    assert tensor.matrix.shape == tensor.factor.shape == (3, 3)
