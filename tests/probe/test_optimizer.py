"""The optimizer, seen: its metric against recursions by hand and against the step it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from foreshock.probe.optimizer import DIAGONAL, OptimizerView
from foreshock.probe.view import ModelView

Make = Callable[[Iterable[Any]], optim.Optimizer]
RATE, EPS = 0.01, 1e-3  # an ε that shows
STEPS = 6
METRICS: dict[str, Make] = {
    "sgd": lambda p: optim.SGD(p, lr=RATE),
    "momentum": lambda p: optim.SGD(p, lr=RATE, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=RATE, betas=(0.8, 0.95), eps=EPS),
    "adamw": lambda p: optim.AdamW(p, lr=RATE, betas=(0.8, 0.95), eps=EPS, weight_decay=0.0),
    "amsgrad": lambda p: optim.AdamW(
        p, lr=RATE, betas=(0.8, 0.95), eps=EPS, amsgrad=True, weight_decay=0.0
    ),
    "rmsprop": lambda p: optim.RMSprop(p, lr=RATE, alpha=0.9, eps=EPS),
    "centred": lambda p: optim.RMSprop(p, lr=RATE, alpha=0.9, eps=EPS, centered=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=RATE, eps=EPS),
}


class Pair(nn.Module):
    """Two parameters of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
        self.b = nn.Parameter(torch.ones((), dtype=torch.float64))


def drawn(step: int) -> list[Tensor]:
    """Gradients that shrink, so that the running maximum of amsgrad differs from the mean."""
    rng = torch.Generator().manual_seed(step)
    scale = 0.5**step
    shapes: tuple[tuple[int, ...], ...] = ((2, 3), ())
    return [scale * torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes]


def walk(make: Make) -> tuple[OptimizerView, list[list[Tensor]], list[Tensor]]:
    """An optimizer after some steps, the weights all along, and the last gradients."""
    model = Pair()
    optimizer = make(model.parameters())
    path = [[p.detach().clone() for p in model.parameters()]]
    for step in range(STEPS):
        for p, g in zip(model.parameters(), drawn(step), strict=True):
            p.grad = g
        optimizer.step()
        path.append([p.detach().clone() for p in model.parameters()])
    return OptimizerView(optimizer, ModelView(model)), path, drawn(STEPS - 1)


def by_hand(name: str, index: int) -> Tensor:
    """P of one parameter by its published recursion."""
    mean = square = total = largest = torch.zeros_like(drawn(0)[index])
    metric = torch.ones_like(mean)
    for step in range(STEPS):
        g = drawn(step)[index]
        t = step + 1
        if name in ("adam", "adamw", "amsgrad"):
            square = 0.95 * square + 0.05 * g**2
            largest = torch.maximum(largest, square)
            used = largest if name == "amsgrad" else square
            metric = (1 - 0.8**t) * ((used / (1 - 0.95**t)).sqrt() + EPS)
        elif name in ("rmsprop", "centred"):
            square, mean = 0.9 * square + 0.1 * g**2, 0.9 * mean + 0.1 * g
            metric = (square - (mean**2 if name == "centred" else 0)).sqrt() + EPS
        elif name == "adagrad":
            total = total + g**2
            metric = total.sqrt() + EPS
    return metric


@pytest.mark.parametrize("name", METRICS)
def test_the_metric_is_the_published_recursion(name: str) -> None:
    found, sentence = walk(METRICS[name])[0].preconditioner()
    assert found is not None and sentence == ""
    for index, metric in enumerate(found):
        assert metric.dtype == torch.float64
        torch.testing.assert_close(metric, by_hand(name, index), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", METRICS)
def test_the_step_is_the_first_moment_over_the_metric(name: str) -> None:
    seen, path, gradients = walk(METRICS[name])
    metric, _ = seen.preconditioner()
    assert metric is not None
    for index, (old, new) in enumerate(zip(path[-2], path[-1], strict=True)):
        state = seen.state[index]
        first = state.get("exp_avg", state.get("momentum_buffer"))
        moment = gradients[index] if first is None else first
        # θ about 1, a step of 1e-4 or more: 2^-53 of 1e4
        step = -RATE * moment / metric[index]
        torch.testing.assert_close(new - old, step, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"sgd", "momentum"}))
def test_before_the_first_step_there_is_no_metric(name: str) -> None:
    model = Pair()
    optimizer = METRICS[name](model.parameters())
    found, sentence = OptimizerView(optimizer, ModelView(model)).preconditioner()
    assert found is None
    assert f"{type(optimizer).__name__} has made no step yet" in sentence


