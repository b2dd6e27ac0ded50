"""Minima: splits, wrong labels in the training half only, sharpness against the exact Hessian."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import minima
from foreshock.experiments.minima import Minima
from foreshock.experiments.setup import outcome


def test_no_digit_is_in_both_halves_and_held_out_labels_are_right() -> None:
    clean, noisy = (minima.make_data(Minima(noise=x, examples=1200)) for x in (0.0, 0.2))
    rows = [{tuple(x.tolist()) for x in half[0]} for half in vars(clean).values()]
    assert not rows[0] & rows[1] and len(clean.heldout[1]) == 597
    assert torch.equal(clean.heldout[1], noisy.heldout[1])
    assert torch.equal(clean.train[0], noisy.train[0])
    changed = (clean.train[1] != noisy.train[1]).float().mean().item()
    # A fifth is drawn anew, a tenth of that by chance right: .18, sd sqrt(.18 .82/1200) = .011.
    assert abs(changed - 0.18) < 4 * 0.011


def test_the_null_has_random_labels_and_nothing_else() -> None:
    grid, null = minima.make_data(Minima()), minima.make_data(Minima("labels"))
    assert torch.equal(grid.train[0], null.train[0])
    assert torch.equal(grid.heldout[1], null.heldout[1])
    agree = (grid.train[1] == null.train[1]).float().mean().item()
    assert abs(agree - 0.1) < 4 * np.sqrt(0.09 / 300)


def test_sharpness_is_the_top_of_the_exact_hessian() -> None:
    config = Minima(width=4, examples=40)
    data, model = minima.make_data(config), minima.make_model(config)
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = {
            name: part.reshape(p.shape)
            for name, part, p in zip(names, flat.split(sizes), model.parameters(), strict=True)
        }
        return minima.loss_of(lambda x: torch.func.functional_call(model, parts, (x,)), data.train)

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1].item()
    found = minima.measures(config, model, data)
    assert found["sharpness"] == pytest.approx(exact, rel=1e-2)  # the stopping rule's bound
    assert found["norm"] == pytest.approx(flat.norm().item(), rel=1e-6)
    assert 0 < found["p"] < 1 and found["gap"] == found["heldout_error"] - found["train_error"]


def test_it_stops_when_it_fits_and_the_monitor_changes_nothing(tmp_path: Path) -> None:
    config = Minima(lr=0.5, every=200, observables="none")
    plain = minima.run(config, tmp_path / "a")
    watched = minima.run(replace(config, observables="standard"), tmp_path / "b")
    assert outcome(plain) == outcome(watched)
    assert outcome(plain)["train_loss"] < 0.05 and len(plain.series("loss").step) < 3000
    assert outcome(plain)["heldout_error"] < 0.15


def test_check_and_figure_on_some_runs(tmp_path: Path) -> None:
    assert minima.check([]) == []
    minima.figure([])
    runs = [
        minima.run(Minima(lr=lr, steps=30, observables="none"), tmp_path / str(lr))
        for lr in (0.05, 0.5)
    ]
    lines = minima.check(runs)
    assert [line.name for line in lines] == list(minima.MEASURES)
    assert all(line.holds is None for line in lines)  # two of 72 settings say nothing
    assert minima.check(runs[:1]) == []
    minima.figure(runs)


@pytest.mark.parametrize("bad", [{"variant": "flat"}, {"examples": 5000}, {"noise": 1.5}])
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        Minima(**bad)  # type: ignore[arg-type]
