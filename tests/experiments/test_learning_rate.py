"""The rate by formula: no leak, the twin is the same descent, and units are what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foreshock.experiments import learning_rate
from foreshock.experiments.learning_rate import EXPERIMENT, GRID, LearningRate, best_rates
from foreshock.experiments.setup import conclude, outcome
from foreshock.store import Run


def test_the_split_is_disjoint_and_whole() -> None:
    data = learning_rate.make_data(LearningRate(seed=3))
    assert len(data.train[1]) == 1437 and len(data.heldout[1]) == 360
    # The 1,797 images are all different, so an image on both sides would be a leak.
    both = torch.cat([data.train[0], data.heldout[0]])
    assert len(torch.unique(both, dim=0)) == 1797
    other = learning_rate.make_data(LearningRate(seed=4))
    assert not torch.equal(data.heldout[0], other.heldout[0])


def test_ten_times_the_loss_at_a_tenth_of_the_rate_is_the_same_descent(tmp_path: Path) -> None:
    found = {}
    for variant in ("digits", "scaled"):
        config = LearningRate(variant, 1, steps=20, width=8, every=19)  # type: ignore[arg-type]
        with learning_rate.run(config, tmp_path / variant) as run:
            found[variant] = outcome(run)
    plain, scaled = found["digits"], found["scaled"]
    # Rounding of float32, 1e-7 a step, hardly grown in 20 steps.
    assert scaled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    for name, factor in (("published", 10), ("edge", 0.1), ("noise_bound", 0.1)):
        for place in ("start", "end"):
            key = f"{name}_{place}"
            assert scaled[key] == pytest.approx(factor * plain[key], rel=0.02)


def test_the_published_formula_by_hand(tmp_path: Path) -> None:
    config = LearningRate(seed=1, steps=3, width=8)
    with learning_rate.run(config, tmp_path / "a") as run:
        noise = run.series("grad/noise").value[0]
        top = run.series("hessian/lambda_max").value[0]
        numbers = outcome(run)
    weights = 64 * 8 + 8 + 8 * 10 + 10
    assert numbers["published_start"] == pytest.approx(2 * (noise / weights / 2) / top)
    assert numbers["edge_start"] == pytest.approx(2 / top)


@pytest.mark.parametrize("variant", ["digits", "frozen"])
def test_watching_does_not_change_the_experiment(variant: str, tmp_path: Path) -> None:
    state, losses = torch.get_rng_state(), []
    for observables in ("none", "standard"):
        config = LearningRate(
            variant, 2, steps=12, width=8, observables=observables, every=5  # type: ignore[arg-type]
        )  # fmt: skip
        with learning_rate.run(config, tmp_path / observables) as run:
            losses.append((run.series("loss").value.tolist(), outcome(run)["loss"]))
    assert losses[0] == losses[1]
    assert torch.equal(state, torch.get_rng_state())


def test_a_rate_that_diverges_is_no_best_rate(tmp_path: Path) -> None:
    config = LearningRate(rate=1e6, steps=50, width=8, observables="none")
    with learning_rate.run(config, tmp_path / "a") as run:
        assert outcome(run)["loss"] is None or outcome(run)["loss"] > 2.3


def made(folder: Path, variant: str, seed: int, rate: float, loss: float | None) -> Run:
    config = {"variant": variant, "seed": seed, "rate": rate}
    path = folder / f"{variant}-{rate}-{seed}"
    with Run.create(path, kind="learning_rate", config=config, seed=seed) as run:
        factor = 10.0 if variant == "scaled" else 1.0
        told = {"published_start": 1e-5 * factor, "edge_start": 0.4 / factor}
        conclude(run, {"loss": loss, "noise_bound_start": 0.01 / factor, **told})
    return Run.open(path)


def test_the_best_rate_and_the_verdicts_on_made_up_runs(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, variant, seed, rate, None if rate > 3 else abs(rate - 0.316))
        for seed in range(10)
        for variant in ("digits", "scaled")
        for rate in GRID
    ]
    plain = [run for run in runs if run.info["config"]["variant"] == "digits"]
    assert best_rates(plain) == dict.fromkeys(range(10), 0.316)
    assert best_rates(plain[:4]) == {}  # too few rates
    for some in ([], runs[:1], runs):
        checks = EXPERIMENT.check(some)
        assert EXPERIMENT.figure(some).axes
    held = {c.name: c.holds for c in checks}
    assert held.pop("edge at the start over the best rate") is None
    assert held.pop("noise_bound at the start over the best rate") is None
    assert all(held.values())
    for run in runs:
        run.close()


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`variant` of `LearningRate` must be one of"):
        LearningRate("mnist")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`rate` of `LearningRate` must be positive"):
        LearningRate(rate=0.0)
    with pytest.raises(ValueError, match="`steps` of `LearningRate` must be at least 1"):
        LearningRate(steps=0)


def test_a_budget_that_left_no_measurement_leaves_no_formula(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", kind="learning_rate") as record:
        record.declare("hessian/lambda_max", title="declared, and never measured")
        told = learning_rate.formulas(record, 10)
    assert len(told) == 6 and set(told.values()) == {None}
