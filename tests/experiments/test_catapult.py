"""The catapult against its exact recursion, and the fates on either side of 2 and 4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foreshock.experiments import catapult
from foreshock.experiments.catapult import FATE, GRID, Catapult, recursion
from foreshock.experiments.setup import milestones_of, outcome


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
    assert ("peak" in milestones_of(run)) == (variant != "lazy")
    if variant == "catapult":
        assert found["last_eta_lambda"] < 2 < start
    (line, exact) = catapult.check([run])
    assert line.holds and exact.holds and line.name == f"eta lambda = {start:g}"


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


def test_check_and_figure_on_nothing_and_on_wrong_fates(tmp_path: Path) -> None:
    assert catapult.check([]) == []
    catapult.figure([])
    short = catapult.run(Catapult(steps=3, observables="none"), tmp_path / "short")
    assert catapult.check([short])[0].holds is False  # three steps in, it has only grown
    assert len(catapult.figure([short]).axes) == 2


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"variant": "lazy", "eta_lambda": 3.0}, "between 0 and 2"),
        ({"variant": "slow"}, "`variant`"),
        ({"width": 0}, "`width`"),
    ],
)
def test_the_door(bad: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Catapult(**bad)  # type: ignore[arg-type]
