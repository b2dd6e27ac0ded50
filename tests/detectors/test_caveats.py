"""Caveats: what a rule that other runs made says less about, live as on the record."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import foreshock as fs
from foreshock import Run
from foreshock.detectors import (
    Calibration,
    ConformalAlarm,
    ForecastAlarm,
    Hazard,
    Term,
    caveats,
    setup_caveats,
    setup_digest,
)
from foreshock.types import Alarm

CONFIG = {"lr": 0.1}
SAFE = Calibration(("kl",), ("above",), (0, 10, 20), ((0.0,) * 3,), ((1.0,) * 3,), 3.0, 0.05,
                   setup=setup_digest(CONFIG), units=("nats",))  # fmt: skip
FITTED = Hazard("onset", 4, (Term("x"),), (0.0, 1.0), until=15, cadence=(1,), units=("1",),
                setups=(setup_digest({"lr": 0.2}), setup_digest(CONFIG)))  # fmt: skip


def recorded(folder: Path, config: dict, every: int = 1, unit: str = "nats") -> Run:
    with Run.create(folder, config={**config, "seed": 3}) as run:
        run.declare("kl", unit=unit)
        for t in range(0, 21, every):
            run.append(t, {"kl": 0.0, "x": 0.0})
    return Run.open(folder)


def test_a_run_like_those_gets_none(tmp_path: Path) -> None:
    with recorded(tmp_path / "run", CONFIG) as run:
        assert caveats(run, [ConformalAlarm(SAFE), ForecastAlarm(replace(FITTED, until=20))]) == []


def test_each_difference_has_its_sentence(tmp_path: Path) -> None:
    with recorded(tmp_path / "run", {"lr": 99.0}, every=4, unit="bits") as run:
        safe = replace(SAFE, located=(run.id,), versions=json.dumps({"python": "2.7"}))
        fitted = replace(FITTED, runs=(run.id,), units=("s",))
        rules = [ConformalAlarm(safe), ForecastAlarm(fitted)]
        told = setup_caveats(run, rules)
        late = Alarm(18, rules[1].name, "P", 0.9, 0.5, "")
        whole = caveats(run, rules, [late])
    parts = (
        "conformal(kl above) was made from this very run",
        "conformal(kl above) was calibrated on runs of another configuration",
        "conformal(kl above) was made with other versions: python 2.7 and here",
        "conformal(kl above) knows kl in nats, this run in bits",
        "forecast(onset within 4) was made from this very run",
        "forecast(onset within 4) was fitted on runs of other configurations",
        "forecast(onset within 4) knows x in s, this run in 1",
    )
    for sentence, part in zip(told, parts, strict=True):
        assert part in sentence
    assert whole[: len(told)] == told
    more = (
        "looked at 2 of its 3 calibrated steps: kl was logged at 6 steps.",
        "says nothing: x comes every 4 steps, and it was fitted on one every 1.",
        "fitted at steps up to 15 and says nothing after; this run goes to 20.",
    )
    for sentence, part in zip(whole[len(told) :], more, strict=True):
        assert part in sentence


def test_a_forecast_after_its_event_is_told(tmp_path: Path) -> None:
    rule = ForecastAlarm(replace(FITTED, until=0))
    with Run.create(tmp_path / "run", config=CONFIG) as run:
        run.append(100, {"x": 1.0})
        run.event("milestone", "test", {"name": "onset"}, step=60)
    with Run.open(tmp_path / "run") as run:
        for step, told in ((50, []), (80, ["alarmed at step 80, after its event at 60"])):
            found = caveats(run, [rule], [Alarm(step, rule.name, "P", 0.9, 0.5, "")])
            assert [part in sentence for part, sentence in zip(told, found, strict=True)] == [
                True for _ in told
            ]


def test_attach_says_it_at_the_start_and_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run = Run.create(tmp_path / "run", config={"lr": 99.0})
    rules = [ConformalAlarm(SAFE), ForecastAlarm(FITTED)]
    with caplog.at_level(logging.WARNING, "foreshock"):
        watch = fs.attach(model, optimizer, run=run, detectors=rules, observables=[])
        before = [record.getMessage() for record in caplog.records]
        assert [text.partition(" was ")[0] for text in before] == [rule.name for rule in rules]
        for t in range(30):
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            watch.log(kl=math.nan if t == 10 else 0.0, x=0.0)
        watch.close()
    with Run.open(tmp_path / "run") as read:
        notes = [event.payload["text"] for event in read.events("note")]
        # The record has what a replay says, each sentence once, and the first ones from the start.
        told = caveats(read, rules)
        assert sorted(set(notes) & set(told)) == sorted(told) and len(notes) == len(set(notes))
        assert set(before) < set(told)
        assert any("looked at 2 of its 3 calibrated steps" in text for text in told)
