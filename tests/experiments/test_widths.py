"""Widths: no leak, a null that differs in the labels only, nothing online, and what a peak is."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from foreshock.experiments import width_sweeps
from foreshock.experiments import widths as experiment
from foreshock.experiments.setup import milestones_of, outcome
from foreshock.experiments.widths import WIDTHS, Widths

SMALL: dict[str, Any] = {"width": 8, "examples": 100, "steps": 20}


def test_the_data_are_generated_and_nothing_goes_online(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*arguments: object, **named: object) -> NoReturn:
        raise AssertionError(f"went online: {arguments}")

    monkeypatch.chdir(tmp_path)
    experiment.mnist1d.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    random.seed(1)
    np.random.seed(1)
    states = (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].copy(),
        torch.get_rng_state(),
    )
    inputs, labels = experiment.mnist1d()
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert inputs.shape == (5000, 40) and torch.bincount(labels).tolist() == [500] * 10
    # The generator standardises all of its values together: float32 rounding of 200,000 of them.
    assert abs(inputs.mean().item()) < 1e-5 and inputs.std().item() == pytest.approx(1, abs=1e-4)
    assert not list(tmp_path.iterdir())  # no cache file either


def test_splits_are_disjoint_and_the_null_differs_in_the_labels_only() -> None:
    noisy, clean = (experiment.make_data(Widths(v, seed=3)) for v in ("noisy", "clean"))
    for one, other in zip(
        (noisy.train[0], *noisy.heldout), (clean.train[0], *clean.heldout), strict=True
    ):
        assert torch.equal(one, other)
    everything = torch.cat([noisy.train[0], noisy.heldout[0]])
    assert len(everything) == 5000 == len(torch.unique(everything, dim=0))
    differs = noisy.train[1] != clean.train[1]
    assert torch.equal(differs, noisy.wrong) and differs.sum() == 150  # 15 % of 1,000, exactly
    assert not clean.wrong.any()
    found = {tuple(x.tolist()): int(y) for x, y in zip(*experiment.mnist1d(), strict=True)}
    for inputs, labels in (clean.train, noisy.heldout):
        assert all(
            found[tuple(x.tolist())] == y for x, y in zip(inputs, labels.tolist(), strict=True)
        )
    models = [experiment.make_model(Widths(v, seed=3)).state_dict() for v in ("noisy", "clean")]
    assert all(torch.equal(models[0][k], models[1][k]) for k in models[0])


def test_every_width_and_batch_of_a_seed_shares_its_data() -> None:
    one = experiment.make_data(Widths(seed=5))
    two = experiment.make_data(Widths(seed=5, width=192, batch=200))
    other = experiment.make_data(Widths(seed=6))
    assert torch.equal(one.train[0], two.train[0]) and torch.equal(one.train[1], two.train[1])
    assert not torch.equal(one.train[0], other.train[0])


def test_the_loss_is_half_the_squared_distance_by_a_loop() -> None:
    model = experiment.make_model(Widths(width=5)).double()
    inputs, labels = experiment.mnist1d()
    batch = inputs[:7].double(), labels[:7]
    total = 0.0
    for x, y in zip(*batch, strict=True):
        outputs = model(x).tolist()
        total += sum((o - (k == int(y))) ** 2 for k, o in enumerate(outputs)) / 2
    # float64, seventy terms
    assert experiment.loss_of(model, batch).item() == pytest.approx(total / 7, rel=1e-12)


@pytest.mark.parametrize("batch", [20, 32])
def test_an_epoch_shows_every_example_at_most_once(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = experiment.loss_of

    def spy(model: Any, examples: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if len(examples[1]) == batch:
            seen.append(examples[0])
        return original(model, examples)

    monkeypatch.setattr(experiment, "loss_of", spy)
    config = Widths(**SMALL | {"steps": 2 * (100 // batch)}, batch=batch, observables="none")
    experiment.run(config, tmp_path / "a").close()
    half = 100 // batch
    seen = seen[-2 * half :]  # the monitor tries its probe once, before the first step
    for epoch in (seen[:half], seen[half:]):
        rows = torch.cat(epoch)
        assert len(torch.unique(rows, dim=0)) == len(rows) == half * batch
    assert not torch.equal(seen[0], seen[half])


def test_watching_does_not_change_the_experiment(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    losses = []
    for name, observables in (("a", "none"), ("b", "standard")):
        config = Widths(seed=2, **SMALL, observables=observables, every=10)  # type: ignore[arg-type]
        with experiment.run(config, tmp_path / name) as run:
            losses.append(run.series("loss").value.tolist() + list(outcome(run).values()))
            if observables == "standard":
                assert {"grad/snr", "grad/noise_scale", "curvature/top"} & set(run.names())
                assert not [e for e in run.events() if e.kind == "observable_off"]
    assert losses[0] == losses[1]
    assert torch.equal(state, torch.get_rng_state())


def test_a_wide_network_fits_the_wrong_labels_and_a_narrow_one_does_not(tmp_path: Path) -> None:
    found = {}
    for width in (4, 64):
        config = Widths(**SMALL | {"width": width, "steps": 300}, observables="none")
        with experiment.run(config, tmp_path / str(width)) as run:
            found[width] = outcome(run)
            assert set(milestones_of(run)) == ({"interpolated"} if width == 64 else set())
            last = run.series("train_acc")
            assert 1 - last.value[-1] == found[width]["train_error"] and last.step[-1] == 299
    assert found[64]["train_error"] == 0.0 < 0.1 < found[4]["train_error"]


def test_the_peak_is_the_maximum_that_stands_out() -> None:
    assert width_sweeps.peak(np.array([0.9, 0.5, 0.6, 0.4])) == 2  # not the narrowest network
    assert width_sweeps.peak(np.array([0.9, 0.5, 0.52, 0.45, 0.7, 0.4])) == 4
    assert width_sweeps.peak(np.array([0.9, 0.5, 0.4])) is None
    assert width_sweeps.peak(np.array([0.1, 0.5, 0.6])) is None  # still rising: not seen yet
    assert width_sweeps.threshold(np.array([0.3, 0.0, 0.1, 0.0])) == 1
    assert width_sweeps.threshold(np.array([0.3, 0.1])) is None


def planted(variant: str, seeds: int, peak: int, batch: int = 50) -> list[Any]:
    """Sweeps whose training error is 0 from index 5 on and whose test error peaks where told.

    What a sweep reads of a finished run, and no files: thousands of them would take minutes.
    """
    runs = []
    generator = np.random.default_rng(0)
    for seed in range(seeds):
        for index, width in enumerate(WIDTHS):
            config = Widths(variant, seed, width, batch)  # type: ignore[arg-type]
            test = 0.5 + 0.2 * (index == peak) + 0.01 * generator.standard_normal()
            numbers = {"train_error": max(0.0, 0.5 - 0.1 * index), "test_error": test}
            ended = [SimpleNamespace(payload=numbers)]
            runs.append(SimpleNamespace(info={"config": vars(config)}, events=lambda _, e=ended: e))
    return runs


def test_checks_find_a_planted_peak_and_miss_a_wrong_one() -> None:
    assert {c.holds for c in experiment.check([])} == {None}
    right = planted("noisy", 10, 5)
    clean = planted("clean", 10, -1)
    assert [c.holds for c in experiment.check([*right, *clean])] == [True] * 3
    assert [c.holds for c in experiment.check([*right[:30], *clean])] == [None] * 3
    assert "9 seeds" in experiment.check(right[1:])[0].measured  # a hole: that seed is left out
    near = planted("noisy", 10, 6, batch=20)
    assert experiment.check(near)[0].holds is True
    far = planted("noisy", 10, 7, batch=200)
    found = experiment.check([*far, *planted("clean", 10, 7, batch=200)])
    assert [c.holds for c in found] == [False, False, False]
    assert len(experiment.check([*right, *near, *far])) == 6


def test_an_odd_run_voids_no_sweep_and_mixes_with_none() -> None:
    def odd(test: float, **fields: Any) -> Any:
        config = vars(Widths("noisy", **fields))
        ended = [SimpleNamespace(payload={"train_error": 0.0, "test_error": test})]
        return SimpleNamespace(info={"config": config}, events=lambda _: ended)

    right = planted("noisy", 10, 5)
    whole = width_sweeps.gather(right, "noisy", 50)
    others = [
        odd(9.0, seed=0, width=100, batch=50),
        odd(9.0, seed=3, width=64, batch=50, steps=7),
        odd(9.0, seed=3, width=64, batch=50, lr=0.3),
        odd(9.0, seed=3, width=64, batch=50, examples=400),
    ]
    for runs in ([*others, *right], [*right, *others]):
        found = width_sweeps.gather(runs, "noisy", 50)
        assert found.widths == WIDTHS and found.seeds == tuple(range(10))
        assert np.array_equal(found.test, whole.test)


@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_the_figure_takes_what_there_is(seeds: int) -> None:
    runs = planted("noisy", seeds, 5)
    if seeds > 1:
        runs += planted("clean", 1, 5) + planted("noisy", 2, 5, batch=20)
    figure = experiment.figure(runs)
    figure.canvas.draw()
    assert len(figure.axes) == (4 if seeds > 1 else 2)
    said = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert ("no seed with every width" in said) == (seeds == 0)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`variant` of `Widths` must be one of"):
        Widths("dirty")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`width` of `Widths` must be at least 1"):
        Widths(width=0)
    with pytest.raises(ValueError, match="`examples` of `Widths` must lie between the `batch`"):
        Widths(batch=1500)
    with pytest.raises(ValueError, match="`examples` of `Widths` must lie between the `batch`"):
        Widths(examples=4500)
