"""Hill on gradient norms: waits for its window, and carries the Gaussian null of its dimension."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.estimators import HillNorms
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView


def feed(observable: HillNorms, norms: list[float]) -> list:
    view = ModelView(torch.nn.Linear(10, 10, bias=False))
    state, found = observable.init(), []
    for step, value in enumerate(norms):
        gradient = torch.zeros(10, 10)
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


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`window` of `HillNorms` must be at least 20. Got 5"):
        HillNorms(window=5)
    with pytest.raises(ValueError, match="`k` of `HillNorms` must lie between"):
        HillNorms(window=50, k=50)
