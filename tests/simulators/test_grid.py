"""The grid in one dimension: orders, walls, generator, and what it refuses."""

import math

import numpy as np
import pytest

from foreshock.simulators import exact
from foreshock.simulators.grid import drift_grid, energy_grid
from foreshock.simulators.grid_cells import (
    Grid,
    bernoulli,
    point_mass,
    rate_matrix,
    with_resets,
    with_target,
)
from foreshock.simulators.grid_entropy import entropy_production, free_energy
from foreshock.simulators.grid_plane import drift_plane
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


def test_t2_grid_converges_with_order_2_in_dx() -> None:
    mean, variance = exact.ou_mean(1.5, 1, 0.5)[0], exact.ou_variance(0.3, 1, 1, 0.5)[0]
    errors = []
    for n in (100, 200, 400):
        x, grid = trap(n)
        p = evolve(grid, normal(x, 1.5, 0.3), 0.5)
        errors.append(distance(grid, p, normal(x, mean, variance)))
        assert p.min() >= 0
    assert np.log2(errors[:-1]) - np.log2(errors[1:]) == pytest.approx(2.0, abs=0.05)
    assert errors[-1] < 2e-4


def test_t2_drift_values_converge_with_order_2_to_the_energy_form() -> None:
    errors = []
    for n in (50, 100, 200):
        x = np.linspace(-2, 2, n + 1)
        gibbs = exact.gibbs_density(x, well(x), 0.5)
        driven = stationary(drift_grid(x, -4 * x * (x**2 - 1), 0.5))
        errors.append(float(np.abs(driven - gibbs).max()))
    assert np.log2(errors[:-1]) - np.log2(errors[1:]) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("method", "order"), [("backward_euler", 1), ("tr_bdf2", 2)])
def test_t2_orders_in_dt(method, order: int) -> None:
    x, grid = trap(160)
    start = normal(x, 1.5, 0.3)
    truth = evolve(grid, start, 0.5)
    errors = [
        distance(grid, evolve(grid, start, 0.5, method=method, steps=steps), truth)
        for steps in (32, 64, 128)
    ]
    assert np.log2(errors[:-1]) - np.log2(errors[1:]) == pytest.approx(order, abs=0.05)


def test_unequal_spacing_keeps_gibbs_exact_and_converges() -> None:
    errors = []
    for n in (60, 120, 240):
        u = np.linspace(-1, 1, n + 1)
        x = 2.2 * (u + 0.8 * u**3) / 1.8
        grid = energy_grid(x, well(x), 0.25)
        gibbs = np.exp(-well(x) / 0.25)
        p = stationary(grid)
        assert p == pytest.approx(gibbs / np.sum(gibbs * grid.volume), rel=1e-10)
        errors.append(abs(spectrum(grid, 2)[1] - 2 * 0.01488945))
    assert errors[0] / errors[2] > 10  # 16 for order 2


def test_bernoulli_function() -> None:
    w = np.array([-800.0, -30.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 30.0, 800.0])
    assert bernoulli(-w) - bernoulli(w) == pytest.approx(w, rel=1e-12, abs=1e-15)
    assert bernoulli(1.0) == pytest.approx(1 / (math.e - 1), rel=1e-15)
    assert bernoulli(1e-9) == pytest.approx(1 - 5e-10, rel=1e-15)
    assert bernoulli(1e-4) == pytest.approx(1 - 5e-5 + 1e-8 / 12, rel=1e-14)
    assert np.all(bernoulli(w) >= 0)


def test_walls_stand_at_the_end_nodes() -> None:
    x = np.linspace(0, 3, 61)
    box = drift_grid(x, 0.0, 2.0)
    assert box.volume.sum() == pytest.approx(3)
    # Neumann modes of [0, 3]: D (j pi/3)^2, up to (j pi/3)^2 dx^2/12 = 9e-4 for j = 2.
    assert spectrum(box, 3) == pytest.approx(
        2 * (np.arange(3) * np.pi / 3) ** 2, rel=1e-3, abs=1e-9
    )
    # From one wall to the other: L^2/(2 D), which the scheme gives exactly.
    across = mean_first_passage(drift_grid(x, 0.0, 2.0, walls=("reflecting", "absorbing")))
    assert across == pytest.approx((9 - x**2) / 4, abs=1e-12)
    back = mean_first_passage(drift_grid(x, 0.0, 2.0, walls=("absorbing", "reflecting")))
    assert back == pytest.approx(across[::-1], abs=1e-12)


