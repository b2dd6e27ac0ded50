"""Bad input: a sentence at the door, and once training runs nothing that stops it."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import foreshock as fs
from foreshock.estimators import catalogue
from foreshock.types import Estimate, Readings, SeriesInfo
from tests.cases import CASES, loss


def mlp() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = CASES["mlp"].model()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, watch: Any, n: int = 3) -> None:
    for step in range(n):
        value = loss(model, CASES["mlp"].batch(8, step))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        watch.log(loss=value)


# ------------------------------------------------------------------ refused at attach


def test_model_without_parameters(tmp_path: Path) -> None:
    _, optimizer = mlp()
    with pytest.raises(ValueError, match="has no parameter that requires a gradient"):
        fs.attach(nn.ReLU(), optimizer, run=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a torch.nn.Module. Got str"):
        fs.attach("model", mlp()[1], run=tmp_path / "r")  # type: ignore[arg-type]


def test_optimizer_of_another_model(tmp_path: Path) -> None:
    model, _ = mlp()
    with pytest.raises(ValueError, match="trains none of the parameters"):
        fs.attach(model, mlp()[1], run=tmp_path / "r")


def test_optimizer_without_hooks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a torch.optim.Optimizer with step hooks"):
        fs.attach(mlp()[0], object(), run=tmp_path / "r")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda m, b: m(b[0]), "must return one number"),
        (lambda m, b: 3.0, "must return one number"),
        (lambda m, b: torch.tensor(1.0), "does not depend on the parameters"),
        (lambda m, b: m.nonsense(b), "failed on the first batch: AttributeError"),
    ],
    ids=["vector", "float", "constant", "raises"],
)
def test_losses_that_cannot_work(bad: Any, sentence: str, tmp_path: Path) -> None:
    model, optimizer = mlp()
    probe = fs.Probe(loss=bad, batches=[CASES["mlp"].batch(8, 0)])
    with pytest.raises(ValueError, match=sentence):
        fs.attach(model, optimizer, run=tmp_path / "r", probe=probe)
    assert not (tmp_path / "r").exists()


def test_a_loss_that_ignores_its_model_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    case = CASES["cnn"]
    model = case.model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    probe = fs.Probe(loss=lambda m, b: loss(model, b), batches=[case.batch(8, 0)])
    with pytest.raises(ValueError, match="closes over the live model"):
        fs.attach(model, optimizer, run=tmp_path / "r", probe=probe)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 0.1, "every": 3}, "either `budget`"),
        ({"budget": 0.0}, "share of wall time in \\(0, 1\\]"),
        ({"every": 0}, "`every` of `attach` must be at least 1 step. Got 0"),
        ({"every": {"nothing": 3}}, "names 'nothing', which is not among"),
        (
            {"observables": "everything"},
            "must be one of \\['free', 'full', 'research', 'standard'\\]",
        ),
        ({"observables": ["curvature"]}, "needs probe: pass probe=fs.Probe"),
        ({"observables": ["fortune"]}, "There is no observable 'fortune'"),
        ({"observables": ["norms", "norms"]}, "both write 'grad/norm'"),
        ({"detectors": ["oracle"]}, "There is no detector 'oracle'"),
        ({"detectors": ["turnover", "turnover"]}, "Two detectors are called 'turnover'"),
        ({"dry_run": False}, "has nothing to carry out. Pass `policies`"),
        ({"policies": ["prayer"]}, "There is no policy 'prayer'"),
        ({"policies": ["published_weight_reset"] * 2}, "Two policies are called 'published_wei"),
        ({"policies": "weight_reset"}, "'weight_reset' has no trigger of its own. Name the detec"),
        (
            {"policies": ["weight_reset:turnover"], "detectors": ["cusum"]},
            "waits for alarms of 'turnover', which is not among .* They are cusum\\(loss up\\)",
        ),
        (
            {
                "policies": fs.policies.LatentReset("nowhere", "cusum"),
                "dry_run": False,
                "detectors": [fs.detectors.CUSUM("loss", name="cusum")],
            },
            "The model has no layer 'nowhere'. Some that it has: body, body.0",
        ),
    ],
)
def test_arguments(options: dict, sentence: str, tmp_path: Path) -> None:
    model, optimizer = mlp()
    with pytest.raises(ValueError, match=sentence):
        fs.attach(model, optimizer, run=tmp_path / "r", **options)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"loss": 3, "batches": [1]}, "must be a function of \\(model, batch\\). Got int"),
        ({"loss": loss, "batches": []}, "must not be empty"),
        ({"loss": loss, "batches": iter([1])}, "must be a list of batches"),
        ({"loss": loss, "batches": [1], "heldout": 3}, "must be a pair"),
        ({"loss": loss, "batches": [1], "heldout": ([1, 2], [1])}, "Got 2 inputs and 1 labels"),
        ({"loss": loss, "batches": [1], "sampling": "lucky"}, "must be one of"),
    ],
)
def test_probe_arguments(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fs.Probe(**arguments)


def test_unwritable_folder_existing_run_and_newer_schema(tmp_path: Path) -> None:
    model, optimizer = mlp()
    (tmp_path / "file").write_text("")
    with pytest.raises(fs.StoreError):
        fs.attach(model, optimizer, run=tmp_path / "file" / "r")
    fs.attach(model, optimizer, run=tmp_path / "r", observables="free").close()
    with pytest.raises(fs.StoreError, match="Run.open"):
        fs.attach(model, optimizer, run=tmp_path / "r", observables="free")
    with sqlite3.connect(tmp_path / "r" / "data.sqlite") as database:
        database.execute("PRAGMA user_version = 999")
    with pytest.raises(fs.StoreError, match="upgrade foreshock"):
        fs.Run.open(tmp_path / "r").names()


def test_truncated_database(tmp_path: Path) -> None:
    model, optimizer = mlp()
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1) as watch:
        steps(model, optimizer, watch)
    data = tmp_path / "r" / "data.sqlite"
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(fs.StoreError):
        fs.Run.open(tmp_path / "r").series("loss")


# ------------------------------------------------------------------ once it runs, it runs


def test_zero_length_run(tmp_path: Path) -> None:
    model, optimizer = mlp()
    fs.attach(model, optimizer, run=tmp_path / "r", probe=CASES["mlp"].probe()).close()
    with fs.Run.open(tmp_path / "r") as run:
        assert run.last_step == -1
        assert run.events("schedule")[0].payload["steps"] == 0
    fs.write_report([tmp_path / "r"], tmp_path / "report.html")


def test_nan_loss_is_recorded_and_flagged(tmp_path: Path) -> None:
    model, optimizer = mlp()
    options = {"probe": CASES["mlp"].probe(), "observables": "full", "every": 1}
    with fs.attach(model, optimizer, run=tmp_path / "r", **options) as watch:
        with torch.no_grad():
            model.head.weight.fill_(math.nan)
        steps(model, optimizer, watch)
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("observable_off") == []
        arrays = {s.name for o in catalogue() for s in o.series if s.array}
        for name in set(run.names()) - arrays:
            last = run.series(name).estimate(-1)
            finite_anyway = {"optim/lr", "clock/seconds"}
            assert last.flags or name in finite_anyway, name
        assert any("loss was nan" in e.payload["text"] for e in run.events("note"))


def test_all_gradients_none(tmp_path: Path) -> None:
    model, optimizer = mlp()
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1) as watch:
        for _ in range(3):
            optimizer.step()
            watch.log(loss=1.0)
    with fs.Run.open(tmp_path / "r") as run:
        norm = run.series("grad/norm").estimate(0)
        assert math.isnan(norm.value) and "closure" in norm.reason
        assert run.events("observable_off") == []
        assert run.last_step == 2


@dataclass(frozen=True)
class Broken:
    """Fails at its second measurement."""

    name: str = "broken"
    needs: frozenset[str] = frozenset()
    price: float = 0.1
    stride: int = 0
    series = (SeriesInfo("broken/x", "x"),)

    def init(self) -> int:
        return 0

    def update(self, state: int, moment: Any) -> tuple[int, Readings]:
        if state:
            raise RuntimeError("out of luck")
        return 1, Readings({"broken/x": Estimate.exact(1.0)})


def test_a_failing_observable_is_switched_off_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = mlp()
    options = {"observables": [Broken(), "norms"], "every": 1}
    with caplog.at_level(logging.WARNING, "foreshock"):
        with fs.attach(model, optimizer, run=tmp_path / "r", **options) as watch:
            steps(model, optimizer, watch, 5)
    assert [r.getMessage().count("out of luck") for r in caplog.records] == [1]
    with fs.Run.open(tmp_path / "r") as run:
        (off,) = run.events("observable_off")
        assert off.payload["name"] == "broken" and off.step == 1
        assert len(run.series("grad/norm")) == 5  # its siblings go on
        assert "switched off" in json.dumps(run.events("schedule")[0].payload)


@dataclass(frozen=True)
class BrokenRule:
    name: str = "broken_rule"
    reads: tuple[str, ...] = ("loss",)

    def init(self) -> None:
        return None

    def update(self, state: None, step: int, values: Any) -> Any:
        raise RuntimeError("no idea")


class BrokenSink:
    def write(self, step: int, values: Any) -> None:
        raise OSError("no network")

    def alarm(self, alarm: Any) -> None:
        raise OSError("no network")


def test_failing_detectors_sinks_and_callbacks_do_not_stop_training(tmp_path: Path) -> None:
    model, optimizer = mlp()

    def callback(alarm: fs.Alarm) -> None:
        raise RuntimeError("pager is empty")

    with fs.attach(
        model,
        optimizer,
        run=tmp_path / "r",
        observables=["norms"],
        every=1,
        detectors=[BrokenRule(), "p_crosses_half:mine"],
        sinks=[BrokenSink()],
        on_alarm=callback,
    ) as watch:
        for step in range(4):
            steps(model, optimizer, watch, 1)
            watch.log(mine=float(step))
    with fs.Run.open(tmp_path / "r") as run:
        assert run.events("detector_off")[0].payload["name"] == "broken_rule"
        assert len(run.events("alarm")) == 1
        texts = " ".join(e.payload["text"] for e in run.events("note"))
        assert "no network" in texts and "pager is empty" in texts


def test_a_full_disk_lets_training_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = mlp()
    watch = fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1)
    steps(model, optimizer, watch, 2)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(watch.run, "append", full)
    before = model.head.weight.clone()
    with caplog.at_level(logging.WARNING, "foreshock"):
        steps(model, optimizer, watch, 40)  # rows reach the store in piles
    assert not torch.equal(before, model.head.weight)  # it trained on
    assert sum("No space left" in r.getMessage() for r in caplog.records) == 1
    watch.close()


def test_log_takes_what_people_log_and_refuses_the_rest_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = mlp()
    with caplog.at_level(logging.WARNING, "foreshock"):
        with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1) as watch:
            for _ in range(3):
                steps(model, optimizer, watch, 1)
                watch.log({"val/acc": torch.tensor([0.5])}, lr=None, n=3, flag=True)
                watch.log(name="text", vector=torch.ones(3))
                watch.log({"grad/norm": 1.0})
        watch.log(loss=1.0)  # after close
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 4  # name, vector, grad/norm, after close: once each
    with fs.Run.open(tmp_path / "r") as run:
        assert run.series("val/acc").value.tolist() == [0.5] * 3
        assert "lr" not in run.names()


def test_logging_before_the_step_keeps_every_value(tmp_path: Path) -> None:
    model, optimizer = mlp()
    with fs.attach(model, optimizer, run=tmp_path / "r", observables="free", every=1) as watch:
        for step in range(5):
            value = loss(model, CASES["mlp"].batch(8, step))
            watch.log(loss=value)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    with fs.Run.open(tmp_path / "r") as run:
        assert run.series("loss").step.tolist() == [0, 1, 2, 3, 4]
