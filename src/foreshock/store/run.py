"""A run on disk: one folder, one SQLite file, one writer, any number of readers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from foreshock.store import identity
from foreshock.store.connect import DATA_FILE
from foreshock.store.disk import choose_journal
from foreshock.store.errors import (
    ClosedError,
    DamagedError,
    FolderNotWritableError,
    LockedError,
    ReadOnlyError,
)
from foreshock.store.lock import WriterLock
from foreshock.store.reader import Reader
from foreshock.store.records import Counts, Event, Rollup, Series, SeriesRecord
from foreshock.store.writer import OnCommit, Writer
from foreshock.types import Estimate

Journal: TypeAlias = Literal["auto", "wal", "truncate"]


class Run:
    """A training run on disk: series of estimates, arrays and events, by optimizer step.

    Rows gather in memory and are committed by the thread that appends them, every 0.5 s or 256
    rows, whichever comes first. A committed row survives the death of the process; a power cut may
    take the last seconds but leaves the file intact (on a network disk, where each commit is
    synced, it takes nothing). ``flush`` returns when everything appended is committed;
    ``on_commit`` is told what became durable, commit by commit.

    All methods may be called from any thread. A forked child may not write. Reading a run that is
    open for writing flushes it first, so a writer reads its own rows.

    The file is plain SQLite: `series`, `scalar`, `note`, `rollup`, `array`, `event`, `meta`. A
    closed run is one file and may be copied as it is; a copy taken while the run is written may be
    torn.

    Attributes:
        path: Folder of the run.
        id: Its identity, kept when the folder is moved.
        mode: ``"r"`` or ``"a"``.
        info: The content of ``run.json``: id, kind, created, config, seed, versions, schema.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with Run.create(f"{folder}/exp1", config={"lr": 0.1}, seed=0) as run:
        ...     run.declare("grad/norm", title="gradient norm", unit="loss / parameter")
        ...     for step in range(1000):
        ...         run.append(step, {"loss": 1 / (1 + step), "grad/norm": Estimate.exact(2.0)})
        >>> run = Run.open(f"{folder}/exp1")
        >>> run.last_step, run.names(), run.series("loss").value[-1]
        (999, ['grad/norm', 'loss'], np.float64(0.001))
        >>> len(run.rollup("loss", points=20))
        16
        >>> run.close()
    """

    def __init__(
        self, path: Path, info: dict[str, Any], writer: Writer | None, reader: Reader | None
    ) -> None:
        """Use `Run.create` or `Run.open`."""
        self.path = path
        self.info = info
        self.mode = "r" if writer is None else "a"
        self._writer = writer
        self._reader = reader
        self._closed = False

    @property
    def id(self) -> str:
        """Identity of the run, kept when its folder is moved or copied."""
        return self.info["id"]

    def __repr__(self) -> str:
        """The call that opens it."""
        return f"Run.open({str(self.path)!r}, {self.mode!r})"

    # ------------------------------------------------------------------ opening and closing

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str = "run",
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
        journal: Journal = "auto",
        array_bytes: int | None = None,
        on_commit: OnCommit | None = None,
    ) -> Run:
        """Creates a run and opens it for writing.

        The folder is built under a hidden temporary name beside ``path`` and renamed, so a run is
        either there and whole, or not there.

        Args:
            path: Folder of the run; folders above it are made. May exist if it is empty.
            kind: ``"run"`` or the name of an experiment.
            config: What the run was started with; kept in ``run.json``. What JSON does not know is
                stored as its ``str``.
            seed: Seed of the run.
            journal: ``"auto"`` takes ``"wal"`` (a commit costs 0.1 ms) on a local disk, and
                ``"truncate"`` with a sync per commit on a network disk, where a WAL corrupts.
            array_bytes: Bytes of arrays kept on disk, 1 GiB by default; the oldest make room for
                new ones and are counted. At most 64 MiB of them wait in memory for a commit.
            on_commit: Called after each commit that holds rows with their ``(step, series name)``,
                by the thread that committed.

        Returns:
            The run, in mode ``"a"``.

        Raises:
            ValueError: If an argument is out of its range.
        """
        path = Path(path)
        mode = choose_journal(path, journal)
        if array_bytes is not None and array_bytes < 0:
            raise ValueError(f"The `array_bytes` of `Run` must be at least 0. Got {array_bytes}.")
        lock, info = identity.build(path, kind, config, seed, mode)
        try:
            writer = Writer(path, lock, mode, array_bytes=array_bytes, on_commit=on_commit)
        except BaseException:
            lock.release()
            raise
        return cls(path, info, writer, None)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: Literal["r", "a"] = "r",
        *,
        journal: Journal = "auto",
        array_bytes: int | None = None,
        on_commit: OnCommit | None = None,
    ) -> Run:
        """Opens a run to read it, or to go on writing after its last step.

        A run whose writer was killed opens in both modes with every committed row. Resuming writes
        an event ``"resumed"``.

        Args:
            path: Folder of the run.
            mode: ``"r"`` reads, also while another process writes; ``"a"`` appends.
            journal: As in `create`; only with ``"a"``.
            array_bytes: As in `create`, by default what the run had; only with ``"a"``.
            on_commit: As in `create`; only with ``"a"``.

        Returns:
            The run.

        Raises:
            ValueError: If an argument is out of its range.
            DamagedError: If the database is missing.
            LockedError: If someone else writes the run.
            FolderNotWritableError: If it lies where nothing can be written.
        """
        path = Path(path)
        if mode not in ("r", "a"):
            raise ValueError(f'The `mode` of `Run.open` must be "r" or "a". Got {mode!r}.')
        if mode == "r" and (journal != "auto" or array_bytes is not None or on_commit is not None):
            raise ValueError(
                "`journal`, `array_bytes` and `on_commit` of `Run.open` belong to writing. "
                'Leave them out, or open with mode "a".'
            )
        info = identity.read(path)
        if mode == "r":
            return cls(path, info, None, Reader(path))
        chosen = choose_journal(path, journal)
        if array_bytes is not None and array_bytes < 0:
            raise ValueError(f"The `array_bytes` of `Run` must be at least 0. Got {array_bytes}.")
        if not (path / DATA_FILE).is_file():
            raise DamagedError(f"{path} has no {DATA_FILE}. Restore it from a copy.")
        try:
            lock = WriterLock.take(path)
        except OSError as error:
            raise FolderNotWritableError(
                f"{path} cannot be written ({error}). Copy the run to a folder that you may write."
            ) from error
        if lock is None:
            raise LockedError(
                f"{path} is being written by another process or by another `Run` of this one. "
                "A run has one writer: close that one, or record into a run of your own. "
                f'To read it, type `Run.open("{path}")`.'
            )
        try:
            writer = Writer(path, lock, chosen, array_bytes=array_bytes, on_commit=on_commit)
        except BaseException:
            lock.release()
            raise
        run = cls(path, info, writer, None)
        run.event("resumed", "store", {"last_step": run.last_step})
        run.flush()
        return run

    def close(self) -> None:
        """Commits what is pending, records the event ``"closed"`` and lets the run go; idempotent.

        The event is left out if one of that kind was written since the run was opened. In a forked
        child this does nothing: the run belongs to the parent.
        """
        self._close(finished=True)

    def _close(self, *, finished: bool) -> None:
        writer, self._closed = self._writer, True
        if self._reader is not None:
            self._reader.close()
        if writer is None or writer.closed or writer.foreign:
            return
        with writer.mutex:
            try:
                if finished and not writer.said_closed:
                    writer.event("closed", "store", {"last_step": writer.last_step}, -1)
            finally:
                writer.leave()

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the run; one that an exception ended keeps its rows and reads as crashed."""
        self._close(finished=kind is None)

    # ------------------------------------------------------------------ writing

    def declare(
        self, name: str, *, title: str = "", unit: str = "1", taken_at: str = "", null: str = ""
    ) -> None:
        """Declares a series, or completes one that was declared; idempotent.

        A series that is used undeclared is declared with these defaults. Blanks never erase what is
        known.

        Args:
            name: ``family/quantity[@layer]``.
            title: A few words for a chart.
            unit: Unit, ``"1"`` for a pure number. Once it is another it cannot change.
            taken_at: Where the number is taken.
            null: What it reads when nothing happens, in a few words.
        """
        self._writing("declare").declare(SeriesRecord(name, title, unit, taken_at, null))

    def append(self, step: int, values: Mapping[str, Estimate | float]) -> None:
        """Appends values of one step; several calls for one step add up.

        A second value for a (step, series) that has one is dropped and counted: the first is kept.
        All values are checked before any is kept.

        Args:
            step: Optimizer step, at least the last one written (``ValueError`` otherwise).
            values: Series name to estimate, or to a number, which is stored without uncertainty;
                a number that is not finite is flagged ``unresolved``.
        """
        self._writing("append").append(step, values)

    def append_array(self, step: int, name: str, array: np.ndarray) -> None:
        """Appends one array of a series, such as a spectrum: the bytes are copied at once.

        Args:
            step: Optimizer step, at least the last one written (``ValueError`` otherwise).
            name: Name of the series.
            array: Any shape, also 0-d and empty; any dtype of numbers, booleans, dates or text.
        """
        self._writing("append_array").append_array(step, name, array)

    def event(self, kind: str, source: str, payload: Mapping[str, Any], *, step: int = -1) -> None:
        """Records that something happened.

        Args:
            kind: ``"alarm"``, ``"milestone"``, ``"note"`` ...
            source: Who says so.
            payload: Its particulars, as JSON would hold them; nan and infinities survive.
            step: Optimizer step, -1 if it belongs to none. May lie before the last step.
        """
        self._writing("event").event(kind, source, payload, step)

    def flush(self) -> None:
        """Returns when every appended row, array and event is committed.

        If SQLite cannot commit (a full disk, another program's lock) this raises, the rows stay in
        memory, and the next flush tries again.
        """
        self._writing("flush").flush()

    @property
    def counts(self) -> Counts:
        """What the run did not keep: duplicate rows and arrays over the bound."""
        if self._writer is not None:
            return self._writer.counts()
        meta = self._reading().meta()
        return Counts(int(meta.get("duplicates", 0)), int(meta.get("arrays_dropped", 0)))

    def _writing(self, what: str) -> Writer:
        if self._writer is None:
            raise ReadOnlyError(
                f"`Run.{what}` needs a run that is open for writing. Got mode 'r'. "
                f'Type `Run.open("{self.path}", "a")`.'
            )
        return self._writer

    # ------------------------------------------------------------------ reading

    def _reading(self) -> Reader:
        if self._closed:
            raise ClosedError(f'This run was closed. Type `Run.open("{self.path}")` to read it.')
        writer = self._writer
        if writer is None:
            assert self._reader is not None
            return self._reader
        if not writer.foreign:
            writer.flush()
        with writer.mutex:
            # A connection of its own, so that a thread that reads does not hold up the training.
            if self._reader is None:
                self._reader = Reader(self.path)
            return self._reader

    @property
    def last_step(self) -> int:
        """Last step of any row or array, -1 when empty."""
        return self._reading().last_step() if self._writer is None else self._writer.last_step

    def names(self) -> list[str]:
        """Names of the series, in the order of declaration."""
        return self._reading().names()

    def describe(self, name: str) -> SeriesRecord:
        """Title, unit, place and null of a series (`UnknownSeriesError` if there is none)."""
        return self._reading().describe(name)

    def series(self, name: str) -> Series:
        """All rows of one series (`UnknownSeriesError` if there is none).

        The cost is one pass over the table: 0.1 s for 20 000 steps of 30 series. For a chart of a
        long run use `rollup`.

        Args:
            name: Name of the series.

        Returns:
            The rows by step, as numpy arrays.
        """
        return self._reading().series(name)

    def rows(
        self, after: int = -1, names: Iterable[str] | None = None
    ) -> Iterator[tuple[int, dict[str, Estimate]]]:
        """Steps in order, each with the estimates recorded at it: what a replay reads.

        Memory stays bounded however long the run is. While a run is written, its newest step may
        still grow: poll again from the step before it.

        Args:
            after: Only steps greater than this.
            names: Only these series, by default all; steps without any of them are left out.

        Returns:
            An iterator over ``(step, {series name: estimate})``; within a step the series come in
            the order of declaration.
        """
        return self._reading().rows(after, None if names is None else list(names))

    def rollup(self, name: str, points: int = 2000) -> Rollup:
        """A series in at most ``points`` buckets; the rows themselves if there are no more.

        Args:
            name: Name of the series.
            points: About the width of the chart in pixels.

        Returns:
            Minimum, maximum, mean and count of the finite values per bucket; the width of a bucket
            is 64 steps times a power of two, so buckets stay where they are while a run grows.
        """
        return self._reading().rollup(name, points)

    def arrays(self, name: str, after: int = -1) -> list[tuple[int, np.ndarray]]:
        """The arrays of a series, as ``(step, array)``, of the steps greater than ``after``."""
        return self._reading().arrays(name, after)

    def events(self, kind: str | None = None, after: int = 0) -> list[Event]:
        """Events in the order in which they were written.

        Args:
            kind: Only this kind.
            after: Only events whose id is greater, to poll for new ones.

        Returns:
            The events.
        """
        return self._reading().events(kind, after)
