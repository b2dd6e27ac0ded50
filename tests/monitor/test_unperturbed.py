"""To measure is not to touch: training with the full monitor at every step is bitwise the same.

Run as A (bare), B (watched), A (bare again: shows that the comparison itself is deterministic). In
the watched run every promised series must have a value or a flag at every due step, and the value
must be the one that the observable gives on a frozen copy of the model.
"""

from __future__ import annotations

import copy
import math
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreshock as fs
from foreshock.estimators import Curvature, GradientNoise, UpdateWindow
from foreshock.estimators.norms import Norms
from foreshock.monitor import door
from foreshock.monitor.presets import FULL
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Readings
from tests.cases import CASES, Case, loss

STEPS = 7
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
LOOPS = ("plain", "accumulation", "compiled", "scheduler")


@dataclass
class Trained:
    """Everything about a finished run that watching must not change."""

    state: dict[str, torch.Tensor]
    grads: dict[str, torch.Tensor | None]
    modes: list[bool]
    random: tuple[Any, Any, torch.Tensor]
    losses: list[float]
    frozen: list[tuple[torch.nn.Module, list[Any], float, dict[str, Any]]]


def members(loop: str) -> list[Any]:
    """The full preset; windows short enough to fill, cold checks, and the micro-batches' source."""
    short = {UpdateWindow: UpdateWindow(width=3, stride=1), Curvature: Curvature(cold_every=3)}
    if loop == "accumulation":
        short[GradientNoise] = GradientNoise("accumulation", batch_size=16)
    return [short.get(cls, cls()) for cls in FULL]


def train(case: Case, optimizer_name: str, loop: str, run: Path | None, **options: Any) -> Trained:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    bare = case.model()
    bare.train()
    optimizer = OPTIMIZERS[optimizer_name](bare.parameters())
    model = torch.compile(bare) if loop == "compiled" else bare
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5) if loop == "scheduler" else None
    watch = None
    if run is not None:
        options = {"observables": members(loop), "every": 1, **options}
        watch = fs.attach(model, optimizer, run=run, probe=case.probe(), **options)
    losses, frozen = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(3 if loop == "accumulation" else 1):
            value = loss(model, case.batch(16, 10 * step + part))
            (value / 3 if loop == "accumulation" else value).backward()
            losses.append(value.item())
        if run is not None:
            grads = [None if p.grad is None else p.grad.clone() for p in bare.parameters()]
            rate = optimizer.param_groups[0]["lr"]
            kept = copy.deepcopy(optimizer.state_dict())
            frozen.append((copy.deepcopy(bare), grads, rate, kept))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        # The user's own draws, which a monitor that draws would shift.
        losses += [random.random(), float(np.random.rand()), torch.rand(()).item()]
        if watch is not None:
            watch.log(loss=losses[0])
    if run is not None:
        frozen.append((copy.deepcopy(bare), [], 0.0, {}))
    if watch is not None:
        watch.close()
    return Trained(
        {k: v.clone() for k, v in bare.state_dict().items()},
        {k: None if p.grad is None else p.grad.clone() for k, p in bare.named_parameters()},
        [m.training for m in bare.modules()],
        (random.getstate(), np.random.get_state(), torch.get_rng_state()),
        losses,
        frozen,
    )


def same(a: Trained, b: Trained) -> bool:
    """Bitwise equality, nan included."""

    def equal(x: torch.Tensor | None, y: torch.Tensor | None) -> bool:
        if x is None or y is None:
            return x is y
        return x.dtype == y.dtype and x.numpy().tobytes() == y.numpy().tobytes()

    return (
        a.state.keys() == b.state.keys()
        and all(equal(a.state[k], b.state[k]) for k in a.state)
        and all(equal(a.grads[k], b.grads[k]) for k in a.grads)
        and a.modes == b.modes
        and a.losses == b.losses
        and a.random[0] == b.random[0]
        and all(np.array_equal(x, y) for x, y in zip(a.random[1], b.random[1], strict=True))
        and torch.equal(a.random[2], b.random[2])
    )


