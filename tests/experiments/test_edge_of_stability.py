"""The edge of stability: targets, threshold and arrival; a null that never comes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import edge_of_stability as edge
from foreshock.experiments.edge_of_stability import EdgeOfStability
from foreshock.experiments.setup import conclude, milestone, milestones_of, outcome
from foreshock.store import Run


@pytest.mark.parametrize("degree", [3, 4, 5])
def test_targets_obey_the_recurrence_of_chebyshev(degree: int) -> None:
    x, _ = edge.make_data(EdgeOfStability(degree=degree))
    t = [
        edge.make_data(EdgeOfStability(degree=k))[1] for k in (degree, degree - 1, degree - 2 or 1)
    ]
    if degree > 3:  # T_n = 2 x T_(n-1) - T_(n-2)
        assert torch.allclose(t[0], 2 * x * t[1] - t[2], atol=1e-5)
    assert torch.allclose(x.min(), -torch.ones(())) and len(x) == 20


def test_curvature_is_that_of_the_full_batch(tmp_path: Path) -> None:
    config = EdgeOfStability(steps=1, every=1, seed=3)
    run = edge.run(config, tmp_path / "run")
    data, model = edge.make_data(config), edge.make_model(config)
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = {
            name: part.reshape(p.shape)
            for name, part, p in zip(names, flat.split(sizes), model.parameters(), strict=True)
        }
        return edge.loss_of(lambda x: torch.func.functional_call(model, parts, (x,)), data)

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    hessian = torch.autograd.functional.hessian(loss, flat)
    exact = torch.linalg.eigvalsh(hessian)[-1].item()
    value = run.series("hessian/lambda_max").value[0]
    assert value == pytest.approx(exact, rel=1e-2)  # the stopping rule's bound


def test_it_arrives_and_the_mixture_does_not(tmp_path: Path) -> None:
    runs = [
        edge.run(EdgeOfStability(variant, 3, steps=240), tmp_path / variant)
        for variant in ("edge", "mixture")
    ]
    assert 40 <= milestones_of(runs[0])["arrival"] <= 100
    assert "arrival" not in milestones_of(runs[1])
    assert outcome(runs[1])["largest"] < 0.8 < 1.1 < outcome(runs[0])["largest"]
    assert all(line.holds is None for line in edge.check(runs))  # 240 updates are not all of them
    assert len(edge.figure(runs).axes) == 2


def test_frozen_weights_do_not_move(tmp_path: Path) -> None:
    run = edge.run(EdgeOfStability("frozen", steps=50), tmp_path / "run")
    assert np.ptp(run.series("loss").value) == 0
    ratio = run.series("hessian/lambda_max").value
    assert np.ptp(ratio) < 0.02 * ratio.mean()  # the same Hessian, from other starting vectors


def test_the_monitor_changes_nothing(tmp_path: Path) -> None:
    losses = [
        edge.run(EdgeOfStability(steps=60, observables=o), tmp_path / o).series("loss").value
        for o in ("none", "curvature", "standard")
    ]
    assert losses[0].tobytes() == losses[1].tobytes() == losses[2].tobytes()


def test_arrival_needs_two_in_a_row() -> None:
    steps = np.arange(0, 60, 10)
    assert edge.arrival(steps, np.array([0.5, 1.2, 0.9, 1.0, 1.0, 0.8])) == 30
    assert edge.arrival(steps, np.array([0.5, 1.2, 0.9, 1.0, 0.9, 1.8])) is None
    assert edge.arrival(steps[:0], np.empty(0)) is None


def test_arrival_is_a_crossing_from_below() -> None:
    steps = np.arange(0, 60, 10)
    assert edge.arrival(steps, np.array([1.2, 1.2, 1.1, 1.1, 1.3, 1.2])) is None
    assert edge.arrival(steps, np.array([1.2, 1.2, 1.1, 0.9, 0.8, 0.7])) is None
    assert edge.arrival(steps, np.array([1.2, 1.2, 0.9, 1.1, 0.9, 1.1])) is None
    assert edge.arrival(steps, np.array([1.2, 1.2, 0.9, 1.0, 1.1, 0.8])) == 30


def test_a_frozen_network_above_the_threshold_does_not_arrive(tmp_path: Path) -> None:
    config = EdgeOfStability("frozen", seed=101, steps=60)
    run = edge.run(config, tmp_path / "run")
    assert (edge.ratios(run, config)[1] > 1.03).all()
    assert "arrival" not in milestones_of(run) and outcome(run)["after_median"] is None


def made(
    folder: Path, variant: edge.Variant, seed: int, *, degree: int = 4, last: float = 1e-4,
    median: float | None = None, arrived: bool = False, steps: int = 8000,
) -> Run:  # fmt: skip
    """A run with these ends."""
    config = EdgeOfStability(variant, degree, seed, steps)
    path = folder / f"{variant}-{degree}-{steps}-{seed}"
    with Run.create(path, kind="edge_of_stability", config=vars(config), seed=seed) as run:
        for step, loss in enumerate((1.0, last)):
            run.append(step, {"loss": loss, "hessian/lambda_max": 5.0})
        milestone(run, "arrival", edge.ARRIVAL, 1 if arrived else None)
        conclude(run, {"largest": 0.9, "after_median": median})
    return Run.open(path)


NAMES = [
    *(f"edge, degree {degree}" for degree in (3, 4, 5)),
    "mixture: silent",
    "frozen: silent",
    "mixture: converges",
]


def test_every_line_is_there_and_one_run_decides_nothing(tmp_path: Path) -> None:
    lines = edge.check([])
    assert [(line.name, line.holds) for line in lines] == [(name, None) for name in NAMES]
    edge.figure([])
    one = made(tmp_path, "edge", 0, median=1.0, arrived=True)
    assert [line.holds for line in edge.check([one])] == [None] * 6
    # Too few updates: neither its success nor its failure counts.
    short = [made(tmp_path, "edge", seed, steps=600) for seed in range(10)]
    assert [line.holds for line in edge.check(short)] == [None] * 6


def test_ten_runs_decide(tmp_path: Path) -> None:
    runs = [made(tmp_path, "edge", seed, median=1.0, arrived=True) for seed in range(10)]
    runs += [made(tmp_path, "edge", seed, degree=7, median=1.2) for seed in range(10)]
    runs += [made(tmp_path, "mixture", seed) for seed in range(10)]
    runs += [made(tmp_path, "frozen", seed, arrived=not seed, last=1.0) for seed in range(10)]
    found = {line.name: line.holds for line in edge.check(runs)}
    assert found["edge, degree 4"] and found["mixture: silent"] and found["mixture: converges"]
    assert found["edge, degree 7"] is found["frozen: silent"] is False
    assert found["edge, degree 3"] is None
    runs.append(made(tmp_path, "mixture", 10, last=0.5))
    assert {line.name: line.holds for line in edge.check(runs)}["mixture: converges"] is False


def test_the_figure_takes_more_degrees_than_colours(tmp_path: Path) -> None:
    runs = [made(tmp_path, "edge", s, degree=d, median=1.0) for d in range(1, 9) for s in range(2)]
    sharp, loss = edge.figure(runs).axes
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert len(labels) == 8 and "edge, degree 8 (2)" in labels
    assert len(sharp.get_lines()) == 8 * 3 + 1  # both seeds, their median, and the threshold


@pytest.mark.parametrize(
    "bad", [{"variant": "sharp"}, {"degree": 0}, *({"lr": v} for v in (-1.0, 0.0, np.inf, np.nan))]
)
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        EdgeOfStability(**bad)  # type: ignore[arg-type]


def test_a_rate_of_0_is_the_variant_frozen() -> None:
    with pytest.raises(ValueError, match="'frozen'"):
        EdgeOfStability(lr=0.0)
    assert EdgeOfStability("frozen").rate == 0
