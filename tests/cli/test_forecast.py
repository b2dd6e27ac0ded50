"""`foreshock forecast`: the file it writes, the table of scores, the detector, its sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock import Run
from foreshock.cli import main
from foreshock.detectors import load_forecasters
from foreshock.evaluation import compare_forecasts, fit_hazard, forecast, landmarks

Capture = pytest.CaptureFixture[str]


def record(folder: Path, count: int, seed: int) -> Path:
    """Half of the runs have an onset that x announces 60 steps ahead."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        onset = 100 + 10 * int(rng.integers(0, 8)) if i % 2 else None
        with Run.create(folder / f"{i:02}") as run:
            for t in range(0, 250, 10):
                rise = 0.0 if onset is None else max(0.0, (t - onset + 60) / 20)
                run.append(t, {"x": rise + 0.3 * rng.standard_normal(), "val_loss": 1.0 + t})
            if onset is not None:
                run.event("milestone", "test", {"name": "onset"}, step=onset)
    return folder


def answer(capsys: Capture, *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_runs_to_scores_and_alarms(tmp_path: Path, capsys: Capture) -> None:
    fit, held = record(tmp_path / "fit", 16, 0), record(tmp_path / "held", 16, 1)
    out = str(tmp_path / "f.json")
    words = ["forecast", "fit", str(fit), "--within", "40", "--every", "10", "--series", "x"]
    found = answer(capsys, *words, "--out", out)
    assert (found["runs"], found["baselines"]) == (16, ["clock", "val_loss"])
    assert "8 of them with the event: below 10" in found["caveats"][0]
    runs = [Run.open(path) for path in sorted(fit.iterdir())]
    others = [Run.open(path) for path in sorted(held.iterdir())]
    rows = landmarks(runs, "onset", 40, every=10)
    fitted = load_forecasters(out)
    assert fitted["forecast"] == fit_hazard(rows, "x")

    scores = answer(capsys, "forecast", "score", str(held), "--file", out, "--every", "10")
    rows = landmarks(others, "onset", 40, every=10)
    p = {name: forecast(rows, one) for name, one in fitted.items()}
    expected = compare_forecasts(rows, p)["clock"]
    told = scores["gain_of_forecast_over"]["clock"]
    assert (told["value"], told["low"]) == (expected.value, expected.low)
    assert expected.low > 0
    assert [item["name"] for item in scores["scores"]] == ["forecast", "clock", "val_loss"]

    # A table for a person, with the progress on standard error.
    assert main(["forecast", "score", str(held), "--file", out, "--every", "10"]) == 0
    text = capsys.readouterr()
    assert "gain over it" in text.out and "16 of 16 runs" in text.err
    assert f"of {len(rows)} landmarks, {rows.outcome.sum()} of them with the event" in text.out
    assert main([*words, "--out", out]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*words, "--out", out, "--overwrite"]) == 0
    assert "slope of x" in capsys.readouterr().out

    hit = str(held / "01")
    alarms = answer(capsys, "replay", hit, "--detector", found["detector"])["alarms"]
    assert [alarm["detector"] for alarm in alarms] == ["forecast(onset within 40)"]
    assert (
        answer(capsys, "replay", str(held / "00"), "--detector", f"forecast:{out}")["alarms"] == []
    )
    for run in (*runs, *others):
        run.close()


def test_a_sparse_published_number_takes_no_landmark(tmp_path: Path, capsys: Capture) -> None:
    fit, held = record(tmp_path / "fit", 12, 3), record(tmp_path / "held", 12, 4)
    out = str(tmp_path / "f.json")
    series = ["--series", "x", "--series", "log:val_loss"]
    found = answer(capsys, "forecast", "fit", str(fit), "--within", "40", *series, "--out", out)
    assert {"x", "log val_loss"} <= {item["term"] for item in found["terms"]}  # both of them
    before = answer(capsys, "forecast", "score", str(held), "--file", out)
    for late, names in ((120, 4), (240, 3)):  # 240 is after every landmark
        for path in sorted(held.iterdir()):
            with Run.open(path) as run:
                values = {t: dict(v) for t, v in run.rows()}
                marks = [event.step for event in run.events("milestone")]
            with Run.create(tmp_path / f"sparse{late}" / path.name) as run:
                for t, row in values.items():
                    run.append(t, row | ({"grad/p_published": 0.5} if t >= late else {}))
                for step in marks:
                    run.event("milestone", "test", {"name": "onset"}, step=step)
        after = answer(capsys, "forecast", "score", str(tmp_path / f"sparse{late}"), "--file", out)
        assert after["scores"][:3] == before["scores"] and len(after["scores"]) == names
    assert 0 < before["scores"][0]["events"] < before["scores"][0]["rows"]


def test_it_teaches(tmp_path: Path, capsys: Capture) -> None:
    runs = str(record(tmp_path / "fit", 6, 2))
    out = ["--out", str(tmp_path / "f.json")]
    for words, sentence in (
        (["fit", runs], "needs the series to forecast from. Add: --series"),
        (["fit", runs, "--series", "nothing"], "has no finite value at any landmark"),
        (["fit", "--series", "x"], "needs the folders of recorded runs"),
        (["score"], "needs the folders of recorded runs"),
        (["fit", runs, "--series", "x", "--event", "fire"], "milestone 'fire'. They have onset"),
        (["fit", runs, "--series", "x", "--within", "900"], "No run is at risk for 900 steps"),
    ):
        assert main(["forecast", *words, *(out if words[0] == "fit" else [])]) == 2
        error = capsys.readouterr().err
        assert sentence in error and "Traceback" not in error
    assert not (tmp_path / "f.json").exists()
    nowhere = str(tmp_path / "no" / "f.json")
    assert main(["forecast", "fit", runs, "--series", "x", "--out", nowhere]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["forecast", "fit", runs, "--series", "x", "--within", "40", *out]) == 0
    capsys.readouterr()
    assert main(["forecast", "score", runs, "--file", str(tmp_path / "f.json")]) == 2
    assert "6 of the runs to score were used to fit" in capsys.readouterr().err
    assert main(["forecast", "score", runs, "--file", "nowhere.json"]) == 2
    assert "cannot be read" in capsys.readouterr().err
