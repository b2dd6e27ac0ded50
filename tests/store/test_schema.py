"""Versions of the file: what is refused, and what a migration leaves behind."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from foreshock.store import NewerSchemaError, NotARunError, Run, schema
from foreshock.types import Estimate, Flag
from tests.store.oracles import query

# The tables of the first draft, version 0, as they were: no reasons, no titles, no nulls in words.
DRAFT = """
CREATE TABLE series(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unit TEXT NOT NULL,
    taken_at TEXT NOT NULL);
CREATE TABLE scalar(step INTEGER NOT NULL, series_id INTEGER NOT NULL, value REAL, low REAL,
    high REAL, null_low REAL, null_high REAL, n INTEGER NOT NULL, flags INTEGER NOT NULL,
    PRIMARY KEY(step, series_id)) WITHOUT ROWID;
CREATE TABLE rollup(series_id INTEGER NOT NULL, bucket INTEGER NOT NULL, min REAL, max REAL,
    mean REAL, n INTEGER NOT NULL, PRIMARY KEY(series_id, bucket)) WITHOUT ROWID;
CREATE TABLE array(step INTEGER NOT NULL, series_id INTEGER NOT NULL, dtype TEXT NOT NULL,
    shape TEXT NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY(step, series_id));
CREATE TABLE event(id INTEGER PRIMARY KEY, step INTEGER NOT NULL, time REAL NOT NULL,
    kind TEXT NOT NULL, source TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO series VALUES (1, 'loss', 'nat', 'probe');
INSERT INTO scalar VALUES (0, 1, 0.5, 0.25, 0.75, NULL, NULL, 8, 0);
INSERT INTO scalar VALUES (1, 1, NULL, NULL, NULL, NULL, NULL, 0, 1);
INSERT INTO rollup VALUES (1, 0, 0.5, 0.5, 0.5, 1);
"""
OLD = "Recorded before reasons were kept."


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A run whose file is of version 0."""
    path = tmp_path / "run"
    Run.create(path).close()
    (path / "data.sqlite").unlink()
    db = sqlite3.connect(path / "data.sqlite")
    db.executescript(DRAFT)
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    db.close()
    return path


def layout(path: Path) -> dict[str, list[tuple]]:
    """Columns of every table."""
    tables = [name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type='table'")]
    return {name: query(path, f"PRAGMA table_info({name})") for name in sorted(tables)}


def test_a_migrated_file_has_the_layout_of_a_fresh_one_and_its_rows(
    draft: Path, tmp_path: Path
) -> None:
    with Run.open(draft, "a") as run:
        run.append(2, {"loss": 0.125})
    Run.create(tmp_path / "fresh").close()
    assert layout(draft) == layout(tmp_path / "fresh")
    assert query(draft, "PRAGMA user_version") == [(schema.SCHEMA,)]
    with Run.open(draft) as run:
        series = run.series("loss")
        assert run.describe("loss").unit == "nat"
        assert series.estimate(0) == Estimate(0.5, 0.25, 0.75, n=8)
        assert (series.estimate(1).flags, series.reason[1]) == (Flag.UNRESOLVED, OLD)
        assert series.step.tolist() == [0, 1, 2]


def test_reading_an_older_file_leaves_it_as_it_is(draft: Path) -> None:
    before = (draft / "data.sqlite").read_bytes()
    with Run.open(draft) as run:
        assert run.series("loss").reason == ["", OLD]
    assert (draft / "data.sqlite").read_bytes() == before


def test_a_failed_migration_changes_nothing(draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(db: sqlite3.Connection) -> None:
        schema._sentences(db)
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(schema, "MIGRATIONS", (broken,))
    before = layout(draft)
    with pytest.raises(Exception, match="disk full"):
        Run.open(draft, "a")
    assert layout(draft) == before
    assert query(draft, "PRAGMA user_version") == [(0,)]


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_newer_file_is_refused(tmp_path: Path, mode: str) -> None:
    Run.create(tmp_path / "run").close()
    db = sqlite3.connect(tmp_path / "run" / "data.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(NewerSchemaError, match=r"schema version 99;.*pip install --upgrade"):
        Run.open(tmp_path / "run", mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["r", "a"])
def test_the_database_of_another_program_is_refused(tmp_path: Path, mode: str) -> None:
    Run.create(tmp_path / "run").close()
    db = sqlite3.connect(tmp_path / "run" / "data.sqlite")
    db.execute("PRAGMA application_id = 1")
    db.close()
    with pytest.raises(NotARunError, match="is not a Foreshock database"):
        Run.open(tmp_path / "run", mode)  # type: ignore[arg-type]


def test_there_is_one_migration_per_version() -> None:
    assert len(schema.MIGRATIONS) == schema.SCHEMA
