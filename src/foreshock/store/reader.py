"""The reading half of a run: queries that tolerate a writer at work and never hinder it.

Every query fetches all of its rows at once, so no read transaction outlives it: an open one would
keep the writer's WAL from being reset, or, with a rollback journal, lock the writer out.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.store import codec, rollups
from foreshock.store.connect import DATA_FILE, open_reader, patiently
from foreshock.store.errors import ClosedError, DamagedError, UnknownSeriesError
from foreshock.store.process import never_close
from foreshock.store.records import Event, Rollup, Series, SeriesRecord
from foreshock.types import Estimate

_COLUMNS = "value, low, high, null_low, null_high, n, flags, note_id"
# Rows fetched at once by `rows`: about 5 MB, and a few dozen milliseconds of a read lock.
_PAGE = 20_000


class Reader:
    """Reads one run, from any thread, through a connection of its own."""

    def __init__(self, folder: Path) -> None:
        """Opens the run in ``folder``."""
        self.folder = folder
        self._data = folder / DATA_FILE
        self._mutex = threading.RLock()
        self._pid = os.getpid()
        self._closed = False
        self._db: sqlite3.Connection = open_reader(folder)

    def close(self) -> None:
        """Lets the file go; idempotent."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._db.close()

    def _query(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._mutex:
            if self._closed:
                raise ClosedError(
                    f'This run was closed. Type `Run.open("{self.folder}")` to read it again.'
                )
            if os.getpid() != self._pid:
                # A connection does not survive a fork: this process takes one of its own.
                never_close(self._db)
                self._pid, self._db = os.getpid(), open_reader(self.folder)
            # The flag for an immutable file is of use only at opening.
            return patiently(lambda _: self._db.execute(sql, arguments).fetchall(), self._data)

    def last_step(self) -> int:
        """Last step of any row or array, -1 when empty."""
        ((scalar,),) = self._query("SELECT max(step) FROM scalar")
        ((array,),) = self._query("SELECT max(step) FROM array")
        return max(-1 if s is None else s for s in (scalar, array))

    def meta(self) -> dict[str, str]:
        """The table ``meta``."""
        return dict(self._query("SELECT key, value FROM meta"))  # type: ignore[arg-type]

    def names(self) -> list[str]:
        """Names in the order in which the series were declared."""
        return [name for (name,) in self._query("SELECT name FROM series ORDER BY id")]

    def describe(self, name: str) -> SeriesRecord:
        """What is known of a series."""
        (fields,) = self._query(
            "SELECT name, title, unit, taken_at, null_text FROM series WHERE id = ?",
            (self._id(name),),
        )
        return SeriesRecord(*fields)

    def _id(self, name: str) -> int:
        found = self._query("SELECT id FROM series WHERE name = ?", (name,))
        if not found:
            known = ", ".join(f"`{n}`" for n in self.names()) or "none"
            raise UnknownSeriesError(
                f"The run {self.folder} has no series `{name}`. Its series: {known}."
            )
        return found[0][0]

    def _reasons(self, ids: Iterable[int | None]) -> dict[int | None, str]:
        """Sentences behind ids; the absent id reads as no reason."""
        wanted = sorted({i for i in ids if i is not None})
        found: dict[int | None, str] = {None: ""}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            found |= dict(self._query(f"SELECT id, text FROM note WHERE id IN ({marks})", part))
        missing = len(wanted) + 1 - len(found)
        if missing:
            raise DamagedError(
                f"{self._data} lost {missing} of its reasons. Restore it from a copy."
            )
        return found

    def series(self, name: str) -> Series:
        """All committed rows of one series."""
        # Clustered by step, so the rows come in order without a sort.
        rows = self._query(
            f"SELECT step, {_COLUMNS} FROM scalar WHERE series_id = ? ORDER BY step",
            (self._id(name),),
        )
        columns = list(zip(*rows, strict=True)) if rows else [()] * 9
        step, value, low, high, null_low, null_high, n, flags, note = columns
        reasons = self._reasons(note)
        return Series(
            name=name,
            step=np.array(step, dtype=np.int64),
            value=codec.floats(value),
            low=codec.floats(low),
            high=codec.floats(high),
            null_low=codec.floats(null_low),
            null_high=codec.floats(null_high),
            has_null=np.array([x is not None for x in null_low], dtype=np.bool_),
            n=np.array(n, dtype=np.int64),
            flags=np.array(flags, dtype=np.int64),
            reason=[reasons[i] for i in note],
        )

    def rows(
        self, after: int, names: Iterable[str] | None
    ) -> Iterator[tuple[int, dict[str, Estimate]]]:
        """Steps with their estimates, page by page; see `Run.rows`."""
        if names is None:
            ids = {id_: name for id_, name in self._query("SELECT id, name FROM series")}
            which = ""
        else:
            ids = {self._id(name): name for name in names}
            which = f" AND series_id IN ({','.join(map(str, ids))})"
        where = (after, 2**63 - 1)
        step, values = after, dict[str, Estimate]()
        while True:
            page = self._query(
                f"SELECT step, series_id, {_COLUMNS} FROM scalar "
                f"WHERE (step, series_id) > (?, ?){which} ORDER BY step, series_id LIMIT {_PAGE}",
                where,
            )
            reasons = self._reasons(row[-1] for row in page)
            for row in page:
                if row[0] != step:
                    if values:
                        yield step, values
                    step, values = row[0], {}
                if row[1] not in ids:  # Declared after this iteration began.
                    ids |= dict(self._query("SELECT id, name FROM series"))
                values[ids[row[1]]] = codec.decode(row[2:-1], reasons[row[-1]])
            if len(page) < _PAGE:
                break
            where = page[-1][:2]
        if values:
            yield step, values

    def rollup(self, name: str, points: int) -> Rollup:
        """A series in at most ``points`` buckets; see `Run.rollup`."""
        if points < 1:
            raise ValueError(f"The `points` of `Run.rollup` must be at least 1. Got {points}.")
        id_ = self._id(name)
        buckets = self._query(
            "SELECT bucket, min, max, mean, n FROM rollup WHERE series_id = ? ORDER BY bucket",
            (id_,),
        )
        # Each bucket holds 1 to WIDTH rows; only in between do they have to be counted.
        if len(buckets) <= points:
            ((count,),) = self._query(
                "SELECT count(*) FROM (SELECT 1 FROM scalar WHERE series_id = ? LIMIT ?)",
                (id_, points + 1),
            )
            if count <= points:
                return rollups.exact(self.series(name))
        return rollups.merge(buckets, points, self.last_step())

    def arrays(self, name: str, after: int) -> list[tuple[int, np.ndarray]]:
        """The arrays of a series by step."""
        found = self._query(
            "SELECT step, dtype, shape, bytes FROM array WHERE series_id = ? AND step > ? "
            "ORDER BY step",
            (self._id(name), after),
        )
        return [(step, codec.decode_array(*fields)) for step, *fields in found]

    def events(self, kind: str | None, after: int) -> list[Event]:
        """Events by id."""
        found = self._query(
            "SELECT id, step, time, kind, source, payload FROM event "
            "WHERE id > ? AND (? IS NULL OR kind = ?) ORDER BY id",
            (after, kind, kind),
        )
        return [Event(*fields, payload=json.loads(payload)) for *fields, payload in found]

    def was_closed(self) -> bool:
        """Whether the last writer said that it had come to its end."""
        last = self._query(
            "SELECT kind FROM event WHERE kind IN ('closed', 'resumed') ORDER BY id DESC LIMIT 1"
        )
        return last == [("closed",)]

    def sizes(self) -> tuple[int, int]:
        """How many series and how many alarms there are."""
        ((series,),) = self._query("SELECT count(*) FROM series")
        ((alarms,),) = self._query("SELECT count(*) FROM event WHERE kind = 'alarm'")
        return series, alarms
