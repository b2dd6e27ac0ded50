"""What became of gradients after they arrived: planted mistakes, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from foreshock.estimators.per_example import per_example_norms
from foreshock.monitor import arrivals
from foreshock.monitor.arrivals import FIRST, PERIOD
from foreshock.monitor.examples import Examples
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.view import ModelView
from tests.cases import CASES, loss

BATCH = CASES["mlp"].batch(12, 3)
STEPS = 40
Writer = Callable[[nn.Module], None]


def train(writer: Writer, start: int = 0) -> list[tuple[ExampleNorms, ExampleNorms, float]]:
    """What is heard at each step, the exact norms of that step, and the norm of what is used."""
    model = CASES["mlp"].model()
    view = ModelView(model)
    examples = Examples(view, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    for step in range(STEPS):
        exact = per_example_norms(view, loss, BATCH)
        examples.arm(True)
        optimizer.zero_grad()
        loss(model, BATCH).backward()
        if step >= start:
            writer(model)
        gradients = [p.grad for p in model.parameters()]
        heard = examples.take(gradients)
        assert heard is not None and heard.n == 12
        used = sum(g.double().square().sum().item() for g in gradients if g is not None)
        seen.append((heard, exact, used))
        optimizer.step()
    return seen


def flagged(heard: ExampleNorms) -> bool:
    return heard.altered is not None and bool(heard.altered.any())


def follows(seen: tuple[ExampleNorms, ExampleNorms, float]) -> None:
    """Norms are those of the gradient that is used: |g_i|² times (used / exact)²."""
    heard, exact, used = seen
    factor = used / exact.mean_squares.sum().item()
    assert not flagged(heard)
    torch.testing.assert_close(heard.squares, factor * exact.squares, rtol=1e-4, atol=1e-12)
    assert heard.mean_squares.sum().item() == pytest.approx(used, rel=1e-4)


def grads(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def leave(model: nn.Module) -> None:
    pass


def clamp_data(model: nn.Module) -> None:
    for g in grads(model):
        g.data.clamp_(-3e-3, 3e-3)


def halve_data(model: nn.Module) -> None:
    for g in grads(model):
        g.data.mul_(0.5)


def clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1e-2)


def clip_without_graph(model: nn.Module) -> None:
    with torch.inference_mode():
        nn.utils.clip_grad_norm_(model.parameters(), 1e-2, foreach=False)


def multiply(model: nn.Module) -> None:
    for g in grads(model):
        g.mul_(0.25)


def unscale(model: nn.Module) -> None:
    """The kernel of `torch.amp.GradScaler`."""
    found = torch.zeros(1)
    torch._amp_foreach_non_finite_check_and_unscale_(grads(model), found, torch.tensor(0.125))


def replace(model: nn.Module) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.grad = 0.5 * p.grad


def replace_otherwise(model: nn.Module) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.grad = p.grad.clamp(-3e-3, 3e-3)


def test_untouched_gradients_are_right_at_every_step_and_rarely_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []
    whole = arrivals._compared

    def count(*given: Any) -> Any:
        compared.append(1)
        return whole(*given)

    monkeypatch.setattr(arrivals, "_compared", count)
    for seen in train(leave):
        follows(seen)
    assert len(compared) == FIRST + (STEPS - FIRST) // PERIOD


def test_a_writer_past_the_counter_from_the_start_is_seen_at_every_step() -> None:
    assert all(flagged(heard) for heard, _, _ in train(clamp_data))


@pytest.mark.parametrize("start", [*range(FIRST, FIRST + PERIOD + 1), 20])
def test_one_that_starts_later_is_seen_at_the_eighth_step_at_the_latest(start: int) -> None:
    found = [flagged(heard) for heard, _, _ in train(clamp_data, start)]
    first = found.index(True)
    assert start <= first < start + PERIOD
    assert all(found[first:]) and not any(found[:first])


def test_on_an_accelerator_a_late_factor_leaves_no_number_until_it_is_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There a skipped step does not wait for the device to decide."""
    monkeypatch.setattr(arrivals, "_on_host", lambda tensor: False)
    late = train(halve_data, 20)
    for seen in late[:20] + late[20 + PERIOD - 1 :]:
        follows(seen)
    between = [flagged(heard) for heard, _, _ in late[20 : 20 + PERIOD - 1]]
    assert between.index(False) == sum(between) > 0  # flagged until the next full comparison


@pytest.mark.parametrize("start", [0, 20])
@pytest.mark.parametrize(
    "writer", [clip, clip_without_graph, multiply, unscale, replace, halve_data]
)
def test_ordinary_changes_are_followed_at_once(writer: Writer, start: int) -> None:
    for seen in train(writer, start):
        follows(seen)


@pytest.mark.parametrize("start", [0, 20])
def test_another_gradient_is_seen_at_once(start: int) -> None:
    found = [flagged(heard) for heard, _, _ in train(replace_otherwise, start)]
    assert found == [step >= start for step in range(STEPS)]


def test_changes_that_are_compared_anyway_do_not_end_the_trust() -> None:
    """Clipping now and then says nothing of writers past the counter."""
    model = CASES["mlp"].model()
    examples = Examples(ModelView(model), model)
    for step in range(STEPS):
        examples.arm(True)
        model.zero_grad()
        loss(model, BATCH).backward()
        if step % 5 == 0:
            clip(model)
        assert examples.take([p.grad for p in model.parameters()]) is not None
    assert examples._arrivals._trusted
