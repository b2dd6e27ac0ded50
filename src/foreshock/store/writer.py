"""The writing half of a run: rows gather in memory and are committed by the thread that trains."""

from __future__ import annotations

import operator
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from foreshock.store import codec, process, rollups
from foreshock.store.connect import DATA_FILE, close_writer, code_of, explain, open_writer
from foreshock.store.errors import ClosedError, ForkedError, LockedError, StoreError, WriteError
from foreshock.store.lock import WriterLock
from foreshock.store.pending import Pending, insert_rollups
from foreshock.store.records import Counts, SeriesRecord
from foreshock.types import Estimate

OnCommit: TypeAlias = Callable[[list[tuple[int, str]]], object]

# With these two, 20 estimates a step cost 66 to 94 µs in the mean, 2 to 3 % of a 3 ms step; one
# commit takes about 0.65 ms. Half a second is also what a live chart needs.
COMMIT_SECONDS = 0.5
COMMIT_ROWS = 256
#: Arrays waiting for a commit, at most; a burst of spectra must not eat the memory of a training.
PENDING_ARRAY_BYTES = 64 * 2**20
#: Arrays kept on disk per run, at most, unless `Run.create(array_bytes=)` says otherwise.
ARRAY_BYTES = 2**30
# Reasons remembered with their ids; beyond, they are looked up in the file. Reasons that spell out
# a number never repeat, and must not pile up.
_NOTES = 4096
# How long `flush` goes on trying while another program holds a transaction on the file.
_FLUSH_PATIENCE = 10.0


