"""Superposition: the exact loss against sampling, its levels as critical points, and the nulls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import superposition
from foreshock.experiments.setup import conclude, outcome
from foreshock.experiments.superposition import Superposition, make_data
from foreshock.experiments.superposition_levels import (
    Level,
    drops,
    expected_loss,
    levels,
    nearest,
    plateaus,
    polygon,
)
from foreshock.store import Run

SMALL = {"steps": 60, "samples": 64, "observables": "none"}


def test_the_expected_loss_is_the_mean_of_many_samples() -> None:
    # 200,000 examples: 4 standard errors of their mean, at random weights of every sign.
    x = make_data(Superposition(samples=200_000, seed=5))
    for seed in range(4):
        model = superposition.make_model(Superposition(seed=seed, scale=1.0, bias_scale=0.5))
        with torch.no_grad():
            each = superposition.losses_of(model, (x, x))
            exact = float(expected_loss(model.weight, model.bias))
        assert abs(float(each.mean()) - exact) < 4 * float(each.std()) / len(x) ** 0.5


@pytest.mark.parametrize("level", levels(), ids=lambda level: level.name)
def test_every_level_is_a_critical_point(level: Level) -> None:
    weight, bias = (p.clone().requires_grad_() for p in level.point)
    loss = expected_loss(weight, bias)
    slopes = torch.autograd.grad(loss, (weight, bias))
    # Closed forms up to rounding; pentagon and hexagon up to the minimiser's 1e-10 a parameter.
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-8
    assert loss.item() == pytest.approx(level.loss, abs=1e-15)


def test_the_levels_have_their_closed_forms() -> None:
    found = {level.name: level.loss for level in levels()}
    for corners in (2, 3, 4):  # no interference: silent features are all that costs
        for positive in range(7 - corners):
            cost = (6 - corners) / 18 - positive / 144
            assert found[f"{corners}{'+' * positive}"] == pytest.approx(cost, abs=1e-14)
    assert found["5"] - found["5+"] == pytest.approx(1 / 144, abs=1e-12)
    # Chen et al. 2023, table of the hexagon and the pentagons.
    assert [round(found[name], 4) for name in ("6", "5+", "5")] == [0.0482, 0.0618, 0.0687]
    assert nearest(0.0975).name == "4++"


def test_the_pentagon_is_the_best_one_of_its_kind() -> None:
    (level,) = (one for one in levels() if one.name == "5")
    shape = np.array([level.norm, level.bias])
    here = float(expected_loss(*level.point))
    for step in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]):
        moved = polygon(torch.tensor(shape + step), 5, 0)
        assert float(expected_loss(*moved)) > here


def test_plateaus_and_drops_are_found_where_they_were_put() -> None:
    stairs = np.concatenate(
        [np.geomspace(1, 0.5, 50), np.full(300, 0.5), np.geomspace(0.49, 0.31, 40),
         np.full(250, 0.3), np.full(300, 0.295)]
    )  # fmt: skip
    assert [(a // 10, b // 10) for a, b in plateaus(stairs)] == [(4, 35), (39, 64), (64, 94)]
    (only,) = drops(stairs)  # 0.3 and 0.295 differ by less than 3 %
    assert stairs[only] < 0.4 <= stairs[only - 1]
    assert plateaus(np.geomspace(1, 0.1, 300)) == [] == drops([])


def test_the_same_twice_and_watched_or_not(tmp_path: Path) -> None:
    losses = []
    for number, seen in enumerate(("none", "none", "standard")):
        config = Superposition(seed=3, samples=64, steps=40, every=20, observables=seen)
        run = superposition.run(config, tmp_path / str(number))
        losses.append(run.series("loss").value.tobytes())
    assert losses[0] == losses[1] == losses[2]


def test_the_nulls_differ_in_one_thing(tmp_path: Path) -> None:
    plain, dense = Superposition(seed=2), Superposition("dense", seed=2)
    one, all_at_once = make_data(plain), make_data(dense)
    assert torch.equal(one[one > 0], all_at_once[one > 0])  # the same mu, others silenced
    assert bool((all_at_once > 0).all()) and int((one > 0).sum(1).max()) == 1
    for a, b in zip(*(superposition.make_model(c).parameters() for c in (plain, dense)),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)
    assert not torch.equal(one, make_data(plain, 1))  # held out: other examples
    frozen = superposition.run(Superposition("frozen", seed=2, **SMALL), tmp_path / "frozen")  # type: ignore[arg-type]
    assert np.ptp(frozen.series("loss").value) == 0
    assert frozen.series("loss").value[0] == superposition.run(
        Superposition(seed=2, **SMALL), tmp_path / "plain"  # type: ignore[arg-type]
    ).series("loss").value[0]  # fmt: skip


def staircase(path: Path, seed: int, levels: list[float]) -> Run:
    """A recorded run whose loss and expected loss stay 300 epochs at each of these levels."""
    loss = np.repeat(levels, 300)
    with Run.create(path, kind="superposition", config={"variant": "superposition", "seed": seed},
                    seed=seed) as record:  # fmt: skip
        for step, value in enumerate(loss):
            row = {"loss": value}
            if step % 50 == 0:
                row |= {"expected_loss": value, "loss_stderr": 0.001}
            record.append(step, row)
        conclude(record, {"expected_loss": loss[-1], "represented": 5, "largest_rise": 0.0})
    return Run.open(path)


def test_check_passes_at_the_levels_and_fails_off_them(tmp_path: Path) -> None:
    good = [staircase(tmp_path / f"a{s}", s, [0.1111, 0.1042, 0.0687]) for s in range(10)]
    verdicts = {line.name: line.holds for line in superposition.check(good)}
    assert verdicts.pop("last expected loss, level") is None
    assert len(verdicts) == 4 and all(verdicts.values())
    bad = [staircase(tmp_path / f"b{s}", s, [0.085]) for s in range(10)]  # 13 errors from any
    verdicts = {line.name: line.holds for line in superposition.check(bad)}
    assert not verdicts["plateaus, sampled loss"] and not verdicts["plateaus, expected loss"]
    assert superposition.check(good[:1])[0].holds is None
    assert len(superposition.figure(good[:2]).axes) == 2


def test_the_small_size_its_check_and_figure(tmp_path: Path) -> None:
    runs = [
        superposition.run(
            superposition.EXPERIMENT.configured(
                small=True, variant=variant, steps=150, observables="none"
            ),
            tmp_path / variant,
        )
        for variant in superposition.VARIANTS
    ]
    assert outcome(runs[0])["loss"] < runs[0].series("loss").value[0]
    assert outcome(runs[0])["largest_rise"] < 1e-12
    names = [line.name for line in superposition.check(runs)]
    assert names[-2:] == ["null: dense", "null: frozen"]
    superposition.figure(runs)
    assert superposition.check([]) == []
    superposition.figure([])


@pytest.mark.parametrize(
    "bad", [{"variant": "sparse"}, {"samples": 7}, {"steps": 0}, {"lr": -1}, {"scale": -1}]
)
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        Superposition(**bad)  # type: ignore[arg-type]