def test_a_parameter_without_a_gradient_does_not_hide_the_metric_of_the_others() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(2, 1))  # the second is never called
    optimizer = optim.AdamW(model.parameters(), lr=RATE)
    model[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    metric, sentence = OptimizerView(optimizer, ModelView(model)).preconditioner()
    assert metric is not None and sentence == ""
    assert metric[2].eq(1).all() and not metric[0].eq(1).any()


def test_before_the_first_step_sgd_has_one() -> None:
    model = Pair()
    seen = OptimizerView(optim.SGD(model.parameters(), lr=RATE, momentum=0.9), ModelView(model))
    metric, _ = seen.preconditioner()
    assert metric is not None and all((m == 1).all() for m in metric)


@pytest.mark.parametrize("make", [optim.NAdam, optim.LBFGS, optim.Rprop])
def test_an_unknown_optimizer_is_named(make: Make) -> None:
    model = Pair()
    found, sentence = OptimizerView(make(model.parameters()), ModelView(model)).preconditioner()
    assert found is None
    assert make.__name__ in sentence and all(known in sentence for known in DIAGONAL)


DECAYS: dict[str, tuple[Make, tuple[float, bool]]] = {
    "none": (lambda p: optim.SGD(p, lr=RATE), (0.0, False)),
    "sgd": (lambda p: optim.SGD(p, lr=RATE, weight_decay=0.1), (0.1, False)),
    "adam": (lambda p: optim.Adam(p, lr=RATE, weight_decay=0.1), (0.1, False)),
    "adamw": (lambda p: optim.AdamW(p, lr=RATE, weight_decay=0.1), (0.1, True)),
    "decoupled": (
        lambda p: optim.Adam(p, lr=RATE, weight_decay=0.1, decoupled_weight_decay=True),
        (0.1, True),
    ),
    "rmsprop": (lambda p: optim.RMSprop(p, lr=RATE, weight_decay=0.1), (0.1, False)),
    "adagrad": (lambda p: optim.Adagrad(p, lr=RATE, weight_decay=0.1), (0.1, False)),
}


@pytest.mark.parametrize("name", DECAYS)
def test_decay_is_decoupled_where_the_step_says_so(name: str) -> None:
    # With a gradient of 0 a decoupled decay moves θ by -η λ θ exactly and leaves no trace in the
    # state; a coupled one goes through it.
    make, expected = DECAYS[name]
    model = Pair()
    optimizer = make(model.parameters())
    seen = OptimizerView(optimizer, ModelView(model))
    assert seen.decay == (expected,) * 2
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    strength, decoupled = expected
    moved = 1 - model.a.detach()
    state = seen.state[0]
    touched = any(state[k].any() for k in ("exp_avg", "square_avg", "sum") if k in state)
    if decoupled:
        torch.testing.assert_close(moved, torch.full_like(moved, RATE * strength))
    assert touched == (strength > 0 and not decoupled and name != "sgd")


def test_settings_follow_the_parameters_of_the_view_not_of_the_groups() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].bias.requires_grad_(False)
    groups = [
        {"params": model[1].parameters(), "lr": 0.5},
        {"params": model[0].parameters(), "lr": 0.25, "weight_decay": 0.1},
    ]
    seen = OptimizerView(optim.AdamW(groups, weight_decay=0.0), ModelView(model))
    assert seen.name == "AdamW"
    # 0.weight; 1.weight, 1.bias; 2.* in no group
    assert seen.learning_rates == (0.25, 0.5, 0.5, 0.0, 0.0)
    assert [strength for strength, _ in seen.decay] == [0.1, 0.0, 0.0, 0.0, 0.0]
    assert seen.settings[3] == {} and "params" not in seen.settings[0]
    assert all(state == {} for state in seen.state)


def test_rates_are_those_of_now() -> None:
    model = Pair()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    seen = OptimizerView(optimizer, ModelView(model))
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    optimizer.step()
    schedule.step()
    assert seen.learning_rates == pytest.approx((0.1, 0.1))


def test_a_parameter_that_is_not_trained_has_a_metric_of_one() -> None:
    model = Pair()
    optimizer = optim.AdamW([model.a], lr=RATE)
    model.a.grad = torch.ones_like(model.a)
    optimizer.step()
    metric, _ = OptimizerView(optimizer, ModelView(model)).preconditioner()
    assert metric is not None and metric[1].item() == 1
    assert (metric[0] != 1).all()


def test_reading_writes_nothing() -> None:
    seen, _, _ = walk(METRICS["amsgrad"])
    before = [{k: v.clone() for k, v in state.items()} for state in seen.state]
    metric, _ = seen.preconditioner()
    assert metric is not None
    for part in metric:
        part.zero_()
    for kept, state in zip(before, seen.state, strict=True):
        assert all(torch.equal(kept[k], state[k]) for k in kept)
