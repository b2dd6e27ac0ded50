"""How long a trial will take: closed forms, the pace of this machine, the reference figures."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreshock.experiments import duration
from foreshock.experiments.duration import Pace
from tests.experiments import toy


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    toy.register(monkeypatch)


def test_expected_seconds_are_reference_times_pace() -> None:
    about = toy.EXPERIMENT
    pace = Pace(factor=3.0, startup=2.0)
    assert duration.expected(about, toy.Toy(), pace) == (pytest.approx(0.1 * 3 + 2), True)
    null = duration.expected(about, toy.Toy("null", seed=4), pace)
    assert null == (pytest.approx(0.2 * 3 + 2), True)
    # Nobody timed this variant: the number for what is not named is a guess.
    assert not duration.expected(about, toy.Toy("crashes"), pace).timed
    renamed = replace(about, label=lambda config: f"works-{config.steps}")
    assert duration.expected(renamed, toy.Toy(), pace).timed  # the configuration by default
    assert not duration.expected(renamed, toy.Toy(steps=9), pace).timed  # which has other steps
    named = replace(renamed, seconds={"works-9": 7.0})
    assert duration.expected(named, toy.Toy(steps=9), pace) == (7.0 * 3 + 2, True)
    guess = duration.expected(about, toy.Toy(steps=9), pace)
    assert not guess.timed  # the label does not tell the steps
    assert not duration.expected(about, toy.Toy(steps=2), pace, small=True).timed
    assert duration.expected(about, toy.Toy(steps=9), pace, [1.0, 2.0, 9.0]) == (8.0, True)


def test_the_reference_holds_for_the_monitor_by_default() -> None:
    from foreshock.experiments.grokking import EXPERIMENT, Grokking

    def timed(**fields: Any) -> bool:
        return duration.expected(EXPERIMENT, Grokking(task="p23", **fields), Pace(1.0, 0.0)).timed

    assert timed() and timed(variant="labels", seed=3)
    assert not timed(observables="none") and not timed(every=1)


def test_this_machine_is_measured() -> None:
    # A process of its own: `measure_pace` of this one is replaced.
    code = (
        "from foreshock.experiments import duration, trial\n"
        "print(*duration.measure_pace(1, ['foreshock.store'], trial.environment(1)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    factor, startup = map(float, done.stdout.split())
    assert factor > 0 and startup > 0


def test_a_process_that_dies_while_the_machine_is_measured_is_said(tmp_path: Path) -> None:
    # It imports, says so, and dies when it starts to work.
    text = "import os, torch\ntorch.randn = lambda *a, **k: os._exit(3)\n"
    (tmp_path / "dies.py").write_text(text)
    code = (
        "import os\nfrom foreshock.experiments import duration, trial\n"
        f"path = os.environ['PYTHONPATH'] + os.pathsep + {str(tmp_path)!r}\n"
        "try:\n"
        "    duration.measure_pace(1, ['dies'], trial.environment(1) | {'PYTHONPATH': path})\n"
        "except OSError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "measures this machine's pace died" in done.stdout


def test_the_reference_figures_name_settings_that_are_timed() -> None:
    from benchmarks import experiments as bench

    for figure in bench.FIGURES:
        timed = {bench.labelled(figure.experiment, s) for s in bench.settings(figure.experiment)}
        asked = {bench.labelled(figure.experiment, fields) for fields in figure.settings}
        assert asked <= timed and len(asked) == len(figure.settings), figure
    arms = ["winning", "reinitialised", "random", "dense", "snr"]
    rows = [{"experiment": "lottery-ticket", "label": arm, "seconds": 2.0} for arm in arms]
    (row,) = bench.judged(rows)
    assert row["seconds"] == 8.0 and row["ratio"] == pytest.approx(8 / 13)
    assert not bench.judged(rows[:2])  # not all arms were measured


def test_a_reference_that_stopped_at_an_event_is_beside_our_run_until_then() -> None:
    from benchmarks import experiments as bench

    row = {"experiment": "addition", "label": "reversed-large", "seconds": 20.0, "steps": 500}
    (came,) = bench.judged([{**row, "outcome": {"steps_to_98": 249}}])
    assert came["seconds"] == 10.0 and came["ratio"] == 1.0
    # A run in which it did not come is no cheap one, and JSON has no infinity.
    for numbers in ({"steps_to_98": None}, {}):
        (never,) = bench.judged([{**row, "outcome": numbers}])
        assert never["seconds"] is never["ratio"] is None
