"""The view: live weights, frozen flags, odd batches, and private random numbers."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foreshock.probe import Probe
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView, batch_size, forward_of, labelled, norm, unwrap
from tests.cases import CASES, loss


def test_sees_every_update_of_the_live_weights() -> None:
    model = CASES["mlp"].model()
    view, batch = ModelView(model), CASES["mlp"].batch(8, 0)
    before, _ = view.gradient(loss, batch)
    with torch.no_grad():
        model.head.weight.mul_(3)
    after, gradient = view.gradient(loss, batch)
    assert before != after
    expected = torch.autograd.grad(loss(model, batch), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradient, expected, strict=True))


def test_follows_freezing_and_replaced_parameters() -> None:
    model = CASES["mlp"].model()
    view = ModelView(model)
    model.head.weight.requires_grad_(False)
    assert "head.weight" not in view_names(view)
    model.head = nn.Linear(16, 4)
    assert [tuple(p.shape) for p in view.parameters][-2:] == [(4, 16), (4,)]
    assert "head.weight" in view_names(view)


def view_names(view: ModelView) -> list[str]:
    _ = view.parameters  # notices the change
    return view.names


def test_dropout_is_off_and_batch_norm_uses_its_buffers() -> None:
    model = CASES["cnn"].model().train()
    view, batch = ModelView(model), CASES["cnn"].batch(16, 0)
    first, _ = view.gradient(loss, batch)
    second, _ = view.gradient(loss, batch)
    assert first == second == loss(model.eval(), batch).detach()


def test_random_losses_draw_the_same_numbers_every_time_and_none_of_ours() -> None:
    def noisy(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch) * torch.randn(4)).sum() * random.random() * np.random.rand()

    model = nn.Linear(4, 4)
    view, x = ModelView(model, seed=9), torch.ones(2, 4)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    assert view.gradient(noisy, x)[0] == view.gradient(noisy, x)[0]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()


def test_random_states_are_put_back_after_an_exception() -> None:
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="mine"), quiet(3):
        torch.rand(5)
        raise RuntimeError("mine")
    assert torch.equal(state, torch.get_rng_state())


def test_works_where_the_user_switched_gradients_off() -> None:
    model = CASES["mlp"].model()
    batch = CASES["mlp"].batch(8, 0)
    expected = ModelView(model).gradient(loss, batch)[1]
    with torch.no_grad():
        assert all(
            torch.equal(a, b)
            for a, b in zip(ModelView(model).gradient(loss, batch)[1], expected, strict=True)
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own, when it is imported
def test_unwraps_compiled_and_parallel_models() -> None:
    model = CASES["mlp"].model()
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(torch.compile(model)) is model


class Handle(nn.Module):
    """A module that holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.lock = __import__("threading").Lock()


def test_a_structure_that_cannot_be_copied_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="could not be copied, so it cannot be measured"):
        ModelView(Handle()).prepare()
    assert ModelView(Handle()).parameters  # weights alone need no copy


def test_batch_sizes_and_labels() -> None:
    x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)
    assert batch_size((x, y)) == batch_size({"a": x}) == batch_size([{"b": (x,)}]) == 5
    assert batch_size("text") is batch_size(3) is batch_size(torch.tensor(1.0)) is None
    pairs = Probe(loss, [(x, y), (x, y)])
    found = labelled(pairs)
    assert found is not None and len(found[1]) == 10
    assert labelled(Probe(loss, [x, x])) is None
    assert labelled(Probe(loss, lambda step: [(x, y)])) is None


def test_norm_of_many_and_of_none() -> None:
    parts = [torch.full((3,), 2.0), None, torch.full((1,), 2.0)]
    assert norm(parts).item() == pytest.approx(4.0, rel=1e-6)  # float32 within a parameter
    assert torch.isnan(norm([None]))


class Answers(nn.Module):
    """Called with a mapping, and wraps what it computes as a model of some library would."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.wrap, self.inner = wrap, nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.wrap(self.inner(x + y))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: SimpleNamespace(logits=t),
        lambda t: {"loss": t.mean(), "logits": t},
    ],
    ids=["tensor", "attribute", "mapping"],
)
def test_outputs_of_models_called_with_mappings(wrap: Any) -> None:
    model = Answers(wrap)
    batch = {"x": torch.ones(4, 3), "y": torch.randn(4, 3)}
    probe = Probe(loss=loss, batches=[batch])
    expected = model.inner(batch["x"] + batch["y"]).detach()
    assert torch.equal(ModelView(model).outputs(probe, batch), expected)


@pytest.mark.parametrize(
    "wrap, sentence",
    [
        (lambda t: (t, None), r"Got tuple; pass `Probe\(forward=lambda m, x: m\(x\)\[0\]\)`"),
        (lambda t: {"out": t}, r"Got dict with the keys \['out'\]; pass `Probe\(forward="),
        (lambda t: None, "Got NoneType"),
    ],
    ids=["tuple", "mapping", "nothing"],
)
def test_other_outputs_are_refused_with_what_to_pass(wrap: Any, sentence: str) -> None:
    forward = forward_of(Probe(loss=loss, batches=[0]))
    with pytest.raises(ValueError, match=sentence):
        forward(Answers(wrap), {"x": torch.ones(4, 3), "y": torch.ones(4, 3)})
