"""The quadratic: closed forms against a simulation of their own, and a monitor that agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import quadratic
from foreshock.experiments.quadratic import EXPERIMENT, Quadratic, exact
from foreshock.experiments.setup import conclude, outcome
from foreshock.store import Run


@pytest.mark.parametrize("variant", ["stable", "edge"])
def test_closed_forms_against_many_plain_chains(variant: str) -> None:
    config = Quadratic(variant, dimension=3)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    chains, curvatures, rate = 20_000, config.curvatures, config.rate
    w = np.zeros((chains, 3))
    # The slowest multiplier is 0.95 in size: after 150 steps 0.95^300 = 2e-7 of a variance is left.
    for _ in range(150):
        w = w - rate * (curvatures * w - config.variance**0.5 * generator.standard_normal(w.shape))
    truth = exact(config)
    # A variance of n normals has the relative error sqrt(2/n) = 1 %.
    np.testing.assert_allclose(w.var(0), truth.variance, rtol=4 * (2 / chains) ** 0.5)
    gradient = ((curvatures * w) ** 2).sum(1).mean()
    assert gradient == pytest.approx(truth.gradient, rel=0.04)
    assert truth.c == pytest.approx(truth.gradient / (3 * config.variance))


def test_fluctuation_and_dissipation_in_the_limit_of_small_rates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(quadratic.RATES, "stable", 1e-6)
    found = exact(Quadratic("stable"))
    assert found.gradient == pytest.approx(found.continuum, rel=1e-6)  # 2/(2 - eta lambda)


def test_the_gradient_is_what_the_docstring_says() -> None:
    config = Quadratic()
    model = quadratic.make_model(config)
    noise = quadratic.draw_batch(config, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(quadratic.loss_of(model, noise), [model.weight])
    expected = model.curvatures * model.weight - noise.mean(0)
    torch.testing.assert_close(gradient, expected.detach())


@pytest.mark.parametrize("variant", ["stable", "edge", "frozen"])
def test_watching_does_not_change_the_experiment(variant: str, tmp_path: Path) -> None:
    state, found = torch.get_rng_state(), []
    for observables in ("none", "standard"):
        config = Quadratic(variant, 1, 60, observables=observables, every=20)  # type: ignore[arg-type]
        with quadratic.run(config, tmp_path / observables) as run:
            found.append((run.series("loss").value.tolist(), outcome(run)))
            off = [e for e in run.events() if e.kind == "observable_off"]
            assert not off
    assert found[0] == found[1]
    assert torch.equal(state, torch.get_rng_state())
    assert (found[0][1]["moved"] == 0) == (variant == "frozen")


def test_the_monitor_measures_the_known_curvature_and_noise(tmp_path: Path) -> None:
    config = Quadratic("edge", seed=2, steps=600, every=30)
    with quadratic.run(config, tmp_path / "a") as run:
        top, noise = run.series("hessian/lambda_max").value, run.series("grad/noise").value
        numbers = outcome(run)
        runs = [[], [run], [run, run]]
        for some in runs:
            assert all(c.holds is None for c in EXPERIMENT.check(some))  # ten seeds can say
            assert EXPERIMENT.figure(some).axes
    np.testing.assert_allclose(top, 1.0, rtol=1e-3)
    # A measurement sums 10 variances of 8 batches: relative sd sqrt(2/70) = 0.17, of 20 of them
    # 0.038; four of these.
    assert noise.mean() == pytest.approx(10 * config.variance, rel=0.15)
    # sd of an autocorrelation sqrt((1 - r^2)/n) = 0.013; four of these.
    assert numbers["memory"] == pytest.approx(-0.95, abs=0.05)


def made(folder: Path, config: Quadratic, c: float) -> Run:
    path = folder / f"{config.variant}-{config.batch}-{config.seed}-{c}"
    truth = exact(config)
    with Run.create(path, kind="quadratic", config=vars(config), seed=config.seed) as run:
        run.append(0, {"quadratic/gradient": 1.0})
        wobble = 1 + 0.01 * np.sin(2.0 * config.seed)
        numbers = {"variance_ratio": wobble, "c": truth.c * c * wobble, "moved": 0.0}
        conclude(run, {**numbers, "memory": truth.memory * wobble})
    return Run.open(path)


def test_lines_are_different_numbers_and_the_truth_is_that_of_each_run(tmp_path: Path) -> None:
    lines = [c.name for c in EXPERIMENT.check([]) if "over the exact one" in c.name]
    assert len(lines) == len(set(lines)) == quadratic.JUDGED
    # Another dimension has another C: what a run is compared with is its own.
    configs = [Quadratic("stable", seed, dimension=5 + seed % 2) for seed in range(10)]
    name = "stable: E|grad L|^2, and C with it, over the exact one"
    for factor, holds in ((1.0, True), (1.05, False)):
        runs = [made(tmp_path, config, factor) for config in configs]
        assert {c.name: c.holds for c in EXPERIMENT.check(runs)}[name] is holds
        assert {c.holds for c in EXPERIMENT.check(runs[:9]) if c.name == name} == {None}


def test_variants_differ_in_the_rate_alone() -> None:
    a, b = Quadratic("stable", 4), Quadratic("frozen", 4)
    assert replace(b, variant="stable") == a
    assert torch.equal(quadratic.make_model(a).weight, quadratic.make_model(b).weight)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`variant` of `Quadratic` must be one of"):
        Quadratic("cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`dimension` of `Quadratic` must be at least 2"):
        Quadratic(dimension=1)
    with pytest.raises(ValueError, match="`noise` of `Quadratic` must be positive"):
        Quadratic(noise=0.0)
