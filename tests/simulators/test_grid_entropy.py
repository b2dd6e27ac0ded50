"""Structure of the grid: mass, positivity, Gibbs, detailed balance, entropy production."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from foreshock.simulators import exact_linear
from foreshock.simulators.grid import drift_grid, energy_grid
from foreshock.simulators.grid_cells import (
    Grid,
    point_mass,
    rate_matrix,
    total_mass,
)
from foreshock.simulators.grid_entropy import (
    density_entropy,
    entropy_production,
    face_flux,
    free_energy,
    relative_entropy,
)
from foreshock.simulators.grid_solvers import (
    evolve,
    log_weights,
    stationary,
)


def well(x: np.ndarray) -> np.ndarray:
    return (x**2 - 1) ** 2


def normal(x: np.ndarray, mean: float, variance: float) -> np.ndarray:
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def trap(n: int) -> tuple[np.ndarray, Grid]:
    x = np.linspace(-8, 8, n + 1)
    return x, energy_grid(x, x**2 / 2, 1.0)


WORLDS = {
    "double well": lambda x: energy_grid(x, well(x), 0.4),
    "own mobility": lambda x: energy_grid(x, well(x), 0.4, 1 + 0.5 * np.sin(2 * x)),
    "ito": lambda x: energy_grid(x, well(x), 0.4, 1 + 0.5 * np.sin(2 * x), correction="ito"),
    "coarse and steep": lambda x: energy_grid(x[::20], 40 * x[::20] ** 2, 0.4),
    "driven ring": lambda x: drift_grid(x[:-1], 1 + np.sin(np.pi * x[:-1]), 0.3, period=4.0),
}


@pytest.mark.parametrize("build", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("method", ["exponential", "backward_euler", "tr_bdf2"])
def test_t3_mass_is_kept_and_kl_never_grows(build, method) -> None:
    grid = build(np.linspace(-2, 2, 161))
    x = grid.axes[0]
    p = normal(x, 0.6, 0.05)
    p /= total_mass(grid, p)
    target = stationary(grid)
    kl = [relative_entropy(grid, p, target)]
    for _ in range(20):
        p = evolve(grid, p, 0.05, method=method, steps=4)
        # Exact positivity is backward Euler's; the others may dip below 0 far out in the tails.
        assert p.min() >= (0 if method == "backward_euler" else -1e-12)
        kl.append(relative_entropy(grid, p, target))
    assert total_mass(grid, p) == pytest.approx(1, abs=1e-12)
    assert np.all(np.diff(kl) <= 1e-12)
    assert kl[-1] < kl[0]


@pytest.mark.parametrize("steps", [1, 3])
def test_t3_backward_euler_is_positive_at_any_step(steps: int) -> None:
    x, grid = trap(200)
    spike = point_mass(grid, 1.03) / grid.volume
    for time in (1e-4, 1.0, 1e6):
        p = evolve(grid, spike, time, method="backward_euler", steps=steps)
        rounding = 1e-16 * time / steps * 4 / (x[1] - x[0]) ** 2
        assert p.min() >= 0
        assert total_mass(grid, p) == pytest.approx(1, abs=1e-12 + rounding)
    assert p == pytest.approx(normal(x, 0, 1), abs=1e-5)


def test_t3_gibbs_is_a_fixed_point_with_detailed_balance() -> None:
    x = np.linspace(-2, 2, 81)
    for grid in (
        energy_grid(x, well(x), 0.25),
        energy_grid(x, well(x), 0.25, 0.1 + x**2),
        energy_grid(x[:-1], np.cos(np.pi * x[:-1]), 0.25, period=4.0),
    ):
        nodes = grid.axes[0]
        u = np.cos(np.pi * nodes) if nodes.size == 80 else well(nodes)
        gibbs = np.exp(-u / 0.25)
        m = gibbs * grid.volume / np.sum(gibbs * grid.volume)
        assert abs(rate_matrix(grid) @ m).max() < 1e-12
        balance = grid.forward * m[grid.tail] - grid.backward * m[grid.head]
        assert abs(balance).max() < 1e-12
        assert stationary(grid) * grid.volume == pytest.approx(m, rel=1e-9)
        assert entropy_production(grid, stationary(grid)) < 1e-20


def test_t3_entropy_production_is_zero_only_with_detailed_balance() -> None:
    x = np.linspace(-2, 2, 81)
    grid = energy_grid(x, well(x), 0.25)
    rng = np.random.default_rng(3)
    for _ in range(20):
        p = rng.exponential(size=81)
        assert entropy_production(grid, p / total_mass(grid, p)) > 1
    moved = stationary(grid) * (1 + 1e-3 * np.sin(x))
    assert 0 < entropy_production(grid, moved / total_mass(grid, moved)) < 1e-5
    ring = drift_grid(x[:-1], 0.2 + np.sin(np.pi * x[:-1]), 0.3, period=4.0)
    assert log_weights(ring) is None
    assert entropy_production(ring, stationary(ring)) > 0.01
    balanced = drift_grid(x[:-1], np.sin(np.pi * x[:-1]), 0.3, period=4.0)
    assert entropy_production(balanced, stationary(balanced)) < 1e-20


def test_one_way_traffic_has_no_finite_production() -> None:
    x = np.linspace(-2, 2, 81)
    grid = energy_grid(x, well(x), 0.25)
    block = np.where(x > 0, 1.0, 0.0)
    assert entropy_production(grid, block / total_mass(grid, block)) == math.inf
    assert relative_entropy(grid, stationary(grid), block / total_mass(grid, block)) == math.inf


@pytest.mark.parametrize("n", [8, 64])
def test_t3_ring_entropy_production_is_f_squared_over_d(n: int) -> None:
    x = np.arange(n) * 2 * np.pi / n
    ring = drift_grid(x, 3.0, 2.0, period=2 * np.pi)
    p = stationary(ring)
    assert p == pytest.approx(1 / (2 * np.pi), rel=1e-10)
    # Exact at any spacing: for constant mu/D the log ratio of the rates is their integral.
    assert entropy_production(ring, p) == pytest.approx(
        exact_linear.ring_entropy_production(3.0, 2.0), rel=1e-10
    )
    # Its density does not change, so the published production, -dH/dt, is 0.
    later = evolve(ring, p, 0.1)
    assert density_entropy(ring, later) == pytest.approx(density_entropy(ring, p), abs=1e-12)


def test_t3_tilted_ring_has_stratonovichs_velocity_with_order_2() -> None:
    velocity = exact_linear.tilted_ring_velocity(np.cos, 0.5, 0.5)
    errors = []
    for n in (64, 128, 256):
        x = np.arange(n) * 2 * np.pi / n
        ring = drift_grid(x, np.sin(x) + 0.5, 0.5, period=2 * np.pi)
        p = stationary(ring)
        current = face_flux(ring, p)
        assert np.ptp(current) < 1e-12  # divergence-free
        errors.append(abs(current.mean() * 2 * np.pi / velocity - 1))
        # Heat over temperature: EP = f v/T in the steady state.
        work = 0.5 * current.mean() * 2 * np.pi / 0.5
        assert entropy_production(ring, p) == pytest.approx(work, rel=1e-9)
    assert np.log2(errors[:-1]) - np.log2(errors[1:]) == pytest.approx(2.0, abs=0.05)


def test_t3_free_energy_falls_at_the_temperature_times_the_production() -> None:
    x = np.linspace(-2, 2, 161)
    temperature = 0.5
    grid = energy_grid(x, well(x), temperature)
    p = normal(x, 0.6, 0.05)
    p /= total_mass(grid, p)
    h = 2e-4
    states = [p := evolve(grid, p, 0.02), p := evolve(grid, p, h), evolve(grid, p, h)]
    f = [free_energy(grid, one, well(x), temperature) for one in states]
    production = entropy_production(grid, states[1])
    assert (f[2] - f[0]) / (2 * h) == pytest.approx(-temperature * production, rel=1e-4)
    # The excess over the least value is T KL.
    target = stationary(grid)
    excess = f[0] - free_energy(grid, target, well(x), temperature)
    assert excess == pytest.approx(temperature * relative_entropy(grid, states[0], target))


def test_t5_the_three_conventions_of_a_varying_diffusion() -> None:
    # Ring, D = 1 + sin(x)/2, no force: Ito 1/D, with the gibbs correction uniform.
    x = np.arange(256) * 2 * np.pi / 256
    d = 1 + 0.5 * np.sin(x)
    ito = stationary(drift_grid(x, 0.0, d, period=2 * np.pi))
    assert ito * d == pytest.approx((ito * d).mean(), rel=1e-12)
    same = stationary(energy_grid(x, 0 * x, 1.0, d, correction="ito", period=2 * np.pi))
    assert same == pytest.approx(ito, rel=1e-12)
    gibbs = stationary(energy_grid(x, 0 * x, 1.0, d, period=2 * np.pi))
    assert gibbs == pytest.approx(1 / (2 * np.pi), rel=1e-12)
    # The Ito drift D' given by hand: uniform to order 2.
    fickian = stationary(drift_grid(x, 0.5 * np.cos(x), d, period=2 * np.pi))
    assert fickian == pytest.approx(1 / (2 * np.pi), rel=1e-3)
    # Far from uniform: the distance of (1/D)/Z, Z = 2 pi/sqrt(3/4), by quadrature.
    z = 2 * math.pi / math.sqrt(0.75)

    def apart(y: float) -> float:
        return abs(1 / (1 + 0.5 * math.sin(y)) / z - 1 / (2 * math.pi))

    far = quad(apart, 0, 2 * math.pi, limit=200)[0]
    assert np.sum(abs(ito - 1 / (2 * np.pi))) * x[1] == pytest.approx(far, rel=1e-3)
    assert far == pytest.approx(0.345, abs=1e-3)
