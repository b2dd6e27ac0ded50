"""Gradient noise: the Gram against numpy, snr against exact per-sample gradients, both sources."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreshock as fs
from foreshock.estimators import GradientNoise, gradient_gram
from foreshock.estimators.gradient_noise import PER_PART, PER_PART_AND_EXAMPLE
from foreshock.probe import Probe
from foreshock.probe.groups import Group
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.stats.gram import signal_noise
from foreshock.types import Estimate
from tests.cases import CASES, loss

POPULATION = 400


def exact(model: torch.nn.Module, pool: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float]:
    """|μ|² and Tr Σ of one example, over a whole population, one example at a time."""
    view = ModelView(model)
    rows = []
    for i in range(len(pool[1])):
        _, gradient = view.gradient(loss, (pool[0][i : i + 1], pool[1][i : i + 1]))
        rows.append(torch.cat([g.reshape(-1) for g in gradient]).double().numpy())
    g = np.stack(rows)
    return float(np.sum(g.mean(0) ** 2)), float(g.var(0).sum())


def measure(model: torch.nn.Module, probe: Probe) -> dict[str, Estimate]:
    view = ModelView(model)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    return dict(GradientNoise().update(None, moment)[1].scalars)


@pytest.mark.parametrize("name", CASES)
def test_snr_agrees_with_exact_per_sample_gradients(name: str) -> None:
    case = CASES[name]
    model = case.model().eval()
    pool = case.batch(POPULATION, seed=1)
    signal, noise = exact(model, pool)
    size, hits, trials = 16, 0, 40
    snr, resolved = [], 0
    for trial in range(trials):
        generator = torch.Generator().manual_seed(trial)
        rows = torch.randint(POPULATION, (12, size), generator=generator)
        probe = Probe(loss, [(pool[0][r], pool[1][r]) for r in rows], sampling="replacement")
        found = measure(model, probe)
        truth = signal / (noise / size)
        hits += found["grad/snr"].low <= truth <= found["grad/snr"].high
        resolved += found["grad/snr"].resolved
        snr.append(found["grad/snr_per_example"].value * size)
        assert found["grad/noise_scale"].value == pytest.approx(size / found["grad/snr"].value)
    # With replacement the batch covariance is exactly Σ/B. At 95 % 40 trials give 38 ± 1.4 hits;
    # three sd below.
    assert hits >= 34
    assert np.mean(snr) == pytest.approx(truth, rel=0.5)
    assert resolved > 0  # intervals that are always wide open would pass the lines above


def test_gram_in_float64_from_float32_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [
        [torch.randn(3, 5, generator=generator), torch.randn(20_000, generator=generator)]
        for _ in range(4)
    ]
    flat = np.stack([torch.cat([p.reshape(-1) for p in g]).double().numpy() for g in gradients])
    # float64 sums of 2e4 products: relative rounding about 1e-14
    np.testing.assert_allclose(gradient_gram(gradients).numpy(), flat @ flat.T, rtol=1e-12)


def test_accumulation_sees_the_very_micro_batches(tmp_path: Path) -> None:
    case = CASES["mlp"]
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    parts = [case.batch(8, seed) for seed in range(5)]
    observable = GradientNoise("accumulation", batch_size=8)
    with fs.attach(
        model, optimizer, run=tmp_path / "r", observables=[observable], every=1
    ) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            for part in parts:
                (loss(model, part) / len(parts)).backward()
            optimizer.step()
            watch.log(x=1.0)
    expected = measure(model, Probe(loss, parts))
    with fs.Run.open(tmp_path / "r") as run:
        for step in range(2):
            for name in ("grad/signal", "grad/noise", "grad/snr", "grad/p_align"):
                got = run.series(name).estimate(step)
                # (g / 5) * 5 in float32 is g up to one rounding of 6e-8, summed over a gradient
                assert got.value == pytest.approx(expected[name].value, rel=1e-5), name
                assert got.low == pytest.approx(expected[name].low, rel=1e-4)


def test_accumulation_needs_three_passes_and_says_so(tmp_path: Path) -> None:
    model = CASES["mlp"].model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1):
        loss(model, CASES["mlp"].batch(8, 0)).backward()
        optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        snr = run.series("grad/snr").estimate(0)
        assert math.isnan(snr.value) and "fewer than 3 backward passes" in snr.reason


def test_source_is_checked() -> None:
    with pytest.raises(
        ValueError, match="`source` of `GradientNoise` must be one of.*Got 'dreams'"
    ):
        GradientNoise("dreams")  # type: ignore[arg-type]


def readings(
    observable: GradientNoise, model: torch.nn.Module, probe: Probe
) -> dict[str, Estimate]:
    view = ModelView(model)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    return dict(observable.update(None, moment)[1].scalars)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("groups", ["layer", "block"])
def test_parts_sum_to_the_whole(name: str, groups: str) -> None:
    case = CASES[name]
    found = readings(GradientNoise(groups=groups), case.model().eval(), case.probe())
    for series in ("grad/signal", "grad/noise"):
        parts = [e.value for n, e in found.items() if n.startswith(f"{series}@")]
        assert len(parts) > 1
        # sums of float64 in another order
        assert sum(parts) == pytest.approx(found[series].value, rel=1e-9)
    whole = readings(GradientNoise(), case.model().eval(), case.probe())
    for series, estimate in whole.items():
        expected = pytest.approx(estimate.value, rel=1e-9, nan_ok=True)  # 4 batches: no d_eff
        assert found[series].value == expected, series


def test_a_part_is_the_measurement_of_its_parameters_alone() -> None:
    case = CASES["transformer"]
    model, probe = case.model().eval(), case.probe()
    heads = [Group(f"head {i}", r"qkv\.weight", head=(i, 2), stacked=3) for i in range(2)]
    groups = [Group("qkv", r"qkv\.weight"), *heads, Group("none", "nothing")]
    found = readings(GradientNoise(groups=groups), model, probe)
    view = ModelView(model)
    rows = []
    for batch in probe.draw(0):
        gradient = dict(zip(view.names, view.gradient(loss, batch)[1], strict=True))
        rows.append(torch.stack([gradient[n] for n in view.names if n.endswith("qkv.weight")]))
    packed = torch.stack(rows).double().numpy()  # batch, block, 3 projections x 2 heads x 4, width
    by_head = packed.reshape(len(rows), 2, 3, 2, 4, 8)
    for part, g in [
        ("qkv", packed),
        ("head 0", by_head[:, :, :, 0]),
        ("head 1", by_head[:, :, :, 1]),
    ]:
        flat = g.reshape(len(rows), -1)
        alone = signal_noise(flat @ flat.T, batch_size=16)
        for series in (*PER_PART, *PER_PART_AND_EXAMPLE):
            got = found[f"{series}@{part}"]
            assert got.value == pytest.approx(alone[series].value, rel=1e-9), (series, part)
            assert got.low == pytest.approx(alone[series].low, rel=1e-9)
    assert "finds no trainable parameter" in found["grad/snr@none"].reason


def test_parts_of_accumulation() -> None:
    case = CASES["mlp"]
    view = ModelView(case.model())
    micro = tuple(view.gradient(loss, case.batch(8, seed))[1] for seed in range(5))
    absent = tuple(None for _ in view.names)
    observable = GradientNoise("accumulation", groups={"head": "^head"})
    found = observable.update(None, Moment(0, view, absent, (0.1,), micro=micro))[1].scalars
    alone = gradient_gram([g[-2:] for g in micro]).numpy()
    snr = signal_noise(alone)["grad/snr"]
    assert found["grad/snr@head"].value == pytest.approx(snr.value, rel=1e-9)
    assert "grad/noise_scale@head" not in found  # the size is unknown
    nothing = observable.update(None, Moment(0, view, absent, (0.1,)))[1].scalars
    assert math.isnan(nothing["grad/snr@head"].value)


def test_population_is_corrected_as_the_probe_was_drawn() -> None:
    case = CASES["mlp"]
    parts = [case.batch(8, seed) for seed in range(5)]
    model = case.model()
    plain = readings(GradientNoise(), model, Probe(loss, parts))
    fixed = readings(GradientNoise(population=50), model, Probe(loss, parts, sampling="disjoint"))
    noise = plain["grad/noise"].value
    assert fixed["grad/noise"].value == pytest.approx(noise * 49 / 50)
    assert fixed["grad/signal"].value == pytest.approx(plain["grad/signal"].value + noise * 8 / 50)
    small = readings(GradientNoise(population=39), model, Probe(loss, parts, sampling="disjoint"))
    assert "40 examples. Got 39" in small["grad/snr"].reason
    assert small["probe/loss"].resolved
    with pytest.raises(ValueError, match="`population` of `GradientNoise`"):
        GradientNoise("accumulation", population=50)


class Counted:
    """A probe's loss that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        return loss(model, batch)


