"""The first-order error of Euler's step, against the chain itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreshock.simulators.grid import energy_grid
from foreshock.simulators.grid_plane import energy_plane
from foreshock.simulators.grid_solvers import mean_first_passage, stationary
from foreshock.simulators.potentials import DoubleWell, Quadratic
from foreshock.simulators.worlds.euler_chain import (
    chain_passage_time,
    chain_stationary,
    euler_kernel,
    euler_nodes,
)
from foreshock.simulators.worlds.step_error import passage_error, stationary_error


def test_passage_times_in_a_double_well_are_off_by_what_the_chain_is_off() -> None:
    nodes = np.linspace(-2.2, 1, 801)
    walls = ("reflecting", "absorbing")
    grid = energy_grid(nodes, (nodes**2 - 1) ** 2, 0.25, walls=walls)
    times = mean_first_passage(grid)
    error = float(np.interp(-1, nodes, passage_error(grid, DoubleWell(), 0.25, times)))
    drift, level = (lambda x: -4 * x * (x * x - 1)), (lambda x: 0.25 + 0 * x)
    slopes = []
    for dt in (0.004, 0.002):
        x = euler_nodes(-2.2, 1.0, 0.25, dt)
        kernel = euler_kernel(x, drift, level, dt, wall=True)
        first = euler_kernel(x, drift, level, dt, wall=True, start=np.array([-1.0]))
        slopes.append(
            (chain_passage_time(kernel, first, dt) - float(np.interp(-1, nodes, times))) / dt
        )
    # To dt -> 0 by Richardson; what is left is of order dt^(3/2) at the wall: 1 %.
    assert 2 * slopes[1] - slopes[0] == pytest.approx(error, rel=0.02)


def test_the_mean_energy_in_a_double_well_is_off_by_what_the_chain_is_off() -> None:
    nodes = np.linspace(-2.2, 2.2, 801)
    grid = energy_grid(nodes, (nodes**2 - 1) ** 2, 0.25)
    law = stationary(grid)
    error = stationary_error(grid, DoubleWell(), 0.25, law, (nodes**2 - 1) ** 2)
    slopes = []
    for dt in (0.004, 0.002):
        x = euler_nodes(-2.2, 2.2, 0.25, dt, finer=4)
        energy = (x**2 - 1) ** 2
        kernel = euler_kernel(x, lambda x: -4 * x * (x * x - 1), lambda x: 0.25 + 0 * x, dt)
        gibbs = np.exp(-energy / 0.25)
        slopes.append(float((chain_stationary(kernel) - gibbs / gibbs.sum()) @ energy) / dt)
    assert 2 * slopes[1] - slopes[0] == pytest.approx(error, rel=0.01)


def test_in_the_plane_the_variance_of_a_bowl_is_off_by_half_the_temperature() -> None:
    """T/(k (1 - k dt/2)) = T/k + T dt/2 + ..., for either curvature and their covariance."""
    x = np.linspace(-5, 5, 81)
    k = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    bowl = Quadratic(k)
    at = torch.from_numpy(np.stack(np.meshgrid(x, x, indexing="ij"), -1))
    grid = energy_plane(x, x, bowl.energy(at).numpy(), 0.5)
    law = stationary(grid)
    for observed, expected in (
        (x[:, None] ** 2 + 0 * x, 0.25),
        (0 * x[:, None] + x**2, 0.25),
        (x[:, None] * x, 0.0),
    ):
        # Differences of second order on a spacing of .125 against widths of .5 and more: 2 %.
        assert stationary_error(grid, bowl, 0.5, law, observed) == pytest.approx(expected, abs=0.01)
