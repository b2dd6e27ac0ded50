"""Landscapes: literature values, and the Gibbs laws that are known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.landscapes import KWells, MullerBrown, Ring, TiltedRing
from foreshock.simulators.sde import EulerMaruyama


def test_muller_brown_has_the_energies_of_the_literature() -> None:
    surface = MullerBrown()
    at = torch.tensor(surface.minima + surface.saddles, dtype=torch.float64)
    # Five wells and saddles as they are tabulated, to the digits given there.
    known = torch.tensor([-146.700, -108.167, -80.768, -40.665, -72.249], dtype=torch.float64)
    assert (surface.energy(at) - known).abs().max() < 5e-4


def test_the_gibbs_law_of_k_wells_is_a_gaussian_mixture() -> None:
    centres, depths = torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([0.0, 0.4])
    width, smoothing = 0.8, 0.5
    wells = KWells(centres, depths, width, smoothing)
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    variance = smoothing * width**2
    weight = (depths / smoothing).exp()
    square = ((x[:, None] - centres) ** 2).sum(-1)
    mixture = (weight * torch.exp(-square / (2 * variance))).sum(-1)
    torch.testing.assert_close((-wells.energy(x) / smoothing).exp(), mixture, rtol=1e-6, atol=0)
    torch.testing.assert_close(wells.weights(x).sum(-1), torch.ones(50, dtype=torch.float64))


def test_the_ring_is_flat_along_the_circle_and_as_high_as_said() -> None:
    ring = Ring(barrier=1.5, radius=2.0)
    angle = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    assert ring.energy(circle).abs().max() < 1e-12
    assert ring.energy(torch.zeros(1, 2)).item() == 1.5


def test_the_force_of_the_tilted_ring_is_periodic_though_its_energy_is_not() -> None:
    ring = TiltedRing(force=0.3, corrugation=0.5)
    x = torch.tensor([[0.7]], dtype=torch.float64)
    torch.testing.assert_close(ring.gradient(x), ring.gradient(x + ring.period))
    fall = ring.energy(x + ring.period) - ring.energy(x)
    torch.testing.assert_close(fall.item(), -0.3 * 2 * math.pi)


def test_lists_are_centres_too() -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    listed = KWells([[0.0, 0.0], [2.0, 1.0]], [0.0, 0.4])  # type: ignore[arg-type]
    wells = KWells(torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([0.0, 0.4]))
    torch.testing.assert_close(listed.energy(x), wells.energy(x))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`depths` of `KWells` must be 2 finite numbers"):
        KWells(torch.zeros(2, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="`centres` of `KWells`"):
        KWells(torch.zeros(2))
    with pytest.raises(ValueError, match="`force` of `TiltedRing` must be finite"):
        TiltedRing(math.nan)
    with pytest.raises(ValueError, match="2 dimensions"):
        Ring(dimension=3)


def test_the_wells_of_k_wells_are_minima_and_merge_with_their_bowls() -> None:
    # On a line every minimum is a change of sign of the slope.
    line = torch.linspace(-6, 6, 240_001, dtype=torch.float64)[:, None]
    for centres, depths, smoothing, count in (
        ([-3.0, 0.5, 3.0], [0.0, 0.3, 0.8], 0.3, 3),
        ([-2.0, 0.0, 2.0], [0.0, 2.0, 0.0], 0.3, 1),  # the deep one swallows both
        ([-0.9, 0.9], [0.0, 0.0], 1.0, 1),  # closer than twice the deviation: one hump
        ([-1.1, 1.1], [0.0, 0.0], 1.0, 2),
    ):
        wells = KWells(torch.tensor(centres)[:, None], torch.tensor(depths), smoothing=smoothing)
        slope = wells.gradient(line)[:, 0]
        down = ((slope[:-1] < 0) & (slope[1:] >= 0)).nonzero()[:, 0]
        found = torch.tensor(wells.minima, dtype=torch.float64)[:, 0]
        assert len(found) == len(down) == count
        torch.testing.assert_close(found.sort().values, line[down, 0], atol=1e-4, rtol=0)
    plane = KWells([[0.0, 1000.0], [4.0, 1003.0]])  # type: ignore[arg-type]
    at = torch.tensor(plane.minima, dtype=torch.float64)
    assert len(at) == 2 and float(plane.gradient(at).abs().max()) < 1e-9


def test_a_step_too_long_for_the_wells_is_refused_wherever_it_starts() -> None:
    """Half way up to the saddle the curvature is small: from there the energy came out 1.66."""
    wells = KWells([[0.0], [3.0]], width=0.5)  # type: ignore[arg-type]
    stepper = EulerMaruyama(Langevin(wells, 0.3), 0.51)
    for start in (0.0, 1.5):
        with pytest.raises(ValueError, match="dt"):
            stepper.check(torch.full((5, 1), start))


@pytest.mark.parametrize(("half", "wells"), [(0.99, 1), (0.9999, 1), (1.0001, 2), (1.01, 2)])
def test_bowls_about_to_merge_have_the_wells_they_have(half: float, wells: int) -> None:
    """Two bowls of width and smoothing 1 merge at a distance of 2 exactly."""
    bowls = KWells(torch.tensor([[-half], [half]], dtype=torch.float64), smoothing=1.0)
    assert len(bowls.minima) == wells
    found = torch.tensor(bowls.minima, dtype=torch.float64)
    assert bowls.gradient(found).abs().max() < 1e-10
