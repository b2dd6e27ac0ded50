"""Formulas of "fokker_planck" the engine does not use: their number, the truth, and ours."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import solve_continuous_lyapunov
from torch import Tensor

from foreshock.density.flow import flow
from foreshock.density.score import fit_score
from foreshock.simulators import named_schedules, schedules
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.particles import Engine, State, motion, step
from foreshock.simulators.potentials import DoubleWell, Quadratic
from foreshock.simulators.resets import CloudReset, redraw
from foreshock.simulators.schedules import constant_schedules
from tests.simulators.decoders import generator, tanh_decoder
from tests.simulators.flat import Flat


def settle(engine: Engine, z: Tensor, steps: int, seed: int = 0) -> Tensor:
    state, source = State(z), generator(seed)
    for _ in range(steps):
        state = step(engine, state, source)
    return state.z


def test_a1_fickian_diffusion_needs_div_d_in_the_drift() -> None:
    """D(z) = D_0 (1 + gamma F(z)), no gradient: gibbs spreads evenly, the plain Itô step does not.

    The decoder (sin z, cos 2z/2) on the ring has F = cos^2 z + sin^2 2z. With L = 0 the Itô law is
    proportional to 1/D ("exactly" Fickian in the document, 2.2); with div D it is uniform. E[F]
    under each law is a quadrature; particles within 4 standard errors.
    """
    n, dt = 10_000, 0.0025

    def decode(z: Tensor) -> Tensor:
        return torch.cat([z.sin(), (2 * z).cos() / 2], 1)

    def fisher(z: float) -> float:
        return math.cos(z) ** 2 + math.sin(2 * z) ** 2

    weight = quad(lambda x: 1 / (1 + 2 * fisher(x)), 0, 2 * math.pi)[0]
    ito = quad(lambda x: fisher(x) / (1 + 2 * fisher(x)), 0, 2 * math.pi)[0] / weight
    assert ito == pytest.approx(0.7465, abs=0.001)  # uniform: 1
    z = torch.rand(n, 1, generator=generator(1), dtype=torch.float64) * 2 * math.pi
    found = {}
    for mode in ("published", "gibbs"):
        # A noise of 1e4 makes the gradient negligible (L ~ 1e-8) and is undone in gamma.
        potential = DecoderPotential(
            decode, torch.zeros(n, 2).double(), dimension=1, noise_scale=1e4
        )
        engine = Engine(potential, constant_schedules(), dt, shape=ParticleFisher(2e8), mode=mode)
        end = settle(engine, z, 300, seed=2)
        values = end[:, 0].cos() ** 2 + (2 * end[:, 0]).sin() ** 2
        found[mode] = float(values.mean()), float(values.std()) / math.sqrt(n)
    # Euler's weak error is O(dt): .026 at dt = .01, so below .01 at a quarter of it.
    assert abs(found["published"][0] - ito) < 4 * found["published"][1] + 0.01
    assert abs(found["gibbs"][0] - 1) < 4 * found["gibbs"][1] + 0.01


def test_a2_diffusion_of_sgd_has_the_learning_rate_in_it() -> None:
    """z <- z - eta (k z + noise/sqrt(B)): variance eta s^2/(B k (2 - eta k)), T = eta s^2/(2B).

    "D ~ Sigma/B" without eta and 1/2 gives the variance Sigma/(B k): 2/eta = 20 times too much
    here. The engine with D = eta^2 s^2/(2B) per step of dt = 1 is the chain itself.
    """
    eta, k, sigma2, batch, n = 0.1, 1.0, 4.0, 8, 100_000
    truth = eta * sigma2 / (batch * k * (2 - eta * k))
    published = sigma2 / (batch * k)
    schedule = constant_schedules(rate=eta, diffusion=eta**2 * sigma2 / (2 * batch))
    assert schedule.temperature(0.0) == pytest.approx(eta * sigma2 / (2 * batch))
    engine = Engine(Quadratic(k, dimension=1), schedule, dt=1.0)
    variance = float(settle(engine, torch.zeros(n, 1), 150).var())
    assert variance == pytest.approx(truth, rel=4 * math.sqrt(2 / n))
    assert published / truth == pytest.approx(2 / eta - k)


def test_a3_fisher_from_the_data_vanishes_at_a_perfect_fit_and_has_another_scale() -> None:
    """Scores of -|x - dec|^2 at the data give 0 at x = dec(z); the Fisher information is J'J/s^2.

    Away from the fit its expectation under the decoder's own noise is 4 sigma^2 J'J: with the
    right targets, still off by 4 sigma^4.
    """
    sigma, n = 0.5, 20_000
    z = torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64).repeat(n, 1)
    decoder = tanh_decoder()
    with torch.no_grad():
        perfect = decoder(z)
    noisy = perfect + sigma * torch.randn(perfect.shape, generator=generator(3)).double()

    def published(targets: Tensor) -> Tensor:
        points = z.clone().requires_grad_()
        loss = -(decoder(points) - targets).square().sum()
        scores = torch.autograd.grad(loss, points)[0]
        return scores.T @ scores / n

    potential = DecoderPotential(decoder, perfect, dimension=3, noise_scale=sigma)
    truth = potential.fisher(z[:1])[0] if n == 1 else potential.rows(slice(0, 1)).fisher(z[:1])[0]
    assert not published(perfect).any()
    ratio = float(published(noisy).trace() / truth.trace())
    assert ratio == pytest.approx(4 * sigma**4, rel=4 * math.sqrt(2 / n))
    ours = SharedFisher(1.0).tensor(
        z, potential.linearise(z), 1.0, generator=generator(4), noise_scale=sigma
    )
    found = ours.matrix - torch.eye(3, dtype=torch.float64)
    assert float(found.trace() / truth.trace()) == pytest.approx(1, rel=4 * math.sqrt(2 / n))


def test_a4_a_shared_target_pulls_every_particle_to_the_mean_of_the_data() -> None:
    """dec(z) = z: with its own target each particle goes there; with all of them, to their mean."""
    x = torch.tensor([[-1.0], [0.0], [4.0]], dtype=torch.float64)
    z = torch.zeros(3, 1, dtype=torch.float64)
    own = Engine(
        DecoderPotential(lambda p: p, x, dimension=1), constant_schedules(diffusion=0.0), dt=0.1
    )
    torch.testing.assert_close(settle(own, z, 400), x)

    class Published:  # loss_at_z of the document: mean over the whole target array
        dimension = 1

        def energy(self, x_: Tensor) -> Tensor:
            return (x_[:, None] - x[None]).square().mean((1, 2))

        def gradient(self, x_: Tensor) -> Tensor:
            return 2 * (x_ - x.mean())

        def hessian(self, x_: Tensor) -> Tensor:
            return 2 * torch.ones(len(x_), 1, 1, dtype=x_.dtype)

    shared = settle(Engine(Published(), constant_schedules(diffusion=0.0), dt=0.1), z, 400)
    torch.testing.assert_close(shared, torch.ones(3, 1).double())  # the mean of -1, 0, 4


def test_a5_entropy_term_spreads_the_cloud_and_does_not_contract_it() -> None:
    """L = 0, D = 0, eta lambda = 1: d var/dt = 2. The published field has its own sign and size.

    -grad rho (1 + log rho) (its code) at N(0, s): the drift -g moves var at the rate
    2 E[z grad rho (1 + log rho)], which changes sign with the density, i.e. with the unit of z.
    """

    def published_rate(s: float) -> float:
        def integrand(z: float) -> float:
            rho = math.exp(-z * z / (2 * s)) / math.sqrt(2 * math.pi * s)
            return rho * z * (-z / s * rho) * (1 + math.log(rho))

        half = 12 * math.sqrt(s)
        return 2 * quad(integrand, -half, half)[0]

    dense, dilute = published_rate(1e-4), published_rate(4.0)
    assert dense == pytest.approx(-111.04, abs=0.01)  # contracts a dense cloud
    assert dilute == pytest.approx(0.192, abs=0.001)  # a tenth of the truth in a dilute one
    n, dt = 100_000, 0.01
    for s in (1e-4, 4.0):
        engine = Engine(Flat(1), constant_schedules(diffusion=0.0, entropy=1.0), dt)
        z = math.sqrt(s) * torch.randn(n, 1, generator=generator(5), dtype=torch.float64)
        rate = float(settle(engine, z, 10, seed=6).var() - z.var()) / (10 * dt)
        # The increments' variance 2 t and their chance correlation with z, 2 sqrt(2 t s/n).
        error = math.sqrt(2 / n) * 2 + 2 * math.sqrt(2 * 10 * dt * s / n) / (10 * dt)
        assert abs(rate - 2) < 4 * error


def test_t12_entropy_sign_stationary_variance_of_ou_has_the_weight_added() -> None:
    """(D/eta + lambda)/k = 3/2 at D = 1, eta = 1, lambda = .5, k = 1; not (D/eta - lambda)/k = 1/2.

    Published sign, as a drift +eta lambda grad log rho with the exact score of the Gaussian cloud
    (its own variance), settles at 1/2; ours at 3/2 without any density. Euler at dt = .02 raises
    the variance by 1/(1 - dt k/2) = 1.01.
    """
    n, dt, k, lam = 50_000, 0.02, 1.0, 0.5
    z = torch.randn(n, 1, generator=generator(7), dtype=torch.float64)
    well = Quadratic(k, dimension=1)
    ours = float(settle(Engine(well, constant_schedules(entropy=lam), dt), z, 400, seed=8).var())
    expected = (1 + lam) / k / (1 - dt * k / 2)
    assert ours == pytest.approx(expected, rel=4 * math.sqrt(2 / n))
    sign = Engine(
        well,
        constant_schedules(entropy=lam),
        dt,
        entropy_gradient=lambda x, t: (x - x.mean(0)) / x.var(0),  # -grad log rho = "grad H"
    )
    # -eta lambda grad H adds -lambda/var z to the drift: stiffness k + lambda/var, so the chain
    # has var = 2 dt/(1 - (1 - dt (k + lambda/var))^2); one Newton-free fixed point:
    variance = 0.5
    for _ in range(200):
        variance = 2 * dt / (1 - (1 - dt * (k + lam / variance)) ** 2)
    found = float(settle(sign, z, 400, seed=9).var())
    assert found == pytest.approx(variance, rel=4 * math.sqrt(2 / n) * 2)
    assert variance == pytest.approx((1 - lam) / k, rel=0.05)


def test_a6_beta_over_eta_does_not_keep_the_ratio_of_entropy_to_loss_constant() -> None:
    """Ratio of the two terms of mu = lambda: grows by 1 + t/tau as published, constant as ours."""
    published, corrected = (
        named_schedules.published_schedules(tau=10.0),
        named_schedules.corrected_schedules(tau=10.0, entropy=0.3),
    )
    assert published.entropy(90.0) / published.entropy(0.0) == pytest.approx(10)
    assert corrected.entropy(90.0) == corrected.entropy(0.0) == 0.3


def test_t3_lyapunov_matrix_noise_with_plain_descent_has_a_current() -> None:
    """A S + S A' = 2D: S = [[.594, -.235], [-.235, .288]], steady entropy production 1.728.

    The published Gibbs guess, Cov = A^-1 T-ish [[.404, -.324], [-.324, .809]] * ..., has none.
    Ours (mode gibbs) multiplies the drift by the same matrix: Cov = T A^-1 and no production.
    """
    a = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    d = torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64))
    s = torch.as_tensor(solve_continuous_lyapunov(a.numpy(), 2 * d.numpy()))
    torch.testing.assert_close(
        s, torch.tensor([[0.5941, -0.2353], [-0.2353, 0.2882]]).double(), atol=5e-5, rtol=0
    )
    # v = -(A - D S^-1) z: production tr(V' D^-1 V S)
    v = a - d @ torch.linalg.inv(s)
    exact = float((v.T @ torch.linalg.inv(d) @ v @ s).trace())
    assert exact == pytest.approx(1.728, abs=5e-4)
    n, dt = 4000, 0.01
    start = torch.randn(n, 2, generator=generator(10), dtype=torch.float64)
    found = {}
    for mode in ("published", "gibbs"):
        engine = Engine(Quadratic(a), constant_schedules(), dt, shape=SharedMatrix(d), mode=mode)
        z = settle(engine, start, 800 if mode == "published" else 3000, seed=11)
        moved = motion(engine, State(z), generator(0))
        production = flow(
            fit_score(z, "gaussian"), moved.drift, moved.tensor.value(2), bounds=False
        )
        found[mode] = torch.cov(z.T), production.entropy_production
    covariance, production = found["published"]
    # Entries of S within 4 se sqrt((S_ii S_jj + S_ij^2)/n) and Euler's bias, dt A/2 relative.
    error = ((s.diagonal()[:, None] * s.diagonal() + s.square()) / n).sqrt()
    assert ((covariance - s).abs() < 4 * error + 0.02 * s.abs().max()).all()
    assert production.low - 0.05 < exact < production.high + 0.05
    covariance, production = found["gibbs"]
    gibbs = torch.linalg.inv(a)  # T = D_0/eta = 1
    error = ((gibbs.diagonal()[:, None] * gibbs.diagonal() + gibbs.square()) / n).sqrt()
    assert ((covariance - gibbs).abs() < 4 * error + 0.02 * gibbs.abs().max()).all()
    assert abs(production.value) < 0.05


class Tilted:
    """(x^2 - 1)^2 + .3x: depth of the upper well at +.96 is .72, of the lower below it .59."""

    dimension = 1

    def energy(self, x: Tensor) -> Tensor:
        return ((x.square() - 1).square() + 0.3 * x)[:, 0]

    def gradient(self, x: Tensor) -> Tensor:
        return 4 * x * (x.square() - 1) + 0.3

    def hessian(self, x: Tensor) -> Tensor:
        return (12 * x.square() - 4)[:, :, None]


def felt(found: schedules.Schedules, time_of: Callable[[float], float]) -> schedules.Schedules:
    """The same run in the time s = int eta dt that its particles feel: rate 1, the same T."""
    noise = schedules.Schedules(
        found.name, schedules.Constant(1.0), lambda s: found.temperature(time_of(s)),
        schedules.Constant(0.0),
    )  # fmt: skip
    return noise


def test_a11_published_annealing_freezes_and_the_corrected_does_not() -> None:
    """From the upper minimum, all of `corrected_schedules(1, 1, depth=1)` up to t = e^100.

    eta = 1/(1 + t) is felt as s = log(1 + t), so the run is one of rate 1 over s in [0, 100]. The
    integral of D_0 e^{-t/tau} is D_0 tau = .05: a free particle moves by sqrt(2 .05) = .32, the top
    is at distance .88, and nobody leaves. With T = c/log(e + t) = c/log(e + e^s - 1) the number of
    escapes is finite too. With T = c/log(e + s), c above the depth, the share of the global well
    grows and stays within .08 of that of the Gibbs law at its temperature.
    """
    n, dt = 2000, 0.02
    start = torch.full((n, 1), 0.96)
    frozen = schedules.Schedules(
        "published", schedules.Constant(1.0), schedules.Exponential(0.5, 0.1), schedules.Constant(0)
    )
    assert frozen.diffusion.integral(math.inf) == pytest.approx(0.05)
    assert float((settle(Engine(Tilted(), frozen, dt), start, 1500, seed=12) < 0).sum()) < 0.02 * n
    shipped = felt(named_schedules.corrected_schedules(rate=1.0, tau=1.0, depth=1.0), math.expm1)
    state, source, shares = State(start), generator(12), []
    for k in range(1, 5001):
        state = step(Engine(Tilted(), shipped, dt), state, source)
        if k in (250, 1250, 5000):
            shares.append(float((state.z < 0).double().mean()))
    error = 4 * math.sqrt(0.25 / n)
    assert shares[0] < shares[1] + error < shares[2] + 2 * error and shares[2] > shares[0] + error
    t_end = shipped.temperature(100.0)

    def weight(x: float) -> float:
        return math.exp(-((x * x - 1) ** 2 + 0.3 * x) / t_end)

    gibbs = quad(weight, -4, 0)[0] / quad(weight, -4, 4)[0]
    assert gibbs > 0.9 and shares[2] > gibbs - 0.08


def test_a11_published_defaults_are_brownian_motion() -> None:
    """D_0 = 1 against eta = .01: T = 100. Variance .96 -> ~.96 + 2 in one unit of time."""
    n = 20_000
    engine = Engine(Quadratic(1.0, dimension=1), named_schedules.published_schedules(), dt=0.01)
    z = 0.98 * torch.randn(n, 1, generator=generator(13))
    grown = float(settle(engine, z, 100, seed=14).var() - z.var())
    assert grown == pytest.approx(2, rel=0.02 + 4 * math.sqrt(2 / n))


def test_a19_published_reset_permutes_rows_and_ours_does_not() -> None:
    """Their keep-and-append moves particle i to another row; both have the covariance 1.1 Sigma."""
    n = 1000
    z = torch.arange(n, dtype=torch.float64)[:, None]
    keep = torch.randperm(n, generator=generator(15))[: n - 200]
    published = torch.cat([z[keep], torch.zeros(200, 1).double()])
    assert float((published == z).double().mean()) < 0.01
    after, mask = redraw(CloudReset(0.2), z, generator(16))
    assert int((after == z).sum()) == 800
    assert torch.equal(after[~mask], z[~mask])


def test_double_well_cloud_reaches_the_gibbs_law() -> None:
    """T = D/eta + lambda = .5: E[(x^2-1)^2] by quadrature, within 4 se and Euler's 1 %."""
    n, dt, temperature = 10_000, 0.005, 0.5
    well = DoubleWell()
    engine = Engine(well, constant_schedules(diffusion=0.3, entropy=0.2), dt)
    z = torch.randn(n, 1, generator=generator(17))
    energy = well.energy(settle(engine, z, 800, seed=18)).double()

    def weight(x: float) -> float:
        return math.exp(-float(well.energy(torch.tensor([[x]]).double())) / temperature)

    norm = quad(weight, -4, 4)[0]
    exact = (
        quad(lambda x: float(well.energy(torch.tensor([[x]]).double())) * weight(x), -4, 4)[0]
        / norm
    )
    assert abs(float(energy.mean()) - exact) < 4 * float(energy.std()) / math.sqrt(n) + 0.02 * exact
