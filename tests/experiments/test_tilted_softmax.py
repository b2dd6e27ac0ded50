"""The tilt: sums against quadrature and the large-K limit, and optimisers against the sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock.evaluation.overoptimisation import over_optimised
from foreshock.experiments import tilted_softmax
from foreshock.experiments.setup import conclude, milestone
from foreshock.experiments.tilted_softmax import (
    TiltedSoftmax,
    beta_at,
    gao_fit,
    gaussian_levels,
    levels,
    make_table,
    natural_step,
    softmax,
)
from foreshock.store import Run, comparisons, figures


def test_levels_have_the_derivatives_of_a_tilt() -> None:
    # d E[p]/d beta = Var(p), d E[g]/d beta = Cov(g, p), d KL/d beta = beta Var(p).
    table, beta, h = make_table(TiltedSoftmax(seed=1)), 0.3, 1e-4
    chances = softmax(beta * table.proxy)
    centred = table.proxy - chances @ table.proxy
    slopes = [
        (a - b) / (2 * h)
        for a, b in zip(
            levels(table, (beta + h) * table.proxy),
            levels(table, (beta - h) * table.proxy),
            strict=True,
        )
    ]
    exact = [
        chances @ (centred * table.gold),
        chances @ centred**2,
        beta * (chances @ centred**2),
    ]
    # central differences: h^2 times a third cumulant, of a proxy with outliers of up to about 30
    assert slopes == pytest.approx(exact, rel=1e-3)


def test_gaussian_limit_against_quadrature_and_many_tables() -> None:
    beta, scale = 0.5, 0.7
    # E[g] under the density ~ exp(beta p) of (g, error), on a grid
    axis = np.linspace(-12, 12, 4001)
    weight = np.exp(beta * axis - axis**2 / 2)
    gold = (weight @ axis) / weight.sum()
    weight = np.exp(beta * axis - axis**2 / (2 * scale**2))
    error = (weight @ axis) / weight.sum()
    exact = gaussian_levels(beta, scale)
    assert (gold, gold + error) == pytest.approx((exact.gold, exact.proxy), rel=1e-9)
    tables = [make_table(TiltedSoftmax("gaussian", scale=scale, seed=s)) for s in range(100)]
    found = np.array([levels(t, beta * t.proxy) for t in tables])
    # 4 standard errors, and the bias of a ratio of means, beta exp(beta^2 v)/K, here 3.6e-4
    slack = 4 * found.std(0, ddof=1) / 10 + 2 * beta * np.exp(beta**2 * (1 + scale**2)) / 2000
    assert (np.abs(found.mean(0) - np.array(exact)) < slack).all()
    assert exact.kl == pytest.approx(beta * exact.proxy - beta**2 * (1 + scale**2) / 2)


@pytest.mark.parametrize("error", ["student", "gaussian"])
def test_natural_policy_gradient_is_the_tilt(error: str) -> None:
    table = make_table(TiltedSoftmax(error, seed=2))  # type: ignore[arg-type]
    logits, steps = np.zeros(2000), np.geomspace(1e-3, 0.05, 40)
    for step in steps:
        logits = natural_step(logits, table.proxy, step)
    exact = levels(table, steps.sum() * table.proxy)
    assert levels(table, logits) == pytest.approx(exact, rel=1e-10)


def test_the_direction_solves_the_fisher_system() -> None:
    # Against the dense pseudo-inverse: the same up to a constant.
    generator = np.random.default_rng(0)
    logits, proxy = generator.standard_normal((2, 12))
    chances = softmax(logits)
    fisher = np.diag(chances) - np.outer(chances, chances)
    counts = generator.multinomial(50, chances).astype(float)
    for seen in (None, counts):
        share = chances if seen is None else counts / 50
        advantage = proxy - share @ proxy
        gradient = share * advantage - chances * (share @ advantage)
        dense = np.linalg.pinv(fisher) @ gradient
        ours = natural_step(logits, proxy, 1.0, seen) - logits
        assert ours - ours.mean() == pytest.approx(dense - dense.mean(), abs=1e-10)


def test_sampled_gradients_are_unbiased_with_the_stated_variance() -> None:
    generator = np.random.default_rng(1)
    logits, proxy = generator.standard_normal((2, 8))
    chances, n, m = softmax(logits), 400, 4000
    counts = generator.multinomial(n, chances, m).astype(float)
    moves = np.array([natural_step(logits, proxy, 0.1, c) - logits for c in counts])
    expected = natural_step(logits, proxy, 0.1) - logits
    # The baseline is the sample's own mean, which shrinks the move by 1/n.
    error = 4.5 * moves.std(0) / m**0.5
    assert (np.abs(moves.mean(0) - expected * (1 - 1 / n)) < error).all()
    # The baseline's own noise moves all logits alike, which no softmax sees; without it the
    # variance is that of a binomial share: a relative error of 2.2 % from 4,000 draws.
    advantage = proxy - chances @ proxy
    moves += 0.1 * (counts / n @ advantage)[:, None]
    stated = 0.1**2 * advantage**2 * (1 / chances - 1) / n
    # 8e-8: the square of the baseline's noise, (0.1^2 / n) Var(p) times (1/pi)/n
    assert moves.var(0) == pytest.approx(stated, rel=0.1, abs=3e-7)


def curves(error: str, seeds: int, distances: np.ndarray) -> np.ndarray:
    """Gold at the distances, one row a table."""
    rows = []
    for seed in range(seeds):
        table = make_table(TiltedSoftmax(error, seed=seed))  # type: ignore[arg-type]
        betas = np.geomspace(1e-3, 1, 60) * beta_at(table.proxy, distances[-1] + 0.02)
        found = np.array([levels(table, beta * table.proxy) for beta in betas])
        rows.append(np.interp(distances, np.sqrt(found[:, 2]), found[:, 0]))
    return np.array(rows)


def test_gold_rises_under_gaussian_errors_and_stalls_under_student_ones() -> None:
    distances = np.linspace(0.1, 2.5, 25)
    gaussian, student = (curves(error, 60, distances) for error in ("gaussian", "student"))
    # Large K: gold = beta = distance for s = 1. Four standard errors, and 1 % for the interpolation
    # and the bias beta exp(2 beta^2)/K, which is 0.3 % at distance 1.
    low = distances <= 1
    slack = 4 * gaussian[:, low].std(0, ddof=1) / 60**0.5 + 0.01
    assert (np.abs(gaussian[:, low].mean(0) - distances[low]) < slack).all()
    assert (np.diff(gaussian.mean(0)) > 0).all()
    # The highest proxies are errors: on average gold stalls (0.18 at its best, of 300 tables), and
    # in one table it ends where the few actions with the largest errors happen to be, so that it
    # falls in about half of them; in none of the null.
    end, best = student[:, -1], student.mean(0).max()
    assert best < 0.18 + 4 * 0.05 * 5**0.5  # standard error 0.05 of 300 tables, here 60
    assert gaussian[:, -1].min() > best + 0.5
    lost = [(c.max(1) - c[:, -1] > 0.2 * (c.max(1) - c[:, 0])).mean() for c in (student, gaussian)]
    assert 0.3 < lost[0] < 0.8 and lost[1] == 0  # 0.55, 4 standard errors of 60 being 0.26
    assert end.std() > 0.5


def test_gold_peaks_on_a_table_with_an_exploit() -> None:
    # Fixed seeds: a hack, and the same gold rewards with Gaussian errors.
    distances = np.linspace(0.1, 2.5, 25)
    hack, null = curves("student", 4, distances)[3], curves("gaussian", 4, distances)[3]
    assert 0 < hack.argmax() < 15 and hack[-1] < hack.max() - 0.25
    assert (np.diff(null) > 0).all()


def test_a_dip_without_a_hump_is_no_event(tmp_path: Path) -> None:
    # Table 0 falls from the first step on: its highest block is 0.007 above its first.
    with tilted_softmax.run(TiltedSoftmax(seed=0, repeats=2), tmp_path / "a") as run:
        assert not run.events("milestone")


def test_beta_at_hits_the_distance() -> None:
    table = make_table(TiltedSoftmax(seed=4))
    found = levels(table, beta_at(table.proxy, 1.5) * table.proxy)
    assert found.kl == pytest.approx(2.25, abs=1e-9)


def test_gao_forms_are_recovered() -> None:
    d = np.linspace(0.1, 3, 50)
    assert gao_fit(d, d * (2 - 0.5 * np.log(d)), logarithm=True) == pytest.approx(
        d * (2 - 0.5 * np.log(d))
    )
    assert gao_fit(d, d * (2 - 0.5 * d), logarithm=False) == pytest.approx(d * (2 - 0.5 * d))


def test_run_records_figure_comparisons_and_series(tmp_path: Path) -> None:
    with tilted_softmax.run(TiltedSoftmax(), tmp_path / "a") as run:
        found = comparisons(run)
        assert len(found) == 6 and all(item.agrees for item in found)
        (figure,) = figures(run)
        assert {c.look for c in figure.curves} == {"dashed", "points", "line"}
        gold, proxy = run.series("reward/gold"), run.series("reward/proxy")
        zeros = 0 * gold.value
        judged = over_optimised(
            gold.step, gold.value, proxy.value, zeros, zeros, least_gain=tilted_softmax.GAIN
        )
        # The default table hacks, after a hump that is one.
        assert judged.gold[1] - judged.gold[0] > 0.1 and judged.lost > 1
        reached = {e.payload["name"]: e.step for e in run.events("milestone")}
        assert judged.onset == reached["over_optimised"]
        assert (np.diff(proxy.value) > 0).all()


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`variant` of `TiltedSoftmax` must be one of"):
        TiltedSoftmax(variant="cauchy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="below sqrt"):
        TiltedSoftmax(distance=3.0)
    with pytest.raises(ValueError, match="`actions` of `TiltedSoftmax` must be at least 10"):
        TiltedSoftmax(actions=3)


def test_verdicts_and_figure_on_no_one_and_both_laws(tmp_path: Path) -> None:
    small = {"actions": 200, "repeats": 2, "samples": 500, "points": 25}
    runs = [
        tilted_softmax.run(TiltedSoftmax(variant, seed=3, **small), tmp_path / variant)  # type: ignore[arg-type]
        for variant in ("student", "gaussian")
    ]
    for some in ([], runs[:1], runs, runs * 5):
        held = {c.name: c.holds for c in tilted_softmax.EXPERIMENT.check(some)}
        assert held["student is over-optimised"] is None  # ten tables can say
        assert tilted_softmax.EXPERIMENT.figure(some).axes
    assert held["exact gradients"] is True
    assert tilted_softmax.EXPERIMENT.variants == tuple(tilted_softmax.QUARTILES)
    for run in runs:
        assert run.info["kind"] == "tilted_softmax"
        run.close()


def made(path: Path, variant: str, seed: int, hacked: bool, gold: float, **config: Any) -> Run:
    """A climb whose gold rises linearly to `gold` at a distance of 2.5."""
    told = {"variant": variant, "seed": seed, **config}
    with Run.create(path / f"{variant}-{seed}", kind="tilted_softmax", config=told) as record:
        for step in range(26):
            away = step / 10
            rewards = {"reward/gold": gold * away / 2.5, "reward/proxy": away}
            record.append(step, {"reward/kl": away**2, **rewards})
        if hacked:
            milestone(record, "over_optimised", "made up", 20)
        conclude(record, {"gold": gold})
    return Run.open(path / f"{variant}-{seed}")


def test_a_quarter_of_many_tables_and_not_one_of_ten(tmp_path: Path) -> None:
    student = [made(tmp_path, "student", seed, seed % 4 == 0, 0.2) for seed in range(60)]
    for some, holds in ((student, True), (student[1:4] * 14, False), (student[:10], None)):
        checks = {one.name: one for one in tilted_softmax.EXPERIMENT.check(some)}
        assert checks["student is over-optimised"].holds is holds
    # one over-optimised table of 40 is not the reference's quarter
    one = student[:1] + student[1:4] * 13
    checks = {c.name: c for c in tilted_softmax.EXPERIMENT.check(one)}
    assert checks["student is over-optimised"].holds is False


def test_gold_is_compared_with_the_table_of_the_reference(tmp_path: Path) -> None:
    # 0.12 at 1.03 is 0.29 at 2.5 in a linear climb
    around = [made(tmp_path, "student", s, False, 0.1 + 0.01 * s) for s in range(40)]
    checks = {c.name: c for c in tilted_softmax.EXPERIMENT.check(around)}
    assert checks["gold at a distance of 1.03, student"].holds is True
    assert checks["gold at a distance of 2.46, student"].holds is False  # none falls below 0
    assert checks["gold at the end"].holds is None  # no Gaussian one
    few = [*around[:1], made(tmp_path, "gaussian", 0, False, 2.0)]
    assert {c.name: c for c in tilted_softmax.EXPERIMENT.check(few)}[
        "gold at the end"
    ].holds is None


def test_a_null_that_did_not_climb_proves_nothing(tmp_path: Path) -> None:
    runs = []
    for seed in range(10):
        runs.append(made(tmp_path, "gaussian", seed, False, 0.2, actions=50, distance=1.0))
        with Run.create(
            tmp_path / f"empty-{seed}", kind="tilted_softmax", config={"variant": "gaussian"}
        ):
            pass
        runs.append(Run.open(tmp_path / f"empty-{seed}"))
    checks = {one.name: one for one in tilted_softmax.EXPERIMENT.check(runs)}
    null = checks["gaussian is not over-optimised"]
    assert null.holds is None and "20 unfinished or of another size" in null.measured
    assert tilted_softmax.EXPERIMENT.figure(runs).axes
