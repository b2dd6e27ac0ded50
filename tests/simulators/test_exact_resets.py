"""Resets: closed forms against quadrature, minimisation and an independent package."""

import math

import numpy as np
import pytest
from kramers.formulas import resetting_mean_time, resetting_optimal_rate, restart_initial_slope
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from foreshock.simulators import exact_resets as resets


def test_t8_laplace_law_has_its_moments() -> None:
    rate, diffusion = 0.7, 1.9

    def moment(power: int) -> float:
        def half(x: float) -> float:
            return float(x**power * resets.reset_density(x, rate, diffusion))

        return 2 * quad(half, 0, 60, epsabs=1e-12, limit=200)[0]

    assert moment(0) == pytest.approx(1)
    assert moment(2) == pytest.approx(2 * diffusion / rate)
    assert moment(4) / moment(2) ** 2 == pytest.approx(6)


def test_t8_laplace_law_is_what_age_since_reset_makes_of_free_diffusion() -> None:
    # Renewal: p(x) = int_0^inf r e^{-r t} N(x; 2 D t) dt.
    rate, diffusion, x = 0.7, 1.9, 0.8

    def at(t: float) -> float:
        return (
            rate
            * math.exp(-rate * t - x**2 / (4 * diffusion * t))
            / math.sqrt(4 * math.pi * diffusion * t)
        )

    renewal = quad(at, 0, 80, epsabs=1e-13, limit=400)[0]
    assert float(resets.reset_density(x, rate, diffusion)) == pytest.approx(renewal, rel=1e-8)


def test_t8_mean_first_passage_with_resets() -> None:
    assert resets.reset_passage_time(1, 1, 1) == pytest.approx(math.e - 1)
    for rate, distance, diffusion in ((1, 1, 1), (0.3, 2.0, 0.7), (5.0, 0.4, 1.1)):
        theirs = resetting_mean_time(distance, rate, diffusion)
        assert resets.reset_passage_time(rate, distance, diffusion) == pytest.approx(theirs)


def test_t8_optimal_reset_rate() -> None:
    distance, diffusion = 1.7, 0.4
    best = minimize_scalar(
        lambda r: resets.reset_passage_time(r, distance, diffusion),
        bounds=(1e-3, 5),
        method="bounded",
        options={"xatol": 1e-10},
    )
    ours = resets.optimal_reset_rate(distance, diffusion)
    assert ours == pytest.approx(best.x, rel=1e-6)  # flat minimum: x to sqrt(rounding)
    assert math.sqrt(ours / diffusion) * distance == pytest.approx(1.5936, abs=5e-5)
    assert ours == pytest.approx(resetting_optimal_rate(distance, diffusion), rel=1e-10)


@pytest.mark.parametrize("velocity", [0.5, 1.0, 2.0, 5.0])
def test_t8_resets_help_exactly_where_the_cv_is_above_one(velocity: float) -> None:
    distance, diffusion = 1.0, 1.0  # CV = 1 at v = 2
    mean, variance = distance / velocity, 2 * diffusion * distance / velocity**3
    slope = resets.reset_slope(mean, mean**2 + variance)
    assert slope == pytest.approx(restart_initial_slope(mean, mean**2 + variance))
    cv = resets.drift_passage_cv(velocity, distance, diffusion)
    assert cv == pytest.approx(math.sqrt(variance) / mean)
    assert np.sign(slope) == np.sign(1 - cv) or abs(cv - 1) < 1e-12
    # The exact mean time itself: its difference quotient at small r is that slope.
    small = 1e-5
    faster = resets.drift_reset_passage_time(small, velocity, distance, diffusion)
    assert (faster - mean) / small == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_drift_with_resets_is_free_diffusion_with_resets_when_the_drift_vanishes() -> None:
    slow = resets.drift_reset_passage_time(1.0, 1e-9, 1.0, 1.0)
    assert slow == pytest.approx(math.e - 1, rel=1e-8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: resets.reset_passage_time(0, 1, 1), "`rate`"),
        (lambda: resets.reset_slope(2.0, 3.0), "not the variance"),
        (lambda: resets.optimal_reset_rate(1.0, -1.0), "`diffusion`"),
    ],
)
def test_bad_input_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
