"""Hill on gradient norms: waits for its window, and carries the Gaussian null of its dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.estimators import HillNorms
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.stats.tails import hill, hill_null
from foreshock.types import Estimate, Flag


def feed(
    observable: HillNorms, norms: list[float], dtype: torch.dtype = torch.float32
) -> list[Estimate]:
    view = ModelView(torch.nn.Linear(10, 10, bias=False))
    state, found = observable.init(), []
    for step, value in enumerate(norms):
        gradient = torch.zeros(10, 10, dtype=dtype)
        gradient[0, 0] = value
        state, readings = observable.update(state, Moment(step, view, (gradient,), (0.1,)))
        found.append(readings.scalars["tails/hill"])
    return found


def test_reads_the_index_of_an_exact_pareto_tail_within_its_interval() -> None:
    n, alpha = 2000, 1.5
    quantiles = [(1 - (i + 0.5) / n) ** (-1 / alpha) for i in range(n)]  # the law itself
    (*_, last) = feed(HillNorms(window=n, k=200), quantiles)
    assert last.value == pytest.approx(alpha, rel=0.02)
    assert last.low < alpha < last.high
    assert (last.high - last.low) / (2 * 1.96) == pytest.approx(alpha / math.sqrt(200), rel=0.05)


def test_waits_for_its_window() -> None:
    found = feed(HillNorms(window=20), [float(1 + i % 7) for i in range(21)])
    assert ["not full" in e.reason for e in found] == [True] * 19 + [False] * 2


def test_gaussian_norms_lie_in_the_null_and_far_above_two() -> None:
    generator = torch.Generator().manual_seed(0)
    norms = torch.randn(100, 100, generator=generator).norm(dim=1).tolist()
    last = feed(HillNorms(window=100), norms)[-1]
    assert last.null is not None
    assert last.null[0] < last.value < last.null[1]
    assert last.null[0] > 2  # a light tail never reads like a stable law here


@pytest.mark.parametrize(
    "variances", [[1.0], [1.0, 0.01], [1 / i**2 for i in range(1, 60)], [1.0] * 60]
)
def test_the_null_holds_gaussian_norms_of_any_covariance(variances: list[float]) -> None:
    rng = np.random.default_rng(1)
    norms = np.sqrt(rng.standard_normal((400, 100, len(variances))) ** 2 @ np.array(variances))
    found = [hill(row).value for row in norms]
    low, high = hill_null(100, 10, 1)[0], hill_null(100, 10, len(variances))[1]
    (*_, last) = feed(HillNorms(window=100), norms[0].tolist())
    assert last.null == (low, hill_null(100, 10, 100)[1])  # 100 weights in the model
    # 2.5 % lie beyond each end at most: 400 cases, sd .8 %, 4 sd and 2 % Monte-Carlo of the ends.
    assert np.mean(np.array(found) < low) < 0.06 and np.mean(np.array(found) > high) < 0.06


def clipped(limit: float, kind: torch.dtype, steps: int = 50, seed: int = 0) -> list[Estimate]:
    """The readings of a run whose gradients are clipped to a norm as torch does it."""
    generator = torch.Generator().manual_seed(seed)
    view, observable = ModelView(torch.nn.Linear(10, 10, bias=False)), HillNorms(window=50)
    state, found = observable.init(), []
    for step in range(steps):
        weight = torch.nn.Parameter(torch.zeros(10, 10, dtype=kind))
        scale = 0.1 * float(torch.rand((), generator=generator))
        weight.grad = (scale * torch.randn(10, 10, generator=generator)).to(kind)
        torch.nn.utils.clip_grad_norm_([weight], limit)
        state, readings = observable.update(state, Moment(step, view, (weight.grad,), (0.1,)))
        found.append(readings.scalars["tails/hill"])
    return found


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("limit", "equal"), [(0.01, 6), (0.9, 3)])
def test_clipped_norms_have_no_tail(limit: float, equal: int, kind: torch.dtype) -> None:
    # Norms are spread over 0 to 1: all above .01, and about five of fifty above .9.
    last = clipped(limit, kind)[-1]
    if kind == torch.bfloat16 and equal == 3:
        return  # 8 bits: three equal norms of 50 are no evidence
    assert math.isnan(last.value) and last.flags == Flag.BELOW_PRECISION
    assert f"The {equal} largest gradient norms are equal up to rounding" in last.reason
    assert "`clip_grad_norm_` returns" in last.reason


def test_norms_that_are_not_clipped_are_read() -> None:
    assert clipped(100.0, torch.float32)[-1].resolved
    # Concentrated as norms of a million Gaussian coordinates, and small: no clipping suspected.
    norms = np.sqrt(np.random.default_rng(2).chisquare(1e6, 100)) * 1e-3
    assert feed(HillNorms(window=100), norms.tolist())[-1].value > 1000
    # All zero: no logarithm, no warning.
    assert "positive" in feed(HillNorms(window=20), [0.0] * 20)[-1].reason


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`window` of `HillNorms` must be at least 20. Got 5"):
        HillNorms(window=5)
    with pytest.raises(ValueError, match="`k` of `HillNorms` must lie between"):
        HillNorms(window=50, k=50)
    for wrong in (50.5, True, None):
        with pytest.raises(ValueError, match="`window` of `HillNorms` must be a whole number"):
            HillNorms(window=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`k` of `HillNorms` must be a whole number. Got 5.0"):
        HillNorms(window=50, k=5.0)  # type: ignore[arg-type]