class Writer:
    """Appends to one run, from any thread of one process, while it holds the run's lock."""

    def __init__(
        self,
        folder: Path,
        lock: WriterLock,
        journal: str,
        *,
        array_bytes: int | None,
        on_commit: OnCommit | None,
    ) -> None:
        """Opens the database of ``folder``; the caller gives up ``lock``."""
        self.folder = folder
        self.on_commit = on_commit
        self.closed = False
        self.said_closed = False
        self.lock = lock
        self.mutex = threading.RLock()
        self.db = open_writer(folder, journal)
        self._pid = os.getpid()
        self._pending = Pending()
        try:
            self._recall(array_bytes)
        except sqlite3.Error as error:
            self.db.close()
            raise explain(error, folder / DATA_FILE) from error
        self._committed_at = time.monotonic()
        process.register(self)

    def _recall(self, array_bytes: int | None) -> None:
        """Takes up where the file ends."""
        db = self.db
        self._ids: dict[str, int] = {}
        self._records: dict[int, SeriesRecord] = {}
        for id_, *fields in db.execute(
            "SELECT id, name, title, unit, taken_at, null_text FROM series ORDER BY id"
        ):
            self._records[id_] = SeriesRecord(*fields)
            self._ids[fields[0]] = id_
        (last,) = db.execute("SELECT max(step) FROM scalar").fetchone()
        (last_array,) = db.execute("SELECT max(step) FROM array").fetchone()
        self.last_step = max(-1 if s is None else s for s in (last, last_array))
        self._seen = {
            id_
            for (id_,) in db.execute(
                "SELECT series_id FROM scalar WHERE step = ?", (self.last_step,)
            )
        }
        self._seen_arrays = {
            id_
            for (id_,) in db.execute(
                "SELECT series_id FROM array WHERE step = ?", (self.last_step,)
            )
        }
        self._notes: dict[str, int] = {}
        (self._last_note,) = db.execute("SELECT coalesce(max(id), 0) FROM note").fetchone()
        (self._last_event,) = db.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()
        (self._array_total,) = db.execute(
            "SELECT coalesce(sum(length(bytes)), 0) FROM array"
        ).fetchone()
        meta = dict(db.execute("SELECT key, value FROM meta"))
        self._counts = {key: int(meta.get(key, 0)) for key in ("duplicates", "arrays_dropped")}
        if array_bytes is None:
            array_bytes = int(meta.get("array_bytes", ARRAY_BYTES))
        self._array_bytes = array_bytes
        self._pending.meta["array_bytes"] = str(array_bytes)
        # Only the bucket of the last step can still grow: rebuild it from its rows.
        start = max(self.last_step, 0) // rollups.WIDTH * rollups.WIDTH
        rows = db.execute(
            "SELECT step, series_id, value FROM scalar WHERE step >= ? ORDER BY step", (start,)
        )
        self._buckets, _ = rollups.extend({}, ((s, i, codec.number(v)) for s, i, v in rows))
        insert_rollups(db, self._buckets.items())

    # ------------------------------------------------------------------ appending

    def declare(self, record: SeriesRecord) -> None:
        """Adds a series, or completes what was known of it; see `Run.declare`."""
        with self.mutex:
            self._must_write("declare")
            old = self._records.get(self._ids.get(record.name, -1))
            if old is None:
                self._add_series(record)
                return
            if old.unit not in ("", "1", record.unit):
                raise ValueError(
                    f"The `unit` of the series `{record.name}` is {old.unit!r} in this run. Got "
                    f"{record.unit!r}. Give the new quantity a name of its own."
                )
            new = SeriesRecord(
                record.name,
                record.title or old.title,
                record.unit,
                record.taken_at or old.taken_at,
                record.null or old.null,
            )
            if new != old:
                self._records[self._ids[new.name]] = new
                self._pending.series[self._ids[new.name]] = new

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the values of one step; see `Run.append`."""
        step = operator.index(step)
        with self.mutex:
            self._must_write("append")
            # Everything is checked before anything is kept: a bad value leaves no half step.
            estimates = [(name, codec.as_estimate(name, v)) for name, v in values.items()]
            self._must_follow("Run.append", step)
            rows: list[codec.Row] = []
            duplicates = 0
            seen = self._seen if step == self.last_step else set()
            for name, estimate in estimates:
                id_ = self._ids.get(name)
                if id_ is None:
                    id_ = self._add_series(SeriesRecord(name))
                if id_ in seen:
                    duplicates += 1
                    continue
                rows.append(codec.encode(step, id_, estimate, self._note(estimate)))
            self._advance(step)
            self._seen.update(row[1] for row in rows)
            self._pending.rows += rows
            if duplicates:
                self._count("duplicates", duplicates)
            self._commit_if_due()

    def append_array(self, step: int, name: str, array: Any) -> None:
        """Appends one array; see `Run.append_array`."""
        step = operator.index(step)
        dtype, shape, data = codec.encode_array(name, array)
        with self.mutex:
            self._must_write("append_array")
            self._must_follow("Run.append_array", step)
            id_ = self._ids.get(name)
            if id_ is None:
                id_ = self._add_series(SeriesRecord(name))
            self._advance(step)
            if id_ in self._seen_arrays:
                self._count("duplicates", 1)
                return
            self._seen_arrays.add(id_)
            self._pending.arrays.append((step, id_, dtype, shape, data))
            self._pending.array_bytes += len(data)
            while self._pending.array_bytes > min(PENDING_ARRAY_BYTES, self._array_bytes):
                self._pending.array_bytes -= len(self._pending.arrays.popleft()[4])
                self._count("arrays_dropped", 1)
            self._commit_if_due()

    def event(self, kind: str, source: str, payload: Mapping[str, Any], step: int) -> None:
        """Appends one event; see `Run.event`."""
        step = operator.index(step)
        body = codec.dumps(dict(payload))
        with self.mutex:
            self._must_write("event")
            if not -1 <= step < 2**63:
                raise ValueError(
                    f"The `step` of `Run.event` must be -1 (no step) or more. Got {step}."
                )
            self._last_event += 1
            self._pending.events.append(
                (self._last_event, step, time.time(), codec.text(kind), codec.text(source), body)
            )
            self.said_closed = self.said_closed or kind == "closed"
            self._commit_if_due()

    def counts(self) -> Counts:
        """What was not kept so far, pending rows included."""
        return Counts(**self._counts)

    def _add_series(self, record: SeriesRecord) -> int:
        if not record.name or not record.name.isprintable():
            raise ValueError(
                "The `name` of a series must be a printable text such as "
                f'"hessian/lambda_max". Got {record.name!r}.'
            )
        id_ = len(self._ids) + 1
        record = SeriesRecord(
            record.name,
            *map(codec.text, (record.title, record.unit, record.taken_at, record.null)),
        )
        self._ids[record.name] = id_
        self._records[id_] = self._pending.series[id_] = record
        return id_

    def _note(self, estimate: Estimate) -> int | None:
        """Id of the reason; each distinct sentence is stored once."""
        if not estimate.reason:
            return None
        reason = codec.text(estimate.reason)
        id_ = self._notes.get(reason)
        if id_ is None:
            try:
                found = self.db.execute("SELECT id FROM note WHERE text = ?", (reason,)).fetchone()
            except sqlite3.Error as error:
                raise explain(error, self.folder / DATA_FILE) from error
            if found is None:
                self._last_note += 1
                id_ = self._last_note
                self._pending.notes.append((id_, reason))
            else:
                (id_,) = found
            self._notes[reason] = id_
        return id_

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child's copy, which must leave the file alone."""
        return os.getpid() != self._pid

    def _must_write(self, what: str) -> None:
        if self.foreign:
            raise ForkedError(
                f"`Run.{what}` was called in process {os.getpid()}, a fork of process {self._pid} "
                "that writes this run. Write from that process only; send it the values."
            )
        if self.closed:
            raise ClosedError(
                f"`Run.{what}` was called after `close()`. "
                f'Type `Run.open("{self.folder}", "a")` to go on with this run.'
            )

    def _must_follow(self, what: str, step: int) -> None:
        if step < 0 or step >= 2**63:
            raise ValueError(f"The `step` of `{what}` must be at least 0. Got {step}.")
        if step < self.last_step:
            raise ValueError(
                f"The `step` of `{what}` must be at least {self.last_step}, the last one written. "
                f"Got {step}. Continue the count of steps where the run left it "
                "(`run.last_step`), or create a new run."
            )

    def _advance(self, step: int) -> None:
        if step > self.last_step:
            self.last_step = step
            self._seen.clear()
            self._seen_arrays.clear()

    def _count(self, key: str, by: int) -> None:
        self._counts[key] += by
        self._pending.meta[key] = str(self._counts[key])

    # ------------------------------------------------------------------ committing

    def _commit_if_due(self) -> None:
        if (
            len(self._pending.rows) >= COMMIT_ROWS
            or time.monotonic() - self._committed_at >= COMMIT_SECONDS
        ):
            try:
                self._commit()
            except LockedError:
                # Someone holds a transaction on the file. The rows wait for the next due moment.
                self._committed_at = time.monotonic()

    def flush(self) -> None:
        """Returns when every appended row is committed; see `Run.flush`."""
        with self.mutex:
            self._must_write("flush")
            until = time.monotonic() + _FLUSH_PATIENCE
            while True:
                try:
                    self._commit()
                    return
                except LockedError:
                    if time.monotonic() > until:
                        raise

    def _commit(self) -> None:
        """One transaction with everything pending; on any failure all of it stays pending."""
        self._committed_at = time.monotonic()
        pending = self._pending
        if not pending:
            return
        newest, full = rollups.extend(
            self._buckets, ((row[0], row[1], codec.number(row[2])) for row in pending.rows)
        )
        counts = dict(self._counts)
        try:
            self.db.execute("BEGIN IMMEDIATE")
            total, dropped = pending.insert_arrays(self.db, self._array_total, self._array_bytes)
            if dropped:
                self._count("arrays_dropped", dropped)
            pending.insert(self.db, [*full, *newest.items()])
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(counts)
            explained = explain(error, self.folder / DATA_FILE)
            if type(explained) is not StoreError:
                raise explained from error
            raise WriteError(
                f"{len(pending.rows)} rows could not be written to {self.folder / DATA_FILE} "
                f"({error}, code {code_of(error)}). They are still in memory: make room on the "
                "disk and call `flush()`."
            ) from error
        except BaseException:
            self._undo(counts)
            raise
        self._pending = Pending()
        self._buckets |= newest
        self._array_total = total
        if len(self._notes) > _NOTES:
            self._notes.clear()
        if self.on_commit is not None and pending.rows:
            self.on_commit([(row[0], self._records[row[1]].name) for row in pending.rows])

    def _undo(self, counts: dict[str, int]) -> None:
        self._counts = counts
        # A full disk may have rolled back already.
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    # ------------------------------------------------------------------ leaving

    def leave(self) -> None:
        """Commits what is pending and lets the run go; does nothing in a forked child."""
        with self.mutex:
            if self.closed or self.foreign:
                return
            try:
                self.flush()
            finally:
                self.closed = True
                process.unregister(self)
                close_writer(self.db)
                self.lock.release()
