"""The edge of stability: targets, threshold and arrival; a null that never comes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import edge_of_stability as edge
from foreshock.experiments.edge_of_stability import EdgeOfStability
from foreshock.experiments.setup import milestones_of, outcome


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
    lines = {line.name: line for line in edge.check(runs)}
    assert lines["null: mixture"].holds and "1 arrived" in lines["edge, degree 3"].measured
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


def test_check_and_figure_on_nothing() -> None:
    assert edge.check([]) == []
    edge.figure([])


@pytest.mark.parametrize("bad", [{"variant": "sharp"}, {"degree": 0}, {"lr": -1.0}])
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        EdgeOfStability(**bad)  # type: ignore[arg-type]
