"""``foreshock run``: each experiment by its name, its folder, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreshock.cli import main
from foreshock.experiments import NAMES
from foreshock.store import Run

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_help(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["run", name, "--help"])
    text = capsys.readouterr().out
    assert "--seed" in text and "--out" in text and "--json" in text


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ("grokking --task p23 --steps 5 --observables none", "grokking-p23-grok-0"),
        ("overoptimisation --variant gaussian --steps 2 --batch 8 --seed 3",
         "overoptimisation-gaussian-3"),
        ("tilted-softmax --actions 200 --samples 500 --repeats 2", "tilted-softmax-student-14"),
    ],
    ids=["grokking", "overoptimisation", "tilted-softmax"],
)  # fmt: skip
def test_a_run_lies_in_its_own_folder(
    words: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words.split()]) == 0
    text = capsys.readouterr().out
    assert f"foreshock report runs/{folder}" in text
    with Run.open(Path("runs") / folder) as run:
        assert folder.replace("-", "_").startswith(run.info["kind"])
    assert ("closed form" in text) == words.startswith("tilted")


def test_comparisons_are_in_the_json(tmp_path: Path, capsys: Capture) -> None:
    words = [
        "run",
        "tilted-softmax",
        "--variant",
        "gaussian",
        "--out",
        str(tmp_path / "t"),
        "--json",
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["comparisons"]) == 6 and found["milestones"] == {}
    assert all(item["agrees"] for item in found["comparisons"])


def test_a_detector_is_attached(tmp_path: Path, capsys: Capture) -> None:
    words = ["run", "overoptimisation", "--steps", "6", "--batch", "8", "--json", "--out"]
    assert main([*words, str(tmp_path / "a"), "--detector", "kl_threshold"]) == 0
    capsys.readouterr()
    with Run.open(tmp_path / "a") as run:
        (event,) = run.events("detectors")
        assert [item["name"] for item in event.payload["detectors"]] == ["kl_threshold"]
    words = ["run", "tilted-softmax", "--out", str(tmp_path / "b"), "--detector", "kl_threshold"]
    assert main(words) == 2
    assert "attaches no detector" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_an_unknown_experiment_is_refused(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "alchemy"])
    assert "alchemy" in capsys.readouterr().err
