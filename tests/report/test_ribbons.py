"""Ribbons: the pieces are those of the labels, every label is text, and no label is an alarm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foreshock.detectors import Judge, RegimeRibbon
from foreshock.detectors.record import alarm_record
from foreshock.report import ribbons, write_report
from foreshock.report.data import RunData, read_run
from foreshock.report.facts import first_alarms, headline
from foreshock.store import Run
from foreshock.types import Estimate
from tests.report.runs import HOSTILE

RULE = RegimeRibbon("signal_p")


def recorded(folder: Path, values: list[float], label: str | None = None) -> Path:
    judge = Judge([RULE])
    with Run.create(folder, config={"name": "named"}) as run:
        for step, p in enumerate(values):
            row = {RULE.series: Estimate.plain(p)}
            run.append(step, row)
            for alarm in judge.feed(step, row):
                payload = alarm_record(alarm) | ({"label": label} if label else {})
                run.event("alarm", alarm.detector, payload, step=alarm.step)
    return folder


def read(folder: Path) -> RunData:
    with Run.open(folder) as run:
        return read_run(run, "run")


def page(*folders: Path, out: Path) -> str:
    return write_report(list(folders), out / "report.html").read_text(encoding="utf-8")


def test_pieces_cover_the_run_from_the_first_label_on(tmp_path: Path) -> None:
    data = read(recorded(tmp_path / "a", [0.3] * 40 + [0.55] * 10 + [0.8] * 50))
    assert ribbons.pieces(data, RULE.name) == [
        (0, 40, "failing"),
        (40, 50, "critical"),
        (50, 100, "strong"),
    ]


def test_what_was_not_measured_is_not_painted(tmp_path: Path) -> None:
    nan = float("nan")
    data = read(recorded(tmp_path / "a", [0.3] * 10 + [nan] * 20 + [0.3] * 5 + [nan] * 65))
    assert ribbons.pieces(data, RULE.name) == [(0, 10, "failing"), (30, 35, "failing")]
    # A series that ends before its run does.
    with Run.create(tmp_path / "b") as run:
        for step in range(100):
            run.append(step, {"loss": 1.0} | ({RULE.series: 0.3} if step < 50 else {}))
        alarm = {"label": "failing", "series": RULE.series, "value": 0.3, "threshold": 0.5}
        run.event("alarm", RULE.name, {**alarm, "reason": "begins"}, step=0)
    assert ribbons.pieces(read(tmp_path / "b"), RULE.name) == [(0, 50, "failing")]


def test_the_page_has_shares_text_and_every_change(tmp_path: Path) -> None:
    values = [0.3] * 40 + [0.55] * 5 + [0.8] * 55
    text = page(recorded(tmp_path / "a", values), out=tmp_path)
    section = text[text.index('id="regimes"') :]
    section = section[: section.index("</section>")]
    for said in ("failing 40 %", "critical 5 %", "strong 55 %", "2 changes"):
        assert said in section
    # A name is written on the ribbon only where it fits: not on 5 steps of 100.
    names = re.search(r'class="ribbon-text".*?</div>', section, re.DOTALL)
    assert names is not None
    assert re.findall(r"<span[^>]*>([^<]+)", names[0]) == ["failing", "strong"]
    assert section.count("data-regime=") == 3
    assert "went from failing to critical" in section
    # Widths of the drawn pieces, in thousandths.
    drawn = re.findall(r"M(\S+) 0h(\S+?)v10", section)
    assert drawn == [("0", "400"), ("400", "50"), ("450", "550")]


def test_a_regime_is_no_alarm(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "a", [0.3] * 5 + [0.8] * 5)
    data = read(folder)
    assert len(data.alarms) == 2
    assert first_alarms(data) == []
    assert headline(data, None).startswith("No detector fired")
    text = page(folder, out=tmp_path)
    assert "None was raised" in text
    assert 'data-detector="regime(signal_p)"' not in text


def test_no_ribbon_without_labels(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a") as run:
        run.append(0, {"loss": 1.0})
    assert ribbons.regimes([read(tmp_path / "a")]) is None


def test_a_twin_has_its_own_ribbon_with_the_same_colours(tmp_path: Path) -> None:
    run = recorded(tmp_path / "a", [0.3] * 10 + [0.8] * 10)
    twin = recorded(tmp_path / "b", [0.8] * 20)
    text = page(run, twin, out=tmp_path)
    assert text.count('class="ribbon"') == 2
    assert text.count("strong 100 %") >= 1
    keys = re.findall(r'<i class="(regime-\d)"></i>(\w+)', text)
    assert len({name for name, label in keys if label == "strong"}) == 1


def test_too_many_are_counted_and_labels_are_only_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ribbons, "MAX_PIECES", 6)
    monkeypatch.setattr(ribbons, "MAX_CHANGES", 4)
    text = page(recorded(tmp_path / "a", [0.3, 0.8] * 5), out=tmp_path)
    assert "4 later regimes are not drawn" in text
    assert "6 later changes are in the run" in text
    hostile = page(recorded(tmp_path / "b", [0.3, 0.8], label=HOSTILE), out=tmp_path / "h")
    assert HOSTILE not in hostile
    assert "&lt;img src=x" in hostile