def test_a_point_on_a_ring_lies_between_its_nodes_also_across_the_seam() -> None:
    """Nodes -1, -.8, ..., .8 of period 2: .95 splits the closing face 1 : 3, and 2.95 is .95."""
    for place in (0.95, 2.95, -1.05):
        mass = point_mass(RING, place)
        assert mass[[-1, 0]] == pytest.approx([0.25, 0.75]) and mass.sum() == pytest.approx(1)
    for place, node in ((-1.0, 0), (1.0, 0), (0.8, 9), (np.nextafter(-1, -2), 0), (0.2, 6)):
        assert point_mass(RING, place)[node] == pytest.approx(1), place
    # Where nodes are unequal the shares are those of the face, and a torus has two of them.
    ring = drift_grid([0.0, 1.0, 3.0], 0.0, 1.0, period=7.0)
    assert point_mass(ring, 4.0) == pytest.approx([0.25, 0.0, 0.75])
    strip = drift_plane(
        [0.0, 1.0, 3.0], [0.0, 1.0, 2.0], np.zeros((2, 3, 3)), 1.0, periods=(7.0, None)
    )
    expected = np.multiply.outer([0.25, 0.0, 0.75], [0.0, 0.5, 0.5])
    assert point_mass(strip, 4.0, 1.5) == pytest.approx(expected)
    with pytest.raises(ValueError, match="outside the nodes"):
        point_mass(strip, 4.0, 2.5)


def test_columns_of_the_generator_sum_to_minus_the_absorption() -> None:
    x = np.linspace(-2, 2, 41)
    closed = rate_matrix(energy_grid(x, well(x), 0.5))
    assert abs(closed.sum(0)).max() < 1e-12
    leaky = rate_matrix(energy_grid(x, well(x), 0.5, walls=("absorbing", "reflecting")))
    sums = leaky.sum(0)
    assert sums[0] < 0 and abs(sums[1:]).max() < 1e-12
    jumps = closed - np.diag(closed.diagonal())
    assert jumps.min() >= 0


def test_infinite_peclet_number_becomes_upwind_and_stays_positive() -> None:
    x = np.linspace(0, 1, 21)
    grid = drift_grid(x, 1.0, 1e-9)
    p = evolve(grid, normal(x, 0.3, 0.01), 0.2, method="backward_euler", steps=50)
    assert p.min() >= 0 and np.all(np.isfinite(p))
    assert float(np.sum(p * x * grid.volume)) == pytest.approx(0.5, abs=5e-3)


def test_progress_is_reported() -> None:
    x, grid = trap(20)
    seen: list[tuple[int, int]] = []
    for method in ("backward_euler", "tr_bdf2"):
        evolve(
            grid,
            normal(x, 0, 1),
            1.0,
            method=method,
            steps=3,
            progress=lambda done, steps: seen.append((done, steps)),
        )
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


X = np.linspace(-1, 1, 11)
OPEN = energy_grid(X, X**2, 1.0)
RING = drift_grid(X[:-1], 1.0, 1.0, period=2.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: energy_grid(X, X**2, 0.0), "`temperature` .* must be positive"),
        (lambda: energy_grid(X, X**2, 1.0, -1.0), "`mobility`"),
        (lambda: energy_grid(X, X[:-1], 1.0), "one value for each node"),
        (lambda: energy_grid(X, X**2, 1.0, correction="stratonovich"), '"gibbs" or "ito"'),
        (lambda: energy_grid(X[::-1], X**2, 1.0), "increasing"),
        (lambda: energy_grid(X, X * np.nan, 1.0), "finite"),
        (lambda: energy_grid(X, X**2, 1.0, period=1.0), "exceed the span"),
        (lambda: drift_grid(X, 0.0, 0.0), "`diffusion`"),
        (lambda: drift_grid(X, 0.0, 1.0, walls=("reflecting", "sticky")), '"absorbing"'),
        (lambda: stationary(with_target(OPEN, X > 0.9)), "absorbed in the end"),
        (lambda: mean_first_passage(OPEN), "somewhere to arrive"),
        (lambda: spectrum(RING), "detailed balance"),
        (lambda: spectrum(OPEN, 0), "`count`"),
        (lambda: evolve(OPEN, np.ones(11), 1.0, method="euler"), '"tr_bdf2"'),
        (lambda: evolve(OPEN, np.ones(11), -1.0), "`time`"),
        (lambda: evolve(OPEN, np.ones(11), 1.0, steps=0), "`steps`"),
        (lambda: evolve(OPEN, -np.ones(11), 1.0), "is negative"),
        (lambda: evolve(OPEN, np.ones(10), 1.0), "shape"),
        (lambda: with_resets(OPEN, 1.0, np.ones(11)), "point_mass"),
        (lambda: with_target(OPEN, X > -2), "every live cell"),
        (lambda: with_target(OPEN, X[:3] > 0), "mask of shape"),
        (lambda: point_mass(OPEN, 2.0), "outside"),
        (lambda: point_mass(OPEN, 0.0, 0.0), "1 coordinates"),
        (lambda: committor(OPEN, X > 0, X > 0.5), "common"),
        (
            lambda: entropy_production(with_resets(OPEN, 1.0, point_mass(OPEN, 0.0)), np.ones(11)),
            "no way back",
        ),
        (lambda: free_energy(OPEN, np.ones(11), X[:3], 1.0), "`energy`"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
