"""What lasts: the law of a boost, redrawn latents, and that both are always taken away."""

from __future__ import annotations

import copy
import gc
import io
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from foreshock.policies import (
    Every,
    LatentReset,
    apply_effects,
)
from foreshock.policies.apply import Applier
from foreshock.policies.apply_effects import FOREIGN_WRITES, Draws, Ended, redraw
from foreshock.policies.boost import MEASURED
from foreshock.types import Action
from tests.cases import CASES, loss
from tests.policies.world import ACTIONS, World, action_of, bits


def test_boost_is_always_restored() -> None:
    # By itself after `steps` updates: from then on training is, to the bit, training without it.
    boosted, twin = World(), World()
    boosted.step(2), twin.step(2)
    assert boosted.applier.apply(ACTIONS["diffusion_boost"]).applied
    assert boosted.step(MEASURED) == [] and twin.step(MEASURED) == []
    assert bits(boosted.state()) == bits(twin.state())  # what is measured is left alone
    assert boosted.step(2) == []
    assert boosted.step(1) == ["All updates were made."]
    plain = World()
    plain.model.load_state_dict(boosted.model.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(boosted.optimizer.state_dict()))
    boosted.step(5, seed=30), plain.step(5, seed=30)
    assert bits(boosted.state()) == bits(plain.state())
    # And when it is closed before its time, which is told with what was done.
    assert boosted.applier.apply(ACTIONS["diffusion_boost"]).applied
    boosted.step(MEASURED + 1, seed=50)
    (ended,) = boosted.applier.close()
    assert ended.why == "The watch was closed." and ended.done["updates with noise"] == 1
    assert ended.text.startswith("The boost_diffusion of diffusion_boost ended. The watch was clo")
    plain.model.load_state_dict(boosted.model.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(boosted.optimizer.state_dict()))
    boosted.step(2, seed=60), plain.step(2, seed=60)
    assert bits(boosted.state()) == bits(plain.state())
    # A boost every time does not add up: while one lasts a second is refused.
    for name in ("diffusion_boost", "latent_reset"):
        assert boosted.applier.apply(ACTIONS[name]).applied
        second = boosted.applier.apply(ACTIONS[name])
        assert not second.applied and "still lasts" in second.reason
    assert len(boosted.step(MEASURED + 3)) == 2


