"""Carrying out: laws of the noise, draws of their own, and nothing half done."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foreshock.policies import (
    Every,
    Guarded,
    LatentReset,
    PublishedWeightReset,
    WeightReset,
)
from foreshock.policies import apply as apply_module
from foreshock.policies.apply import KINDS, Applier
from foreshock.policies.boost import MEASURED
from foreshock.types import Action, Policy
from tests.cases import loss
from tests.policies.world import ACTIONS, World, action_of, bits, flat


@pytest.mark.parametrize("relative", [True, False])
def test_weight_reset_hits_the_stated_share_with_the_stated_noise(relative: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 100))
    with torch.no_grad():
        model[1].weight.mul_(100), model[1].bias.zero_()
    policy: Policy = (
        WeightReset(on=Every(1), fraction=0.15, scale=0.1)
        if relative
        else PublishedWeightReset(on=Every(1))
    )
    before = [p.detach().clone() for p in model.parameters()]
    applier = Applier(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert applier.apply(action_of(policy)).applied
    for old, new in zip(before, model.parameters(), strict=True):
        hit = new.detach() != old
        moved = (new.detach() - old)[hit]
        rms = float(old.square().mean().sqrt())
        if relative and rms == 0:
            assert not hit.any()
            continue
        n, k = old.numel(), int(hit.sum())
        # Binomial: 4 standard deviations; of a normal's standard deviation: sd/sqrt(2k). Rounding
        # of large weights may swallow a tiny displacement, less than one in a thousand.
        assert abs(k - 0.15 * n) < 4 * math.sqrt(n * 0.15 * 0.85) + 1e-3 * n
        sigma = 0.1 * rms if relative else 0.01
        assert abs(float(moved.std()) / sigma - 1) < 4 / math.sqrt(2 * k)


def test_tied_weights_are_hit_once_and_frozen_ones_never() -> None:
    world = World("transformer")
    world.model.head.weight.requires_grad_(False)
    frozen = world.model.head.weight.clone()
    embed = world.model.embed.weight.detach().clone()
    numbers = {"fraction": 1.0, "scale": 1e-3, "relative": 0.0}
    world.applier.apply(Action(7, "p", "reset_weights", numbers, "why"))
    assert torch.equal(world.model.head.weight, frozen)
    assert world.model.unembed.weight is world.model.embed.weight
    moved = (world.model.embed.weight.detach() - embed).std()
    # Hit twice it would be sqrt(2) times as much.
    assert abs(float(moved) / 1e-3 - 1) < 4 / math.sqrt(2 * embed.numel())


@pytest.mark.parametrize("name", ACTIONS)
def test_draws_are_the_actions_own_and_repeat(name: str) -> None:
    def run(seed: int, action: Action) -> tuple[Any, Tensor]:
        world = World()
        world.applier = Applier(world.model, world.optimizer, seed)
        world.step(2)
        rng = torch.get_rng_state()
        assert world.applier.apply(action).applied
        assert torch.equal(torch.get_rng_state(), rng)
        world.step(MEASURED + 2)
        rng = torch.get_rng_state()
        torch.manual_seed(MEASURED + 1)  # where the last step begins; only training has drawn since
        loss(world.model, world.case.batch(16, MEASURED + 1))
        assert torch.equal(torch.get_rng_state(), rng)
        return bits(world.state()), flat(world.model)

    first, weights = run(3, ACTIONS[name])
    assert run(3, ACTIONS[name])[0] == first
    assert not torch.equal(run(4, ACTIONS[name])[1], weights)
    # Another step and another policy draw other numbers.
    for other in (replace(ACTIONS[name], step=8), replace(ACTIONS[name], policy="other")):
        assert not torch.equal(run(3, other)[1], weights)


def test_an_empty_parameter_is_no_reason_to_refuse() -> None:
    world = World("mlp")
    world.model.register_parameter("nothing", nn.Parameter(torch.zeros(0)))
    world.optimizer.add_param_group({"params": [world.model.nothing]})
    assert world.applier.apply(ACTIONS["weight_reset"]).applied


@pytest.mark.parametrize("name", ["weight_reset", "diffusion_boost", "latent_reset"])
def test_an_action_that_fails_changes_nothing_and_says_why(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(optimizer="adamw")
    world.step(2)
    before = bits(world.state())
    real = KINDS[ACTIONS[name].kind]

    def half(applier: Applier, action: Action) -> Callable[[], None]:
        carry_out = real(applier, action)

        def fails() -> None:
            carry_out()
            raise RuntimeError("CUDA out of memory")

        return fails

    monkeypatch.setattr(apply_module, "KINDS", {**KINDS, ACTIONS[name].kind: half})
    done = world.applier.apply(ACTIONS[name])
    assert not done.applied
    assert done.reason == f"{ACTIONS[name].reason} Not carried out: CUDA out of memory"
    assert bits(world.state()) == before
    assert not world.model.drop._forward_hooks and world.applier.after_update() == []
    undo = world.applier.apply(Action(9, ACTIONS[name].policy, "rollback", {}, "worse"))
    assert not undo.applied and "no longer there" in undo.reason


def test_while_one_policy_watches_the_action_of_another_is_refused() -> None:
    world = World()
    assert world.applier.apply(ACTIONS["weight_reset"], keep=True).applied
    for name in ("published_weight_reset", "diffusion_boost", "latent_reset"):
        done = world.applier.apply(ACTIONS[name], keep=True)
        assert not done.applied
        assert "The guard of weight_reset still watches its action of step 7" in done.reason
    assert world.applier.apply(replace(ACTIONS["weight_reset"], step=9), keep=True).applied
    world.applier.release(set())
    assert world.applier.apply(ACTIONS["published_weight_reset"], keep=True).applied


def test_an_interrupt_passes_after_everything_was_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    before = bits(world.state())

    def interrupted(applier: Applier, action: Action) -> Callable[[], None]:
        def carry_out() -> None:
            applier.touch(world.model.head.weight)
            world.model.head.weight.zero_()
            raise KeyboardInterrupt

        return carry_out

    monkeypatch.setattr(apply_module, "KINDS", {"reset_weights": interrupted})
    with pytest.raises(KeyboardInterrupt):
        world.applier.apply(ACTIONS["weight_reset"])
    assert bits(world.state()) == before


def test_what_cannot_be_done_is_refused_with_a_sentence() -> None:
    world = World()
    before = bits(world.state())

    def refused(kind: str, numbers: dict[str, Any], policy: str = "p") -> str:
        done = world.applier.apply(Action(7, policy, kind, numbers, "Why."))
        assert not done.applied and done.reason.startswith("Why. Not carried out: ")
        return done.reason

    assert "There is no kind 'pray'; there are advise_batch, boost_diffusion," in refused(
        "pray", {}
    )
    assert "'scale'" in refused("reset_weights", {"fraction": 1.0})
    latent = {"layer": "nowhere", "fraction": 0.2, "expand": 1.5, "steps": 1.0}
    assert "no layer 'nowhere'. Some that it has: conv" in refused("reset_latents", latent)
    assert "no longer there" in refused("rollback", {})
    assert bits(world.state()) == before
    # Another policy's action is not undone, nor one that was not the last.
    assert world.applier.apply(ACTIONS["weight_reset"], keep=True).applied
    assert "no longer there" in refused("rollback", {}, policy="other")
    assert "no longer there" in refused("rollback", {"undoes": 3.0}, policy="weight_reset")
    # Weights that are nan have no size to perturb them by, and stay as they are.
    world.applier.close()
    with torch.no_grad():
        world.model.head.bias[0] = math.nan
    again = bits(world.state())
    assert "not finite" in refused("reset_weights", dict(ACTIONS["weight_reset"].arguments))
    assert bits(world.state()) == again


def test_a_compiled_layer_is_refused_and_one_outside_is_not() -> None:
    layer = LatentReset("0", on=Every(1))

    def check(model: nn.Module, policy: Policy) -> None:
        Applier(model, torch.optim.SGD(model.parameters(), lr=0.1)).check([Guarded(policy)])

    def plain() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()))

    check(plain(), layer)
    with pytest.raises(ValueError, match="The layer '0' is compiled, and a hook added"):
        check(torch.compile(plain(), backend="eager"), layer)  # type: ignore[arg-type]
    model = plain()
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="is compiled"):
        check(model, layer)
    model = plain()
    model[1].compile(backend="eager")
    check(model, layer)
    with pytest.raises(ValueError, match="is compiled"):
        check(model, LatentReset("1.0", on=Every(1)))
    with pytest.raises(ValueError, match="replicas of `nn.DataParallel`"):
        check(nn.DataParallel(plain()), layer)


def test_a_kind_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def scale_lr(applier: Applier, action: Action) -> Callable[[], None]:
        (group,) = applier.optimizer.param_groups
        return lambda: group.update(lr=group["lr"] * action.arguments["factor"])

    monkeypatch.setattr(apply_module, "KINDS", {**KINDS, "scale_lr": scale_lr})
    world = World()
    assert world.applier.apply(Action(7, "p", "scale_lr", {"factor": 0.5}, "why")).applied
    assert world.optimizer.param_groups[0]["lr"] == 0.025
