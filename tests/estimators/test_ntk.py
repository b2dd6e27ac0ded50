"""Tangent kernel: against the Jacobian by jacrev in float64, and its null at lr = 0."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.estimators import Ntk, ntk_gram
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from tests.cases import CASES, loss


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jacrev(name: str) -> None:
    case = CASES[name]
    model = case.model().eval().double()
    x = case.batch(12, seed=3)[0]
    x = x.double() if x.is_floating_point() else x
    weights = dict(model.named_parameters())

    def outputs(weights: dict) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (x,)).sum(1)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobian = torch.func.jacrev(outputs)(weights)
    rows = torch.cat([j.reshape(12, -1) for j in jacobian.values()], 1)
    got = ntk_gram(ModelView(model), case.probe(), x)
    assert torch.allclose(got, rows @ rows.T / 12, rtol=1e-10)


class Branching(torch.nn.Module):
    """Control flow on data, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x) * (2 if x.sum() > 0 else 1)


def test_falls_back_to_one_example_at_a_time() -> None:
    model = Branching()
    x = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    probe = Probe(loss, [x])
    # rows of J are 2·x and 1·x for either output: products 2·(2·2), 2·(-2), 2·1, over n = 2
    got = ntk_gram(ModelView(model), probe, x)
    assert got.tolist() == [[4.0, -2.0], [-2.0, 1.0]]


def test_rate_is_zero_at_lr_zero_and_its_null_is_not() -> None:
    case = CASES["mlp"]
    model, probe = case.model(), case.probe(batches=8)
    view, ntk = ModelView(model), Ntk()
    state = ntk.init()
    for step in (0, 10):
        moment = Moment(step, view, tuple(None for _ in view.names), (0.1,), probe=probe)
        state, readings = ntk.update(state, moment)
    rate = readings.scalars["ntk/log_det_rate"]
    assert rate.value == 0.0
    assert rate.null is not None and rate.null[0] < 0 < rate.null[1]


def test_scale_free() -> None:
    case = CASES["mlp"]
    model, probe = case.model(), case.probe(batches=8)
    view, found = ModelView(model), []
    for factor in (1.0, 3.0):
        scaled = Probe(probe.loss, probe.batches, forward=lambda m, x, factor=factor: factor * m(x))
        moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=scaled)
        ntk = Ntk()
        found.append(ntk.update(ntk.init(), moment)[1].scalars)
    small, large = found
    # float32 Jacobians: 1e-7 per entry, amplified by 1/ε = 1e4 at the smallest eigenvalues
    assert large["ntk/log_det"].value == pytest.approx(small["ntk/log_det"].value, abs=1e-2)
    assert large["ntk/log_scale"].value - small["ntk/log_scale"].value == pytest.approx(
        2 * math.log(3), abs=1e-5
    )


def test_too_few_examples_and_arguments() -> None:
    case = CASES["mlp"]
    view = ModelView(case.model())
    probe = case.probe(batches=1, size=8)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    ntk = Ntk()
    read = ntk.update(ntk.init(), moment)[1].scalars
    assert "fewer than 16" in read["ntk/log_det"].reason
    with pytest.raises(ValueError, match="`examples` of `Ntk` must be at least 16. Got 4"):
        Ntk(examples=4)
    with pytest.raises(ValueError, match="`epsilon` of `Ntk` must be positive"):
        Ntk(epsilon=0.0)
