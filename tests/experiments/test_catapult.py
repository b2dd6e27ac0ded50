"""The catapult against its exact recursion, and the fates on either side of 2 and 4."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foreshock.experiments import catapult
from foreshock.experiments.catapult import FATE, GRID, Catapult, fate_of, recursion
from foreshock.experiments.planning import plan
from foreshock.experiments.setup import conclude, milestones_of, outcome
from foreshock.store import Run


@pytest.mark.parametrize(("variant", "start"), [(v, e) for v, grid in GRID.items() for e in grid])
def test_every_rate_has_its_fate_and_obeys_the_recursion(
    variant: catapult.Variant, start: float, tmp_path: Path
) -> None:
    config = Catapult(variant, start, seed=1, observables="none")
    run = catapult.run(config, tmp_path / "run")
    found = outcome(run)
    assert (found["grew"], found["converged"]) == FATE[variant]
    # Float64 over some hundred multiplications: 1e-13, grown where the loss passes through minima.
    assert found["off_recursion"] < 1e-6
    assert ("peak" in milestones_of(run)) == (variant == "catapult")
    if variant == "catapult":
        assert found["last_eta_lambda"] < 2 < start
    lines = {line.name: line for line in catapult.check([run])}
    for name in (f"eta lambda = {start:g}", "exact recursion"):
        assert lines[name].holds is None and "1 of 1" in lines[name].measured


def test_the_recursion_at_infinite_width_is_a_geometric_series() -> None:
    f, kernel = recursion(1.0, 1.0, eta=2.5, width=10**15, steps=10)
    assert np.allclose(f, (-1.5) ** np.arange(11), rtol=1e-9)
    assert np.allclose(kernel, 1.0, rtol=1e-9)


def test_the_monitor_changes_nothing_and_measures_the_kernel(tmp_path: Path) -> None:
    runs = [
        catapult.run(Catapult(seed=2, steps=30, observables=o), tmp_path / o)
        for o in ("none", "standard")
    ]
    plain, watched = (run.series("loss").value for run in runs)
    assert plain.tobytes() == watched.tobytes()
    # At f = 0 the Hessian is the outer product of the gradient: lambda_max is the tangent kernel.
    late = catapult.run(Catapult(seed=2, steps=101, every=100), tmp_path / "late")
    top, kernel = late.series("hessian/lambda_max"), late.series("tangent_kernel")
    assert top.step[-1] == kernel.step[-1] == 100
    assert top.value[-1] == pytest.approx(kernel.value[-1], rel=1e-2)  # the stopping rule's bound


def test_every_line_is_there_and_short_or_few_runs_decide_nothing(tmp_path: Path) -> None:
    lines = catapult.check([])
    assert len(lines) == 10 and all(line.holds is None for line in lines)
    catapult.figure([])
    short = [
        catapult.run(Catapult(steps=3, seed=s, observables="none"), tmp_path / f"{s}")
        for s in range(2)
    ]
    assert all(line.holds is None and "no run" in line.measured for line in catapult.check(short))
    assert len(catapult.figure(short).axes) == 2


def made(folder: Path, start: float, seed: int, grew: float, converged: float) -> Run:
    config = Catapult(eta_lambda=start, seed=seed)
    with Run.create(folder / f"{start}-{seed}", kind="catapult", config=vars(config)) as run:
        ends = {"grew": grew, "converged": converged, "last_eta_lambda": 1.0, "peak_loss": 9.0}
        conclude(run, {**ends, "off_recursion": 1e-9})
    return Run.open(folder / f"{start}-{seed}")


def test_ten_runs_decide_and_a_wrong_fate_fails(tmp_path: Path) -> None:
    runs = [made(tmp_path, 3.0, seed, 1.0, 1.0) for seed in range(10)]
    runs += [made(tmp_path, 4.2, 0, 1.0, 1.0)]  # above 4, and converged
    found = {line.name: line.holds for line in catapult.check(runs)}
    assert found["eta lambda = 3"] is found["exact recursion"] is True
    assert found["eta lambda = 4.2"] is False
    assert found["eta lambda = 1.9"] is None


def test_the_rate_decides_on_the_variant_and_a_sweep_over_rates_runs_each_once() -> None:
    for variant, rates in GRID.items():
        assert Catapult(variant) == replace(Catapult(variant), eta_lambda=0.0)  # type: ignore[arg-type]
        assert Catapult(variant).start == rates[0]  # type: ignore[arg-type]
        for rate in rates:
            assert {Catapult(v, rate).variant for v in GRID} == {variant}  # type: ignore[arg-type]
    named = {"catapult": catapult.EXPERIMENT}
    for rates in ((2.05, 2.1, 3, 3.8, 3.95), catapult.RATES):
        trials = plan(named, range(100, 102), grid={"eta_lambda": rates})
        assert len({trial.name for trial in trials}) == len(trials) == 2 * len(rates)
        assert all(t.config.variant == fate_of(t.config.start) for t in trials)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"eta_lambda": 2.0}, "not 2 or 4"),
        ({"eta_lambda": -1.0}, "positive"),
        ({"eta_lambda": float("nan")}, "positive"),
        ({"variant": "slow"}, "`variant`"),
        ({"width": 0}, "`width`"),
    ],
)
def test_the_door(bad: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Catapult(**bad)  # type: ignore[arg-type]
