"""The largest curvature: by eigenvalues, by power iterations, and at the minima."""

from __future__ import annotations

import pytest
import torch

from foreshock.simulators.curvature import largest_curvature
from foreshock.simulators.landscapes import Ring
from foreshock.simulators.potentials import DoubleWell, Potential, Quadratic, Tilted


def test_largest_curvature_by_power_iteration_beyond_512_dimensions() -> None:
    k = torch.ones(600, dtype=torch.float64)
    k[17] = 9.0
    # 30 iterations at a ratio of 9: converged to the rounding of differences, ~ 1e-9.
    found = largest_curvature(Quadratic(k), torch.zeros(3, 600))
    assert found == pytest.approx(9.0, rel=1e-6)


@pytest.mark.parametrize("dimension", [500, 600])
def test_a_large_negative_curvature_does_not_hide_the_positive_ones(dimension: int) -> None:
    """One -100 among tens: 10 is what limits a step, 100 is only the largest modulus."""
    k = torch.full((dimension,), 10.0, dtype=torch.float64)
    k[0] = -100.0
    found = largest_curvature(Quadratic(k), torch.zeros(1, dimension))
    # Shifted by 100 the spectrum is 0 and 110: one iteration, and the rounding of differences.
    assert found == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize("dimension", [1, 40, 600])
def test_the_wells_are_looked_at_from_the_top_of_the_barrier(dimension: int) -> None:
    well = DoubleWell(barrier=2.0, dimension=dimension)  # -8 on top, 16 in the wells, 1 across
    found = largest_curvature(well, torch.zeros(3, dimension))
    assert found == pytest.approx(16.0, rel=1e-6)


@pytest.mark.parametrize(
    "potential, expected",
    [(Ring(1.5, 2.0), 8 * 1.5 / 4), (Tilted(0.5), None)],
    ids=["ring", "tilted"],
)
def test_the_stiffest_minimum_counts(potential: Potential, expected: float | None) -> None:
    if expected is None:  # the deeper well of a tilted pair is the stiffer one
        at = torch.tensor(potential.minima, dtype=torch.float64)  # type: ignore[attr-defined]
        expected = float(potential.hessian(at).max())
        assert expected > 8
    start = torch.zeros(1, potential.dimension)
    assert largest_curvature(potential, start) == pytest.approx(expected)
