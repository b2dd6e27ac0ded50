"""The tables of ``data.sqlite``, their version, and how an older file becomes a current one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from foreshock.store.errors import NewerSchemaError, NotARunError

#: Marks the file as ours, so that `file` and `doctor` can tell it from any other SQLite database.
APPLICATION_ID = int.from_bytes(b"FSHK", "big")
SCHEMA = 1

# `scalar` is clustered by (step, series): rows are appended at the end of the tree, and the live
# tail is one range. There is no index on (series_id, step). Measured at 20 000 steps x 30 series
# (600 000 rows, SQLite 3.40): with it an insert costs 4.9 us instead of 3.6 us and the file is
# 35 MB instead of 29 MB, while one whole series reads in 0.04 s instead of 0.05 s. The chart of a
# longer run uses `rollup`, which is clustered by series.
_TABLES = (
    """CREATE TABLE series(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unit TEXT NOT NULL,
        taken_at TEXT NOT NULL, title TEXT NOT NULL DEFAULT '',
        null_text TEXT NOT NULL DEFAULT '')""",
    """CREATE TABLE scalar(
        step INTEGER NOT NULL, series_id INTEGER NOT NULL, value REAL, low REAL, high REAL,
        null_low REAL, null_high REAL, n INTEGER NOT NULL, flags INTEGER NOT NULL, note_id INTEGER,
        PRIMARY KEY(step, series_id)) WITHOUT ROWID""",
    "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)",
    """CREATE TABLE rollup(
        series_id INTEGER NOT NULL, bucket INTEGER NOT NULL, min REAL, max REAL, mean REAL,
        n INTEGER NOT NULL, PRIMARY KEY(series_id, bucket)) WITHOUT ROWID""",
    """CREATE TABLE array(
        step INTEGER NOT NULL, series_id INTEGER NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
        bytes BLOB NOT NULL, PRIMARY KEY(step, series_id))""",
    """CREATE TABLE event(
        id INTEGER PRIMARY KEY, step INTEGER NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL,
        source TEXT NOT NULL, payload TEXT NOT NULL)""",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


def create(db: sqlite3.Connection) -> None:
    """Lays out an empty database."""
    db.execute("BEGIN IMMEDIATE")
    for table in _TABLES:
        db.execute(table)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")
    db.execute("COMMIT")


def _sentences(db: sqlite3.Connection) -> None:
    """0 to 1: the first draft kept no reasons, titles or nulls in words."""
    db.execute("CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)")
    db.execute("ALTER TABLE scalar ADD COLUMN note_id INTEGER")
    db.execute("ALTER TABLE series ADD COLUMN title TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE series ADD COLUMN null_text TEXT NOT NULL DEFAULT ''")
    # A flagged estimate must say why; the draft did not record it.
    db.execute("INSERT INTO note VALUES (1, 'Recorded before reasons were kept.')")
    db.execute("UPDATE scalar SET note_id = 1 WHERE flags != 0")


#: Entry i takes a file from version i to i + 1. Appended to, never edited; there is no way back.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_sentences,)


def version(db: sqlite3.Connection, where: str) -> int:
    """The schema version of a file, after making sure that this Foreshock can read it.

    Args:
        db: Connection to the file.
        where: Its name, for the message.

    Returns:
        0 to `SCHEMA`.

    Raises:
        NotARunError: If the database belongs to another program, or is empty.
        NewerSchemaError: If a later Foreshock wrote it.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise NotARunError(
            f"{where} is not a Foreshock database (application id {application:#x}, expected "
            f"{APPLICATION_ID:#x}; an emptied file reads 0x0). Restore it from a copy."
        )
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA:
        raise NewerSchemaError(
            f"{where} has schema version {found}; this Foreshock knows versions up to {SCHEMA}. "
            "Type `pip install --upgrade foreshock` to read it."
        )
    return found


def migrate(db: sqlite3.Connection, found: int) -> None:
    """Brings a file from version ``found`` to the current one, all in one transaction."""
    if found == SCHEMA:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[found:]:
            step(db)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
