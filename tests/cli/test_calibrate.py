"""`foreshock calibrate`: the file it writes, the detector it makes, its sentences."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock import Run
from foreshock.cli import main
from foreshock.detectors import Calibration
from foreshock.evaluation import calibrate

Capture = pytest.CaptureFixture[str]


def record(folder: Path, count: int, seed: int, jump: float = 0.0) -> list[str]:
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        with Run.create(folder / f"run{i:02}") as run:
            for t, value in enumerate(rng.standard_normal(20)):
                run.append(t, {"reward/kl": float(value) + jump * (t >= 10), "reward/gold": 0.0})
        paths.append(str(folder / f"run{i:02}"))
    return paths


def answer(capsys: Capture, *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_safe_runs_to_an_alarm(tmp_path: Path, capsys: Capture) -> None:
    safe = record(tmp_path / "safe", 6, seed=0)
    out = tmp_path / "kl.json"
    words = ["calibrate", *safe, "--series", "reward/kl", "--alpha", "0.25", "--out", str(out)]
    found = answer(capsys, *words)
    assert (found["located"], found["calibrated"], found["steps"]) == (2, 4, [0, 19, 20])
    opened = [Run.open(path) for path in safe]
    assert Calibration.load(out) == calibrate(opened, "reward/kl", alpha=0.25)
    for run in opened:
        run.close()
    # A folder of runs is the runs in it.
    assert found["alpha_of_this_file_below"] == pytest.approx(1 - 0.05 ** (1 / 4))  # 4 of 4 scores
    again = tmp_path / "again.json"
    words = ["calibrate", str(tmp_path / "safe"), "--series", "reward/kl", "--alpha", "0.25"]
    assert main([*words, "--out", str(again)]) == 0
    text = capsys.readouterr().out
    assert f"--detector conformal:{again}" in text
    assert "0.25 at most, on average over sets of safe runs; for this file" in text
    assert again.read_text() == out.read_text()

    # The threshold is at most a few scales, however small two runs make these; 1e6 is beyond.
    (bad,) = record(tmp_path / "bad", 1, seed=1, jump=1e6)
    alarms = answer(capsys, "replay", bad, "--detector", found["detector"])["alarms"]
    assert [(alarm["step"], alarm["series"]) for alarm in alarms] == [(10, "reward/kl")]


def test_several_series_and_a_side(tmp_path: Path, capsys: Capture) -> None:
    safe = record(tmp_path / "safe", 6, seed=2)
    for path in safe:  # a second series, its mirror image
        with Run.open(path) as run:
            values = run.series("reward/kl").value
        with Run.create(f"{path}-two") as run:
            for t, value in enumerate(values):
                run.append(t, {"a": float(value), "b": float(-value)})
    words = ["--side", "both", "--alpha", "0.25", "--out", str(tmp_path / "two.json")]
    two = [f"{path}-two" for path in safe]
    found = answer(capsys, "calibrate", *two, "--series", "a", "--series", "b", *words)
    assert found["series"] == ["a", "b"] and found["name"] == "conformal(a both, b both)"


def test_each_series_has_its_side(tmp_path: Path, capsys: Capture) -> None:
    safe = record(tmp_path / "safe", 6, seed=4)
    for path in safe:
        with Run.open(path) as run:
            values = run.series("reward/kl").value
        with Run.create(f"{path}-two") as run:
            for t, value in enumerate(values):
                run.append(t, {"reward/kl": float(value), "a:b": float(-value)})
    two = [f"{path}-two" for path in safe]
    words = ["--alpha", "0.25", "--side", "both", "--out", str(tmp_path / "two.json")]
    series = ["--series", "reward/kl:above", "--series", "a:b"]
    found = answer(capsys, "calibrate", *two, *series, *words)
    assert found["name"] == "conformal(reward/kl above, a:b both)"


def test_a_file_is_not_overwritten_and_odd_runs_are_forced(tmp_path: Path, capsys: Capture) -> None:
    safe = record(tmp_path / "safe", 6, seed=5)
    out = tmp_path / "kl.json"
    words = ["calibrate", *safe, "--series", "reward/kl", "--alpha", "0.25", "--out", str(out)]
    out.write_text("mine")
    assert main(words) == 2 and out.read_text() == "mine"
    assert "exists. Name another file by --out, or add --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    with Run.open(safe[0], mode="a") as run:
        run.event("milestone", "test", {"name": "over_optimised", "rule": "By hand."}, step=3)
    assert main([*words, "--overwrite"]) == 2
    assert "run00 reached the milestone over_optimised" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--force"]) == 0
    # Forced runs are mixed, by nothing that they show.
    ids = []
    for path in safe:
        with Run.open(path) as run:
            ids.append(run.id)
    mixed = sorted(ids, key=lambda name: sha256(name.encode()).hexdigest())
    forced = Calibration.load(out)
    assert [*forced.located, *forced.calibrated] == mixed


def test_a_replay_says_what_it_did_not_see(tmp_path: Path, capsys: Capture) -> None:
    safe = record(tmp_path / "safe", 6, seed=6)
    out = tmp_path / "kl.json"
    words = ["calibrate", *safe, "--series", "reward/kl", "--alpha", "0.25", "--out", str(out)]
    assert main(words) == 0
    with Run.create(tmp_path / "other", config={"lr": 0.3}) as run:
        run.declare("reward/kl", unit="nats")
        for t in range(0, 20, 4):
            run.append(t, {"reward/kl": 0.0, "loss": 1.0})
    with Run.create(tmp_path / "blind") as run:
        run.append(0, {"loss": 1.0})
    capsys.readouterr()
    rule = ["--detector", f"conformal:{out}"]
    assert main(["replay", str(tmp_path / "blind"), *rule]) == 1
    assert "is blind" in (text := capsys.readouterr().out) and "has no reward/kl" in text
    assert main(["replay", str(tmp_path / "blind"), *rule, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["alarms"], told["unread"]) == ([], ["reward/kl"])
    told = answer(capsys, "replay", str(tmp_path / "other"), *rule)
    assert told["unread"] == []
    for sentence, part in zip(
        told["caveats"],
        ("runs of another configuration", "knows reward/kl in 1, this run in nats",
         "looked at 5 of its 20 calibrated steps"),
        strict=True,
    ):  # fmt: skip
        assert part in sentence
    (told,) = answer(capsys, "replay", safe[0], *rule)["caveats"]
    assert "was made from this very run" in told
    (fresh,) = record(tmp_path / "fresh", 1, seed=7)
    assert answer(capsys, "replay", fresh, *rule)["caveats"] == []


def test_what_weakens_a_calibration_is_printed_and_kept(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(8)
    for i in range(6):
        with Run.create(tmp_path / "safe" / f"{i}") as run:
            for t in range(20):
                run.append(t, {"acc": 1.0 - 0.01 * rng.random() * (t < 5)})
    out = tmp_path / "acc.json"
    words = ["calibrate", str(tmp_path / "safe"), "--series", "acc:below", "--alpha", "0.25"]
    assert main([*words, "--out", str(out)]) == 0
    assert "agree at 15 of 20 steps" in capsys.readouterr().out
    assert "agree at 15 of 20 steps" in Calibration.load(out).notes[0]
    assert main([*words, "--out", str(tmp_path / "no" / "acc.json")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_it_teaches(tmp_path: Path, capsys: Capture) -> None:
    safe = record(tmp_path / "safe", 6, seed=3)
    for words, sentence in (
        ([*safe], "needs the series to watch. Add: --series reward/kl"),
        ([*safe, "--series", "reward/kl"], "6 known-safe runs .* 30 are needed"),
        ([*safe, "--series", "kl", "--alpha", "0.25"], "has no series 'kl'. It has reward/kl"),
        ([*safe, "--series", "reward/gold", "--alpha", "0.25"], "does not vary between the runs"),
        ([str(tmp_path / "nowhere"), "--series", "kl"], "There is no folder .*nowhere"),
        (["--series", "kl"], "needs the folders of known-safe runs"),
        ([*safe, "--series", "reward/kl", "--series", "reward/kl", "--alpha", "0.25"], "twice"),
    ):
        assert main(["calibrate", *words, "--out", str(tmp_path / "x.json")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("foreshock calibrate: ")
        with pytest.raises(ValueError, match=sentence):
            raise ValueError(error)
    assert not (tmp_path / "x.json").exists()
    assert main(["replay", safe[0], "--detector", "conformal:nowhere.json"]) == 2
    assert "cannot be read" in capsys.readouterr().err
