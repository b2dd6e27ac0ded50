"""Parts of the model on a live run: declared when they appear, refused at the door, never mixed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

import foreshock as fs
from foreshock.estimators import GradientNoise, Group, Ntk, PublishedLevy, Triple
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Flag, Readings, SeriesInfo
from tests.cases import CASES, loss


class Loose:
    """An observable of a user's own that writes more than it promises."""

    name, needs, price, stride = "loose", frozenset[str](), 1.0, 0
    series = (SeriesInfo("loose/a", "a", layered=True), SeriesInfo("loose/b", "b"))

    def init(self) -> None:
        return None

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        names = ("loose/a", "loose/b", "loose/a@one", "loose/b@one", "loose/c")
        return None, Readings(dict.fromkeys(names, Estimate.exact(1.0)))


class Unprintable(Loose):
    """A part whose name the store refuses."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        return None, Readings({"loose/a@x\ny": Estimate.exact(1.0)})


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int = 2) -> None:
    for i in range(n):
        optimizer.zero_grad()
        loss(model, CASES["mlp"].batch(16, i)).backward()
        optimizer.step()


def test_only_what_is_promised_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = CASES["mlp"].model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.WARNING):
        with fs.attach(model, optimizer, run=tmp_path / "r", observables=[Loose()], every=1):
            steps(model, optimizer)
    with fs.Run.open(tmp_path / "r") as run:
        assert set(run.names()) == {"loose/a", "loose/b", "loose/a@one"}
        assert run.describe("loose/a@one").title == "a, one"
    said = [r.message for r in caplog.records if "does not promise" in r.message]
    assert len(said) == 2  # once for each of the other two names


def test_a_bad_name_ends_its_observable_and_nothing_else(tmp_path: Path) -> None:
    model = CASES["mlp"].model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    members = [Unprintable(), "norms"]
    with fs.attach(model, optimizer, run=tmp_path / "r", observables=members, every=1):
        steps(model, optimizer, 3)
    with fs.Run.open(tmp_path / "r") as run:
        assert [e.payload["name"] for e in run.events("observable_off")] == ["loose"]
        assert len(run.series("grad/norm").step) == 3


def test_heads_that_do_not_divide_are_refused_at_attach(tmp_path: Path) -> None:
    model = CASES["mlp"].model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noise = GradientNoise(groups=[Group("head 0", r"body\.0\.weight", head=(0, 3))])
    with pytest.raises(ValueError, match="divides a dimension of 16 into"):
        fs.attach(
            model,
            optimizer,
            run=tmp_path / "r",
            probe=CASES["mlp"].probe(),
            observables=[noise],
        )
    assert not (tmp_path / "r").exists()


def moment(model: nn.Module, step: int, rate: float = 0.1) -> Moment:
    case = CASES["mlp"]
    probe = fs.Probe(
        loss,
        [case.batch(16, i) for i in range(4)],
        heldout=case.batch(8, 9),
        train=case.batch(32, 7),
    )
    view = ModelView(model)
    gradient = view.gradient(loss, case.batch(16, step))[1]
    return Moment(step, view, gradient, (rate,), probe=probe)


@pytest.mark.parametrize("observable", [Ntk(), Triple()], ids=["ntk", "triple"])
def test_kernels_of_different_weights_are_not_compared(observable) -> None:
    """Two layers of one size swap: the kernels have one shape and belong to other weights."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    rate = "ntk/log_det_rate" if observable.name == "ntk" else "triple/rho"
    for p in model[2].parameters():
        p.requires_grad_(False)
    state, _ = observable.update(observable.init(), moment(model, 0))
    for old, new in zip(model[0].parameters(), model[2].parameters(), strict=True):
        old.requires_grad_(False)
        new.requires_grad_(True)
    state, readings = observable.update(state, moment(model, 1))
    assert readings.scalars[rate].flags & Flag.UNRESOLVED
    _, readings = observable.update(state, moment(model, 2))
    assert readings.scalars[rate].value == 0.0  # the same weights: comparable again


def test_each_part_has_its_own_learning_rate() -> None:
    from foreshock.probe.optimizer import OptimizerView

    model = CASES["mlp"].model()
    groups = [{"params": model.body.parameters(), "lr": 1e-4}, {"params": model.head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    at = moment(model, 0)
    view = OptimizerView(optimizer, at.view)
    at = Moment(0, at.view, at.gradients, (1e-4, 0.5), view, probe=at.probe)
    _, readings = Triple().update(Triple().init(), at)
    _, top = Triple(groups={"all": "."}).update(Triple().init(), at)
    body, head = (readings.scalars[f"triple/s@{part}"].value for part in ("body.0", "head"))
    # No block exceeds the whole, whose rate is the largest.
    whole = top.scalars["triple/s@all"].high
    assert body <= 1e-4 / 0.5 * whole and head > 100 * body


def test_a_schedule_that_reaches_zero_does_not_end_the_tracker() -> None:
    observable = PublishedLevy(window=10)
    model, state = CASES["mlp"].model(), observable.init()
    for step in range(12):
        state, readings = observable.update(state, moment(model, step, rate=0.0))
    assert readings.scalars["published/s_levy"].flags & Flag.UNRESOLVED
    assert readings.scalars["published/rho_levy"].resolved
