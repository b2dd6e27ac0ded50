"""What a run holds in memory between two commits, and how it goes into the file.

A commit is idempotent: ids are given by the writer, never by SQLite, and every insert ignores a row
that is there. So whatever interrupts a commit, an error or Ctrl-C, the rows stay pending and the
next one writes each of them once.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from foreshock.store import codec
from foreshock.store.records import SeriesRecord
from foreshock.store.rollups import Bucket

_SERIES = (
    "INSERT INTO series(id, name, title, unit, taken_at, null_text) VALUES (?,?,?,?,?,?) "
    "ON CONFLICT(id) DO UPDATE SET title = excluded.title, unit = excluded.unit, "
    "taken_at = excluded.taken_at, null_text = excluded.null_text"
)
_SCALAR = (
    "INSERT OR IGNORE INTO scalar(step, series_id, value, low, high, null_low, null_high, n, "
    "flags, note_id) VALUES (?,?,?,?,?,?,?,?,?,?)"
)
_ROLLUP = "INSERT OR REPLACE INTO rollup(series_id, bucket, min, max, mean, n) VALUES (?,?,?,?,?,?)"
_EVENT = "INSERT OR IGNORE INTO event(id, step, time, kind, source, payload) VALUES (?,?,?,?,?,?)"
_ARRAY = "INSERT OR IGNORE INTO array(step, series_id, dtype, shape, bytes) VALUES (?,?,?,?,?)"


@dataclass(slots=True)
class Pending:
    """Rows of every table that are not committed yet.

    Args:
        rows: Of ``scalar``, in order of step.
        events: Of ``event``.
        arrays: Of ``array``, oldest first.
        array_bytes: Size of the pending arrays.
        series: New or changed series by id.
        notes: New reasons with their ids.
        meta: Changed entries of ``meta``.
    """

    rows: list[codec.Row] = field(default_factory=list)
    events: list[tuple[int, int, float, str, str, str]] = field(default_factory=list)
    arrays: deque[tuple[int, int, str, str, bytes]] = field(default_factory=deque)
    array_bytes: int = 0
    series: dict[int, SeriesRecord] = field(default_factory=dict)
    notes: list[tuple[int, str]] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return any((self.rows, self.events, self.arrays, self.series, self.notes, self.meta))

    def insert(self, db: sqlite3.Connection, buckets: Iterable[tuple[int, Bucket]]) -> None:
        """Everything but the arrays, inside the caller's transaction."""
        db.executemany(
            _SERIES,
            [(i, r.name, r.title, r.unit, r.taken_at, r.null) for i, r in self.series.items()],
        )
        db.executemany("INSERT OR IGNORE INTO note VALUES (?,?)", self.notes)
        db.executemany(_SCALAR, self.rows)
        insert_rollups(db, buckets)
        db.executemany(_EVENT, self.events)
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", list(self.meta.items()))

    def insert_arrays(self, db: sqlite3.Connection, total: int, bound: int) -> tuple[int, int]:
        """The arrays, inside the caller's transaction; the oldest on disk make room for them.

        Args:
            db: Connection of the writer.
            total: Bytes of the arrays on disk before.
            bound: Bytes allowed on disk.

        Returns:
            Bytes of the arrays on disk after, and how many arrays were deleted.
        """
        if not self.arrays:
            return total, 0
        db.executemany(_ARRAY, self.arrays)
        total += self.array_bytes
        doomed: list[tuple[int]] = []
        if total > bound:
            sizes = db.execute("SELECT rowid, length(bytes) FROM array ORDER BY step, rowid")
            for rowid, size in sizes:
                if total <= bound:
                    break
                doomed.append((rowid,))
                total -= size
            sizes.close()
            db.executemany("DELETE FROM array WHERE rowid = ?", doomed)
        return total, len(doomed)


def insert_rollups(db: sqlite3.Connection, buckets: Iterable[tuple[int, Bucket]]) -> None:
    """Writes buckets over what is there."""
    db.executemany(
        _ROLLUP,
        [
            (id_, index, codec.cell(low), codec.cell(high), codec.cell(mean), n)
            for id_, (index, low, high, mean, n) in buckets
        ],
    )
