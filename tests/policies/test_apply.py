"""Carrying out: laws of the noise, restoration to the bit, and nothing half done."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foreshock.policies import (
    DiffusionBoost,
    Every,
    Guarded,
    LatentReset,
    PublishedWeightReset,
    WeightReset,
)
from foreshock.policies import apply as apply_module
from foreshock.policies.apply import KINDS, Applier
from foreshock.policies.apply_effects import Draws, redraw
from foreshock.types import Action, Policy
from tests.cases import CASES, loss

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
}


def action_of(policy: Policy, step: int = 7) -> Action:
    """What the policy does when its clock says so."""
    return policy.update(policy.init(), step, {}, [])[1][0]


ACTIONS = {
    "weight_reset": action_of(WeightReset(on=Every(1))),
    "published_weight_reset": action_of(PublishedWeightReset(on=Every(1))),
    "diffusion_boost": action_of(DiffusionBoost(on=Every(1), steps=3)),
    "latent_reset": action_of(LatentReset("drop", on=Every(1), steps=3)),
}


class World:
    """A model with buffers and random draws, an optimizer, and steps of training."""

    def __init__(self, case: str = "cnn", optimizer: str = "sgd") -> None:
        torch.manual_seed(1)
        self.case = CASES[case]
        self.model = self.case.model().train()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.applier = Applier(self.model, self.optimizer, seed=3)

    def step(self, n: int = 1, seed: int = 0) -> list[str]:
        said: list[str] = []
        for i in range(n):
            batch = self.case.batch(16, seed + i)

            def closure(batch: Any = batch) -> Tensor:
                self.optimizer.zero_grad()
                value = loss(self.model, batch)
                value.backward()
                return value

            torch.manual_seed(seed + i)  # the same dropout in every world at this step
            self.optimizer.step(closure)
            said += self.applier.after_update()
        return said

    def state(self) -> Any:
        """Everything of the run, copied."""
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))


def bits(value: Any) -> Any:
    """A nested state as something that compares to the bit."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(v) for v in value]
    return value


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_applied_then_rolled_back_is_bitwise_the_state_before(optimizer: str, name: str) -> None:
    world, twin = World(optimizer=optimizer), World(optimizer=optimizer)
    world.step(3), twin.step(3)
    held = {id(t) for s in world.optimizer.state.values() for t in s.values()}
    before = bits(world.state())
    assert world.applier.apply(ACTIONS[name]).applied
    world.step(2, seed=50)
    assert bits(world.state()) != before
    undo = Action(9, ACTIONS[name].policy, "rollback", {"undoes": 7.0}, "worse")
    assert world.applier.apply(undo).applied
    assert bits(world.state()) == before
    if optimizer != "lbfgs":  # which replaces its tensors itself
        assert {id(t) for s in world.optimizer.state.values() for t in s.values()} == held
    # And nothing of the action is left: training goes on as if it had never been.
    world.step(4, seed=80), twin.step(4, seed=80)
    assert bits(world.state()) == bits(twin.state())


def test_state_that_did_not_exist_is_gone_again() -> None:
    world = World(optimizer="adamw")
    assert not world.optimizer.state
    world.applier.apply(ACTIONS["weight_reset"])
    world.step(1)
    assert world.optimizer.state
    world.applier.apply(Action(9, "weight_reset", "rollback", {}, "worse"))
    assert not world.optimizer.state


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
        world.step(2)
        rng = torch.get_rng_state()
        torch.manual_seed(1)  # where step 1 begins; only the training itself has drawn since
        loss(world.model, world.case.batch(16, 1))
        assert torch.equal(torch.get_rng_state(), rng)
        return bits(world.state()), flat(world.model)

    first, weights = run(3, ACTIONS[name])
    assert run(3, ACTIONS[name])[0] == first
    assert not torch.equal(run(4, ACTIONS[name])[1], weights)
    other = action_of(Guarded(WeightReset(on=Every(1))), step=8)
    if name == "weight_reset":
        assert not torch.equal(run(3, other)[1], weights)


