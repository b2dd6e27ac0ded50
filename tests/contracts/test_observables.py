"""One suite for every observable, discovered: pure, keeps its promises, flags instead of lying."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import foreshock.estimators as estimators
from foreshock.estimators import (
    Curvature,
    Descent,
    GradientMetrics,
    GradientNoise,
    LatentFlow,
    Ntk,
    PublishedEdge,
    PublishedLevy,
    Spectrum,
    Stability,
    Trajectory,
    UpdateWindow,
    catalogue,
    published_catalogue,
)
from foreshock.monitor.presets import BY_NAME, PRESETS
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Flag, Observable, Readings
from tests.cases import CASES, Case, loss

ALL = [
    *catalogue(),
    *published_catalogue(),
    GradientNoise("accumulation", batch_size=16),
    GradientNoise(groups="layer"),
    GradientNoise("examples"),
    GradientNoise(threshold=1.0),
    GradientNoise(groups="block", memory=4),
    GradientMetrics(groups="layer"),
    Descent(groups="block"),
    Curvature(groups="block"),
    Stability(groups="layer"),
    Spectrum(groups="layer", products=9, starts=1, steps=2),
    Ntk(reduction="full", examples=16, draws=39),
    Trajectory(width=3, stride=1),
    LatentFlow(dimensions=1, examples="batch", step="next", classes=True, clusters=2),
    UpdateWindow(width=3, stride=1),
    UpdateWindow(width=3, stride=1, groups="layer", sketch=4096),
    PublishedEdge(width=4, stride=1),
    PublishedLevy(window=10),
]
IDS = [f"{type(o).__name__}-{i}" for i, o in enumerate(ALL)]
observables = pytest.mark.parametrize("observable", ALL, ids=IDS)


def moment(model: nn.Module, probe: Probe, step: int = 0, *, seed: int = 0, n: int = 16) -> Moment:
    """A moment with gradients, micro-batches and an update, whatever the observable needs."""
    case_batch = probe.draw(step)[0]
    for p in model.parameters():
        p.grad = None
    parts = []
    for _ in range(4):
        value = loss(model, case_batch)
        grads = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
        parts.append(tuple(g.clone() for g in grads))
    view = ModelView(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    total = tuple(torch.stack(g).mean(0) for g in zip(*parts, strict=True))
    return Moment(
        step=step,
        view=view,
        gradients=total,
        learning_rates=(0.1,),
        optimizer=OptimizerView(optimizer, view),
        probe=probe,
        update=tuple(-0.1 * g for g in total),
        micro=tuple(parts),
    )


def fingerprint(readings: Readings) -> dict[str, Any]:
    """Comparable even where nan."""
    arrays = {k: (v.dtype.str, v.shape, v.tobytes()) for k, v in readings.arrays.items()}
    return {k: repr(v) for k, v in readings.scalars.items()} | arrays


def check(observable: Observable, readings: Readings) -> None:
    """Every promised series, each finite or flagged with a sentence, and no clip to 0."""
    promised = {s.name for s in observable.series if not s.array}
    layered = {s.name for s in observable.series if s.layered}
    whole = {name for name in readings.scalars if "@" not in name}
    assert whole == promised
    assert {n.partition("@")[0] for n in readings.scalars} - whole <= layered
    assert set(readings.arrays) <= {s.name for s in observable.series if s.array}
    for name, estimate in readings.scalars.items():
        assert isinstance(estimate, Estimate), name
        assert math.isfinite(estimate.value) or (estimate.flags and estimate.reason), name
        if math.isfinite(estimate.low) and math.isfinite(estimate.value) and not estimate.flags:
            assert estimate.low <= estimate.value <= estimate.high, name


def test_the_catalogue_reaches_every_observable() -> None:
    classes = {
        value
        for value in vars(estimators).values()
        if isinstance(value, type) and isinstance(value, Observable) and value is not Observable
    }
    published = {type(o) for o in published_catalogue()}
    assert classes == {type(o) for o in catalogue()} | published
    assert set(BY_NAME) == {o.name for o in (*catalogue(), *published_catalogue())}
    assert not published & {c for preset in PRESETS.values() for c in preset}
    assert {c for preset in PRESETS.values() for c in preset} == {type(o) for o in catalogue()}


@observables
def test_is_a_value(observable: Observable) -> None:
    assert pickle.loads(pickle.dumps(observable)) == observable
    assert hash(observable) == hash(copy.copy(observable))
    names = [s.name for s in observable.series]
    assert len(set(names)) == len(names)
    for info in observable.series:
        assert info.name == info.name.lower() and info.name.isascii() and "/" in info.name
        assert info.title and info.unit and info.null
        assert info.formula and info.oracle and info.source, info.name
    assert observable.price > 0 and observable.stride >= 0


@observables
@pytest.mark.parametrize("name", CASES)
def test_pure_and_whole(observable: Observable, name: str) -> None:
    case: Case = CASES[name]
    model, probe = case.model().eval(), case.probe()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    first, second = [], []
    for record in (first, second):
        state = observable.init()
        for step in range(5):
            state, readings = observable.update(state, moment(model, probe, step))
            check(observable, readings)
            record.append(fingerprint(readings))
    assert first == second  # the same states give the same readings: nothing is kept inside
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def spoil_weights(model: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        next(iter(model.parameters())).fill_(value)
    return model


class OneWeight(nn.Module):
    """A model with a single parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x[:, :4]


def frozen() -> nn.Module:
    model = CASES["mlp"].model()
    for p in model.body.parameters():
        p.requires_grad_(False)
    return model


