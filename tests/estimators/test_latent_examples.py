"""Which examples become particles: kept or fresh, cut to size, copies left out."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from foreshock.estimators import LatentFlow
from foreshock.estimators.latent_examples import NoParticlesError, cut, examples_of
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView


class Row(NamedTuple):
    x: Tensor
    y: Tensor


def loss(model: Any, batch: Any) -> Tensor:
    x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
    return (model(x)[:, 0] - y).square().mean()


def batch(n: int, seed: int, kind: type = tuple) -> Any:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 3, generator=g), torch.randn(n, generator=g)
    return {tuple: (x, y), dict: {"x": x, "y": y, "name": "row"}, Row: Row(x, y)}[kind]


def moment(probe: Probe, step: int = 0, *, model: nn.Module | None = None) -> Moment:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = model or nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    view = ModelView(net)
    optimizer = OptimizerView(torch.optim.SGD(net.parameters(), lr=0.1), view)
    return Moment(step, view, (None,) * 4, (0.1,), optimizer, probe=probe)


@pytest.mark.parametrize("kind", [tuple, dict, Row])
def test_cut_keeps_the_form_and_the_rows(kind: type) -> None:
    whole, rows = batch(6, 0, kind), torch.tensor([4, 1])
    part = cut(whole, rows)
    assert type(part) is type(whole)
    if kind is dict:
        assert part["name"] == "row" and torch.equal(part["x"], whole["x"][[4, 1]])
        assert len(whole["x"]) == 6  # a copy was cut
    else:
        assert torch.equal(part[0], whole[0][[4, 1]]) and torch.equal(part[1], whole[1][[4, 1]])
    assert cut({"x": torch.ones(6), "y": torch.ones(3)}, rows) is None
    assert cut({"x": torch.ones(4), "t": torch.tensor(1.0)}, torch.tensor([0])) is None


@pytest.mark.parametrize("kind", [tuple, dict, Row])
def test_large_batches_are_cut_and_small_ones_are_put_together(kind: type) -> None:
    large = Probe(loss, [batch(200, i, kind) for i in range(4)])
    found = examples_of(moment(large), "batch", 20, seed=0)
    (one,) = found.batches
    assert len(one["x"] if kind is dict else one[0]) == 40 and found.drawn == 1  # twice, for copies
    small = Probe(loss, [batch(16, i, kind) for i in range(32)])
    found = examples_of(moment(small), "batch", 20, seed=0)
    assert len(found.batches) == found.drawn == 3
    few = Probe(loss, [batch(16, i, kind) for i in range(6)])  # the others are for the drift
    assert examples_of(moment(few), "batch", 20, seed=0).drawn == 1


def test_examples_that_are_not_there_are_refused() -> None:
    probe = Probe(loss, [batch(16, i, dict) for i in range(4)])
    for which in ("train", "heldout"):
        with pytest.raises(NoParticlesError, match=f"Probe\\({which}="):
            examples_of(moment(probe), which, 20, seed=0)


def test_fresh_particles_are_those_of_the_moment_and_copies_are_counted() -> None:
    """At each step k of the 64 rows are one row: 64 − k + 1 are different. The axes stay."""

    def draw(step: int) -> list[Any]:
        found = [batch(64, 100 * step + i) for i in range(10)]
        found[0][0][:step] = found[0][0][0].clone() if step else 0.0
        return found

    probe = Probe(loss, draw)
    observable = LatentFlow("0", examples="fresh", particles=32)  # of twice as many rows
    state, bases = observable.init(), []
    for step in (0, 10, 31):
        at = moment(probe, step)
        state, readings = observable.update(state, at)
        share = readings.scalars["latent/distinct"].value
        assert share == pytest.approx((64 - max(step - 1, 0)) / 64)
        assert len(readings.arrays["latent/z"]) == 32
        assert state.particles is not None
        rows = {tuple(row.tolist()) for row in at.batch_gradients[0].batch[0]}
        assert {tuple(row.tolist()) for row in state.particles.batches[0][0]} <= rows
        bases.append(state.particles.basis)
    assert torch.equal(bases[0], bases[1]) and torch.equal(bases[1], bases[2])


def test_a_collapse_is_told_though_there_is_no_cloud() -> None:
    """Five different rows of 64: too few for a score, and that is what is to be known."""

    def draw(step: int) -> list[Any]:
        found = [batch(64, 100 * step + i) for i in range(10)]
        found[0][0][: 60 * (step > 0)] = found[0][0][0].clone()
        return found

    observable = LatentFlow("0", examples="fresh", particles=32)
    state, _ = observable.update(observable.init(), moment(Probe(loss, draw)))
    after, readings = observable.update(state, moment(Probe(loss, draw), 1))
    assert after is state
    assert readings.scalars["latent/distinct"].value == pytest.approx(5 / 64)
    assert "Only 5 of the examples" in readings.scalars["latent/c"].reason


def test_parts_are_what_a_probe_of_the_part_alone_reads() -> None:
    """Classes are two blobs, so clusters are the same two parts; each as measured alone."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=g)
    y = torch.arange(200) % 2
    x[:, 0] += 12.0 * y
    batches = [(x[r], y[r]) for r in torch.randint(200, (10, 16), generator=g)]

    def classified(model: Any, pair: Any) -> Tensor:
        return nn.functional.cross_entropy(model(pair[0]), pair[1])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))
        observable = LatentFlow("0", score="gaussian", classes=True, clusters=2)
        whole = observable.update(
            observable.init(), moment(Probe(classified, batches, train=(x, y)), model=model)
        )[1].scalars
    names = ("drift", "diffusion", "drift_power", "common_noise", "fisher", "entropy_production")
    parts = []
    for label in (0, 1):
        only = Probe(classified, batches, train=(x[y == label], y[y == label]))
        alone = LatentFlow("0", score="gaussian")
        own = alone.update(alone.init(), moment(only, model=model))[1].scalars
        parts.append([own[f"latent/{n}"].value for n in names])
        got = [whole[f"latent/{n}@class{label}"].value for n in names]
        assert got == pytest.approx(parts[-1], rel=1e-6, nan_ok=True)
    # A cluster has an edge, and so no score.
    found = [[whole[f"latent/{n}@cluster{k}"].value for n in names[:4]] for k in (0, 1)]
    assert sorted(found) == [pytest.approx(p[:4], rel=1e-6) for p in sorted(parts)]
    assert "latent/c@cluster0" not in whole
