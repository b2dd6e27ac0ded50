"""A moment: gradients of the probe's batches, taken once, and the norm of the step's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from tests.cases import CASES, loss


def moment(view: ModelView, probe: Probe | None, step: int = 0) -> Moment:
    return Moment(step, view, tuple(None for _ in view.parameters), (0.1,), probe=probe)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_batches_are_those_of_autograd(name: str) -> None:
    case = CASES[name]
    model, probe = case.model(), case.probe(batches=3)
    found = moment(ModelView(model), probe).batch_gradients
    model.eval()
    for one, batch in zip(found, probe.draw(0), strict=True):
        value = loss(model, batch)
        expected = torch.autograd.grad(value, list(model.parameters()))
        assert one.loss.item() == pytest.approx(value.item(), rel=1e-6)
        assert not one.loss.requires_grad
        assert one.size == 16 and one.batch is batch
        for g, e in zip(one.gradient, expected, strict=True):
            # fused and plain attention sum in another order: 1e-7 of entries below 1
            torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_they_are_taken_once_and_shared() -> None:
    calls: list[int] = []

    def counted(model: Any, batch: Any) -> Tensor:
        calls.append(1)
        return loss(model, batch)

    case = CASES["mlp"]
    now = moment(ModelView(case.model()), Probe(counted, [case.batch(4, 0), case.batch(5, 1)]))
    first = now.batch_gradients
    assert now.batch_gradients is first and len(calls) == 2
    assert [one.size for one in first] == [4, 5]


def test_batches_are_those_of_the_step_and_draw_its_own_numbers() -> None:
    asked: list[int] = []

    def fresh(step: int) -> list[Any]:
        asked.append(step)
        return [(torch.randn(3, 6), torch.zeros(3, dtype=torch.long)) for _ in range(2)]

    view, probe = ModelView(CASES["mlp"].model()), Probe(loss, fresh)
    state = torch.get_rng_state()
    inputs = [moment(view, probe, s).batch_gradients[0].batch[0] for s in (7, 7, 8)]
    assert asked == [7, 7, 8]
    assert torch.equal(inputs[0], inputs[1]) and not torch.equal(inputs[0], inputs[2])
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_probe_or_without_a_batch_there_is_none() -> None:
    view = ModelView(CASES["mlp"].model())
    assert moment(view, None).batch_gradients == []
    assert moment(view, Probe(loss, lambda step: [])).batch_gradients == []


def test_a_batch_without_a_length_has_no_size() -> None:
    model = torch.nn.Linear(1, 1)
    probe = Probe(lambda m, scale: scale * m(torch.ones(1, 1)).sum(), [2.0])
    (one,) = moment(ModelView(model), probe).batch_gradients
    assert one.size is None and [g.item() for g in one.gradient] == [2.0, 2.0]


def test_the_norm_is_over_all_that_is_there() -> None:
    view = ModelView(torch.nn.Linear(2, 2))
    now = Moment(0, view, (torch.full((2, 2), 3.0), None), (0.1,))
    assert now.gradient_norm == pytest.approx(6.0, rel=1e-7)
    assert math.isnan(Moment(0, view, (None, None), (0.1,)).gradient_norm)