HARD: dict[str, Callable[[], nn.Module]] = {
    "nan": lambda: spoil_weights(CASES["mlp"].model(), math.nan),
    "inf": lambda: spoil_weights(CASES["mlp"].model(), math.inf),
    "zero": lambda: spoil_weights(CASES["mlp"].model(), 0.0),
    "one weight": OneWeight,
    "float64": lambda: CASES["mlp"].model().double(),
    "bfloat16": lambda: CASES["mlp"].model().bfloat16(),
    "partly frozen": frozen,
}


def probe_for(model: nn.Module, size: int) -> Probe:
    case = CASES["mlp"]
    kind = next(model.parameters()).dtype

    def cast(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return pair[0].to(kind), pair[1]

    drawn = [cast(case.batch(size, 100 + i)) for i in range(4)]
    return Probe(loss=loss, batches=drawn, heldout=cast(case.batch(48, 999)))


def trainable_moment(model: nn.Module, probe: Probe, step: int) -> Moment:
    """As `moment`, for the trainable parameters only."""
    view = ModelView(model)
    grads = [view.gradient(probe.loss, batch)[1] for batch in probe.draw(step)]
    total = tuple(torch.stack(g).mean(0) for g in zip(*grads, strict=True))
    update = tuple(-0.1 * g for g in total)
    optimizer = OptimizerView(torch.optim.SGD(view.live_parameters, lr=0.1), view)
    return Moment(
        step, view, total, (0.1,), optimizer, probe=probe, update=update, micro=tuple(grads)
    )


@observables
@pytest.mark.parametrize("hard", HARD)
def test_hard_models_get_a_number_or_a_flag(observable: Observable, hard: str) -> None:
    model = HARD[hard]()
    probe = probe_for(model, size=16)
    state = observable.init()
    for step in range(3):
        state, readings = observable.update(state, trainable_moment(model, probe, step))
        check(observable, readings)
    if hard == "nan" and observable.name not in ("norms", "update_window", "tails"):
        assert all(e.flags & Flag.UNRESOLVED for e in readings.scalars.values()), readings


@observables
def test_one_sample_and_duplicates(observable: Observable) -> None:
    model = CASES["mlp"].model()
    one = CASES["mlp"].batch(1, 0)
    probe = Probe(loss=loss, batches=[one] * 4, heldout=CASES["mlp"].batch(1, 5))
    state = observable.init()
    for step in range(2):
        state, readings = observable.update(state, trainable_moment(model, probe, step))
        check(observable, readings)


def nothing(model: nn.Module, batch: Any) -> torch.Tensor:
    """A loss whose gradient is exactly zero."""
    return 0.0 * loss(model, batch)


@observables
def test_zero_gradients(observable: Observable) -> None:
    model, case = CASES["mlp"].model(), CASES["mlp"]
    batches = [case.batch(16, i) for i in range(4)]
    probe = Probe(
        loss=nothing,
        batches=batches,
        heldout=case.batch(48, 9),
        losses={"one": nothing, "two": nothing},
    )
    state = observable.init()
    for step in range(5):
        state, readings = observable.update(state, trainable_moment(model, probe, step))
        check(observable, readings)
        for name, estimate in readings.scalars.items():
            # A ratio of nothing to nothing is no number.
            if "snr" in name:
                assert estimate.flags, name


@observables
def test_a_probe_that_runs_empty(observable: Observable) -> None:
    model, case = CASES["mlp"].model(), CASES["mlp"]
    full = [case.batch(16, i) for i in range(4)]
    probe = Probe(
        loss=loss,
        batches=lambda step: [] if step else full,
        heldout=case.batch(48, 9),
        train=case.batch(48, 8),
        losses={"one": loss, "two": nothing},
    )
    state = observable.init()
    for step in (0, 1):
        view = ModelView(model)
        gradient = view.gradient(loss, full[0])[1]
        at = Moment(
            step,
            view,
            gradient,
            (0.1,),
            OptimizerView(torch.optim.SGD(view.live_parameters, lr=0.1), view),
            probe=probe,
            update=tuple(-0.1 * g for g in gradient),
            micro=(gradient,) * 4,
        )
        state, readings = observable.update(state, at)
        check(observable, readings)


@observables
def test_no_gradient_at_all(observable: Observable) -> None:
    model, probe = CASES["mlp"].model(), CASES["mlp"].probe()
    view = ModelView(model)
    absent = tuple(None for _ in view.names)
    state, readings = observable.update(
        observable.init(), Moment(0, view, absent, (0.1,), probe=probe)
    )
    check(observable, readings)


#: What iterates until a residual is small enough looks at it; what only restates a document is not
#: made for a device.
SEVERAL_TRANSFERS = {
    *("curvature", "stability", "spectrum", "natural", "llc", "triple"),
    "latent_flow",  # a score is chosen by looking at it
} | {o.name for o in published_catalogue()}


@pytest.mark.parametrize("observable", [o for o in ALL if o.name not in SEVERAL_TRANSFERS])
def test_at_most_one_transfer_to_the_host_a_record(
    observable: Observable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the calls that bring numbers to the host: free on a CPU, dear elsewhere."""
    calls: list[str] = []
    for name in ("item", "tolist", "cpu"):
        original = getattr(torch.Tensor, name)

        def counted(tensor: torch.Tensor, *args: Any, _o: Any = original, _n: str = name) -> Any:
            calls.append(_n)
            return _o(tensor, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    # Where numbers are free, on a CPU, small checks take them one by one; here as elsewhere.
    monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)
    model, probe = CASES["mlp"].model(), CASES["mlp"].probe()
    state = observable.init()
    for step in range(4):
        at = moment(model, probe, step)
        calls.clear()
        state, _ = observable.update(state, at)
        assert len(calls) <= 1, calls
