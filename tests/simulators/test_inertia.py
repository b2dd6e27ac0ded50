"""Inertia: temperatures of BAOAB and of the heavy ball, exactly on a quadratic (T5)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from foreshock.simulators.inertia import BAOAB, HeavyBall
from foreshock.simulators.potentials import DoubleWell, Quadratic
from foreshock.simulators.sde import Stepper, integrate


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stationary(stepper: Stepper, k: float) -> np.ndarray:
    """Exact stationary covariance of (x, v) on U = k x^2/2, from the linear map of a step."""

    def step(x: float, v: float) -> np.ndarray:
        state = [torch.tensor([[s]], dtype=torch.float64) for s in (x, v, k * x)]
        size = len(stepper.start(state[0], generator()))
        new = stepper.step(tuple(state[:size]), generator(3))
        return np.array([new[0].item(), new[1].item()])

    drawn = torch.empty(1, 1, dtype=torch.float64).normal_(generator=generator(3)).item()
    still = step(0, 0)
    matrix = np.stack([step(1, 0) - still, step(0, 1) - still], 1)
    noise = still / drawn
    return solve_discrete_lyapunov(matrix, np.outer(noise, noise))


@pytest.mark.parametrize("dt", [0.1, 1.0])
@pytest.mark.parametrize("friction", [0.3, 5.0])
def test_t5_temperatures_of_baoab(dt: float, friction: float) -> None:
    """Positions have exactly T/k at every stable dt; velocities T/m (1 - k dt^2/4m)."""
    k, temperature, mass = 1.7, 0.6, 1.3
    stepper = BAOAB(Quadratic(k), temperature, dt, friction, mass)
    covariance = stationary(stepper, k)
    assert k * covariance[0, 0] == pytest.approx(temperature, rel=1e-10)
    kinetic = temperature * (1 - k * dt**2 / (4 * mass))
    assert mass * covariance[1, 1] == pytest.approx(kinetic, rel=1e-10)


def test_t5_particles_of_baoab_in_the_double_well() -> None:
    n, temperature = 20_000, 0.25
    stepper = BAOAB(DoubleWell(), temperature, 0.1)
    start = torch.cat([torch.ones(n // 2, 1), -torch.ones(n // 2, 1)])
    path = integrate(stepper, start, 300, generator=generator(), every=300)
    x, v = path.state[0].double(), path.state[1].double()
    fine = np.linspace(-5, 5, 20_001)
    gibbs = np.exp(-((fine * fine - 1) ** 2) / temperature)
    second, fourth = ((gibbs * fine**p).sum() / gibbs.sum() for p in (2, 4))
    # O(dt^2): 8 dt^2 / 4 = 2 % is the scale of the bias in a well of curvature 8.
    assert abs(float((x**2).mean()) - second) < 4 * math.sqrt((fourth - second**2) / n) + 0.02
    assert abs(float((v**2).mean()) / temperature - 1) < 4 * math.sqrt(2 / n) + 0.02


def test_large_friction_is_overdamped_motion_with_the_stated_mobility() -> None:
    n, temperature, friction = 20_000, 0.5, 20.0
    stepper = BAOAB(Quadratic(1e-6), temperature, 0.02, friction, mass=0.5)
    path = integrate(stepper, torch.zeros(n, 1), 500, generator=generator(), every=500)
    time = 10.0
    # <x^2> = 2 T M (t - (1 - e^{-gamma t}) / gamma), Ornstein and Fürth.
    expected = 2 * temperature * stepper.mobility * (time - 1 / friction)
    # BAOAB's free flight over a step: O((gamma dt)^2) / 12 = 1.3 % of the mobility.
    assert abs(float(path.values[-1].var()) / expected - 1) < 4 * math.sqrt(2 / n) + 0.015


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_t5_effective_temperature_of_the_heavy_ball(momentum: float, rate: float) -> None:
    k, temperature = 1.7, 0.6
    ball = HeavyBall(Quadratic(k), temperature, rate, momentum)
    found = k * stationary(ball, k)[0, 0]
    assert found == pytest.approx(ball.temperature_at(k), rel=1e-10)
    if rate == 0.01:  # T (1 + alpha k / (2 (1 + beta)) + ...)
        assert found == pytest.approx(temperature, rel=0.01)


def test_the_published_noise_of_the_heavy_ball_is_no_temperature() -> None:
    """Read as a temperature, the document's D is off by 1/(alpha (1 - beta)): 1000 here."""
    diffusion = 0.001
    ball = HeavyBall.published(Quadratic(1.0), 0.01, 0.9, diffusion)
    found = stationary(ball, 1.0)[0, 0]
    assert found == pytest.approx(1.0, rel=0.01)
    assert found / diffusion > 900
    assert ball.noise_scale == pytest.approx(math.sqrt(2 * diffusion))


def test_bad_input_is_refused() -> None:
    x = torch.ones(2, 1)
    for start in (x, 0 * x):  # in a well, and on top of the barrier between them
        with pytest.raises(ValueError, match=r"`dt` of `BAOAB` is unstable.*; or a larger `mass`"):
            integrate(BAOAB(DoubleWell(), 1.0, 0.8), start, 1, generator=generator())  # sqrt(8)
        with pytest.raises(
            ValueError,
            match=r"`learning_rate` of `HeavyBall` is unstable.* must stay below 3.8. Use "
            r"learning_rate < 0.475, .*; or a larger `momentum`",
        ):
            integrate(HeavyBall(DoubleWell(), 1.0, 0.5, 0.9), start, 1, generator=generator())
    with pytest.raises(ValueError, match=r"`momentum` of `HeavyBall` must be in \[0, 1\)"):
        HeavyBall(DoubleWell(), 1.0, 0.1, 1.0)
    with pytest.raises(ValueError, match=r"`momentum` of `HeavyBall` must be in \[0, 1\)"):
        HeavyBall.published(DoubleWell(), 0.1, 1.0, 0.01)
    with pytest.raises(ValueError, match="`temperature` of `BAOAB` must be positive"):
        BAOAB(DoubleWell(), 0.0, 0.1)
