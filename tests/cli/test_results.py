"""``foreshock results``: tables of checks from run folders, figures, exit codes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from foreshock import experiments
from foreshock.cli import main, results
from foreshock.experiments import trial
from foreshock.experiments.setup import Check
from foreshock.store import Run
from tests.experiments import toy

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    toy.register(monkeypatch)


def make(folder: Path, variant: Any = "works", seeds: int = 1) -> None:
    for seed in range(seeds):
        toy.run(toy.Toy(variant, seed), folder / f"{variant}-{seed}").close()


def swept(path: Path, config: toy.Toy, small: bool = False) -> None:
    """A run as the process of a trial leaves it."""
    toy.run(config, path).close()
    asked = {"experiment": "toy", "config": asdict(config), "small": small}
    with Run.open(path, "a") as run:
        run.event("trial", "sweep", asked | {"code": trial.code_of(toy.__name__)})
        run.event("timing", "sweep", {"seconds": 1.0, "startup": 1.0, "threads": 1, "pace": 1.0})


def answer(capsys: Capture, *words: str, code: int = 0) -> Any:
    assert main(["results", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_runs_are_found_and_judged(tmp_path: Path, capsys: Capture) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b" / "c", "null", 2)
    with Run.create(tmp_path / "other", kind="run") as run:
        run.append(0, {"loss": 1.0})
    found = answer(capsys, str(tmp_path))["toy"]
    assert found["runs"] == 3 and found["figure"] is None
    assert [check["holds"] for check in found["checks"]] == [True, True, True]
    assert found["checks"][1] == {
        "name": "null", "expected": "at least 2 runs", "measured": "n=2", "holds": True,
    }  # fmt: skip
    # Folders that overlap count a run once.
    assert answer(capsys, str(tmp_path), str(tmp_path / "a"))["toy"]["runs"] == 3


def test_the_table_says_yes_no_and_too_few(tmp_path: Path, capsys: Capture) -> None:
    make(tmp_path, seeds=10)
    assert main(["results", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "toy: 10 runs" in text and "\x1b" not in text
    lines = {line.split()[0]: line.rstrip() for line in text.splitlines() if line}
    assert lines["steps"].endswith("yes") and lines["few"].endswith("NO")
    assert lines["null"].endswith("too few runs")


def test_what_is_not_finished_is_left_out(tmp_path: Path, capsys: Capture) -> None:
    make(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        toy.run(toy.Toy("crashes", 1), tmp_path / "crashed")
    assert answer(capsys, str(tmp_path))["toy"]["runs"] == 1
    assert main(["results", str(tmp_path)]) == 0
    assert "1 run not finished: left out." in capsys.readouterr().out
    assert main(["results", str(tmp_path / "crashed")]) == 2
    assert "no finished run of an experiment" in capsys.readouterr().err


def test_a_configuration_counts_once_and_the_small_size_not_at_all(
    tmp_path: Path, capsys: Capture
) -> None:
    # Five seeds by `run`, three of them by a sweep as well, and three of the small size.
    make(tmp_path / "runs", seeds=5)
    for seed in range(3):
        swept(tmp_path / "runs" / "full" / f"works-{seed}", toy.Toy(seed=seed))
        swept(tmp_path / "runs" / "small" / f"works-{seed}", toy.Toy(seed=seed, steps=2), True)
    found = answer(capsys, str(tmp_path))["toy"]
    assert found["runs"] == 5 and found["notes"] == {"copies": 3, "small": 3}
    paths = results.gather([tmp_path])[0]["toy"]
    assert sum(path.parent.name == "full" for path in paths) == 3  # the newest
    assert "n=5" in found["checks"][0]["measured"] and found["checks"][0]["holds"]
    small = answer(capsys, str(tmp_path), "--small")["toy"]
    assert small["runs"] == 3 and small["notes"] == {"full": 8}
    assert "[2, 2, 2]" in small["checks"][0]["measured"]
    assert main(["results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "3 runs of a configuration that a newer run has: left out." in text
    assert "3 runs of the small size: left out (`--small` takes them alone)." in text
    # None of full size: where they are is said.
    assert main(["results", str(tmp_path / "runs" / "small")]) == 2
    assert "3 runs of the small size: left out" in capsys.readouterr().err


def test_runs_of_other_code_count_and_are_named(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(tmp_path / "works-0", toy.Toy())
    assert answer(capsys, str(tmp_path))["toy"]["notes"] == {}
    monkeypatch.setattr(results, "_code", lambda name: {"sources": "edited"})
    assert answer(capsys, str(tmp_path))["toy"]["notes"] == {"other_code": 1}
    assert main(["results", str(tmp_path)]) == 0
    assert "1 run made by other code than this: they count" in capsys.readouterr().out


def test_figures_are_drawn(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    make(tmp_path / "runs")
    for asked, made in (
        ("one.svg", "one.svg"),
        ("folder", "folder/toy.png"),
        ("f-{name}.png", "f-toy.png"),
    ):
        words = [str(tmp_path / "runs"), "--figure", str(tmp_path / asked)]
        assert answer(capsys, *words)["toy"]["figure"] == str(tmp_path / made)
        assert (tmp_path / made).stat().st_size > 1000
    with pytest.raises(ValueError, match="runs of 2 experiments, and a.png is one file"):
        results._targets("a.png", ["toy", "grokking"])


def test_a_check_that_breaks_fails_alone(tmp_path: Path, monkeypatch: Any) -> None:
    make(tmp_path)
    broken = type("Broken", (), {"check": lambda self, runs: [1 / 0]})()
    monkeypatch.setattr(experiments, "experiment", lambda name: broken)
    (check,) = results.judge("toy", [tmp_path / "works-0"])
    assert check.holds is False and check.measured == "ZeroDivisionError: division by zero"


def test_more_runs_than_files_may_be_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    make(tmp_path, seeds=3)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        with results.opened([tmp_path / f"works-{seed % 3}" for seed in range(120)]) as runs:
            assert sum(run.last_step for run in runs) == 120 * 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_empty_list_of_checks_is_said(tmp_path: Path, capsys: Capture) -> None:
    results.show({"toy": [tmp_path]}, {"toy": []})
    results.show({"toy": [tmp_path]}, {"toy": [Check("[a]", "[b]", "[1, 2]", True)]})
    text = capsys.readouterr().out
    assert "toy: 1 run, held to nothing" in text and "[1, 2]" in text and "[a]" in text
