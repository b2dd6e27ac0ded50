"""Lottery tickets: splits without leaks, masks that hold, and arms that differ in one thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foreshock.experiments import lottery_ticket as lottery
from foreshock.experiments.lottery_ticket import LotteryTicket
from foreshock.experiments.setup import outcome

SMALL = {"rounds": 2, "steps": 40, "observables": "none"}


def test_no_digit_is_in_both_halves() -> None:
    data = lottery.make_data(3)
    rows = [{tuple(x.tolist()) for x in half[0]} for half in vars(data).values()]
    assert not rows[0] & rows[1]
    assert (len(data.train[1]), len(data.heldout[1])) == (1437, 360)
    assert not torch.equal(lottery.make_data(4).heldout[1], data.heldout[1])


def test_the_nulls_differ_from_the_ticket_in_one_thing() -> None:
    data = lottery.make_data(0)
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
    assert [line.holds for line in lottery.check([dense, sparse])] == [True, True]
    assert len(lottery.figure([dense, sparse]).axes) == 1


def test_check_and_figure_on_nothing() -> None:
    assert lottery.check([]) == []
    lottery.figure([])


@pytest.mark.parametrize("bad", [{"variant": "lucky"}, {"rounds": -1}, {"steps": 0}])
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        LotteryTicket(**bad)  # type: ignore[arg-type]
