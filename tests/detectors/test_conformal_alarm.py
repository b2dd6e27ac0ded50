"""The alarm on a calibration: the standardisation, its edges, its file, its record."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from foreshock import Run, replay
from foreshock.detectors import Calibration, ConformalAlarm, resolve
from foreshock.detectors.record import detector_record, recorded_detectors
from foreshock.evaluation.conformal import fit, standardised
from foreshock.types import Alarm, Estimate

SAFE = Calibration(
    ("reward/kl", "reward/entropy"),
    ("above", "below"),
    (10, 20, 40),
    ((0.0, 1.0, 3.0), (5.0, 4.0, 4.0)),
    ((1.0, 2.0, 2.0), (0.5, 0.5, 1.0)),
    threshold=3.0,
    alpha=0.05,
)


def run(rule: ConformalAlarm, rows: list[tuple[int, dict[str, float]]]) -> list[Alarm]:
    state, found = rule.init(), []
    for step, row in rows:
        seen = {name: Estimate.plain(value) for name, value in row.items()}
        state, alarm = rule.update(state, step, seen)
        found += [alarm] if alarm else []
    return found


def test_location_and_scale_by_hand() -> None:
    assert SAFE.z("reward/kl", 10, 7.0) == 7.0 and SAFE.z("reward/kl", 40, 7.0) == 2.0
    assert SAFE.z("reward/entropy", 20, 3.0) == 2.0  # below is what counts
    # Before, between and after the calibrated steps there is nothing to compare with.
    assert all(math.isnan(SAFE.z("reward/kl", step, 7.0)) for step in (9, 15, 30, 41))


def test_it_fires_once_names_the_series_and_is_silent_outside() -> None:
    rule = ConformalAlarm(SAFE)
    assert rule.name == "conformal(reward/kl above, reward/entropy below)"
    rows = [
        (5, {"reward/kl": 1e9}),  # before the grid
        (10, {"reward/kl": 3.0, "reward/entropy": 5.0}),  # exactly the threshold: not above
        (20, {"reward/kl": math.nan, "reward/entropy": 9.0}),  # entropy above is no danger
        (30, {"reward/kl": 1e9}),  # between two calibrated steps
        (40, {"reward/kl": 2.0, "reward/entropy": 0.5}),
        (50, {"reward/kl": 1e9}),  # after the grid
    ]
    (alarm,) = run(rule, rows)
    assert (alarm.step, alarm.series, alarm.threshold) == (40, "reward/entropy", 3.0)
    assert alarm.value == pytest.approx(3.5)
    again = run(rule, [*rows, (40, {"reward/kl": 99.0})])
    assert [a.step for a in again] == [40]


def test_infinity_is_beyond_every_threshold_on_the_side_that_counts() -> None:
    rule = ConformalAlarm(SAFE)
    (alarm,) = run(rule, [(10, {"reward/kl": math.inf})])
    assert alarm.value == math.inf and "reward/kl is inf" in alarm.reason
    assert run(rule, [(10, {"reward/kl": -math.inf, "reward/entropy": math.inf})]) == []
    (alarm,) = run(rule, [(10, {"reward/kl": math.nan, "reward/entropy": -math.inf})])
    assert alarm.series == "reward/entropy"


def test_more_looks_than_were_calibrated_are_no_more_false_alarms() -> None:
    # Calibrated at 10 of 100 steps, logged at all: 1 - 38/40 = 1/20 of fresh runs, as on the grid.
    # 30 repeats of 20 fresh runs share a threshold, which spreads their rate by Beta(2, 38)'s .034:
    # four standard errors are 4 sqrt(.034^2/30 + .05 .95/600) = .043. All looks gave .215.
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(30):
        x = rng.standard_normal((80, 1, 100))
        safe = fit(range(0, 100, 10), x[:60, :, ::10], series=["x"], sides=["above"])
        rule = ConformalAlarm(safe)
        rows = ([(t, {"x": float(v)}) for t, v in enumerate(row[0])] for row in x[60:])
        alarms += sum(bool(run(rule, one)) for one in rows)
    assert abs(alarms / 600 - 2 / 41) < 0.043


def test_it_sees_what_the_calibration_saw() -> None:
    # The array form, for which the false-alarm rate is tested, and the detector must agree.
    x = np.cumsum(np.random.default_rng(0).standard_normal((60, 2, 40)), axis=2)
    steps = 5 * np.arange(40)
    safe = fit(steps, x[:40], series=["a", "b"], sides=["both", "below"], alpha=0.2)
    expected = standardised(safe, x[40:]) > safe.threshold
    found = []
    for path in x[40:]:
        rows = [(int(t), {"a": path[0, i], "b": path[1, i]}) for i, t in enumerate(steps)]
        found.append([alarm.step for alarm in run(ConformalAlarm(safe), rows)])
    assert found == [[int(steps[row.argmax()])] if row.any() else [] for row in expected]
    assert 0 < expected.any(axis=1).sum() < 20


def test_a_file_is_read_back_bit_by_bit_and_resolves(tmp_path: Path) -> None:
    path = tmp_path / "safe.json"
    odd = Calibration(("x",), ("both",), (0, 7), ((0.1, 1 / 3),), ((1e-300, 2.0),), 0.1, 0.05,
                      ("a",), ("b", "c"), ("nats",), "0f" * 6, "{}", ("Odd.",))  # fmt: skip
    odd.save(path)
    assert Calibration.load(path) == odd
    assert resolve(f"conformal:{path}") == ConformalAlarm(odd) == ConformalAlarm.load(path)
    content = json.loads(path.read_text())
    for change, sentence in (
        ({"version": 1}, "has version 1 of the format"),
        ({"alpha": 7}, r"must lie in \(0, 1\). Got 7"),
        ({"series": ["x", "x"]}, "names a series twice"),
        ({"calibrated": ["a"]}, "both location and threshold"),
        ({"units": ["1", "1"]}, "one unit for each of 1 series, or none. Got 2"),
        ({"format": "else"}, "is no calibration"),
        ({"scale": [[1.0, 0.0]]}, "scales finite and positive"),
        ({"scale": [[1.0]]}, "rows of 2 locations and scales"),
        ({"grid": [7, 0]}, "must increase"),
        ({"sides": ["left"]}, "Got 'left'"),
        ({"scale": None}, "is damaged"),
        ({"threshold": None}, "is damaged"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=sentence):
            Calibration.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Calibration.load(path)
    with pytest.raises(ValueError, match="cannot be read .*foreshock calibrate RUNS"):
        Calibration.load(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="needs its calibration: 'conformal:FILE'"):
        resolve("conformal")


def test_a_replay_needs_no_file(tmp_path: Path) -> None:
    rule = ConformalAlarm(SAFE)
    with Run.create(tmp_path / "run") as made:
        for step, kl in ((10, 0.0), (20, 8.0)):
            made.append(step, {"reward/kl": kl})
        made.event("detectors", "test", {"detectors": [detector_record(rule)]})
    with Run.open(tmp_path / "run") as read:
        again = recorded_detectors(read.events("detectors"))
        assert again == [rule]
        assert [alarm.step for alarm in replay(read, again)] == [20]
