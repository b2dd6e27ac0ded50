"""Minima: splits, labels drawn anew in the training half only, measures against exact ones."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import minima, minima_measures
from foreshock.experiments.minima import Minima
from foreshock.experiments.setup import conclude, milestone, milestones_of, outcome
from foreshock.store import Run


def measured(config: Minima, model: torch.nn.Module, data: minima.Data) -> dict[str, float]:
    return minima.measures(model, data.train, data.heldout, batch=config.batch,
                           noise=config.noise, seed=config.seed)  # fmt: skip


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
    found = measured(config, model, data)
    assert found["sharpness"] == pytest.approx(exact, rel=1e-2)  # the stopping rule's bound
    # One pass over single examples: their mean gradient is that of the loss, c_1 exact.
    parameters, rows = list(model.parameters()), []
    for x, y in zip(*data.train, strict=True):
        parts = torch.autograd.grad(minima.loss_of(model, (x[None], y[None])), parameters)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    each = torch.stack(rows).double()
    spread = each.var(0, unbiased=False).sum()
    c_1 = (each.mean(0).square().sum() / spread).item()
    assert found["c_1"] == pytest.approx(c_1, rel=1e-4)  # float32 sums
    assert found["norm"] == pytest.approx(flat.norm().item(), rel=1e-6)
    assert 0 < found["p"] < 1 and found["gap"] == found["heldout_error"] - found["train_error"]


def test_it_stops_when_it_fits_and_the_monitor_changes_nothing(tmp_path: Path) -> None:
    config = Minima(lr=0.8, every=200, observables="none")
    plain = minima.run(config, tmp_path / "a")
    watched = minima.run(replace(config, observables="standard"), tmp_path / "b")
    assert outcome(plain) == outcome(watched)
    assert outcome(plain)["train_loss"] < 0.1 and len(plain.series("loss").step) < 3000
    assert "fitted" in milestones_of(plain)
    # 200 digits: 1-nearest-neighbour misses about .1, the ten classes .9.
    assert outcome(plain)["heldout_error"] < 0.2


def test_the_gap_takes_both_errors_under_the_law_of_the_training_labels() -> None:
    # A network that never looks at its input errs alike on both: no gap, whatever the noise.
    config = Minima(noise=0.5, examples=1200)
    data, model = minima.make_data(config), minima.make_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0)
        model[2].bias[3] = 1  # type: ignore[index]
    found = measured(config, model, data)
    # Shares of one class in 1200 and in 597 digits: sd sqrt(.09/1200 + .25 .09/597) = .011.
    assert abs(found["gap"]) < 4 * 0.011
    # A network that is always right on true labels: half of the labels anew, .9 of them missed.
    assert minima_measures.under_noise(0.0, 0.5) == 0.45
    held, noise = found["heldout_error"], config.noise
    labels = data.heldout[1]
    generator = torch.Generator().manual_seed(5)
    anew = torch.rand(len(labels), generator=generator) < noise
    drawn = torch.where(anew, torch.randint(10, anew.shape, generator=generator), labels)
    # Drawn for real: sd of a share of 597 is at most .5/sqrt(597) = .02.
    assert (
        abs((drawn != 3).float().mean().item() - minima_measures.under_noise(held, noise))
        < 4 * 0.02
    )


def test_a_right_network_has_no_gap_though_its_training_labels_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its answers are the true labels: training error .18 at 20 %, held-out error 0.
    config = Minima(noise=0.2, examples=1200)
    clean, noisy = (minima.make_data(replace(config, noise=z)) for z in (0.0, 0.2))
    missed = (clean.train[1] != noisy.train[1]).float().mean().item()
    errors = {1200: missed, 597: 0.0}
    monkeypatch.setattr(minima_measures, "error_of", lambda model, half: errors[len(half[1])])
    found = measured(config, minima.make_model(config), noisy)
    assert found["heldout_error"] == 0
    assert abs(found["gap"]) < 4 * 0.011  # sd of the share, as above; -.18 under two laws


def test_in_the_null_noise_is_no_field() -> None:
    assert Minima("labels", noise=0.0) == Minima("labels", noise=0.2)
    assert Minima("labels").noise == 1


def test_every_setting_is_timed() -> None:
    settings = [dict(zip(minima.GRID, key, strict=True))
                for key in itertools.product(*minima.GRID.values())]  # fmt: skip
    labels = {minima.EXPERIMENT.label(Minima(variant, **one))  # type: ignore[arg-type]
              for variant in ("grid", "labels") for one in settings}  # fmt: skip
    assert len(labels) == 72 + 36 and labels == set(minima.EXPERIMENT.seconds) - {"", "small"}


def made_up(
    folder: Path, *, seeds: int = 1, fitted: bool = True, steps: int = 8000, variant: str = "grid"
) -> list[Run]:
    """Runs of the whole grid whose measures order the gap."""
    runs = []
    for key in itertools.product(*minima.GRID.values()):
        for seed in range(seeds):
            fields = dict(zip(minima.GRID, key, strict=True))
            config = Minima(variant, seed=seed, steps=steps, **fields)  # type: ignore[arg-type]
            path = folder / f"{minima.EXPERIMENT.label(config)}-{seed}"
            if path.exists():
                continue
            with Run.create(path, kind="minima", config=asdict(config)) as record:
                gap = key[0] + key[2] / 100 + key[3] / 1000
                milestone(record, "fitted", minima.FITTED, 3 if fitted else None)
                numbers = dict.fromkeys(("heldout_error", "train_error"), 0.1)
                own = {"sharpness": gap, "norm": gap, "p": -gap, "c_1": -gap, "gap": gap}
                conclude(record, {**numbers, **own, "train_loss": 0.09 if fitted else 9.0})
            runs.append(Run.open(path))
    return runs


def test_the_grid_is_complete_with_ten_seeds_of_every_setting(tmp_path: Path) -> None:
    runs = made_up(tmp_path / "a")
    one = {line.name: line for line in minima.check(runs)}
    assert one["complete grid"].holds is None and "0 of 72" in one["complete grid"].measured
    assert one["fitted"].measured.startswith("72 of 72 runs")
    # Three hyper-parameters move the gap as they do, two not at all: psi 3/5, and of 32 signs
    # those with the three right get as far: 4.
    assert "psi +0.60" in one["sharpness"].measured and "4 of 32" in one["sharpness"].measured
    assert "chance" not in " ".join(line.expected + line.measured for line in one.values())
    assert one["width itself"].measured.startswith("psi +1.00")
    assert all(line.holds is None for line in one.values())


def test_ten_seeds_decide_that_the_grid_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {name: values[:2] if name == "lr" else values[:1]
             for name, values in minima.GRID.items()}  # fmt: skip
    monkeypatch.setattr(minima, "GRID", small)
    runs = made_up(tmp_path / "a", seeds=10)
    assert [line.holds for line in minima.check(runs) if line.name == "complete grid"] == [True]
    assert [line.holds for line in minima.check(runs[1:]) if line.name == "complete grid"] == [None]


def test_runs_that_never_fitted_are_left_out(tmp_path: Path) -> None:
    runs = made_up(tmp_path / "a", fitted=False)
    assert minima.table(runs)[0] == []
    lines = {line.name: line for line in minima.check(runs)}
    assert lines["fitted"].measured == "0 of 72 runs; 72 settings left out"
    assert set(lines) == {"complete grid", "fitted"}  # and nothing is ordered
    assert minima.check(made_up(tmp_path / "b", fitted=False, steps=1)) == []  # stopped too early
    mixed = [*made_up(tmp_path / "c"), runs[0]]  # one seed of one setting did not
    assert len(minima.table(mixed)[0]) == 71


def test_the_null_has_settings_without_noise(tmp_path: Path) -> None:
    runs = made_up(tmp_path / "a", variant="labels")
    assert len(runs) == 36
    lines = [line for line in minima.check(runs) if line.name == "null labels: norm"]
    assert len(lines) == 1 and "16" in lines[0].measured and "noise" not in lines[0].measured


def test_check_and_figure_on_some_runs(tmp_path: Path) -> None:
    assert minima.check([]) == []
    minima.figure([])
    runs = [minima.run(Minima(lr=lr, observables="none"), tmp_path / str(lr)) for lr in (0.4, 0.8)]
    lines = minima.check(runs)
    assert [line.name for line in lines] == [
        "complete grid", "fitted", *minima.MEASURES, "lr itself"
    ]  # fmt: skip
    assert all(line.holds is None for line in lines)  # two of 72 settings say nothing
    assert [line.name for line in minima.check(runs[:1])] == ["complete grid", "fitted"]
    minima.figure(runs)


@pytest.mark.parametrize("bad", [{"variant": "flat"}, {"examples": 5000}, {"noise": 1.5}])
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        Minima(**bad)  # type: ignore[arg-type]
