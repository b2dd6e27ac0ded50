"""Schedules against their formulas, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

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


@pytest.mark.parametrize("name", ["rate", "diffusion", "entropy"])
def test_every_reading_is_checked(name: str) -> None:
    fine = schedules.constant_schedules()
    bad = replace(fine, **{name: lambda t: 1.0 if t < 3 else math.nan})
    assert bad.at(2.0)[0] == 1.0
    with pytest.raises(ValueError, match=f"The {name} of the `schedules` of `Engine` .* at t = 3"):
        bad.at(3.0)


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
