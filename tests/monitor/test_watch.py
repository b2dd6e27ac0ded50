"""The watch as a whole: replay, resume, provenance, sinks, policies, unusual models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import foreshock as fs
from foreshock.detectors import CUSUM
from foreshock.detectors.record import recorded_alarms, recorded_detectors
from foreshock.experiments import grokking
from foreshock.types import Action, Alarm, Estimate
from tests.cases import CASES, loss


def train(watch: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
    for step in range(n):
        value = loss(model, CASES["mlp"].batch(8, step))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        watch.log(loss=value)


def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = CASES["mlp"].model()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_live_alarms_are_the_replayed_ones(tmp_path: Path) -> None:
    config = grokking.Grokking(task="p23", steps=260, every=10, observables="standard")
    live: list[Alarm] = []
    rules = ["heldout_signal", "p_crosses_half", CUSUM("loss", "down", warmup=10, threshold=3.0)]
    observables = ["gradient_noise", "heldout_signal"]
    with grokking.run(
        config, tmp_path / "r", observables=observables, detectors=rules, on_alarm=live.append
    ) as run:
        recorded = recorded_alarms(run.events("alarm"))
        assert {a.detector for a in live} >= {"heldout_signal", "cusum(loss down)"}
        assert live == recorded
        assert fs.replay(run, recorded_detectors(run.events("detectors"))) == recorded


def test_resume_continues_the_steps_and_the_detectors(tmp_path: Path) -> None:
    rule = CUSUM("loss", "up", warmup=6)

    def half(run: Any, first: int) -> None:
        model, optimizer = parts()
        with fs.attach(
            model, optimizer, run=run, observables=["norms"], every=1, detectors=[rule]
        ) as watch:
            for step in range(first, first + 5):
                optimizer.step()
                watch.log(loss=1.0 + 0.01 * (-1) ** step + (9.0 if step == 9 else 0.0))

    half(tmp_path / "r", 0)
    half(fs.Run.open(tmp_path / "r", "a"), 5)
    with fs.Run.open(tmp_path / "r") as run:
        assert run.series("loss").step.tolist() == list(range(10))
        # At step 5 the second half had one value only: the baseline came from the first half.
        assert [e.step for e in run.events("alarm")] == [9]
        assert fs.replay(run, [rule]) == recorded_alarms(run.events("alarm"))


def test_a_loop_that_fails_leaves_a_crashed_run_that_opens(tmp_path: Path) -> None:
    model, optimizer = parts()
    with pytest.raises(RuntimeError, match="mine"):
        with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1) as watch:
            train(watch, model, optimizer, 3)
            raise RuntimeError("mine")
    (summary,) = fs.list_runs(tmp_path)
    assert summary.state == "crashed" and summary.last_step == 2
    assert not optimizer._optimizer_step_pre_hooks  # and the hooks are gone


def test_provenance_of_every_series(tmp_path: Path) -> None:
    model, optimizer = parts()
    fs.attach(
        model, optimizer, run=tmp_path / "r", probe=CASES["mlp"].probe(), observables="full"
    ).close()
    with fs.Run.open(tmp_path / "r") as run:
        where = {name: run.describe(name).taken_at for name in run.names()}
        assert all(where.values())
        assert where["grad/norm"] == "before the update, gradient accumulated and clipped, float32"
        assert "4 fixed batches of 16 (independent)" in where["grad/snr"]
        assert where["update/step_norm"].startswith("after the update")
        assert run.info["config"]["optimizer"] == "SGD"


def test_what_a_preset_cannot_offer_is_listed_with_the_remedy(tmp_path: Path) -> None:
    model, optimizer = parts()
    fs.attach(model, optimizer, run=tmp_path / "r", observables="full").close()
    with fs.Run.open(tmp_path / "r") as run:
        (event,) = run.events("observables")
        left_out = {row["name"]: row["reason"] for row in event.payload["left_out"]}
        assert set(left_out) == {
            "heldout_signal",
            "curvature",
            "stability",
            "ridge_signal",
            "probe_signal",
            "ntk",
        }
        assert "pass probe=fs.Probe(" in left_out["curvature"]


@dataclasses.dataclass
class Memory:
    """A sink and a policy in one, for what reaches them."""

    rows: list[tuple[int, Mapping[str, Estimate]]] = dataclasses.field(default_factory=list)
    alarms: list[Alarm] = dataclasses.field(default_factory=list)
    name: str = "halve"
    reads: tuple[str, ...] = ("grad/norm",)

    def write(self, step: int, values: Mapping[str, Estimate]) -> None:
        self.rows.append((step, values))

    def alarm(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)

    def init(self) -> int:
        return 0

    def update(
        self, state: int, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[int, list[Action]]:
        wanted = [Action(step, self.name, "scale_lr", {"factor": 0.5}, "why not")] if alarms else []
        return state + 1, wanted


def test_sinks_and_policies_see_every_step_and_nothing_is_applied(tmp_path: Path) -> None:
    model, optimizer = parts()
    memory = Memory()
    with fs.attach(
        model,
        optimizer,
        run=tmp_path / "r",
        observables=["norms"],
        every=2,
        detectors=["p_crosses_half:mine"],
        sinks=[memory],
        policies=[memory],
    ) as watch:
        for step in range(6):
            train(watch, model, optimizer, 1)
            watch.log(mine=float(step > 3))
    assert [step for step, _ in memory.rows] == list(range(6))
    assert set(memory.rows[0][1]) == {
        "loss", "mine", "grad/norm", "weight/norm", "optim/lr", "clock/seconds"
    }  # fmt: skip
    assert set(memory.rows[1][1]) == {"loss", "mine"}
    assert [a.step for a in memory.alarms] == [4]
    assert optimizer.param_groups[0]["lr"] == 0.1
    with fs.Run.open(tmp_path / "r") as run:
        (action,) = run.events("action")
        assert action.payload["applied"] is False and action.step == 4


def test_two_watches_in_one_process_do_not_meet(tmp_path: Path) -> None:
    model, optimizer = parts()
    first = fs.attach(model, optimizer, run=tmp_path / "a", observables="free", every=1)
    second = fs.attach(model, optimizer, run=tmp_path / "b", observables="free", every=2)
    train(first, model, optimizer, 4)
    first.close(), second.close()
    with fs.Run.open(tmp_path / "a") as a, fs.Run.open(tmp_path / "b") as b:
        assert len(a.series("grad/norm")) == 4
        assert len(b.series("grad/norm")) == 2
        assert a.series("grad/norm").value[2] == b.series("grad/norm").value[1]


def test_close_twice_and_as_context(tmp_path: Path) -> None:
    model, optimizer = parts()
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free") as watch:
        watch.close()
    watch.close()
    with fs.Run.open(tmp_path / "r") as run:
        assert len(run.events("closed")) == 1


def test_models_whose_forward_returns_logits_attribute_and_dict_inputs(tmp_path: Path) -> None:
    class Output:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> Output:
            return Output(self.head(x))

    model = Wrapped()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = CASES["mlp"].batch(40, 0)

    def cross_entropy(m: Any, batch: dict) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(m(**batch["in"]).logits, batch["y"])

    probe = fs.Probe(
        cross_entropy,
        [{"in": {"x": x}, "y": y}] * 4,
        heldout=({"x": x}, y),
        train=({"x": x}, y),
    )
    with fs.attach(
        model, optimizer, run=tmp_path / "r", probe=probe, observables="standard", every=1
    ) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            cross_entropy(model, {"in": {"x": x}, "y": y}).backward()
            optimizer.step()
            watch.log(x=1.0)
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("observable_off") == []
        assert run.series("readout/heldout_signal").n[0] == 40


def test_lstm_weights_survive_measurement(tmp_path: Path) -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.LSTM(6, 5, batch_first=True)
            self.head = torch.nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x[:, None].expand(-1, 3, -1))[0][:, -1])

    def run(watched: bool) -> bytes:
        torch.manual_seed(0)
        model = Tagger()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = CASES["mlp"].batch(16, 0)
        watch = None
        if watched:
            probe = fs.Probe(loss, [batch] * 4, heldout=batch)
            watch = fs.attach(
                model, optimizer, run=tmp_path / "r", probe=probe, observables="full", every=1
            )
        for _ in range(4):
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
        if watch is not None:
            watch.close()
            with fs.Run.open(tmp_path / "r") as recorded:
                assert recorded.events("observable_off") == []
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters())

    assert run(False) == run(True)