def test_stops_at_the_first_look_that_settles_the_threshold() -> None:
    case = CASES["mlp"]
    model, batches = case.model(), [case.batch(8, seed) for seed in range(32)]
    view = ModelView(model)
    gradients = [view.gradient(loss, batch)[1] for batch in batches]
    gram = gradient_gram(gradients).numpy()
    looks = {n: signal_noise(gram[:n, :n], batch_size=8, looks=3) for n in (8, 16, 32)}
    snr = {n: looks[n]["grad/snr"] for n in looks}
    # Thresholds that the first, the second and no look before the last is sure about.
    outside = {
        8: snr[8].high + 1,
        16: (snr[16].high + snr[8].high) / 2,
        32: snr[16].value,
    }
    assert snr[16].high < snr[8].high and snr[8].low < snr[16].value
    for n, threshold in outside.items():
        counted = Counted()
        observable = GradientNoise(threshold=threshold)
        found = readings(observable, model, Probe(counted, batches))
        assert counted.calls == n
        assert found["probe/loss"].n == n
        for name, estimate in looks[n].items():
            for field in ("value", "low", "high"):
                # a gram of fewer rows: sums of float64 in another order
                expected = pytest.approx(getattr(estimate, field), rel=1e-9, nan_ok=True)
                assert getattr(found[name], field) == expected, (n, name)
        # Where another observable has had all of them taken, none is taken again.
        shared = Probe(counted, batches)
        moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=shared)
        assert len(moment.batch_gradients) == 32 and counted.calls == n + 32
        again = observable.update(None, moment)[1].scalars
        assert counted.calls == n + 32
        assert {k: repr(v) for k, v in again.items()} == {k: repr(v) for k, v in found.items()}