def test_boost_is_always_restored() -> None:
    # By itself after `steps` updates: from then on training is, to the bit, training without it.
    boosted = World()
    boosted.step(2)
    assert boosted.applier.apply(ACTIONS["diffusion_boost"]).applied
    assert boosted.step(2) == []
    assert boosted.step(1) == ["The boost of diffusion_boost ended: 3 updates."]
    plain = World()
    plain.model.load_state_dict(boosted.model.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(boosted.optimizer.state_dict()))
    boosted.step(5, seed=30), plain.step(5, seed=30)
    assert bits(boosted.state()) == bits(plain.state())
    # And when it is closed before its time.
    assert boosted.applier.apply(ACTIONS["diffusion_boost"]).applied
    boosted.applier.close()
    boosted.step(2, seed=60), plain.step(2, seed=60)
    assert bits(boosted.state()) == bits(plain.state())
    # A boost every time does not add up: while one lasts a second is refused.
    assert boosted.applier.apply(ACTIONS["diffusion_boost"]).applied
    second = boosted.applier.apply(ACTIONS["diffusion_boost"])
    assert not second.applied and "still lasts" in second.reason
    assert len(boosted.step(3)) == 1


@pytest.mark.parametrize("beta", [0.25, 3.0])
def test_boost_noise_is_beta_mean_squared_updates(beta: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(300, 300, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    applier = Applier(model, optimizer)
    numbers = {"beta": beta, "steps": 5.0}
    applier.apply(Action(7, "p", "boost_diffusion", numbers, "why"))
    for size in (1.0, 10.0, 0.1, 3.0, 1.0):
        before = model.weight.detach().clone()
        model.weight.grad = size * torch.randn(300, 300)
        optimizer.step()
        after = model.weight.detach().clone()
        applier.after_update()
        update, noise = after - before, model.weight.detach() - after
        # The ratio of a sum of n squares of normals to its mean: standard error sqrt(2/n).
        ratio = float(noise.square().mean() / update.square().mean())
        assert abs(ratio / beta - 1) < 4 * math.sqrt(2 / update.numel())


def test_a_boost_measures_updates_and_not_other_actions() -> None:
    world = World()
    world.step(1)
    world.applier.apply(ACTIONS["diffusion_boost"])
    big = {"fraction": 1.0, "scale": 100.0, "relative": 0.0}
    world.applier.apply(Action(7, "p", "reset_weights", big, "why"))
    after = flat(world.model)
    for p in world.model.parameters():
        p.grad = torch.zeros_like(p)
    world.optimizer = torch.optim.SGD(world.model.parameters(), lr=0.1)
    world.optimizer.step()  # an update of nothing, so noise of nothing
    world.applier.after_update()
    assert torch.equal(flat(world.model), after)


def test_a_boost_ends_where_an_update_is_not_finite() -> None:
    world = World()
    world.applier.apply(ACTIONS["diffusion_boost"])
    with torch.no_grad():
        world.model.head.bias[0] = math.nan
    assert world.applier.after_update() == [
        "The boost of diffusion_boost ended: an update was not finite."
    ]
    assert torch.isfinite(world.model.head.weight).all()


def test_reset_covariance_is_one_plus_half_alpha() -> None:
    # z ~ N(m, Sigma) in d = 3; after a reset at alpha = .2 and 1.5 the batch has 1.1 Sigma.
    generator = torch.Generator().manual_seed(0)
    n, repeats, alpha = 2000, 40, 0.2
    root = torch.tensor([[2.0, 0, 0], [1.0, 1.0, 0], [0, 0.5, 0.3]])
    batches, drawn, radius = [], [], []
    for seed in range(repeats):
        z = torch.randn(n, 3, generator=generator) @ root.T + 5
        after = redraw(z, alpha, 1.5, Draws(seed))
        kept = (after == z).all(1)
        assert int((~kept).sum()) == alpha * n  # exactly the share, the others bitwise in place
        old = torch.cov(z.T)
        # Against the batch's own covariance, so that only the draws are random.
        batches.append(torch.linalg.solve(old, torch.cov(after.T)))
        drawn.append(torch.linalg.solve(old, torch.cov(after[~kept].T)))
        centred = after - z.mean(0)
        radius.append(float(centred.square().sum() / (z - z.mean(0)).square().sum()) ** 0.5)
    identity = torch.eye(3)
    for found, factor, rows in ((batches, 1.1, n), (drawn, 1.5, alpha * n)):
        # An entry of a whitened sample covariance of k rows has standard error factor sqrt(2/k).
        error = (torch.stack(found).mean(0) - factor * identity).abs().max()
        assert float(error) < 4 * factor * math.sqrt(2 / (rows * repeats))
    mean = sum(radius) / repeats
    assert abs(mean - math.sqrt(1.1)) < 0.005 and mean < 1.06  # and not 1.22, nor 1.5
    assert LatentReset("x").covariance_factor == pytest.approx(1.1)


@pytest.mark.parametrize("shape", [(8, 50), (8, 3, 5), (40, 6)])
def test_draws_stay_in_the_span_of_the_batch_and_carry_no_gradient(shape: tuple) -> None:
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    after = redraw(z, 0.25, 1.5, Draws(0))
    kept = (after == z).flatten(1).all(1)
    assert after.shape == z.shape and int((~kept).sum()) == shape[0] // 4
    after.sum().backward()
    grads = z.grad.flatten(1)
    assert (grads[kept] == 1).all() and (grads[~kept] == 0).all()
    with torch.no_grad():
        centred = (z - z.mean(0)).flatten(1)
        new = (after - z.mean(0)).flatten(1)[~kept]
        # A row is a combination of the centred rows: nothing is left beside their span.
        fitted = torch.linalg.lstsq(centred.T.double(), new.T.double(), driver="gelsd").solution
        assert torch.allclose(centred.T.double() @ fitted, new.T.double(), atol=1e-4)


def test_latents_are_reset_in_training_forwards_only_and_for_so_many_steps() -> None:
    world = World("mlp")
    seen: list[Tensor] = []
    world.model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    action = action_of(LatentReset("body.3", on=Every(1), fraction=0.5, steps=2))
    assert world.applier.apply(action).applied
    x, _ = world.case.batch(16, 0)

    def hit() -> int:
        """Rows that the layer above got and the layer itself did not give."""
        world.model(x)
        got = seen.pop()
        handles = dict(world.model.body[3]._forward_hooks)
        world.model.body[3]._forward_hooks.clear()
        world.model(x)
        world.model.body[3]._forward_hooks.update(handles)
        return int((got != seen.pop()).any(1).sum())

    assert hit() == 8
    world.model.eval()
    assert hit() == 0
    world.model.train()
    with torch.no_grad():
        assert hit() == 0
    assert world.step(1) == [] and hit() == 8
    assert world.step(1) == ["The latent reset of latent_reset at body.3 ended: 2 steps."]
    assert hit() == 0 and not world.model.body[3]._forward_hooks


def test_a_layer_computed_twice_in_a_step_is_drawn_the_same() -> None:
    # What activation checkpointing does: were the draws others, the gradient would be of no loss.
    from torch.utils.checkpoint import checkpoint

    gradients = []
    for checkpointed in (False, True):
        world = World("mlp")
        world.applier.apply(action_of(LatentReset("body.3", on=Every(1), fraction=0.5)))
        x, y = world.case.batch(16, 0)
        body = world.model.body
        z = checkpoint(body, x, use_reentrant=False) if checkpointed else body(x)
        nn.functional.cross_entropy(world.model.head(z), y).backward()
        gradients.append([p.grad.clone() for p in world.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_trouble_in_the_forward_pass_is_said_and_not_raised() -> None:
    world = World("mlp")
    world.applier.apply(action_of(LatentReset("body.3", on=Every(1), steps=9)))
    x, y = world.case.batch(1, 0)
    loss(world.model, (x, y)).backward()
    (said,) = world.applier.after_update()
    assert "needs at least two examples. Got 1" in said
    assert not world.model.body[3]._forward_hooks
    # A layer through which no training forward runs.
    world.model.spare = nn.Linear(2, 2)
    world.applier.apply(action_of(LatentReset("spare", on=Every(1), steps=9)))
    (said,) = world.step(1)
    assert "no training forward ran through the layer" in said


def test_tuples_are_handed_on_as_they_are() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out, (h, _) = self.rnn(x)
            return out.sum() + h.sum()

    torch.manual_seed(0)
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    applier = Applier(model, optimizer)
    plain = model(torch.ones(8, 3, 6))
    assert applier.apply(action_of(LatentReset("rnn", on=Every(1)))).applied
    x = torch.randn(8, 3, 6, generator=torch.Generator().manual_seed(0))
    reset = model(x)
    reset.backward()
    assert applier.after_update() == ["The latent reset of latent_reset at rnn ended: 1 steps."]
    assert reset != model(x) and torch.isfinite(plain)


@pytest.mark.parametrize("name", ["weight_reset", "diffusion_boost", "latent_reset"])
def test_an_action_that_fails_changes_nothing_and_says_why(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(optimizer="adamw")
    world.step(2)
    before = bits(world.state())
    real = KINDS[ACTIONS[name].kind]

    def half(applier: Applier, action: Action) -> None:
        real(applier, action)
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(apply_module, "KINDS", {**KINDS, ACTIONS[name].kind: half})
    done = world.applier.apply(ACTIONS[name])
    assert not done.applied
    assert done.reason == f"{ACTIONS[name].reason} Not carried out: CUDA out of memory"
    assert bits(world.state()) == before
    assert not world.model.drop._forward_hooks and world.applier.after_update() == []
    undo = world.applier.apply(Action(9, ACTIONS[name].policy, "rollback", {}, "worse"))
    assert not undo.applied and "no longer there" in undo.reason


def test_an_interrupt_passes_after_everything_was_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    before = bits(world.state())

    def interrupted(applier: Applier, action: Action) -> None:
        with torch.no_grad():
            world.model.head.weight.zero_()
        raise KeyboardInterrupt

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

    assert "There is no kind 'pray'; there are boost_diffusion," in refused("pray", {})
    assert "'scale'" in refused("reset_weights", {"fraction": 1.0})
    latent = {"layer": "nowhere", "fraction": 0.2, "expand": 1.5, "steps": 1.0}
    assert "no layer 'nowhere'. Some that it has: conv" in refused("reset_latents", latent)
    assert "no longer there" in refused("rollback", {})
    assert bits(world.state()) == before
    # Another policy's action is not undone, nor one that was not the last.
    assert world.applier.apply(ACTIONS["weight_reset"]).applied
    assert "no longer there" in refused("rollback", {}, policy="other")
    assert "no longer there" in refused("rollback", {"undoes": 3.0}, policy="weight_reset")
    # Weights that are nan have no size to perturb them by, and stay as they are.
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
    def scale_lr(applier: Applier, action: Action) -> None:
        for group in applier.optimizer.param_groups:
            group["lr"] *= action.arguments["factor"]

    monkeypatch.setattr(apply_module, "KINDS", {**KINDS, "scale_lr": scale_lr})
    world = World()
    assert world.applier.apply(Action(7, "p", "scale_lr", {"factor": 0.5}, "why")).applied
    assert world.optimizer.param_groups[0]["lr"] == 0.025
