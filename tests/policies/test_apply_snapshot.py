"""Ways back: restoration to the bit, and nothing written that is not the action's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from foreshock.policies import apply as apply_module
from foreshock.policies.apply import KINDS, Applier
from foreshock.policies.boost import MEASURED
from foreshock.types import Action
from tests.cases import CASES
from tests.policies.world import ACTIONS, OPTIMIZERS, World, bits, flat


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_applied_then_rolled_back_is_bitwise_the_state_before(optimizer: str, name: str) -> None:
    world, twin = World(optimizer=optimizer), World(optimizer=optimizer)
    world.step(3), twin.step(3)
    held = {id(t) for s in world.optimizer.state.values() for t in s.values()}
    before = bits(world.state())
    assert world.applier.apply(ACTIONS[name], keep=True).applied
    world.step(MEASURED + 2, seed=50)
    assert bits(world.state()) != before
    undo = Action(9, ACTIONS[name].policy, "rollback", {"undoes": 7.0}, "worse")
    assert world.applier.apply(undo).applied
    assert bits(world.state()) == before
    assert world.applier._kept is None
    if optimizer != "lbfgs":  # which replaces its tensors itself
        assert {id(t) for s in world.optimizer.state.values() for t in s.values()} == held
    # And nothing of the action is left: training goes on as if it had never been.
    world.step(4, seed=80), twin.step(4, seed=80)
    assert bits(world.state()) == bits(twin.state())


def test_state_that_did_not_exist_is_gone_again() -> None:
    world = World(optimizer="adamw")
    assert not world.optimizer.state
    world.applier.apply(ACTIONS["weight_reset"], keep=True)
    world.step(1)
    assert world.optimizer.state
    world.applier.apply(Action(9, "weight_reset", "rollback", {}, "worse"))
    assert not world.optimizer.state


class Two(nn.Module):
    """One module, two optimizers, as in adversarial training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
        self.a = nn.Linear(8, 8)
        self.b = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


@pytest.mark.parametrize("what", ["refused", "failing", "rollback"])
def test_weights_of_another_optimizer_are_not_written(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Two()
    ours = torch.optim.Adam(model.a.parameters())
    theirs = torch.optim.Adam([*model.shared.parameters(), *model.b.parameters()])
    applier = Applier(model, ours)
    reset = replace(ACTIONS["weight_reset"], policy="p")
    real = KINDS["reset_weights"]

    def half(applier: Applier, action: Action) -> Callable[[], None]:
        carry_out = real(applier, action)

        def fails() -> None:
            carry_out()
            raise RuntimeError("CUDA out of memory")

        return fails

    for i in range(4):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(i))
        h = model.shared(x)
        loss_a, loss_b = model.a(h.detach()).pow(2).mean(), (model.b(h) - 1).pow(2).mean()
        ours.zero_grad()
        loss_a.backward()
        applier.before_update()
        ours.step()
        applier.after_update()
        rest = [(t, t._version, t.clone()) for k, t in model.state_dict(keep_vars=True).items()
                if not k.startswith("a.")]  # fmt: skip
        if what == "refused":
            applier.apply(Action(7, "p", "reset_weights", {"fraction": 1.0}, "why"))
        elif what == "failing":
            monkeypatch.setattr(apply_module, "KINDS", {**KINDS, "reset_weights": half})
            assert not applier.apply(reset).applied
        elif i % 2 == 0:
            assert applier.apply(reset, keep=True).applied
        else:
            assert applier.apply(Action(9, "p", "rollback", {}, "worse")).applied
        assert all(t._version == v and torch.equal(t, old) for t, v, old in rest)
        theirs.zero_grad()
        loss_b.backward()  # raises if anything of its graph was written
        theirs.step()


def test_what_is_refused_copies_nothing_and_what_needs_no_way_back_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    real = apply_module.take
    monkeypatch.setattr(apply_module, "take", lambda *a: taken.append(1) or real(*a))
    world = World()
    assert not world.applier.apply(Action(7, "p", "reset_weights", {}, "w"), keep=True).applied
    assert world.applier.apply(ACTIONS["weight_reset"]).applied
    assert not taken and world.applier._kept is None
    assert world.applier.apply(ACTIONS["weight_reset"], keep=True).applied
    assert taken == [1]
    world.applier.release({"weight_reset"})
    assert world.applier._kept is not None
    world.applier.release(set())
    assert world.applier._kept is None


def no_grad(change: Callable[[World], object]) -> Callable[[World], object]:
    return torch.no_grad()(change)


FOREIGN: dict[str, Callable[[World], object]] = {
    "a checkpoint": lambda w: w.model.load_state_dict(CASES["cnn"].model().state_dict()),
    "one by data": lambda w: w.model.head.weight.data.mul_(1.5),
    "one weight": no_grad(lambda w: w.model.head.bias[0].add_(1.0)),
    "the optimizer": lambda w: w.optimizer.load_state_dict(w.optimizer.state_dict()),
}


@pytest.mark.parametrize("how", FOREIGN)
def test_a_rollback_does_not_overwrite_what_others_wrote(how: str) -> None:
    world = World()
    world.step(2)
    world.applier.apply(ACTIONS["weight_reset"], keep=True)
    world.step(1)
    FOREIGN[how](world)
    world.step(1)
    before = bits(world.state())
    undo = world.applier.apply(Action(9, "weight_reset", "rollback", {"undoes": 7.0}, "worse"))
    assert not undo.applied and "Going back would overwrite what is not this" in undo.reason
    assert bits(world.state()) == before


def test_averaged_weights_swapped_in_and_out_and_nan_of_training_are_no_foreign_writes() -> None:
    world = World()
    world.applier.apply(ACTIONS["weight_reset"], keep=True)
    world.step(1)
    held = copy.deepcopy(world.model.state_dict())
    world.model.load_state_dict(CASES["cnn"].model().state_dict())
    world.model.load_state_dict(held)
    world.applier.before_update()
    with torch.no_grad():
        world.model.head.weight.fill_(math.nan)  # what an update did
    world.applier.after_update()
    world.step(1)
    assert world.applier.apply(Action(9, "weight_reset", "rollback", {}, "worse")).applied
    assert torch.isfinite(flat(world.model)).all()
