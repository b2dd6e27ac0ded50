"""Schedules against their formulas, and what the published ones do to the temperature."""

from __future__ import annotations

import math

import pytest
from scipy.integrate import quad

from foreshock.simulators import schedules
from foreshock.simulators.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Logarithmic,
    OverRate,
    Product,
)


def test_each_schedule_is_its_formula() -> None:
    for t in (0.0, 0.3, 7.0, 1000.0):
        assert InverseTime(0.2, 5.0)(t) == pytest.approx(0.2 / (1 + t / 5))
        assert Exponential(0.2, 5.0)(t) == pytest.approx(0.2 * math.exp(-t / 5))
        assert Logarithmic(0.2)(t) == pytest.approx(0.2 / math.log(math.e + t))
        assert Constant(0.2)(t) == 0.2
        assert Product(Constant(0.5), Constant(0.2))(t) == pytest.approx(0.1)
    assert Cosine(1.0, 0.2, 10.0)(2.5) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert Cosine(1.0, 0.2, 10.0)(11.0) == pytest.approx(0.2)


def test_the_integral_of_the_published_diffusion_is_that_of_quadrature() -> None:
    schedule = Exponential(2.0, 3.0)
    for end in (0.5, 4.0, 60.0):
        assert schedule.integral(end) == pytest.approx(quad(schedule, 0, end)[0])
    assert schedule.integral(math.inf) == 6.0


def test_published_defaults_start_far_above_any_loss() -> None:
    """D/eta = 1/.01 (fokker_planck's defaults), plus lambda = .001."""
    assert schedules.published_schedules().temperature(0.0) == pytest.approx(100.001)


def test_corrected_is_annealed_by_the_logarithm() -> None:
    found = schedules.corrected_schedules(depth=2.0, entropy=0.3)
    for t in (0.0, 10.0, 1e6):
        assert found.temperature(t) == pytest.approx(2 / math.log(math.e + t) + 0.3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(-1.0),
        lambda: Constant(math.nan),
        lambda: InverseTime(0.0, 1.0),
        lambda: InverseTime(1.0, math.inf),
        lambda: Exponential(1.0, 0.0),
        lambda: Logarithmic(-1.0),
        lambda: Cosine(1.0, -0.1, 1.0),
        lambda: Cosine(1.0, 0.1, 0.0),
        lambda: OverRate(-1.0, Constant(1.0)),
        lambda: schedules.constant_schedules(rate=0.0),
    ],
)
def test_unfit_values_are_refused(make) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()
