"""Lottery tickets: splits without leaks, masks that hold, and arms that differ in one thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from foreshock.experiments import lottery_ticket as lottery
from foreshock.experiments.digits import load_digits
from foreshock.experiments.lottery_ticket import LotteryTicket
from foreshock.experiments.pruning import matrices
from foreshock.experiments.setup import conclude, milestones_of, outcome
from foreshock.store import Run

SMALL = {"rounds": 2, "steps": 40, "observables": "none"}


def test_the_nulls_differ_from_the_ticket_in_one_thing() -> None:
    data = lottery.Data(*load_digits(0))
    masks = {
        v: lottery.draw_ticket(LotteryTicket(v, rounds=2, steps=30), data)  # type: ignore[arg-type]
        for v in ("winning", "reinitialised", "random", "dense")
    }
    for a, b in zip(masks["winning"], masks["reinitialised"], strict=True):
        assert torch.equal(a, b)  # the same mask, other weights
    for a, b in zip(masks["winning"], masks["random"], strict=True):
        assert a.sum() == b.sum() and not torch.equal(a, b)  # another mask of the same size
    assert all(bool((m == 1).all()) for m in masks["dense"])


@pytest.mark.parametrize("variant", lottery.VARIANTS)
def test_masked_weights_stay_at_zero(variant: lottery.Variant, tmp_path: Path) -> None:
    found = outcome(lottery.run(LotteryTicket(variant, **SMALL), tmp_path / "run"))  # type: ignore[arg-type]
    assert found["masked_stay_zero"] == 1
    assert found["kept"] == pytest.approx(1.0 if variant == "dense" else 0.64, abs=1e-3)


def test_the_monitor_changes_nothing(tmp_path: Path) -> None:
    losses = [
        lottery.run(
            LotteryTicket("random", rounds=2, steps=40, every=10, observables=o), tmp_path / o
        ).series("loss").value
        for o in ("none", "standard")
    ]  # fmt: skip
    assert losses[0].tobytes() == losses[1].tobytes()


def test_a_dense_network_learns_and_a_random_ticket_learns_less(tmp_path: Path) -> None:
    # 600 updates of the dense network reach .93 and more; chance is .1.
    dense = lottery.run(LotteryTicket("dense", observables="none"), tmp_path / "dense")
    sparse = lottery.run(LotteryTicket("random", observables="none"), tmp_path / "random")
    assert outcome(dense)["heldout_acc"] > 0.9 > 0.6 > outcome(sparse)["heldout_acc"]
    when = milestones_of(dense)["learned"]
    assert dense.series("val_acc").value[list(dense.series("val_acc").step).index(when)] > 0.85
    assert milestones_of(sparse) == {}
    # One seed decides nothing.
    assert [line.holds for line in lottery.check([dense, sparse])] == [None, None]
    assert len(lottery.figure([dense, sparse]).axes) == 1


def test_what_is_pruned_has_no_gradient_nor_curvature() -> None:
    # The monitor reads loss_of(model, batch): it has to be the ticket's, not the whole network's.
    config = LotteryTicket("random")
    data, model = lottery.Data(*load_digits(0)), lottery.make_model(0)
    masks = lottery.draw_ticket(config, data)
    lottery.apply(model, masks)
    loss = lottery.loss_of(model, data.train)
    gradients = torch.autograd.grad(loss, matrices(model), create_graph=True)
    for gradient, mask in zip(gradients, masks, strict=True):
        assert (gradient[mask == 0] == 0).all() and (gradient[mask == 1] != 0).any()
    push = [torch.ones_like(p) for p in matrices(model)]
    for row, mask in zip(torch.autograd.grad(gradients, matrices(model), push), masks, strict=True):
        assert (row[mask == 0] == 0).all()  # H v has no part there, whatever v is
    plain = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
                          nn.Linear(100, 10))  # fmt: skip
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "mask" not in k})
    assert torch.equal(plain(data.train[0]), model(data.train[0]))  # the same function


def made_up(folder: Path, accuracies: dict[str, float], seeds: int, steps: int = 600) -> list[Run]:
    runs = []
    for variant, accuracy in accuracies.items():
        for seed in range(seeds):
            config = {"variant": variant, "seed": seed, "rounds": 14, "steps": steps, "lr": 0.1}
            path = folder / f"{variant}-{seed}"
            with Run.create(path, kind="lottery_ticket", config=config) as record:
                conclude(record, {"heldout_acc": accuracy})
            runs.append(Run.open(path))
    return runs


def test_check_decides_on_ten_seeds_and_in_the_range_of_the_reference(tmp_path: Path) -> None:
    good = {"winning": 0.945, "reinitialised": 0.3, "random": 0.2, "dense": 0.97, "snr": 0.5}
    ten = lottery.check(made_up(tmp_path / "a", good, 10))
    assert [line.holds for line in ten] == [True] * 6 + [None]  # snr has no reference
    assert [line.holds for line in lottery.check(made_up(tmp_path / "b", good, 9))] == [None] * 7
    # What the loose ranges let through: a ticket of .91, a random one of .59.
    loose = lottery.check(made_up(tmp_path / "c", {"winning": 0.91, "random": 0.59}, 10))
    assert [line.holds for line in loose] == [False, False]
    reverse = lottery.check(made_up(tmp_path / "d", {"reinitialised": 0.3, "random": 0.31}, 1))
    assert reverse[0].holds is False  # a failure is said at once
    assert lottery.check(made_up(tmp_path / "e", good, 10, steps=40)) == []  # another size


def test_check_and_figure_on_nothing() -> None:
    assert lottery.check([]) == []
    lottery.figure([])


@pytest.mark.parametrize("bad", [{"variant": "lucky"}, {"rounds": -1}, {"steps": 0}])
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        LotteryTicket(**bad)  # type: ignore[arg-type]
