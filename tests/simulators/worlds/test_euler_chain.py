"""The law of Euler's chain, against closed forms and against the chain itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.exact_kramers import mean_first_passage_time
from foreshock.simulators.passage import coordinate_boundary, first_passage
from foreshock.simulators.potentials import DoubleWell
from foreshock.simulators.sde import EulerMaruyama
from foreshock.simulators.worlds.euler_chain import (
    chain_after,
    chain_passage_time,
    chain_rate,
    chain_stationary,
    euler_kernel,
    euler_nodes,
)


def bowl(dt: float) -> tuple[np.ndarray, np.ndarray]:
    x = euler_nodes(-5.0, 5.0, 0.5, dt)
    return x, euler_kernel(x, lambda x: -x, lambda x: 0.5 + 0 * x, dt)


def test_the_variances_in_a_bowl_are_the_chains_own() -> None:
    """x' = (1 - k dt) x + sqrt(2 D dt) z: variance D/(k (1 - k dt/2)), and its approach to it."""
    x, kernel = bowl(0.2)
    law = chain_stationary(kernel)
    assert law @ x**2 == pytest.approx(0.5 / 0.9, rel=1e-8)
    start = np.exp(-((x - 1) ** 2) / (2 * 0.3**2))
    later = chain_after(kernel, start / start.sum(), 7)
    assert later @ x == pytest.approx(0.8**7, rel=1e-8)
    spread = 0.3**2 * 0.8**14 + 0.2 * (1 - 0.8**14) / (1 - 0.8**2)
    assert later @ x**2 - (later @ x) ** 2 == pytest.approx(spread, rel=1e-8)


def well_times(dt: float) -> tuple[float, float]:
    x = euler_nodes(-2.4, 1.0, 0.25, dt)
    parts = lambda x: -4 * x * (x * x - 1), lambda x: 0.25 + 0 * x  # noqa: E731
    kernel = euler_kernel(x, *parts, dt, wall=True)
    first = euler_kernel(x, *parts, dt, wall=True, start=np.array([-1.0]))
    return chain_passage_time(kernel, first, dt), chain_rate(kernel, dt)


def test_passage_times_tend_to_the_diffusions_with_order_1() -> None:
    exact = mean_first_passage_time(lambda x: (x**2 - 1) ** 2, 0.25, -1, 1)
    errors = [well_times(dt)[0] - exact for dt in (0.02, 0.01, 0.005)]
    # -1.74, -.78, -.37: the ratio of an order 1 with a second order of about 10 %.
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.35)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.2)


def test_the_chain_is_the_one_that_first_passage_runs() -> None:
    dt = 0.05  # coarse, so that the chain is far from the diffusion: 64.4 against 69.3
    stepper = EulerMaruyama(Langevin(DoubleWell(), 0.25), dt)
    generator = torch.Generator().manual_seed(1)
    found = first_passage(
        stepper,
        torch.full((6000, 1), -1.0),
        coordinate_boundary(1.0),
        steps=14_000,
        generator=generator,
    )
    time, rate = well_times(dt)
    assert found.events == 6000
    # Exponential times: standard error = mean/sqrt(n), 1.3 %; the rate's is the same share.
    assert found.times.mean() == pytest.approx(time, rel=4 / 6000**0.5)
    late = found.times[found.times > 2]
    assert 1 / (late - 2).mean() == pytest.approx(rate, rel=4 / len(late) ** 0.5)
    assert abs(time - 69.26) > 4 * time / 6000**0.5  # the diffusion itself is excluded


def test_a_step_too_short_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="Use a `dt` of"):
        euler_nodes(-2.0, 1.0, 0.25, 1e-6)
