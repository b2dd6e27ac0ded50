"""Escape, spectra, committors and resets on the grid against quadrature and closed forms."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from foreshock.simulators import exact_kramers, exact_resets, eyring_kramers
from foreshock.simulators.grid import drift_grid, energy_grid
from foreshock.simulators.grid_cells import (
    Grid,
    point_mass,
    rate_matrix,
    total_mass,
    with_resets,
    with_target,
)
from foreshock.simulators.grid_solvers import (
    committor,
    evolve,
    mean_first_passage,
    spectrum,
    stationary,
)


def well(x: np.ndarray) -> np.ndarray:
    return (x**2 - 1) ** 2


def normal(x: np.ndarray, mean: float, variance: float) -> np.ndarray:
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def trap(n: int) -> tuple[np.ndarray, Grid]:
    x = np.linspace(-8, 8, n + 1)
    return x, energy_grid(x, x**2 / 2, 1.0)


def distance(grid: Grid, p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(abs(p - q) * grid.volume))


@pytest.mark.parametrize("inverse", [4, 8, 10, 20])
def test_t4_grid_hop_rate_and_passage_time_against_quadrature(inverse: int) -> None:
    temperature = 1 / inverse
    x = np.linspace(-2, 2, 801)
    grid = energy_grid(x, well(x), temperature)
    rate = exact_kramers.well_decay_rate(well, temperature, -1, 0)
    assert spectrum(grid, 2)[1] / 2 == pytest.approx(rate / 2, rel=1e-3)
    ratio = eyring_kramers.eyring_kramers_rate(8, 4, 1, temperature) / (spectrum(grid, 2)[1] / 2)
    expected = {4: 1.107, 8: 1.056, 10: 1.043, 20: 1.020}[inverse]
    assert ratio == pytest.approx(expected, abs=1e-3)
    times = mean_first_passage(with_target(grid, x >= 1 - 1e-9))
    exact_time = exact_kramers.mean_first_passage_time(well, temperature, -1, 1)
    assert times[np.argmin(abs(x + 1))] == pytest.approx(exact_time, rel=1e-3)


def test_t4_passage_over_a_barrier_of_200_temperatures() -> None:
    x = np.linspace(-2, 1, 3001)
    grid = with_target(energy_grid(x, well(x), 1 / 200), x >= 1 - 1e-9)
    log_time = exact_kramers.log_mean_first_passage_time(well, 1 / 200, -1, 1)
    time = mean_first_passage(grid)[np.argmin(abs(x + 1))]
    # Order 2: (U''/T) dx^2/12 = 1.3e-4 in the well and half of that on the barrier.
    assert math.log(time) == pytest.approx(log_time, abs=1e-3)


@pytest.mark.parametrize("barrier", [25, 60])
def test_a_driven_steady_state_beyond_rounding_is_refused(barrier: float) -> None:
    x = np.arange(128) * 2 * np.pi / 128
    ring = drift_grid(x, barrier * np.sin(2 * x) + 0.1 * np.sin(x) + 0.5, 1.0, period=2 * np.pi)
    with pytest.raises(ValueError, match="slower than rounding resolves"):
        stationary(ring)


def test_passage_times_of_the_chain_and_of_the_solve_agree() -> None:
    x = np.linspace(-2, 2, 201)
    grid = energy_grid(x, well(x) + 0.2 * x, 0.5)
    inner = with_target(grid, abs(x - 0.5) < 0.06)
    chain = mean_first_passage(inner)
    alive = inner.live
    solved = np.linalg.solve(-rate_matrix(inner).T.toarray(), np.ones(alive.sum()))
    assert chain[alive] == pytest.approx(solved, rel=1e-10)
    # Both ends absorbing: free diffusion from the middle, L^2/(8 D).
    free = drift_grid(np.linspace(0, 2, 41), 0.0, 2.0, walls=("absorbing", "absorbing"))
    assert mean_first_passage(free)[20] == pytest.approx(4 / 16, rel=1e-10)


def test_decay_with_absorbing_walls_is_the_quadratures() -> None:
    x = np.linspace(-2, 0, 801)
    half = energy_grid(x, well(x), 0.125, walls=("reflecting", "absorbing"))
    rate = exact_kramers.well_decay_rate(well, 0.125, -1, 0)
    assert spectrum(half, 1)[0] == pytest.approx(rate, rel=1e-3)
    # Survival falls at that rate once the well has relaxed.
    start = normal(x, -1, 0.02)
    early = evolve(half, start, 20.0, method="tr_bdf2", steps=400)
    late = evolve(half, early, 20.0, method="tr_bdf2", steps=400)
    measured = math.log(total_mass(half, early) / total_mass(half, late)) / 20
    assert measured == pytest.approx(rate, rel=2e-3)


def test_spectrum_of_the_trap_is_the_integers() -> None:
    errors = [abs(spectrum(trap(n)[1], 4) - np.arange(4)) for n in (200, 400)]
    assert np.log2(errors[0][1:] / errors[1][1:]) == pytest.approx(2.0, abs=0.05)
    ring = energy_grid(np.arange(64) * 2 * np.pi / 64, np.zeros(64), 1.0, period=2 * np.pi)
    # Free ring: 0, then 1 and 4 twice each, on the grid (2 - 2 cos(k h))/h^2; sparse solver.
    h = 2 * np.pi / 64
    expected = (2 - 2 * np.cos(np.array([0, 1, 1, 2, 2]) * h)) / h**2
    assert spectrum(ring, 5) == pytest.approx(expected, abs=1e-9)


def test_committor_of_a_tilted_double_well() -> None:
    # q(x) = int_-1^x exp(U/T) / int_-1^1 exp(U/T).
    def energy(x):
        return (x**2 - 1) ** 2 + 0.3 * x

    x = np.linspace(-2, 2, 401)
    grid = energy_grid(x, energy(x), 0.25)
    q = committor(grid, x <= -1 + 1e-9, x >= 1 - 1e-9)

    def part(end: float) -> float:
        return quad(lambda y: math.exp(energy(y) / 0.25), -1, end, epsabs=1e-12)[0]

    for at in (-0.5, 0.0, 0.3):
        expected = part(at) / part(1.0)
        assert q[np.argmin(abs(x - at))] == pytest.approx(expected, rel=1e-3)
    assert np.all(np.diff(q) >= 0) and q[0] == 0 and q[-1] == 1


def free_with_resets(rate: float, h: float, end: float = 14.0) -> tuple[np.ndarray, Grid]:
    x = np.arange(-round(end / h), round(end / h) + 1) * h
    grid = drift_grid(x, 0.0, 1.0)
    return x, with_resets(grid, rate, point_mass(grid, 0.0))


def test_t8_reset_source_gives_the_laplace_law_with_order_2() -> None:
    errors = []
    for h in (0.2, 0.1, 0.05):
        x, grid = free_with_resets(1.0, h)
        p = stationary(grid)
        errors.append(distance(grid, p, exact_resets.reset_density(x, 1.0, 1.0)))
    assert np.log2(errors[:-1]) - np.log2(errors[1:]) == pytest.approx(2.0, abs=0.05)
    variance = float(np.sum(p * x**2 * grid.volume))
    assert variance == pytest.approx(2.0, rel=1e-3)
    kurtosis = float(np.sum(p * x**4 * grid.volume)) / variance**2
    assert kurtosis == pytest.approx(6.0, rel=5e-3)
    # It is what the evolution arrives at, and the mass stays.
    late = evolve(grid, point_mass(grid, 3.0) / grid.volume, 12.0, method="tr_bdf2", steps=400)
    assert total_mass(grid, late) == pytest.approx(1, abs=1e-12)
    assert distance(grid, late, p) < 1e-4


def test_t8_mean_first_passage_with_resets_on_the_grid() -> None:
    errors = []
    for h in (0.1, 0.05):
        x, grid = free_with_resets(1.0, h)
        times = mean_first_passage(with_target(grid, x >= 1 - 1e-9))
        errors.append(times[np.argmin(abs(x))] / (math.e - 1) - 1)
    assert abs(errors[1]) < 1e-3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


def test_t8_the_optimum_lies_at_1_5936() -> None:
    def time(rate: float) -> float:
        x, grid = free_with_resets(rate, 0.05, end=8.0)
        return mean_first_passage(with_target(grid, x >= 1 - 1e-9))[np.argmin(abs(x))]

    # A parabola through three grid values in log r; its own error is about 1e-3 in a L.
    best = 1.5936**2
    logs = math.log(best) + np.array([-0.2, 0.0, 0.2])
    a, b, _ = np.polyfit(logs, [time(math.exp(r)) for r in logs], 2)
    assert math.exp(-b / (2 * a) / 2) == pytest.approx(1.5936, abs=5e-3)
    assert a > 0


@pytest.mark.parametrize(("velocity", "helps"), [(1.0, True), (4.0, False)])
def test_t8_cv_criterion_on_the_grid(velocity: float, helps: bool) -> None:
    x = np.arange(-240, 21) * 0.05
    grid = with_target(drift_grid(x, velocity, 1.0), x >= 1 - 1e-9)
    at = int(np.argmin(abs(x)))
    plain = mean_first_passage(grid)[at]
    rate = 0.02
    reset = mean_first_passage(with_resets(grid, rate, point_mass(grid, 0.0)))[at]
    expected = exact_resets.drift_reset_passage_time(rate, velocity, 1.0, 1.0)
    assert plain == pytest.approx(1 / velocity, rel=2e-3)
    assert reset == pytest.approx(expected, rel=2e-3)
    assert (reset < plain) == helps
    assert (exact_resets.drift_passage_cv(velocity, 1.0, 1.0) > 1) == helps


def test_evolution_leaves_the_global_generator_alone() -> None:
    grid = energy_grid(np.linspace(-3, 3, 41), np.linspace(-3, 3, 41) ** 2, 1.0)
    start = stationary(grid)
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    evolve(grid, start, 1.0, method="exponential")
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_all_rates_of_a_ring_and_a_wall_too_high_to_balance() -> None:
    ring = energy_grid(np.arange(20.0), np.cos(np.arange(20.0)), 1.0, period=20.0)
    assert spectrum(ring, 20).shape == (20,)
    np.testing.assert_allclose(spectrum(ring, 20)[:6], spectrum(ring, 6), atol=1e-9)
    x = np.linspace(-5, 5, 51)
    with pytest.raises(ValueError, match="745 T"):
        spectrum(energy_grid(x, 50 * x**4, 1.0))
