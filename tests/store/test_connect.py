"""Opening damaged, half-written and read-only files."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foreshock.store import DamagedError, LockedError, NotARunError, Run, StoreError, connect
from tests.store.oracles import query


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed run of 2000 rows, some 30 pages."""
    path = tmp_path / "run"
    with Run.create(path) as run:
        for step in range(2000):
            run.append(step, {"x": float(step)})
    return path


@pytest.mark.parametrize("mode", ["r", "a"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_explained(path: Path, share: float, mode: Any) -> None:
    data = path / "data.sqlite"
    whole = data.read_bytes()
    data.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedError, match=r"truncated or corrupt.*from a copy.*\.recover"):
        Run.open(path, mode)


def test_an_emptied_or_missing_file_is_explained(path: Path) -> None:
    (path / "data.sqlite").write_bytes(b"")
    with pytest.raises(NotARunError, match="an emptied file reads 0x0"):
        Run.open(path)
    (path / "data.sqlite").unlink()
    for mode in ("r", "a"):
        with pytest.raises(DamagedError, match=r"no data.sqlite"):
            Run.open(path, mode)  # type: ignore[arg-type]
    assert not (path / "data.sqlite").exists()


def test_damage_inside_the_file_is_explained_when_it_is_met(path: Path) -> None:
    ((page,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'scalar'")
    with open(path / "data.sqlite", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with Run.open(path) as run:
        assert run.names() == ["x"]
        with pytest.raises(DamagedError, match=r"\.recover"):
            run.series("x")


def test_a_damaged_identity_is_explained(path: Path) -> None:
    (path / "run.json").write_text('{"id": ')
    with pytest.raises(DamagedError, match=r"run.json cannot be read"):
        Run.open(path)
    (path / "run.json").write_text("[]")
    with pytest.raises(NotARunError, match="was not written by Foreshock"):
        Run.open(path)


def test_a_reader_cannot_write_even_through_its_connection(path: Path) -> None:
    db = connect.open_reader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM scalar")
    db.close()


def test_a_half_written_commit_is_rolled_back_for_a_reader(path: Path, tmp_path: Path) -> None:
    # The file and its journal as a writer with a rollback journal leaves them when it is killed in
    # the middle of a commit: copied while pages of an open transaction lie in the file already.
    db = sqlite3.connect(path / "data.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode = truncate")
    db.execute("PRAGMA cache_size = 1")  # spills
    db.execute("BEGIN")
    db.execute("UPDATE scalar SET value = -1")
    killed = tmp_path / "killed"
    shutil.copytree(path, killed)
    db.execute("ROLLBACK")
    db.close()
    assert (killed / "data.sqlite-journal").stat().st_size > 0
    assert (killed / "data.sqlite").read_bytes() != (path / "data.sqlite").read_bytes()
    with Run.open(killed) as run:
        assert run.series("x").value.tolist() == [float(step) for step in range(2000)]


@pytest.fixture
def read_only(path: Path, tmp_path: Path) -> Iterator[Path]:
    """The run on a read-only disk, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*arguments: str) -> bool:
        if shutil.which("mount") is None:
            return False
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0

    if not mount("--bind", str(path), str(disk)):
        pytest.skip("This process may not mount; the simulated disk below is tested everywhere.")
    try:
        assert mount("-o", "remount,ro,bind", str(disk))
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_closed_run_is_read_from_a_read_only_disk(read_only: Path) -> None:
    with Run.open(read_only) as run:
        assert len(run.series("x")) == 2000
    with pytest.raises(StoreError, match=r"cannot be (written|opened)"):
        Run.open(read_only, "a")


def leave_in_wal(path: Path) -> None:
    """Closes a run while a reader looks on, which keeps its file in WAL mode."""
    run = Run.open(path, "a", journal="wal")
    with Run.open(path) as watching:
        assert watching.names() == ["x"]
        run.close()
    for end in ("-wal", "-shm"):
        (path / f"data.sqlite{end}").unlink(missing_ok=True)
    header = (path / "data.sqlite").read_bytes()[18:20]
    assert header == b"\x02\x02"  # WAL


def test_a_file_left_in_wal_mode_is_read_from_a_read_only_disk(
    path: Path, request: pytest.FixtureRequest
) -> None:
    leave_in_wal(path)
    disk = request.getfixturevalue("read_only")
    with Run.open(disk) as run:
        assert len(run.series("x")) == 2000


class RefusesToOpen:
    """`sqlite3.connect` on a disk where a file can only be opened as immutable."""

    def __init__(self) -> None:
        self.real = sqlite3.connect

    def __call__(self, uri: str, /, **options: Any) -> sqlite3.Connection:
        if "immutable=1" not in uri:
            uri = uri.replace("data.sqlite", "absent.sqlite")
        options["uri"] = True
        return self.real(uri, **options)


def test_a_file_that_cannot_be_opened_is_taken_as_it_is_if_it_is_complete(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_CANNOT_OPEN_PATIENCE", 0.02)
    monkeypatch.setattr(connect.sqlite3, "connect", RefusesToOpen())
    with Run.open(path) as run:
        assert len(run.series("x")) == 2000
    (path / "data.sqlite-wal").write_bytes(b"rows that are not in the file yet")
    with pytest.raises(StoreError, match="copy the whole folder to a writable one"):
        Run.open(path)


def test_a_reader_waits_for_a_lock_and_then_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_PATIENCE", 0.0)
    other = sqlite3.connect(path / "data.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LockedError, match="stayed locked"):
        Run.open(path)
    other.execute("ROLLBACK")
    other.close()
    Run.open(path).close()