@pytest.mark.parametrize("beta", [0.25, 3.0])
def test_boost_noise_is_beta_times_the_median_of_what_was_measured(beta: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(300, 300, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    applier = Applier(model, optimizer)
    applier.apply(Action(7, "p", "boost_diffusion", {"beta": beta, "steps": 3.0}, "why"))

    def noise(size: float) -> Tensor:
        model.weight.grad = size * torch.randn(300, 300)
        applier.before_update()
        optimizer.step()
        after = model.weight.detach().clone()
        applier.after_update()
        return model.weight.detach() - after

    for size in (1.0, 10.0, 0.1, 3.0, 1.0):
        assert not noise(size).any()
    for size in (1.0, 100.0, 0.0):  # whatever the updates are by then
        found = noise(size).square().mean()
        # A ratio of two sums of n squares of normals: standard error sqrt(4/n); median of 1, 10,
        # .1, 3, 1 is 1, and the update .1 of it.
        assert abs(float(found) / (beta * 0.1**2) - 1) < 4 * math.sqrt(4 / 90_000)


@pytest.mark.parametrize("h", [0.0, 0.6, 1.0, 1.8])
def test_a_boost_does_not_answer_what_it_does(h: float) -> None:
    # x' = x - h x + xi, and the noise sigma of the boost: beside a twin without it the displacement
    # is y' = (1 - h) y + sigma eta, of variance sigma^2 sum_{j<n} (1 - h)^(2j), n sigma^2 at most.
    # Noise in proportion to each update diverges here for every h > .5.
    n, beta, steps = 20_000, 3.0, 30
    worlds = []
    for boosted in (True, False):
        generator = torch.Generator().manual_seed(0)
        x = nn.Parameter(torch.zeros(n))
        model = nn.ParameterList([x])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        applier = Applier(model, optimizer)
        if boosted:
            numbers = {"beta": beta, "steps": float(steps)}
            applier.apply(Action(7, "p", "boost_diffusion", numbers, "why"))
        for _ in range(MEASURED + steps):
            x.grad = h * x.detach() + torch.randn(n, generator=generator)
            applier.before_update()
            optimizer.step()
            ended = applier.after_update()
        worlds.append(x.detach().double())
        if boosted:
            sigma = ended[0].done["sigma"]
    # The update is h x - xi: at h = 1, of variance 2 from the second on.
    if h in (0.0, 1.0):
        assert abs(sigma**2 / (beta * (1 + h)) - 1) < 4 * math.sqrt(2 / n)
    law = sigma**2 * sum((1 - h) ** (2 * j) for j in range(steps))
    assert law <= steps * sigma**2 * (1 + 1e-9)
    variance = float((worlds[0] - worlds[1]).square().mean())
    assert abs(variance / law - 1) < 4 * math.sqrt(2 / n)


def test_a_boost_measures_updates_and_nothing_else() -> None:
    def sigma(meddle: Callable[[World], object]) -> float:
        world = World()
        world.applier.apply(ACTIONS["diffusion_boost"])
        for _ in range(MEASURED + 3):
            meddle(world)
            for p in world.model.parameters():
                p.grad = torch.ones_like(p)
            world.optimizer = torch.optim.SGD(world.model.parameters(), lr=0.125)
            world.applier.before_update()
            world.optimizer.step()
            ended = world.applier.after_update()
        return ended[0].done["sigma"]

    other = CASES["cnn"].model().state_dict()
    big = {"fraction": 1.0, "scale": 4.0, "relative": 0.0}
    # Every update is .125, up to the rounding of w - .125 at |w| < 16: 2^-21 relative to it.
    assert sigma(lambda w: None) == pytest.approx(math.sqrt(3) / 8, rel=1e-5)
    assert sigma(lambda w: w.model.load_state_dict(other)) == pytest.approx(
        math.sqrt(3) / 8, rel=1e-5
    )
    assert sigma(
        lambda w: w.applier.apply(Action(7, "p", "reset_weights", big, "why"))
    ) == pytest.approx(math.sqrt(3) / 8, rel=1e-5)


def test_a_boost_leaves_alone_what_was_frozen_meanwhile() -> None:
    world = World()
    world.applier.apply(ACTIONS["diffusion_boost"])
    world.step(MEASURED)
    world.model.head.requires_grad_(False)
    before = {k: v.clone() for k, v in world.model.named_parameters()}
    world.step(1)
    moved = {k for k, v in world.model.named_parameters() if not torch.equal(v, before[k])}
    assert moved and not any(k.startswith("head") for k in moved)


def test_a_boost_ends_where_there_is_nothing_to_be_relative_to() -> None:
    world = World()
    world.applier.apply(ACTIONS["diffusion_boost"])
    world.applier.before_update()
    with torch.no_grad():
        world.model.head.bias[0] = math.nan
    (ended,) = world.applier.after_update()
    assert ended.why == "An update was not finite."
    assert torch.isfinite(world.model.head.weight).all()
    world = World()
    world.applier.apply(ACTIONS["diffusion_boost"])
    said = []
    for _ in range(MEASURED):
        world.applier.before_update()
        said += world.applier.after_update()
    assert [e.why for e in said] == ["The updates were 0, so there is nothing to be relative to."]


@pytest.mark.parametrize("kind", ["reset_weights", "boost_diffusion"])
@pytest.mark.parametrize("row", [0, 2])
def test_padding_rows_receive_no_noise(kind: str, row: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4, padding_idx=row), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    applier = Applier(model, optimizer)
    numbers = {"fraction": 1.0, "scale": 0.1, "relative": 1.0, "beta": 3.0, "steps": 1.0}
    assert applier.apply(Action(7, "p", kind, numbers, "why")).applied
    for _ in range(MEASURED + 1):
        optimizer.zero_grad()
        model(torch.arange(5)).sum().backward()
        applier.before_update()
        optimizer.step()
        old = model[0].weight.detach().clone()
        applier.after_update()
    assert not model[0].weight[row].any()
    if kind == "boost_diffusion":
        rest = [i for i in range(5) if i != row]
        assert (model[0].weight[rest] != old[rest]).all()


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
    assert LatentReset("x", on=Every(1)).covariance_factor == pytest.approx(1.1)


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
    assert world.step(1) == ["All updates were made."]
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


def test_every_step_draws_anew_and_every_forward_of_a_step_the_same() -> None:
    world = World("mlp")
    world.applier.apply(action_of(LatentReset("body.3", on=Every(1), fraction=0.25, steps=6)))
    x, _ = world.case.batch(16, 0)

    def rows() -> tuple[int, ...]:
        layer = world.model.body[3]
        seen: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
        world.model.body(x)
        handle.remove()
        hooks = dict(layer._forward_hooks)
        layer._forward_hooks.clear()
        plain = world.model.body[:4](x).detach()
        layer._forward_hooks.update(hooks)
        return tuple((seen[0] != plain).any(1).nonzero().flatten().tolist())

    found = []
    for _ in range(5):
        found.append(rows())
        assert rows() == found[-1]
        world.step(1)
    assert len(set(found)) == 5  # two of C(16, 4) agree with probability 10/1820


def test_a_batch_that_cannot_be_redrawn_is_left_alone_and_counted() -> None:
    world = World("mlp")
    world.applier.apply(action_of(LatentReset("body.3", on=Every(1), steps=3)))
    said: list[Ended] = []
    for n in (16, 1, 16):
        x, y = world.case.batch(n, 0)
        loss(world.model, (x, y)).backward()
        world.applier.before_update()
        world.optimizer.step()
        said += world.applier.after_update()
    (ended,) = said
    assert ended.done == {"updates": 3, "forwards redrawn": 2, "forwards left alone": 1}
    assert "needs at least two examples. Got 1" in ended.why
    assert not world.model.body[3]._forward_hooks
    # A layer through which no training forward runs.
    world.model.spare = nn.Linear(2, 2)
    world.applier.apply(action_of(LatentReset("spare", on=Every(1), steps=9)))
    (why,) = world.step(1)
    assert "No training forward ran through the layer" in why


class Pair(NamedTuple):
    scale: Tensor
    hidden: Tensor
    rest: list[Tensor]


@pytest.mark.parametrize("kind", ["tuple", "named tuple", "dict", "ordered dict", "dataclass"])
def test_the_first_latents_of_any_output_are_redrawn_and_the_rest_handed_on(kind: str) -> None:
    @dataclass
    class Output:
        scale: Tensor
        hidden: Tensor
        rest: list[Tensor]

    class Wrap(nn.Module):
        def forward(self, x: Tensor) -> Any:
            scale, rest = torch.tensor(2.0), [x + 1]
            parts = {"scale": scale, "hidden": x * 2, "rest": rest}
            make: dict[str, Callable[[], Any]] = {
                "tuple": lambda: tuple(parts.values()),
                "named tuple": lambda: Pair(**parts),
                "dict": lambda: dict(parts),
                "ordered dict": lambda: OrderedDict(parts),
                "dataclass": lambda: Output(**parts),
            }
            return make[kind]()

    model = nn.Sequential(nn.Linear(3, 3), Wrap())
    applier = Applier(model, torch.optim.SGD(model.parameters(), lr=0.1))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    plain = model(x)
    assert applier.apply(action_of(LatentReset("1", on=Every(1), fraction=0.5))).applied
    reset = model(x)
    assert type(reset) is type(plain)

    def parts(output: Any) -> list[Any]:
        if isinstance(output, dict):
            return list(output.values())
        return list(output) if isinstance(output, tuple) else list(vars(output).values())

    (scale, hidden, rest), (scale_, hidden_, rest_) = parts(plain), parts(reset)
    assert torch.equal(scale, scale_) and torch.equal(rest[0], rest_[0]) and len(rest_) == 1
    assert int((hidden != hidden_).any(1).sum()) == 4
    (ended,) = applier.after_update()
    assert ended.done["forwards redrawn"] == 1
    assert torch.equal(parts(model(x))[1], hidden)


def test_a_copy_of_the_model_carries_no_live_hook() -> None:
    world = World("mlp")
    world.applier.apply(action_of(LatentReset("body.3", on=Every(1), fraction=0.5, steps=3)))
    x, _ = world.case.batch(16, 0)
    file = io.BytesIO()
    torch.save(world.model, file)
    file.seek(0)
    world.step(1)
    copies = [
        copy.deepcopy(world.model),
        torch.load(file, weights_only=False),
        torch.optim.swa_utils.AveragedModel(world.model).module,
    ]
    for one in copies:
        one.train()
        z = one.body[:3](x)
        assert torch.equal(one.body[3](z), type(one.body[3]).forward(one.body[3], z))
    z = world.model.body[:3](x)
    layer = world.model.body[3]
    assert not torch.equal(layer(z), type(layer).forward(layer, z))  # the live one still is
    # When nobody holds the reset any more, its hook does nothing.
    del world.applier
    gc.collect()
    assert torch.equal(layer(z), type(layer).forward(layer, z))


def test_a_reset_ends_after_many_forwards_without_an_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apply_effects, "FORWARDS", 5)
    world = World("mlp")
    world.applier.apply(action_of(LatentReset("body.3", on=Every(1), steps=2)))
    for _ in range(5):
        world.model(world.case.batch(16, 0)[0])
        assert world.model.body[3]._forward_hooks
    world.model(world.case.batch(16, 0)[0])
    assert not world.model.body[3]._forward_hooks


def test_a_reset_whose_optimizer_no_longer_steps_ends_by_itself() -> None:
    world = World("mlp")
    world.applier.apply(action_of(LatentReset("body.3", on=Every(1), steps=2)))
    world.step(1)
    other = torch.optim.SGD(world.model.parameters(), lr=0.05)
    for i in range(5):
        other.zero_grad()
        loss(world.model, world.case.batch(16, i)).backward()
        other.step()
    assert not world.model.body[3]._forward_hooks
    (ended,) = world.applier.close()
    # It was heard at its own step, before the other's first, and after two writes of the other.
    assert ended.done["forwards redrawn"] == 1 + 1 + FOREIGN_WRITES
    # Weights clipped after each update are one write a step, and no reason to end.
    world.applier.apply(action_of(LatentReset("body.3", on=Every(1), steps=9)))
    for i in range(8):
        assert world.step(1, seed=i) == []
        with torch.no_grad():
            for p in world.model.parameters():
                p.clamp_(-1, 1)
    assert world.step(1) == ["All updates were made."]