def test_a_probe_too_small_for_two_looks_is_read_as_ever() -> None:
    case = CASES["mlp"]
    model, probe = case.model(), case.probe(batches=12)
    plain = readings(GradientNoise(groups="layer"), model, probe)
    found = readings(GradientNoise(groups="layer", threshold=1.0), model, probe)
    assert {k: repr(v) for k, v in found.items()} == {k: repr(v) for k, v in plain.items()}
    empty = readings(GradientNoise(threshold=1.0), model, Probe(loss, lambda step: []))
    assert all("no batch" in estimate.reason for estimate in empty.values())


@pytest.mark.parametrize("source", ["probe", "accumulation"])
def test_a_memory_averages_what_the_ratio_is_made_of(source: str) -> None:
    case = CASES["mlp"]
    model = case.model()
    observable = GradientNoise(source, batch_size=8, groups={"head": "^head"}, memory=4)
    state = observable.init()
    signal, noise = np.zeros((2, 2))
    for step in range(6):
        batches = [case.batch(8, 100 * step + i) for i in range(5)]
        view = ModelView(model)
        gradients = tuple(view.gradient(loss, batch)[1] for batch in batches)
        moment = Moment(
            step,
            view,
            tuple(None for _ in view.names),
            (0.1,),
            probe=Probe(loss, batches) if source == "probe" else None,
            micro=() if source == "probe" else gradients,
        )
        state, found = observable.update(state, moment)
        for i, tail in enumerate(("", "@head")):
            signal[i] = 0.75 * signal[i] + found.scalars[f"grad/signal{tail}"].value
            noise[i] = 0.75 * noise[i] + found.scalars[f"grad/noise{tail}"].value
            ratio = found.scalars[f"grad/snr_ema{tail}"]
            # sums of float64 in another order
            assert ratio.value == pytest.approx(signal[i] / noise[i], rel=1e-9)
            scale = found.scalars[f"grad/noise_scale_ema{tail}"]
            assert scale.value == pytest.approx(8 * noise[i] / signal[i], rel=1e-9)
            assert ratio.n == 5 and ratio.low < ratio.value < ratio.high
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients[0], strict=True):
                p -= 0.1 * g
    # What cannot be measured is said, and leaves the average as it is.
    broken = tuple(tuple(g * math.nan for g in one) for one in gradients)
    spoilt = Moment(
        6,
        view,
        moment.gradients,
        (0.1,),
        probe=Probe(lambda m, b: loss(m, b) * math.nan, batches) if source == "probe" else None,
        micro=() if source == "probe" else broken,
    )
    after, found = observable.update(state, spoilt)
    assert after is state
    assert "nan or inf" in found.scalars["grad/snr_ema@head"].reason
    nothing = Moment(7, view, moment.gradients, (0.1,), probe=Probe(loss, lambda step: []))
    after, found = observable.update(state, nothing)
    assert after is state and math.isnan(found.scalars["grad/noise_scale_ema"].value)


def test_options_are_for_the_sources_that_can() -> None:
    for options in (
        {"source": "examples", "threshold": 1.0},
        {"threshold": math.nan},
    ):
        with pytest.raises(ValueError, match="`threshold` of `GradientNoise` must be a finite"):
            GradientNoise(**options)  # type: ignore[arg-type]
    for options in (
        {"source": "ranks", "memory": 8},
        {"memory": 0.5},
        {"memory": math.inf},
        {"memory": 8, "threshold": 1.0},
    ):
        with pytest.raises(ValueError, match="`memory` of `GradientNoise` must be a number"):
            GradientNoise(**options)  # type: ignore[arg-type]
