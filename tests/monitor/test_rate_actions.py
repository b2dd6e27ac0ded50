"""Actions on the learning rate, stop, advice and pause, on a live run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import foreshock as fs
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class Wants:
    """Wants one action at one step."""

    kind: str
    at: int
    arguments: tuple[tuple[str, float], ...] = ()
    name: str = "wants"
    reads: tuple[str, ...] = ("loss",)

    def init(self) -> None: ...

    def update(
        self, state: None, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[None, list[Action]]:
        wanted = [Action(step, self.name, self.kind, dict(self.arguments), "Because.")]
        return None, wanted if step == self.at else []


def trained(folder: Path, policy: Wants, *, dry_run: bool = False, **more: Any) -> list[float]:
    """SGD on a constant gradient of 1 under a schedule that halves: the size of each step."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    model = torch.nn.ParameterList([weight])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5)
    sizes = []
    with fs.attach(
        model,
        optimizer,
        run=folder,
        observables="free",
        every=1,
        policies=[policy],
        dry_run=dry_run,
        **more,
    ) as watch:
        for _ in range(12):
            before = weight.item()
            weight.grad = torch.ones(1, dtype=torch.float64)
            optimizer.step()
            schedule.step()
            watch.log(loss=1.0)
            sizes.append(before - weight.item())
        trained.watch = watch  # type: ignore[attr-defined]
    return sizes


#: Halved after every four steps.
PLAIN = [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_a_factor_holds_under_a_schedule_and_leaves_it_alone(tmp_path: Path) -> None:
    """Decided when step 2 is complete, carried out after update 3: from update 4 on times 3."""
    policy = Wants("scale_lr", 2, (("factor", 3.0), ("low", 0.1), ("high", 10.0)))
    found = trained(tmp_path / "run", policy)
    assert found == pytest.approx(PLAIN[:4] + [3 * x for x in PLAIN[4:]])
    with fs.Run.open(tmp_path / "run") as run:
        (event,) = run.events("action")
        assert event.payload["applied"] and event.payload["kind"] == "scale_lr"
        # What is measured beside it sees the rate that was used.
        assert run.series("update/step_norm").value.tolist() == pytest.approx(found)


def test_a_lent_factor_goes_back_and_says_so(tmp_path: Path) -> None:
    policy = Wants("scale_lr", 2, (("factor", 2.0), ("steps", 3.0), ("low", 0.1), ("high", 10.0)))
    found = trained(tmp_path / "run", policy)
    assert found == pytest.approx(PLAIN[:4] + [1.0] * 3 + PLAIN[7:])
    with fs.Run.open(tmp_path / "run") as run:
        (ended,) = run.events("action_ended")
        assert ended.payload["done"] == {"updates": 3.0}


def test_a_dry_run_changes_no_rate_and_wants_no_stop(tmp_path: Path) -> None:
    for kind in ("scale_lr", "stop"):
        policy = Wants(kind, 2, (("factor", 3.0),))
        assert trained(tmp_path / kind, policy, dry_run=True) == PLAIN
        assert not trained.watch.should_stop  # type: ignore[attr-defined]


def test_stop_advice_and_pause_reach_the_loop(tmp_path: Path) -> None:
    trained(tmp_path / "stop", Wants("stop", 2))
    assert trained.watch.should_stop  # type: ignore[attr-defined]
    trained(tmp_path / "batch", Wants("advise_batch", 2, (("batch", 64.0),)))
    assert trained.watch.advised_batch == 64  # type: ignore[attr-defined]
    asked: list[Action] = []
    trained(tmp_path / "pause", Wants("pause", 2), on_pause=asked.append)
    assert [a.kind for a in asked] == ["pause"]
    trained(tmp_path / "nobody", Wants("pause", 2))
    with fs.Run.open(tmp_path / "nobody") as run:
        (event,) = run.events("action")
        assert not event.payload["applied"] and "Nobody is there to ask" in event.payload["reason"]
