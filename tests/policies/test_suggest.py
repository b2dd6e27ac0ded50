"""Learning rates by formula: units by scaling, an inequality by brute force, refusals in words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.policies import suggest_lr
from foreshock.types import Estimate, Flag


def rates(values: dict[str, float], **options: float) -> dict[str, float]:
    found = suggest_lr({k: Estimate.plain(v) for k, v in values.items()}, lr=0.1, **options)
    return {row.name: row.rate.value for row in found.rows}


VALUES = {
    "hessian/lambda_max": 8.0,
    "grad/signal": 3.0,
    "grad/noise": 5.0,
    "grad/descent_factor": 0.4,
}


def test_by_hand() -> None:
    found = rates(VALUES, momentum=0.9, dimension=10)
    # D = 5/10/2 = .25 and 2 D/8; 2 x 1.9/8; 3/8/8; .1 x .4.
    expected = {
        "published": 0.0625, "edge": 0.475, "noise bound": 0.046875, "best single step": 0.04
    }  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[k], expected[k]) for k in expected)


def test_ten_times_the_loss_needs_a_tenth_of_the_rate_and_the_published_says_ten() -> None:
    scaled = VALUES | {
        "hessian/lambda_max": 80.0, "grad/signal": 300.0, "grad/noise": 500.0
    }  # fmt: skip
    one, ten = rates(VALUES, dimension=10), rates(scaled, dimension=10)
    assert math.isclose(ten["edge"], one["edge"] / 10)
    assert math.isclose(ten["noise bound"], one["noise bound"] / 10)
    assert math.isclose(ten["published"], one["published"] * 10)


def test_the_noise_bound_is_never_longer_than_the_best_single_step() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        h = rng.exponential(size=6) ** 2
        mu, sigma = rng.standard_normal(6), rng.exponential(size=6)
        s, v = mu @ mu, sigma.sum()
        best = s / (h @ mu**2 + h @ sigma)
        found = rates({"hessian/lambda_max": h.max(), "grad/signal": s, "grad/noise": v})
        assert found["noise bound"] <= best * (1 + 1e-12)


def test_what_is_missing_flagged_or_not_positive_is_refused_in_words() -> None:
    flagged = Estimate(8.0, 7.0, 9.0, flags=Flag.NOT_CONVERGED, reason="The residual is 3.")
    text = str(suggest_lr({"hessian/lambda_max": flagged, "grad/descent_factor": Estimate(-0.2)},
                          lr=0.1))  # fmt: skip
    assert text.count("refused") == 4
    assert "edge: refused. `hessian/lambda_max` cannot be trusted: The residual is 3." in text
    assert "`grad/descent_factor` is -0.2, not positive." in text
    assert "There is no `grad/signal`" in str(suggest_lr({"hessian/lambda_max": Estimate(8.0)}))
    with pytest.raises(ValueError, match="The `momentum` of `suggest_lr` must be in"):
        suggest_lr({}, momentum=1.0)


def test_an_interval_goes_through() -> None:
    top = Estimate(4.0, 2.0, 8.0)
    edge = suggest_lr({"hessian/lambda_max": top}).rows[1].rate
    assert (edge.low, edge.value, edge.high) == (0.25, 0.5, 1.0)