def check_values(run: fs.Run, case: Case, name: str, loop: str, trained: Trained) -> None:
    """Every promised value, against the observable on a frozen copy."""
    assert run.events("observable_off") == []
    probe = case.probe()
    for observable in members(loop):
        due = [s for s in range(STEPS) if s % max(1, observable.stride) == 0]
        state = observable.init()
        for step in due:
            before, grads, rate, kept = trained.frozen[step]
            view = ModelView(before)
            optimizer = OPTIMIZERS[name](before.parameters())
            optimizer.load_state_dict(kept)
            update = None
            if "update" in observable.needs:
                new = ModelView(trained.frozen[step + 1][0]).parameters
                update = tuple(n - o for n, o in zip(new, view.parameters, strict=True))
            moment = Moment(
                step=step,
                view=view,
                gradients=tuple(grads),
                learning_rates=(rate,),
                optimizer=OptimizerView(optimizer, view),
                probe=probe,
                update=update,
            )
            accumulated = (
                "micro" in observable.needs
            )  # has no frozen copy; its own tests compare it
            if not accumulated:
                state, expected = observable.update(state, moment)
            for info in observable.series:
                if info.array or info.name == "clock/seconds":
                    continue
                series = run.series(info.name)
                rows = np.flatnonzero(series.step == step)
                assert len(rows) == 1, f"{info.name} at {step}"
                got = series.estimate(int(rows[0]))
                if accumulated:
                    assert math.isfinite(got.value) or got.flags, (info.name, step)
                else:
                    assert identical(got, expected.scalars[info.name]), (info.name, step, got)
        for info in (i for i in observable.series if not i.array):
            steps = run.series(info.name).step.tolist()
            assert steps == due, info.name


def identical(a: Estimate, b: Estimate) -> bool:
    def equal(x: float, y: float) -> bool:
        return x == y or (math.isnan(x) and math.isnan(y))

    return (
        equal(a.value, b.value)
        and equal(a.low, b.low)
        and equal(a.high, b.high)
        and (a.n, a.flags, a.reason, a.null) == (b.n, b.flags, b.reason, b.null)
        and (math.isfinite(a.value) or bool(a.flags))
    )


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # inductor's own
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bitwise_unperturbed(name: str, optimizer: str, loop: str, tmp_path: Path) -> None:
    if loop == "compiled" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    case = CASES[name]
    first = train(case, optimizer, loop, None)
    watched = train(case, optimizer, loop, tmp_path / "run")
    again = train(case, optimizer, loop, None)
    assert same(first, again), "the comparison itself is not deterministic"
    assert same(first, watched)
    with fs.Run.open(tmp_path / "run") as run:
        check_values(run, case, optimizer, loop, watched)
        assert np.isfinite(run.series("update/k_star").value).sum() == STEPS - 3
        assert np.isfinite(run.series("grad/snr").value).all()


@dataclass(frozen=True)
class Vandal:
    """An observable that touches: each way must be caught by the comparison above."""

    how: str
    name: str = "vandal"
    needs: frozenset[str] = frozenset({"gradients"})
    price: float = 0.1
    stride: int = 0
    series = (fs.SeriesInfo("vandal/x", "x"),)

    def init(self) -> None:
        return None

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        live = moment.view.live_parameters
        if self.how == "weights":
            live[0].data.add_(1e-6)
        elif self.how == "grad":
            assert live[0].grad is not None
            live[0].grad.mul_(1.0001)
        elif self.how == "mode":
            moment.view._live.eval()
        elif self.how == "buffers":
            next(iter(moment.view._live.buffers())).add_(1e-6)
        elif self.how == "torch draw":
            torch.rand(())
        elif self.how == "numpy draw":
            np.random.rand()
        elif self.how == "python draw":
            random.random()
        return None, Readings({"vandal/x": Estimate.exact(1.0)})


@pytest.mark.parametrize(
    "how", ["weights", "grad", "mode", "buffers", "torch draw", "numpy draw", "python draw"]
)
def test_a_planted_violation_is_caught(how: str, tmp_path: Path) -> None:
    case = CASES["cnn"]

    def watched(folder: str, observables: list) -> Trained:
        return train(case, "sgd", "plain", tmp_path / folder, observables=observables)

    clean = watched("a", [Norms()])
    assert same(train(case, "sgd", "plain", None), clean)
    assert not same(clean, watched("b", [Norms(), Vandal(how)]))


def test_train_mode_and_buffers_survive_a_probe_in_train_mode(tmp_path: Path) -> None:
    case = CASES["cnn"]
    model = case.model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    view = ModelView(model)
    view.gradient(loss, case.batch(16, 3))
    view.outputs(case.probe(), case.batch(16, 3)[0])
    view.features(case.probe(), case.batch(16, 3)[0])
    assert model.training and model.norm.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in view._call.modules())


def test_gradients_are_unscaled_for_fused_optimizers() -> None:
    model = CASES["mlp"].model()
    view = ModelView(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss(model, CASES["mlp"].batch(8, 1)).backward()
    plain = door.gradients(view, optimizer)
    optimizer.grad_scale = torch.tensor(4.0)  # as torch.amp.GradScaler sets it on fused optimizers
    scaled = door.gradients(view, optimizer)
    assert all(torch.equal(a / 4, b) for a, b in zip(plain, scaled, strict=True))
    optimizer.found_inf = torch.tensor(1.0)
    assert all(g is None for g in door.gradients(view, optimizer))
