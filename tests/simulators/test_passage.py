"""First passage: the exact time over a barrier (T4), the bridge test's order, the lost."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import erf

from foreshock.simulators.dynamics import GradientFlow, ItoProcess, Langevin
from foreshock.simulators.inertia import BAOAB
from foreshock.simulators.levy import StableNoise
from foreshock.simulators.passage import Boundary, coordinate_boundary, first_passage
from foreshock.simulators.passage_estimates import (
    exponential_rate,
    mean_passage_time,
    poisson_interval,
    survival_curve,
)
from foreshock.simulators.potentials import DoubleWell, Quadratic, Quartic
from foreshock.simulators.sde import EulerMaruyama, LeimkuhlerMatthews
from foreshock.simulators.steppers import CubicSplitting


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def free(dt: float, diffusion: float = 1.0) -> EulerMaruyama:
    process = ItoProcess(diffusion=lambda x: torch.full_like(x, diffusion))
    return EulerMaruyama(process, dt)


def test_t4_mean_first_passage_of_particles() -> None:
    """From -1 to 1 in (x^2-1)^2 at T = 1/4: 69.26 by quadrature."""
    passage = first_passage(
        EulerMaruyama(Langevin(DoubleWell(), 0.25), 0.005),
        torch.full((5_000, 1), -1.0),
        coordinate_boundary(1.0),
        steps=8_000,
        generator=generator(),
    )
    # The well forgets in 1/8; at 2 the escape is exponential to e^-16.
    found = mean_passage_time(passage, exponential_after=2.0)
    error = (found.high - found.low) / (2 * 1.96)
    assert error < 0.03 * 69.26
    assert abs(found.value - 69.26) < 3 * error
    assert found.n == int((passage.times[passage.side >= 0] > 2.0).sum())


@pytest.mark.parametrize("flat", [True, False], ids=["plane", "level function"])
def test_the_bridge_makes_free_diffusion_exact(flat: bool) -> None:
    """With constant D the bridge is exact: survival erf(b / sqrt(4 D t)) at any dt."""
    n, dt, diffusion = 20_000, 0.25, 0.8
    wall = coordinate_boundary(1.0) if flat else Boundary(lambda x: 3 * (x[:, 0] - 1))
    passage = first_passage(
        free(dt, diffusion), torch.zeros(n, 1), wall, steps=8, generator=generator()
    )
    for t in (0.25, 1.0, 2.0):
        survived = erf(1 / math.sqrt(4 * diffusion * t))
        found = survival_curve(passage, [t])[0].value
        assert abs(found - survived) < 4 * math.sqrt(survived * (1 - survived) / n)


def test_without_the_bridge_the_error_is_of_order_sqrt_dt() -> None:
    """Out of (-1, 1) from 0 the mean is 1/(2D); seen only every dt it is too long.

    The wall is as if it stood .5826 sqrt(2 D dt) further out (Broadie, Glasserman & Kou 1997).
    """
    walls = (coordinate_boundary(1.0), coordinate_boundary(-1.0, above=False))
    n = 20_000
    for dt in (0.04, 0.01):
        plain, bridged = (
            mean_passage_time(
                first_passage(
                    free(dt), torch.zeros(n, 1), walls, steps=int(12 / dt), generator=generator(),
                    bridge=bridge,
                )
            )
            for bridge in (False, True)
        )  # fmt: skip
        error = (bridged.high - bridged.low) / 3.92
        # Two walls near one particle are tested one by one: dt/10 is allowed for it.
        assert abs(bridged.value - 0.5) < 4 * error + dt / 10
        shifted = (1 + 0.5826 * math.sqrt(2 * dt)) ** 2 / 2
        # Seen at the end of a step, told as its middle: minus dt/2.
        assert abs(plain.value - (shifted - dt / 2)) < 4 * error + dt / 4
        assert plain.value > bridged.value + 10 * error


def test_sides_are_told_apart() -> None:
    """From 0 out of (-1, 3) the low side is left with probability 3/4."""
    walls = (coordinate_boundary(3.0), coordinate_boundary(-1.0, above=False))
    passage = first_passage(
        free(0.05), torch.zeros(10_000, 1), walls, steps=2_000, generator=generator()
    )
    assert passage.events == 10_000
    low = float((passage.side == 1).mean())
    assert abs(low - 0.75) < 4 * math.sqrt(0.1875 / 10_000)


def test_exit_from_a_disk_with_a_matrix_of_mobilities() -> None:
    """|x| < 1 in the plane from 0 with D I: mean 1/(4 D); the turned, equal matrix gives it too."""
    turned = Langevin(Quadratic(1e-9, dimension=2), 0.5, 2.0 * torch.eye(2))
    passage = first_passage(
        EulerMaruyama(turned, 0.002),
        torch.zeros(4_000, 2),
        Boundary(lambda x: x.norm(dim=1) - 1),
        steps=3_000,
        generator=generator(),
    )
    found = mean_passage_time(passage)
    # A curved wall taken as flat: O(dt), 2.5 dt is allowed.
    assert abs(found.value - 0.25) < 4 * (found.high - found.low) / 3.92 + 0.005


def test_a_path_with_inertia_passes_without_a_bridge() -> None:
    stepper = BAOAB(DoubleWell(), 0.5, 0.05)
    kept = torch.full((50, 1), -1.0)
    passage = first_passage(
        stepper, kept, coordinate_boundary(0.5), steps=4_000, generator=generator(), bridge=False
    )
    assert passage.events > 40 and (kept == -1).all()
    with pytest.raises(ValueError, match="does not fit `BAOAB`.*`bridge=False`"):
        first_passage(stepper, kept, coordinate_boundary(0.5), steps=1, generator=generator())


def test_a_runaway_is_neither_an_escape_nor_a_survivor() -> None:
    """A Cauchy jump to 10 in x^4/4 at dt = .05 is thrown to -40, 3160, ..., infinity by Euler."""
    wall, x = coordinate_boundary(50.0), torch.zeros(2_000, 1)
    found, split = (
        first_passage(
            kind(GradientFlow(Quartic()), 0.05, StableNoise(1.0)), x, wall, steps=200,
            generator=generator(), bridge=False,
        )
        for kind in (EulerMaruyama, CubicSplitting)
    )  # fmt: skip
    # Jumps beyond sqrt(2 / dt) = 6.3 are followed by an explosion: 2/(pi 6.3) per time, over 10.
    assert split.lost == 0 and 0.5 < found.lost / 2_000 < 0.8
    assert len(found.times) == 2_000 - found.lost
    # Who is left crossed by a jump from a place where the scheme is stable: tail 1/(pi 50).
    assert found.events / found.exposure < 2 / (math.pi * 50)
    assert abs(split.events / split.exposure - 1 / (math.pi * 50)) < 4 * (split.events**0.5) / 2e4
    for refused in (
        exponential_rate(found),
        mean_passage_time(found, exponential_after=0.1),
        *survival_curve(found, [1.0]),
    ):
        assert not refused.resolved and "ran away numerically" in refused.reason


def test_a_position_that_is_not_finite_is_lost() -> None:
    def hole(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x < -0.5, math.nan, torch.ones_like(x))

    stepper = EulerMaruyama(ItoProcess(diffusion=hole), 0.01)
    passage = first_passage(
        stepper, torch.zeros(500, 1), coordinate_boundary(0.5), steps=1000, generator=generator()
    )
    # From the middle one half reaches either side first, within e^-(pi^2 10) of all.
    assert abs(passage.lost / 500 - 0.5) < 4 * math.sqrt(0.25 / 500) + 0.03  # .03: width of a step
    assert passage.lost + passage.events == 500 and passage.events == len(passage.times)


def test_bad_input_is_refused_with_a_remedy() -> None:
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="starts on the absorbing side.*`above=False`"):
        first_passage(free(0.1), x, coordinate_boundary(-1.0), steps=1, generator=generator())
    with pytest.raises(ValueError, match="needs `steps` >= 1"):
        first_passage(free(0.1), x, coordinate_boundary(1.0), steps=0, generator=generator())
    with pytest.raises(ValueError, match="`at` of `coordinate_boundary` must be finite"):
        coordinate_boundary(math.nan)
    with pytest.raises(ValueError, match=r"of shape \(n, 1\). Got \(3, 2\): .*of `DoubleWell`"):
        first_passage(
            EulerMaruyama(Langevin(DoubleWell(), 1.0), 0.01), torch.zeros(3, 2),
            coordinate_boundary(1.0), steps=1, generator=generator(),
        )  # fmt: skip
    with pytest.raises(ValueError, match="positive `exposure`"):
        poisson_interval(1, 0.0)


def test_no_passage_is_read_off_a_path_that_only_has_the_right_averages() -> None:
    """From 0 to 1 in a unit bowl: its mean was 3.18 without a flag, where 2.09 is exact."""
    bowl = Langevin(Quadratic(1.0), 1.0)
    x = torch.zeros(10, 1)
    for bridge in (True, False):
        with pytest.raises(ValueError, match="only stationary averages .* Use `EulerMaruyama`"):
            first_passage(
                LeimkuhlerMatthews(bowl, 0.05), x, coordinate_boundary(1.0),
                steps=5, generator=generator(), bridge=bridge,
            )  # fmt: skip
