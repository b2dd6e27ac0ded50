"""What the published and the corrected schedules do to the temperature."""

from __future__ import annotations

import math

import pytest
from scipy.integrate import quad

from foreshock.simulators import named_schedules as schedules
from foreshock.simulators.schedules import Constant, Logarithmic, Product, Schedules


def test_published_defaults_start_far_above_any_loss() -> None:
    """D/eta = 1/.01 (fokker_planck's defaults), plus lambda = .001."""
    assert schedules.published_schedules().temperature(0.0) == pytest.approx(100.001)


def test_published_code_keeps_its_entropy_weight_and_the_text_does_not() -> None:
    """lambda_reg = .001 in the code at all times; beta/eta of the text agrees with it at t = 0."""
    code, text = schedules.published_code_schedules(), schedules.published_schedules()
    assert code.entropy(0.0) == code.entropy(9000.0) == 0.001
    assert text.entropy(0.0) == pytest.approx(0.001)
    assert text.entropy(9000.0) == pytest.approx(0.01)
    assert code.rate(70.0) == text.rate(70.0) and code.diffusion(70.0) == text.diffusion(70.0)
    assert schedules.SCHEDULES["published code"] is schedules.published_code_schedules


def test_corrected_is_annealed_by_the_logarithm_of_the_time_the_particles_feel() -> None:
    found = schedules.corrected_schedules(rate=0.2, tau=5.0, depth=2.0, entropy=0.3)
    for t in (0.0, 10.0, 1e6):
        felt = quad(found.rate, 0, t, limit=500, points=[min(t, 50.0)])[0]
        assert felt == pytest.approx(math.log1p(t / 5), rel=1e-6)
        assert found.temperature(t) == pytest.approx(2 / math.log(math.e + felt) + 0.3)


def kramers_sum(found: Schedules, barrier: float, end: float) -> float:
    """int_0^end eta exp(-barrier/T) dt: expected escapes over a barrier, times a constant."""

    def weight(log_t: float) -> float:
        t = math.exp(log_t)
        return found.rate(t) * math.exp(-barrier / found.temperature(t)) * t

    return quad(weight, -20, math.log(end), limit=2000)[0]


def test_a11_escapes_under_the_shipped_schedule_never_stop() -> None:
    """c = depth = 1: int eta e^{-1/T} dt = int ds/(e + s) = log(1 + s/e), s = 10 log(1 + t/1000).

    It has no limit. With T = c/log(e + t) in its place the integrand is eta/(e + t), whose integral
    is below 10/1000 log(1000/e)/(1 - e/1000) = .06 for ever.
    """
    found = schedules.corrected_schedules(depth=1.0)
    for end in (1e4, 1e8, 1e30):
        felt = 10 * math.log1p(end / 1000)
        assert kramers_sum(found, 1.0, end) == pytest.approx(math.log1p(felt / math.e), rel=1e-4)
    freezing = Schedules(
        "freezing", found.rate, Product(found.rate, Logarithmic(1.0)), Constant(0.0)
    )
    assert kramers_sum(freezing, 1.0, 1e30) < 0.06
