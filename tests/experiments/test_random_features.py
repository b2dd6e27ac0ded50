"""Random features: the oracle's law, nulls that differ in one thing, the peak where it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock.experiments import random_features as experiment
from foreshock.experiments.random_feature_curves import curves
from foreshock.experiments.random_features import RandomFeatures
from foreshock.experiments.ridge_solution import fit, isotropic_risk
from foreshock.experiments.setup import milestones_of, outcome
from foreshock.store import Run

SMALL: dict[str, Any] = {"examples": 40, "dimension": 6, "tests": 100}


def recorded(folder: Path, variant: str, seeds: Sequence[int], **fields: Any) -> list[Run]:
    runs = []
    for seed in seeds:
        config = RandomFeatures(variant=variant, seed=seed, **fields)  # type: ignore[arg-type]
        runs.append(experiment.run(config, folder / f"{variant}-{seed}"))
    return runs


@pytest.mark.parametrize("count", [3, 8, 20])
def test_coefficients_against_numpy(count: int) -> None:
    generator = np.random.default_rng(count)
    design, labels = generator.standard_normal((8, count)), generator.standard_normal(8)
    found = fit(design, labels)
    # float64 with condition numbers below 100
    np.testing.assert_allclose(
        found.coefficients(0.0), np.linalg.lstsq(design, labels)[0], rtol=0, atol=1e-10
    )
    ridge = 0.3
    normal = design.T @ design + ridge * np.eye(count)
    np.testing.assert_allclose(
        found.coefficients(ridge), np.linalg.solve(normal, design.T @ labels), rtol=0, atol=1e-12
    )


def test_a_direction_at_rounding_level_is_no_direction() -> None:
    design = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    found = fit(design, np.array([1.0, 1.0, 2.0])).coefficients(0.0)
    np.testing.assert_allclose(found, [0.5, 0.5], atol=1e-14)


@pytest.mark.parametrize("count", [10, 30, 60, 120])
def test_the_closed_form_is_the_mean_of_the_risk(count: int) -> None:
    # 200 draws at n = 40: Student's interval at 4.5 standard errors, four parameters, fixed seeds.
    config = RandomFeatures("isotropic", examples=40, noise=0.5)
    risks = np.array(
        [
            experiment.isotropic_seed(replace(config, seed=seed), count)["test_mse"]
            for seed in range(200)
        ]
    )
    exact = isotropic_risk(40, count, 0.5)
    assert abs(risks.mean() - exact) < 4.5 * risks.std(ddof=1) / 200**0.5


def test_the_closed_form_has_the_textbook_limit() -> None:
    # n = 2e6 puts the finite-size terms at 1/n over the distance 0.1 from the peak: below 1e-4.
    n, s = 2_000_000, 0.5
    for g in (0.5, 0.9):
        assert isotropic_risk(n, round(g * n), s) == pytest.approx(s**2 * g / (1 - g), rel=1e-4)
    for g in (1.1, 2.0):
        limit = 1 - 1 / g + s**2 / (g - 1)
        assert isotropic_risk(n, round(g * n), s) == pytest.approx(limit, rel=1e-4)
    assert [isotropic_risk(40, count, s) for count in (39, 40, 41)] == [np.inf] * 3


def test_the_grid_holds_n_at_every_size() -> None:
    for n in (20, 37, 40, 200, 1001):
        grid = RandomFeatures(examples=n).grid
        assert n in grid and list(grid) == sorted(set(grid))
    assert {198, 200, 202} <= set(RandomFeatures().grid)


def test_variants_differ_in_one_thing() -> None:
    data = {
        v: experiment.make_data(RandomFeatures(v, seed=3, **SMALL)) for v in experiment.VARIANTS
    }  # type: ignore[arg-type]
    relu, quiet = data["relu"], data["noiseless"]
    for name in ("inputs", "weights"):
        for other in data.values():
            assert np.array_equal(getattr(relu, name), getattr(other, name))
    assert np.array_equal(relu.labels, data["ridge"].labels)
    # The noiseless labels are the target itself; what the others add is the noise, of sd 0.3:
    # 40 draws, 4.5 standard errors of an sd.
    spread = (relu.labels - quiet.labels).std()
    assert spread == pytest.approx(0.3, abs=4.5 * 0.3 / np.sqrt(80))
    beta = np.linalg.lstsq(quiet.inputs, quiet.labels)[0]
    assert np.linalg.norm(beta) == pytest.approx(1.0, abs=1e-10)
    np.testing.assert_allclose(quiet.test[0] @ beta, quiet.test[1], atol=1e-10)


def test_ridge_is_chosen_off_the_test_inputs() -> None:
    config = RandomFeatures("ridge", seed=1, **SMALL)
    data = experiment.make_data(config)
    inputs = [data.inputs, data.test[0], data.validation[0]]
    rows = np.concatenate(inputs)
    assert len(np.unique(rows, axis=0)) == len(rows)
    spoiled = data._replace(test=(data.test[0], data.test[1] + 100))
    one, two = (experiment.relu_seed(config, d, 40)["ridge"] for d in (data, spoiled))
    assert one == two > 0


def test_interpolation_begins_at_n(tmp_path: Path) -> None:
    (run,) = recorded(tmp_path, "relu", [0], **SMALL)
    series = run.series("train_mse")
    train = dict(zip(series.step.tolist(), series.value.tolist(), strict=True))
    # Rounding grows with the squared condition number; 1e-12 is 1e8 above machine precision².
    assert all(value < 1e-12 for n, value in train.items() if n >= 40)
    assert all(value > 1e-4 for n, value in train.items() if n < 38)


def test_the_same_configuration_gives_the_same_run(tmp_path: Path) -> None:
    np.random.seed(0)
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    a, b = (recorded(tmp_path / name, "relu", [7], **SMALL)[0] for name in "ab")
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before)
    for name in a.names():
        assert np.array_equal(a.series(name).value, b.series(name).value)
    assert a.info["kind"] == "random_features"


def test_the_peak_is_where_it_must_be_at_full_size(tmp_path: Path) -> None:
    # A development seed that peaks at n exactly, as most do; noise-free labels peak lower, and the
    # best ridge does not peak. The numbers of ten seeds are in the docs.
    found = {v: recorded(tmp_path, v, [0], tests=500)[0] for v in ("relu", "ridge", "noiseless")}
    assert milestones_of(found["relu"]) == {"peak": 200}
    largest = {v: outcome(run)["largest"] for v, run in found.items()}
    assert largest["relu"] > 5 and largest["noiseless"] < largest["relu"]
    points, errors = curves([found["ridge"]])
    assert errors.max() == errors[0, 0] and errors[0, points == 200] < errors[0, points == 100]
    assert not milestones_of(found["ridge"])


def test_one_rule_for_every_variant_and_the_ridge_null_can_fail_it(tmp_path: Path) -> None:
    # The null is fitted without its ridge: then it has the peak, and the check says so.
    folder, runs = tmp_path / "ridge", []
    for seed in range(3):
        (run,) = recorded(folder, "ridge", [seed], **SMALL)
        assert "peak" not in milestones_of(run) and outcome(run)["peak"] is None
        runs.append(run)
    line = {c.name: c for c in experiment.check(runs)}["ridge: no peak"]
    assert line.holds is None and "3 of 3" in line.measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "RIDGES", np.array([1e-12]))
        (broken,) = recorded(tmp_path / "broken", "ridge", [0], **SMALL)
    assert milestones_of(broken)["peak"] in (38, 39, 40, 41, 42)
    assert {c.name: c for c in experiment.check([broken])}["ridge: no peak"].holds is False


def test_checks_on_none_few_and_ten(tmp_path: Path) -> None:
    assert [c.holds for c in experiment.check([])] == [None] * 4
    runs = [r for v in experiment.VARIANTS for r in recorded(tmp_path, v, range(10), **SMALL)]
    few = experiment.check(runs[:3] + runs[10:12])
    assert [c.holds for c in few] == [None] * 4 and "3 seeds" in few[0].measured
    found = {c.name: c for c in experiment.check(runs)}
    assert found["isotropic: closed form"].holds
    assert "of 10 seeds" in found["peak at N = n"].measured
    assert "of 10 runs" in found["ridge: no peak"].measured


def test_a_wrong_peak_and_a_wrong_risk_do_not_hold(tmp_path: Path) -> None:
    grid = RandomFeatures(**SMALL).grid
    runs = []
    for variant in ("relu", "isotropic"):
        for seed in range(10):
            config = vars(RandomFeatures(variant, seed, **SMALL))  # type: ignore[arg-type]
            path = tmp_path / f"{variant}-{seed}"
            with Run.create(path, kind="random_features", config=config, seed=seed) as run:
                for index, count in enumerate(grid):
                    run.append(count, {"test_mse": float(index == 2) + 0.1 + 0.01 * seed})
            runs.append(Run.open(path))
    peak, oracle = experiment.check(runs)[:2]
    assert peak.holds is False and f"N = {grid[2]}" in peak.measured
    assert oracle.holds is False


@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_the_figure_takes_what_there_is(tmp_path: Path, seeds: int) -> None:
    runs = [r for v in experiment.VARIANTS for r in recorded(tmp_path, v, range(seeds), **SMALL)]
    figure = experiment.figure(runs)
    figure.canvas.draw()
    texts = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert texts.count("no run") == (2 if not seeds else 0)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`variant` of `RandomFeatures` must be one of"):
        RandomFeatures("lasso")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`examples` of `RandomFeatures` must be at least 20"):
        RandomFeatures(examples=3)
    with pytest.raises(ValueError, match="`noise` of `RandomFeatures` must be finite and"):
        RandomFeatures(noise=float("nan"))


def test_two_settings_of_a_variant_are_not_pooled(tmp_path: Path) -> None:
    quiet = recorded(tmp_path / "a", "isotropic", range(10), noise=0.3)
    loud = recorded(tmp_path / "b", "isotropic", range(3), noise=3.0)
    alone, both = (experiment.EXPERIMENT.check(runs)[1] for runs in (quiet, [*loud, *quiet]))
    assert alone == both and "10 seeds" in both.measured
