"""The string method against known saddles, and escape times against exact quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.simulators.barrier import escape_time, relax, string_method
from foreshock.simulators.exact_kramers import mean_first_passage_time, well_decay_rate
from foreshock.simulators.landscapes import KWells, MullerBrown
from foreshock.simulators.potentials import DoubleWell, Quadratic
from foreshock.stats.published_langevin import escape_time_langevin
from foreshock.types import Flag


def test_the_path_of_muller_and_brown_runs_over_its_saddles() -> None:
    surface = MullerBrown()
    wells = [torch.tensor(point, dtype=torch.float64) for point in surface.minima]
    passes = torch.tensor(surface.saddles, dtype=torch.float64)
    energy = surface.energy(torch.stack([*wells, *passes])).tolist()
    found = string_method(surface, wells[0] + 0.05, wells[1] - 0.05)
    # Literature: -146.70 to -40.66. Newton's method ends at rounding, 1e-10 of the scale 1e2.
    assert found.height.value == pytest.approx(energy[3] - energy[0], abs=1e-8)
    assert found.height.value == pytest.approx(-40.66 + 146.70, abs=0.01)
    torch.testing.assert_close(found.saddle, passes[0], atol=1e-6, rtol=0)
    # The path goes through the third well, far off the straight line between the two ends.
    assert float((found.path - wells[2]).norm(dim=1).min()) < 0.05
    assert found.height.flags == Flag.NONE
    # From the shallow well it is the other, lower pass.
    assert string_method(surface, wells[2], wells[1]).height.value == pytest.approx(
        energy[4] - energy[2], abs=1e-8
    )


def test_the_path_follows_the_force() -> None:
    """Law of the string method: off the ends, the gradient is along the path."""
    found = string_method(MullerBrown(), torch.tensor([-0.55, 1.44]), torch.tensor([0.62, 0.03]))
    gradient = MullerBrown().gradient(found.path[1:-1])
    along = found.path[2:] - found.path[:-2]
    cosine = torch.nn.functional.cosine_similarity(gradient, along, dim=1).abs()
    strong = gradient.norm(dim=1) > 0.1 * gradient.norm(dim=1).max()
    assert float(cosine[strong].min()) > 0.98  # a straight line reads 0.2 here


@pytest.mark.parametrize(
    ("ratio", "off"), [(4.0, 1.107), (8.0, 1.056), (10.0, 1.043), (20.0, 1.020)]
)
def test_the_escape_time_has_its_prefactor(ratio: float, off: float) -> None:
    """Against lambda_1/2 by quadrature: off by the finite-barrier ratio and by nothing else."""
    well = DoubleWell()
    found = string_method(well, torch.tensor([-1.1]), torch.tensor([0.8]))
    told = escape_time(well, found, 1 / ratio)
    exact = 2 / well_decay_rate(lambda x: (x**2 - 1) ** 2, 1 / ratio, -1.0, 0.0)
    # The ratios have three decimals. At 20 the grid of an earlier note gave 1.017; the passage time
    # of the same note, 5.497e8, gives 1.020 as well.
    assert exact / told.value == pytest.approx(off, abs=6e-4)
    # Twice the mobility, half the time.
    assert escape_time(well, found, 1 / ratio, mobility=2.0).value == pytest.approx(told.value / 2)


def test_directions_across_the_path_count_by_their_curvature() -> None:
    """In d dimensions sqrt(det H_a/|det H_b|): an equal stiffness at both ends cancels."""
    plain = DoubleWell()
    wide = DoubleWell(dimension=3, stiffness=7.0)
    one = string_method(plain, torch.tensor([-1.0]), torch.tensor([1.0]))
    three = string_method(wide, torch.tensor([-1.0, 0.1, 0]), torch.tensor([1.0, 0, -0.1]))
    times = [escape_time(p, b, 0.1).value for p, b in ((plain, one), (wide, three))]
    assert times[1] == pytest.approx(times[0], rel=1e-9)


def test_c3_a_barrier_is_no_difference_of_losses() -> None:
    """Published: barrier = max(L(b) - L(a), 0), escape time exp(barrier/D), 0 without barrier."""
    well, temperature = DoubleWell(), 1 / 8
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    published_barrier = max(float(well.energy(ends).diff()), 0.0)
    assert published_barrier == 0.0
    assert escape_time_langevin(published_barrier, temperature) == 0.0
    found = string_method(well, ends[0], ends[1])
    assert found.height.value == pytest.approx(1.0, abs=1e-12)
    # Even with the right barrier the published time has no prefactor: exp(8) = 2981 has no unit.
    published = escape_time_langevin(1.0, temperature)
    doubled = DoubleWell(width=2.0)  # the same barrier, twice as wide: four times as slow
    wide = string_method(doubled, 2 * ends[0], 2 * ends[1])
    slow, fast = (escape_time(w, b, temperature).value for w, b in ((doubled, wide), (well, found)))
    assert slow == pytest.approx(4 * fast) and published == pytest.approx(math.exp(8))


def test_a_low_barrier_is_flagged_and_a_failed_path_gives_no_time() -> None:
    well = DoubleWell()
    ends = torch.tensor([-1.0]), torch.tensor([1.0])
    found = string_method(well, *ends)
    assert Flag.NOT_CONVERGED in escape_time(well, found, 0.5).flags
    hasty = string_method(
        MullerBrown(), torch.tensor([-0.55, 1.44]), torch.tensor([0.62, 0.03]), max_steps=1
    )
    assert Flag.NOT_CONVERGED in hasty.height.flags and hasty.height.high == math.inf
    missing = escape_time(MullerBrown(), hasty, 1.0)
    assert math.isnan(missing.value) and "max_steps" in missing.reason
    assert math.isnan(escape_time(well, found, 1e-4).value)  # exp(10,000) has no float


def test_bad_ends_are_refused() -> None:
    with pytest.raises(ValueError, match="relax to one minimum"):
        string_method(DoubleWell(), torch.tensor([0.4]), torch.tensor([1.3]))
    with pytest.raises(ValueError, match="must be 1 finite coordinates"):
        string_method(DoubleWell(), torch.tensor([0.4, 1.0]), torch.tensor([1.3]))
    with pytest.raises(ValueError, match="No minimum was reached"):
        string_method(DoubleWell(), torch.tensor([0.0]), torch.tensor([1.3]))
    with pytest.raises(ValueError, match="at least 5"):
        string_method(DoubleWell(), torch.tensor([-1.0]), torch.tensor([1.3]), images=3)
    with pytest.raises(ValueError, match="without noise nothing crosses"):
        escape_time(
            DoubleWell(), string_method(DoubleWell(), torch.tensor([-1.0]), torch.tensor([1.0])), 0
        )


def test_relaxation_goes_down_into_the_basin_it_starts_in() -> None:
    bowl = Quadratic(torch.tensor([1.0, 50.0]))
    torch.testing.assert_close(relax(bowl, torch.tensor([3.0, -2.0])), torch.zeros(2).double())
    surface = MullerBrown()
    for point in surface.minima:
        found = relax(surface, torch.tensor(point) + 0.03)
        torch.testing.assert_close(found, torch.tensor(point).double(), atol=1e-6, rtol=0)


def test_a_way_through_a_deeper_well_gives_no_time() -> None:
    """Wells at -5, 0, 5 with U = 0, -2, 0: most of the time is spent in the middle."""
    depths = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    temperature = 0.3
    wells = KWells(torch.tensor([[-5.0], [0.0], [5.0]]), depths, smoothing=0.6)

    def energy(x: np.ndarray) -> np.ndarray:
        return wells.energy(torch.as_tensor(x)[..., None]).numpy()

    one, middle, far = (torch.tensor(point) for point in wells.minima)
    through = escape_time(wells, string_method(wells, one, far), temperature)
    assert math.isnan(through.value) and Flag.NOT_CONVERGED in through.flags
    assert "another well at [0.0" in through.reason and "from well to well" in through.reason
    # From well to well the formula holds, but for barriers that are not quite parabolas (17 %);
    # together they are the time to the far one.
    steps = [
        escape_time(wells, string_method(wells, a, b), temperature)
        for a, b in ((one, middle), (middle, far))
    ]
    exact = [
        mean_first_passage_time(energy, temperature, float(one), float(middle)),
        mean_first_passage_time(energy, temperature, float(one), float(far)),
    ]
    assert all(step.flags == Flag.NONE for step in steps)
    assert steps[0].value == pytest.approx(exact[0], rel=0.25)
    assert steps[0].value + steps[1].value == pytest.approx(exact[1], rel=0.25)
    assert exact[1] > 100 * exact[0]


def test_wells_of_one_depth_and_higher_saddles_on_the_way_back_count() -> None:
    row = KWells([[0.0], [4.0], [8.0]], smoothing=0.3)  # type: ignore[arg-type]
    a, b, c = (torch.tensor(point) for point in row.minima)
    assert "another well" in escape_time(row, string_method(row, a, c), 0.2).reason
    assert escape_time(row, string_method(row, a, b), 0.2).flags == Flag.NONE
    # A step on the way that is over at once does not: Mueller and Brown's third well, 108 to 67.
    surface = MullerBrown()
    wells = [torch.tensor(point) for point in surface.minima]
    over = string_method(surface, wells[1], wells[0])
    assert escape_time(surface, over, 5.0).flags == Flag.NONE
    told = escape_time(surface, over, 15.0)
    assert "climb" in told.reason and Flag.NOT_CONVERGED in told.flags and told.value > 0


def test_a_barrier_below_the_ripples_is_flagged_and_no_crash() -> None:
    well = DoubleWell()
    barrier = string_method(well, *torch.tensor(well.minima, dtype=torch.float64))
    found = escape_time(well, barrier, 20.0)  # a barrier of .05 T
    assert Flag.NOT_CONVERGED in found.flags and "0.05 T" in found.reason
