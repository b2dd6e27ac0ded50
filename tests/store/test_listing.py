"""`list_runs` and `doctor` on folders of every kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foreshock.store import NotARunError, Run, disk, doctor, list_runs, listing


def test_runs_are_listed_with_their_state(tmp_path: Path) -> None:
    with Run.create(tmp_path / "closed", kind="grokking") as run:
        run.append(7, {"x": 1.0, "y": 1.0})
        run.event("alarm", "turnover", {}, step=7)
    Run.create(tmp_path / "damaged").close()
    (tmp_path / "damaged" / "data.sqlite").write_bytes(b"not a database")
    Run.create(tmp_path / "project" / "sweep" / "empty").close()
    live = Run.create(tmp_path / "open")
    live.append(3, {"x": 1.0})
    live.flush()
    # A copy of a live run holds its rows and is written by nobody.
    shutil.copytree(tmp_path / "open", tmp_path / "crashed")
    (tmp_path / ".run.tmp-0000").mkdir()
    (tmp_path / ".run.tmp-0000" / "run.json").write_text("{")
    (tmp_path / "a file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)

    found = {run.path.name: run for run in list_runs(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        "closed": "closed",
        "damaged": "damaged",
        "empty": "closed",
        "open": "open",
        "crashed": "crashed",
    }
    closed = found["closed"]
    assert (closed.kind, closed.last_step, closed.n_series, closed.n_alarms) == (
        "grokking",
        7,
        2,
        1,
    )
    assert found["crashed"].id == found["open"].id and found["crashed"].last_step == 3
    assert found["empty"].last_step == -1
    created = [run.created for run in list_runs(tmp_path)]
    assert created == sorted(created)
    assert [run.path for run in list_runs(tmp_path / "closed")] == [tmp_path / "closed"]
    live.close()


def test_a_resumed_run_is_crashed_until_it_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Run.create(path).close()
    run = Run.open(path, "a")
    assert list_runs(path)[0].state == "open"
    assert run._writer is not None
    run._writer.leave()
    assert list_runs(path)[0].state == "crashed"
    Run.open(path, "a").close()
    assert list_runs(path)[0].state == "closed"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match=r"There is no folder .*absent"):
        list_runs(tmp_path / "absent")
    assert list_runs(tmp_path) == []


def test_the_doctor_finds_a_good_folder_good(tmp_path: Path) -> None:
    checks = {check.name: check for check in doctor(tmp_path / "not" / "yet")}
    assert list(checks) == ["sqlite", "wal-reset", "journal", "writable", "locks", "leftovers"]
    assert all(check.ok for check in checks.values())
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    checks = {check.name: check for check in doctor(tmp_path / "file")}
    assert not checks["writable"].ok and "cannot be written" in checks["writable"].detail
    monkeypatch.setattr(disk, "filesystem", lambda path: "nfs4")
    monkeypatch.setattr(listing, "filesystem", lambda path: "nfs4")
    checks = {check.name: check for check in doctor(tmp_path)}
    assert "a network disk (nfs4): truncate" in checks["journal"].detail


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_the_doctor_knows_the_wal_reset_bug(version: tuple[int, ...], affected: bool) -> None:
    check = listing._wal_reset(version)
    assert check.ok
    assert ("not affected, because one connection" in check.detail) is affected
