"""T7 on a grid: exit times, the Cauchy quartic, mass and sign."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.simulators.exact_levy import cauchy_quartic_density, getoor_exit_time
from foreshock.simulators.grid_fractional import (
    exit_time,
    jump_matrix,
    stable_evolve,
    stable_grid,
    stable_stationary,
)


def inside(n: int) -> np.ndarray:
    return np.linspace(-1, 1, n + 2)[1:-1]


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.2, 1.5, 1.8])
def test_t7_exit_times_converge_to_getoor(alpha: float) -> None:
    """First order in h at the centre; the edge, where the solution is a root, is slower."""
    errors = []
    for n in (201, 401, 801):
        x = inside(n)
        exact = getoor_exit_time(abs(x), alpha)
        errors.append(abs(exit_time(stable_grid(x, alpha)) - exact)[n // 2] / exact[n // 2])
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1.0, atol=0.05)
    assert errors[-1] < 7e-4  # measured: 2.6e-4 (alpha 1.8) to 6.2e-4 (1.2)


def test_without_the_match_of_the_second_moment_the_error_does_not_vanish() -> None:
    """The named reason for the match: at alpha = 1.8 halving h barely helps without it."""
    from dataclasses import replace

    errors = []
    for n in (200, 800):
        x = inside(n)
        grid = stable_grid(x, 1.8)
        second = grid.jumps[1] / grid.jumps[2]
        h = grid.spacing
        # The rate over one cell as the integral alone gives it: from h/2 to 3h/2.
        plain = (0.5**-1.8 - 1.5**-1.8) / (1.5**-1.8 - 2.5**-1.8) * grid.jumps[1]
        assert second == pytest.approx((1.5**-1.8 - 2.5**-1.8) / (2.5**-1.8 - 3.5**-1.8))
        lost = grid.jumps[0] - plain
        jumps = np.concatenate([[plain], grid.jumps[1:]])
        beyond = np.concatenate([[grid.beyond[0] - lost], grid.beyond[1:]])
        exact = getoor_exit_time(abs(x), 1.8)
        wrong = exit_time(replace(grid, jumps=jumps, beyond=beyond))
        errors.append(abs(wrong - exact).max() / exact.max())
        assert h > 0 and lost > 0
    assert errors[1] > 0.2 and errors[1] > 0.5 * errors[0]


def test_t7_the_cauchy_quartic_on_the_grid() -> None:
    errors = []
    for n in (400, 800):
        x = np.linspace(-8, 8, n + 1)
        p = stable_stationary(stable_grid(x, 1.0, drift=-(x**3), ends="stopping"))
        assert p.min() > 0 and p.sum() * (x[1] - x[0]) == pytest.approx(1.0, abs=1e-12)
        errors.append(np.abs(p - cauchy_quartic_density(x)).sum() * (x[1] - x[0]))
    # The upwind drift is of first order: .0150 and .0076.
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.05) and errors[1] < 0.008


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.7])
def test_t3_stopping_ends_keep_the_mass_and_every_rate_is_positive(alpha: float) -> None:
    x = np.linspace(-3, 3, 61)
    q = jump_matrix(stable_grid(x, alpha, drift=-x, ends="stopping"))
    assert abs(q.sum(0)).max() < 1e-12 * abs(q).max()
    off = q[~np.eye(61, dtype=bool)]
    assert off.min() > 0
    absorbing = jump_matrix(stable_grid(x, alpha, drift=-x))
    assert absorbing.sum(0).max() < 0


def test_a_free_density_spreads_like_the_stable_law() -> None:
    """From a point to the Cauchy density t/(pi (t^2 + x^2)), up to dt and the ends."""
    x = np.linspace(-40, 40, 1601)
    h = x[1] - x[0]
    p = np.zeros_like(x)
    p[800] = 1 / h
    found = stable_evolve(stable_grid(x, 1.0, ends="stopping"), p, 1.0, steps=64)
    assert found.sum() * h == pytest.approx(1.0, abs=1e-12) and found.min() > 0
    near = abs(x) < 10
    exact = 1 / (np.pi * (1 + x**2))
    # Backward Euler at dt = 1/64 broadens the peak by about dt/2; 1.6 % of mass lies beyond 40.
    assert np.abs(found - exact)[near].sum() * h < 0.02
    finer = stable_evolve(stable_grid(x, 1.0, ends="stopping"), p, 1.0, steps=256)
    assert abs(finer - exact)[800] < 0.4 * abs(found - exact)[800]


def test_what_has_no_answer_is_refused() -> None:
    x = inside(20)
    with pytest.raises(ValueError, match="equally spaced"):
        stable_grid(x**3, 1.0)
    with pytest.raises(ValueError, match="use `grid.drift_grid`|Brownian"):
        stable_grid(x, 2.0)
    with pytest.raises(ValueError, match=r"must be in \(0, 2\]"):
        stable_grid(x, 2.5)
    with pytest.raises(ValueError, match="`ends` of `stable_grid` must be"):
        stable_grid(x, 1.0, ends="reflecting")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drift"):
        stable_grid(x, 1.0, drift=np.ones(3))
    with pytest.raises(ValueError, match="nothing leaves"):
        exit_time(stable_grid(x, 1.0, ends="stopping"))
    with pytest.raises(ValueError, match="mass leaves"):
        stable_stationary(stable_grid(x, 1.0))
    with pytest.raises(ValueError, match="one value for each of the 20 nodes"):
        stable_evolve(stable_grid(x, 1.0), np.ones(3), 1.0)
    assert (stable_evolve(stable_grid(x, 1.0), np.ones(20), 0.0) == 1).all()
