"""The rate under factors: every scheduler survives, to the bit, and undoing is exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from foreshock.policies import DescentMargin, Every, LangevinBoost, LangevinRate, Stop
from foreshock.policies.apply_rate import (
    Rates,
    Wishes,
    advise_batch,
    pause,
    scale_lr,
    set_lr,
    stop,
)
from foreshock.types import Action, Estimate


def action(kind: str, factor: float, policy: str = "mine", **more: float) -> Action:
    return Action(7, policy, kind, {"factor": factor, **more}, "because.")


def lambda_rule(step: int) -> float:
    return 1 / (1 + step)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "none": lambda o: None,
    "step": lambda o: schedulers.StepLR(o, 3, 0.5),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 12),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.4, total_steps=20, cycle_momentum=False),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda_rule),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "warm restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=4), schedulers.StepLR(o, 3)], [4]
    ),
}


def optimizer_of(kind: str) -> torch.optim.Optimizer:
    """Weights whose gradient is 1, so that plain SGD shows the rate it used in its steps."""
    weights = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(3)]
    if kind == "tensor":
        return torch.optim.SGD(weights, lr=torch.tensor(0.1, dtype=torch.float64))
    if kind == "groups":
        groups = [{"params": weights[:2]}, {"params": weights[2:], "lr": 0.01}]
        return torch.optim.SGD(groups, lr=0.1)
    if kind == "shared tensor":
        rate = torch.tensor(0.1, dtype=torch.float64)
        groups = [{"params": [w], "lr": rate} for w in weights]
        return torch.optim.SGD(groups, lr=rate)
    return torch.optim.SGD(weights, lr=0.1)


def train(kind: str, schedule: str, plan: Callable[[Rates, int], None] | None, steps: int = 14):
    """Rates that steps were made with, and those that stand between them, by group."""
    optimizer = optimizer_of(kind)
    rates = None if plan is None else Rates(optimizer, alone=True)
    scheduler = SCHEDULES[schedule](optimizer)
    used, between = [], []
    weights = [group["params"][0] for group in optimizer.param_groups]
    for t in range(steps):
        if rates is not None:
            plan(rates, t)
        between.append([float(group["lr"]) for group in optimizer.param_groups])
        before = [w.item() for w in weights]
        for group in optimizer.param_groups:
            for w in group["params"]:
                w.grad = torch.ones_like(w)
        optimizer.step()
        used.append([b - w.item() for b, w in zip(before, weights, strict=True)])
        if scheduler is not None:
            scheduler.step()
    return used, between


def halves_from_four_to_ten(rates: Rates, t: int) -> None:
    if t == 4:
        set_lr(rates, action("set_lr", 0.5))
    if t == 10:
        set_lr(rates, action("set_lr", 1.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["float", "tensor", "groups"])
def test_a_factor_survives_every_scheduler_and_the_scheduler_survives_it(
    kind: str, schedule: str
) -> None:
    used, between = train(kind, schedule, halves_from_four_to_ten)
    plain, bare = train(kind, schedule, None)
    assert between == bare  # what schedulers and people see, to the bit
    for t, (ours, theirs) in enumerate(zip(used, plain, strict=True)):
        factor = 0.5 if 4 <= t < 10 else 1.0
        # The difference of two weights of size up to 2 is known to 1e-15 or so.
        assert ours == pytest.approx([factor * x for x in theirs], abs=1e-14)


def test_a_tensor_that_groups_share_is_scaled_once() -> None:
    used, _ = train("shared tensor", "none", lambda r, t: r.put("mine", 0.5) and None)
    assert used[0] == pytest.approx([0.05] * 3)


def test_a_tensor_stays_the_tensor_that_a_captured_graph_holds() -> None:
    optimizer = optimizer_of("tensor")
    rate = optimizer.param_groups[0]["lr"]
    rates = Rates(optimizer, alone=True)
    rates.put("mine", 0.3)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.1


def test_factors_of_policies_multiply_and_each_is_undone_by_itself() -> None:
    rates = Rates(optimizer_of("float"))
    first = scale_lr(rates, action("scale_lr", 0.7, "a"))
    second = scale_lr(rates, action("scale_lr", 0.7, "a"))
    set_lr(rates, action("set_lr", 3.0, "b"))
    assert rates.factor == 0.7 * 0.7 * 3.0
    second.undo()
    assert rates.standing == {"a": 0.7, "b": 3.0}  # to the bit: no division
    second.undo()
    assert rates.standing == {"a": 0.7, "b": 3.0}
    first.undo()
    assert rates.standing == {"b": 3.0}


def test_bounds_hold_whatever_is_asked() -> None:
    rates = Rates(optimizer_of("float"))
    for _ in range(50):
        scale_lr(rates, action("scale_lr", 1.5, low=0.1, high=10.0))
    assert rates.factor == 10.0
    set_lr(rates, action("set_lr", 1e-9, low=0.1, high=10.0))
    assert rates.factor == 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_a_factor_that_is_no_factor_is_refused_and_changes_nothing(bad: float) -> None:
    rates = Rates(optimizer_of("float"))
    for apply, kind in ((scale_lr, "scale_lr"), (set_lr, "set_lr")):
        with pytest.raises(ValueError, match="must be positive"):
            apply(rates, action(kind, bad))
    assert rates.factor == 1


def test_a_boost_of_the_rate_is_always_restored() -> None:
    """By its time, by undoing, by close: the planted bug is a boost that stays."""
    policy = LangevinBoost("c", steps=3, refractory=3)
    state, _ = policy.update(policy.init(), 0, {"c": Estimate(1.5)}, [])
    _, (boost,) = policy.update(state, 1, {"c": Estimate(1.4)}, [])

    def once(rates: Rates, t: int) -> None:
        if t == 4:
            scale_lr(rates, boost)

    used, _ = train("float", "none", once)
    assert [round(u[0] / 0.1, 6) for u in used] == [1.0] * 4 + [1.5] * 3 + [1.0] * 7
    rates = Rates(optimizer_of("float"))
    change = scale_lr(rates, boost)
    with pytest.raises(ValueError, match="still lasts"):
        scale_lr(rates, boost)
    change.undo()
    assert rates.factor == 1
    later = scale_lr(rates, boost)
    change.undo()  # of the first one: the later one is not its business
    assert rates.factor == 1.5
    rates.enter()
    assert rates.leave() == [] and rates.leave() == []
    assert rates.leave() == ["The learning rate of langevin_boost is no longer times 1.5."]
    later.undo()
    scale_lr(rates, boost)
    rates.enter()
    rates.close()
    assert rates.factor == 1
    assert rates._optimizer.param_groups[0]["lr"] == 0.1


def test_an_update_that_raises_leaves_no_factor_behind() -> None:
    optimizer = optimizer_of("float")
    rates = Rates(optimizer)
    rates.put("mine", 0.5)
    for _ in range(3):
        rates.enter()  # the update raised, so `leave` was never called
        assert optimizer.param_groups[0]["lr"] == 0.05
    rates.leave()
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("kind", ["float", "tensor"])
def test_a_scheduler_within_the_update_cannot_make_the_factor_grow(kind: str) -> None:
    optimizer = optimizer_of(kind)
    scheduler = schedulers.ExponentialLR(optimizer, 0.9)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    rates = Rates(optimizer, alone=True)
    rates.put("mine", 0.5)
    for _ in range(5):
        optimizer.step()
    # Divided by .5 after being multiplied by it: exact in floating point.
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.9**5, rel=1e-12)


def test_a_checkpoint_between_updates_holds_the_rate_of_the_schedule() -> None:
    optimizer = optimizer_of("float")
    rates = Rates(optimizer, alone=True)
    rates.put("mine", 0.5)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["lr"] == 0.1


def test_a_hook_within_the_update_sees_the_rate_that_is_used() -> None:
    optimizer, seen = optimizer_of("float"), []
    rates = Rates(optimizer)  # before the hooks of a watch, which calls `leave` at its end
    look = lambda *_: seen.append(optimizer.param_groups[0]["lr"])  # noqa: E731
    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    rates.put("mine", 0.5)
    optimizer.step()
    rates.leave()
    assert seen == [0.05, 0.05]


def test_an_optimizer_without_a_rate_is_refused() -> None:
    optimizer = optimizer_of("float")
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="there is no rate to scale"):
        Rates(optimizer)


def test_policies_speak_the_words_that_are_carried_out() -> None:
    rates = Rates(optimizer_of("float"))
    row = {"c": Estimate(0.1), "grad/descent_factor": Estimate(0.5, 0.4, 0.6)}
    for policy in (LangevinRate("c"), DescentMargin()):
        _, (wanted,) = policy.update(policy.init(), 3, row, [])
        scale_lr(rates, wanted)
    assert rates.standing == {"langevin_rate": 1.5, "descent_margin": 0.5}


def test_stop_advice_and_pause() -> None:
    wishes = Wishes()
    policy = Stop(on=Every(1))
    _, (wanted,) = policy.update(policy.init(), 3, {}, [])
    change = stop(wishes, wanted)
    assert wishes.should_stop and wishes.because == wanted.reason
    change.undo()
    assert wishes == Wishes()
    advice = Action(3, "mine", "advise_batch", {"batch": 64.0}, "because.")
    change = advise_batch(wishes, advice)
    assert (change.before, change.after, wishes.batch) == (0.0, 64.0, 64.0)
    change.undo()
    assert wishes.batch == 0.0
    heard: list[Action] = []
    pause(heard.append, wanted)
    assert heard == [wanted]
    with pytest.raises(ValueError, match="Nobody is there to ask"):
        pause(None, wanted)
