"""``foreshock sweep``: what is planned, said and returned; real processes of a quick toy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foreshock.cli import main
from foreshock.cli import sweep as command
from foreshock.experiments import sweep as sweeps
from foreshock.experiments.grokking import EXPERIMENT
from tests.experiments import toy

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toy.register(monkeypatch)
    monkeypatch.chdir(tmp_path)


def answer(capsys: Capture, *words: str, code: int = 0) -> Any:
    assert main(["sweep", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_lists_and_makes_nothing(capsys: Capture, tmp_path: Path) -> None:
    words = ["toy", "--seed", "0..1,5", "--variant", "null,works", "--jobs", "2", "--dry-run"]
    found = answer(capsys, *words)
    assert len(found["trials"]) == 6 and {t["state"] for t in found["trials"]} == {"waiting"}
    # Three at 0.1 s and three at 0.2 s, half a second to start each, the longest first on two jobs:
    # 0.7 0.6 0.6 beside 0.7 0.7 0.6.
    assert found["forecast"] == pytest.approx(2.0) and found["timed"] is True
    assert main(["sweep", *words]) == 0
    text = capsys.readouterr().out
    assert "6 trials: about 2.0 s on 2 jobs." in text and "toy-null-5-" in text
    assert not list(tmp_path.iterdir())


def test_a_sweep_ends_with_its_results_and_goes_on(capsys: Capture, tmp_path: Path) -> None:
    words = ["toy", "--variant", "works", "--set", "pause=0,0.01", "--set", "sizes=[3,4]"]
    assert main(["sweep", *words]) == 0
    said = capsys.readouterr()
    assert "2 trials: about" in said.out and "a guess" in said.out
    assert "2 of 2 trials finished in runs/sweep; took" in said.out and "(forecast" in said.out
    assert "toy: 2 runs" in said.out and "too few runs" in said.out
    # No terminal: no bar, nothing that moves a cursor.
    assert "\x1b" not in said.out + said.err and "\r" not in said.out + said.err
    assert len(list(Path("runs/sweep").glob("toy-works-0-*"))) == 2
    found = answer(capsys, *words)
    assert [t["state"] for t in found["trials"]] == ["kept", "kept"]
    assert found["results"]["toy"]["runs"] == 2
    assert main(["sweep", *words]) == 0
    assert "2 of them finished: nothing to do." in capsys.readouterr().out
    assert main(["results", "runs/sweep"]) == 0


def test_a_crash_is_told_and_is_the_exit_code(capsys: Capture) -> None:
    words = ["toy", "--seed", "0,1", "--variant", "crashes", "--small", "--jobs", "2"]
    assert main(["sweep", *words]) == 1
    said = capsys.readouterr()
    assert "toy-crashes-1" in said.err and "crashed (exit code 1)" in said.err
    assert "RuntimeError: the toy is broken" in said.err
    assert "1 of 2 trials finished in runs/sweep-small" in said.out
    assert "The small size shows the machinery" in said.out
    found = answer(capsys, *words, code=1)
    kept, crashed = found["trials"]
    assert kept["state"] == "kept" and crashed["state"] == "crashed"
    assert crashed["lines"][-1] == "RuntimeError: the toy is broken"
    assert Path(crashed["log"]).read_text().count("RuntimeError: the toy") == 2  # both attempts


def test_an_interruption_is_said(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "carry_out", interrupted)
    assert main(["sweep", "toy", "--variant", "works"]) == 130
    text = capsys.readouterr().err
    assert "0 of 1 trials are finished and kept in runs/sweep; the same command goes on" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Name the experiments, or type `all`"),
        (["alchemy"], "no experiment 'alchemy'"),
        (["toy", "--seed", "3..1"], "0..29 or 0,3,5"),
        (["toy", "--seed", "x"], "0..29 or 0,3,5"),
        (["toy", "--variant", "gold"], "no variant gold"),
        (["toy", "--set", "steps"], "FIELD=VALUE"),
        (["toy", "--set", "seed=3"], "their own options"),
        (["toy", "--set", "depth=3"], "no field 'depth'"),
        (["toy", "--set", "steps=many"], "`steps` must be of the type int. Got 'many'"),
        (["toy", "--set", "fine=perhaps"], "`fine` must be of the type bool"),
        (["toy", "--threads", "0"], "must be at least 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused(words: list[str], says: str, capsys: Capture) -> None:
    assert main(["sweep", *words]) == 2
    assert says in capsys.readouterr().err


def test_values_have_the_types_of_their_fields() -> None:
    asked = ["steps=3,4", "pause=1", "fine=false", "sizes=[1,2],[3]"]
    assert command._grid(asked, {"toy": toy.EXPERIMENT}) == {
        "steps": [3, 4],
        "pause": [1.0],
        "fine": [False],
        "sizes": [(1, 2), (3,)],
    }
    grid = command._grid(["task=p23", "observables=none"], {"grokking": EXPERIMENT})
    assert grid == {"task": ["p23"], "observables": ["none"]}
