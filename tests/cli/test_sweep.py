"""``foreshock sweep``: what is planned, said and returned; real processes of a quick toy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foreshock.cli import main
from foreshock.cli import sweep as command
from foreshock.experiments import duration, trial
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


def test_what_other_code_finished_is_said_and_repeated_on_request(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["toy", "--variant", "works"]
    assert [t["other_code"] for t in answer(capsys, *words)["trials"]] == [False]
    monkeypatch.setattr(trial, "code_of", lambda module: {"sources": "edited"})
    (kept,) = answer(capsys, *words)["trials"]
    assert kept["state"] == "kept" and kept["other_code"]
    assert main(["sweep", *words, "--dry-run"]) == 0
    said = "1 finished by other code than this (kept; `--again` repeats them): nothing to do."
    assert said in capsys.readouterr().out
    (again,) = answer(capsys, *words, "--again")["trials"]
    assert again["state"] == "finished" and not again["other_code"]


def test_a_trial_that_was_killed_from_outside_says_so(capsys: Capture) -> None:
    assert main(["sweep", "toy", "--variant", "killed"]) == 1
    said = capsys.readouterr()
    assert "crashed (signal 9); it printed nothing" in said.err
    assert "want of memory: try fewer `--jobs`" in said.err
    assert "What it recorded is in runs/sweep/.crashed/toy-killed-0" in said.err


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((8, 0, 1, 99), (8, 1)),  # one a core
        ((8, 0, 4, 99), (2, 4)),  # jobs follow from threads
        ((8, 4, 4, 99), (4, 2)),  # more than there are: a share each
        ((8, 8, 4, 2), (2, 4)),  # two trials are two jobs, which leaves four threads each
        ((2, 0, 4, 99), (1, 2)),
        ((2, 6, 1, 99), (6, 1)),
    ],
)
def test_jobs_and_threads_share_the_cores(
    asked: tuple[int, int, int, int], given: tuple[int, int]
) -> None:
    assert command._shared(*asked) == given


def test_fewer_threads_than_asked_for_are_said(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_cores", lambda: 2)
    words = ["toy", "--variant", "works", "--seed", "0..3", "--threads", "4", "--dry-run"]
    assert main(["sweep", *words, "--jobs", "2"]) == 0
    assert "2 jobs get 1 thread each" in capsys.readouterr().err


def test_variants_that_refuse_what_is_set_are_named(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()  # the real experiments, no toy
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(duration, "measure_pace", lambda *_: duration.Pace(1.0, 0.0))
    words = ["grokking", "--set", "task=p23,parity", "--dry-run"]
    assert main(["sweep", *words]) == 0
    said = capsys.readouterr()
    assert said.err.count("left out") == 1
    assert "latin of grokking refuses task=parity: left out." in said.err
    assert "p23-latin-0" in said.out and "parity-latin" not in said.out
    # Named variants are asked for; and a rate of the catapult decides on the variant, none refuses.
    assert main(["sweep", *words, "--variant", "grok"]) == 0
    assert main(["sweep", "catapult", "--set", "eta_lambda=3", "--dry-run"]) == 0
    assert "left out" not in capsys.readouterr().err


def test_only_what_waits_is_a_job(capsys: Capture) -> None:
    words = ["toy", "--variant", "works", "--jobs", "3"]
    answer(capsys, *words, "--seed", "0,1")
    assert main(["sweep", *words, "--seed", "0..2", "--dry-run"]) == 0
    assert "3 trials, 2 of them finished: about" in (text := capsys.readouterr().out)
    assert "on 1 job." in text


def test_an_interruption_of_the_measurement_is_said(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(duration, "measure_pace", interrupted)
    assert main(["sweep", "toy", "--variant", "works"]) == 130
    assert "0 of 1 trials are finished" in capsys.readouterr().err


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
        (["toy", "--set", "variant=x"], "their own options"),
        (["toy", "--set", "steps=1", "--set", "steps=2"], "Set `steps` once"),
        (["grokking", "--set", "observables=standart"], "must be one of none, free, standard"),
        (["edge-of-stability", "--set", "observables=x"], "research, curvature. Got 'x'"),
        (["grokkin"], "Did you mean grokking?"),
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
