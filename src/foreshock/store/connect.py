"""Connections to ``data.sqlite``: one kind that writes, one that only ever reads.

SQLite before 3.51.3 can lose committed pages of a WAL when two connections write or checkpoint at
the same instant (https://sqlite.org/wal.html, "the WAL-reset bug"). A run is immune by
construction: the connection that holds the run's lock is the only one that writes and the only one
that checkpoints; every other one is opened with ``mode=ro`` and ``query_only``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from foreshock.store import schema
from foreshock.store.errors import DamagedError, LockedError, StoreError
from foreshock.store.lock import WriterLock, is_live

T = TypeVar("T")

DATA_FILE = "data.sqlite"
# How long a reader waits for a writer's commit. A commit takes milliseconds; a network disk or a
# machine under load a thousand times that.
_PATIENCE = 10.0
# A file that cannot be opened may be between two states (a writer starting or leaving) or on a
# read-only disk. The former lasts milliseconds.
_CANNOT_OPEN_PATIENCE = 0.5
_TRANSIENT = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA}
)
# What a disk that cannot be written answers when WAL needs its companion files.
_UNOPENABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code, -1 for an error of the Python module."""
    extended = getattr(error, "sqlite_errorcode", None)
    return -1 if extended is None else extended & 0xFF


def explain(error: sqlite3.Error, data: Path) -> StoreError:
    """The sentence for an SQLite error."""
    code = code_of(error)
    if code in _DAMAGE:
        return _damaged(data, str(error))
    if code in _TRANSIENT:
        return LockedError(
            f"{data} stayed locked ({error}). Another program holds a transaction open on it: "
            "close that program, or copy the folder and open the copy."
        )
    if code in _UNOPENABLE:
        return StoreError(
            f"{data} cannot be opened ({error}). If it lies on a read-only disk, copy the whole "
            "folder to a writable one and open it there."
        )
    return StoreError(f"SQLite could not use {data}: {error}.")


def _damaged(data: Path, why: str) -> DamagedError:
    return DamagedError(
        f"{data} is truncated or corrupt ({why}). Restore it from a copy, or salvage what is left: "
        f"sqlite3 {DATA_FILE} .recover | sqlite3 rescued.sqlite"
    )


def _must_be_whole(db: sqlite3.Connection, data: Path) -> None:
    """Refuses a file that was cut inside its last page, which SQLite would read as zeros."""
    # While there is a WAL or a journal, the file may be in any state: they make it whole.
    if not _has_companions(data):
        size = data.stat().st_size
        (page,) = db.execute("PRAGMA page_size").fetchone()
        if size % page:
            raise _damaged(data, f"{size} bytes are no multiple of its page size, {page}")


def _has_companions(data: Path) -> bool:
    """Whether rows of the file may still lie in its WAL, or its old pages in its journal."""
    files = (data.with_name(f"{data.name}-{end}") for end in ("wal", "journal"))
    try:
        return any(file.exists() and file.stat().st_size > 0 for file in files)
    except FileNotFoundError:  # A writer removed it just now.
        return True


def open_reader(folder: Path) -> sqlite3.Connection:
    """A connection that reads a run, live or not, and never writes or checkpoints.

    Args:
        folder: Folder of the run.

    Returns:
        A connection in autocommit mode, its file of a version this Foreshock knows.

    Raises:
        DamagedError: If the folder has no database, or a truncated or corrupt one.
    """
    data = folder / DATA_FILE
    if not data.is_file():
        raise DamagedError(
            f"{folder} has a run.json but no {DATA_FILE}. Restore the file from a copy; if there "
            f"is none, delete the folder: rm -r {folder}"
        )
    return patiently(lambda immutable: _open_reader(data, immutable), data)


def _open_reader(data: Path, immutable: bool) -> sqlite3.Connection:
    uri = f"{data.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    db = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA query_only = 1")
        found = schema.version(db, str(data))
        _must_be_whole(db, data)
        if found == schema.SCHEMA:
            return db
        # An older file is brought up to date in memory: a reader never changes the user's copy.
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        db.backup(memory)
    except BaseException:
        db.close()
        raise
    db.close()
    schema.migrate(memory, found)
    memory.execute("PRAGMA query_only = 1")
    return memory


def open_writer(folder: Path, journal: str) -> sqlite3.Connection:
    """The one connection that writes; the caller holds the run's lock.

    Args:
        folder: Folder of the run.
        journal: ``"wal"`` or ``"truncate"``.

    Returns:
        A connection in autocommit mode, its file recovered and migrated; if there can be none, a
        `StoreError` says why.
    """
    data = folder / DATA_FILE
    db: sqlite3.Connection | None = None
    try:
        # A commit in the training thread must not hang on someone's open transaction: it gives up
        # after this many seconds, keeps its rows and tries again at the next one.
        db = sqlite3.connect(
            f"{data.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=1.0,
            isolation_level=None,
            check_same_thread=False,
        )
        found = schema.version(db, str(data))
        _must_be_whole(db, data)
        schema.migrate(db, found)
        (mode,) = db.execute(f"PRAGMA journal_mode = {journal}").fetchone()
        if journal == "wal" and mode != "wal":
            (mode,) = db.execute("PRAGMA journal_mode = truncate").fetchone()
        db.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        refused: StoreError = explain(error, data)
        raise refused from error
    except BaseException:
        if db is not None:
            db.close()
        raise
    return db


def close_writer(db: sqlite3.Connection) -> None:
    """Checkpoints and leaves a single file that reads anywhere, also on a read-only disk."""
    try:
        db.execute("PRAGMA busy_timeout = 0")
        try:
            db.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError:
            # A reader is connected: the file stays in WAL mode, which is as good on this disk.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # Every row is committed already; what is missing is tidiness.
    finally:
        db.close()


def patiently(attempt: Callable[[bool], T], data: Path) -> T:
    """What ``attempt(immutable)`` returns once no writer is in its way, or the explained error."""
    begun = time.monotonic()
    pause = 0.002
    while True:
        try:
            return attempt(False)
        except sqlite3.Error as error:
            code, waited = code_of(error), time.monotonic() - begun
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_ROLLBACK:
                _roll_back(data)
            elif code in _UNOPENABLE and waited > _CANNOT_OPEN_PATIENCE:
                return _immutable(attempt, data, error)
            elif code not in _TRANSIENT | _UNOPENABLE:
                raise explain(error, data) from error
            if waited > _PATIENCE:
                raise explain(error, data) from error
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _immutable(attempt: Callable[[bool], T], data: Path, error: sqlite3.Error) -> T:
    """A last try for a read-only disk: SQLite may take the file as it is if it is complete."""
    if is_live(data.parent) or _has_companions(data):
        raise explain(error, data) from error
    try:
        return attempt(True)
    except sqlite3.Error as again:
        raise explain(again, data) from again


def _roll_back(data: Path) -> None:
    """Undoes the half-written commit of a killed writer, which a read-only connection may not.

    Holding the run's lock makes this connection the only writer; if a live writer has it, that
    writer is at work on the same thing and the reader tries again.
    """
    try:
        lock = WriterLock.take(data.parent)
    except OSError:
        return
    if lock is None:
        return
    try:
        db = sqlite3.connect(f"{data.absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            db.close()
    except sqlite3.Error:
        return  # The reader meets the same error and explains it.
    finally:
        lock.release()
