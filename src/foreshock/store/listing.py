"""What lies in a folder of runs, and whether runs can be written and read there."""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path

from foreshock.store import identity
from foreshock.store.disk import choose_journal, filesystem, is_network, nearest
from foreshock.store.errors import NotARunError, StoreError
from foreshock.store.lock import WriterLock, is_live
from foreshock.store.reader import Reader
from foreshock.store.records import Check, RunSummary

# runs/<project>/<sweep>/<run>: deeper than that is somebody else's tree, and may be a whole disk.
_DEPTH = 3


def list_runs(root: str | os.PathLike[str]) -> list[RunSummary]:
    """The runs below a folder, oldest first.

    Half-built and hidden folders are passed over; a run that cannot be read is listed as
    ``"damaged"`` instead of hiding the others.

    Args:
        root: A folder of runs, up to three levels above them, or a run.

    Returns:
        One summary per run.

    Raises:
        NotARunError: If there is no such folder.

    Examples:
        >>> import tempfile
        >>> from foreshock.store import Run
        >>> root = tempfile.mkdtemp()
        >>> Run.create(f"{root}/exp1").close()
        >>> [(run.path.name, run.state, run.last_step) for run in list_runs(root)]
        [('exp1', 'closed', -1)]
    """
    root = Path(root)
    if not root.is_dir():
        raise NotARunError(
            f"There is no folder {root}. Give the folder that holds your runs, such as `runs`."
        )
    return sorted(map(_summary, _find(root, _DEPTH)), key=lambda run: (run.created, run.path))


def _find(folder: Path, depth: int) -> list[Path]:
    if identity.is_run(folder):
        return [folder]
    found: list[Path] = []
    if depth:
        try:
            children = sorted(folder.iterdir())
        except OSError:
            return []
        for child in children:
            if child.is_dir() and not child.name.startswith(".") and not child.is_symlink():
                found += _find(child, depth - 1)
    return found


def _summary(path: Path) -> RunSummary:
    info: dict = {}
    # Asked before the events are read: a run that closes in between reads as open, not crashed.
    live = is_live(path)
    try:
        info = identity.read(path)
        reader = Reader(path)
        try:
            state = "open" if live else "closed" if reader.was_closed() else "crashed"
            last_step, (n_series, n_alarms) = reader.last_step(), reader.sizes()
        finally:
            reader.close()
    except StoreError:
        state, last_step, n_series, n_alarms = "damaged", -1, 0, 0
    return RunSummary(
        id=str(info.get("id", path.name)),
        path=path,
        kind=str(info.get("kind", "")),
        state=state,
        last_step=last_step,
        created=str(info.get("created", "")),
        n_series=n_series,
        n_alarms=n_alarms,
    )


def doctor(root: str | os.PathLike[str] | None = None) -> list[Check]:
    """Whether runs can be written and read, here and in a given folder.

    Args:
        root: Folder of runs, need not exist; ``None`` checks only what does not depend on a disk.

    Returns:
        One finding each about SQLite, the WAL-reset bug, and, with a folder, its journal, whether
        it can be written, its locks, and what killed processes left there.

    Examples:
        >>> [check.name for check in doctor()]
        ['sqlite', 'wal-reset']
    """
    checks = [_sqlite(), _wal_reset(sqlite3.sqlite_version_info)]
    if root is None:
        return checks
    folder = nearest(Path(root))
    checks.append(_journal(folder))
    checks += _writable(folder)
    left = identity.leftovers(folder) if folder.is_dir() else []
    detail = ", ".join(map(str, left)) or "none"
    checks.append(
        Check(
            "leftovers",
            not left,
            f"half-built runs of killed processes: {detail}" + ("; delete them" if left else ""),
        )
    )
    return checks


def _sqlite() -> Check:
    # 3.35: the oldest one whose SQL this package was written for (UPSERT, row values, WITHOUT ROWID
    # and `ALTER TABLE` are older).
    ok = sqlite3.sqlite_version_info >= (3, 35)
    advice = "" if ok else "; at least 3.35 is needed: use a newer Python"
    return Check("sqlite", ok, f"SQLite {sqlite3.sqlite_version}{advice}")


def _wal_reset(version: tuple[int, ...]) -> Check:
    """The bug of 3.7.0 to 3.51.2 that loses pages when two connections write or checkpoint."""
    fixed = (
        version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    )
    number = ".".join(map(str, version))
    if fixed:
        return Check("wal-reset", True, f"SQLite {number} has the fix of the WAL-reset bug")
    # Not a failure: one connection writes and checkpoints, so the two that it needs never meet.
    return Check(
        "wal-reset",
        True,
        f"SQLite {number} has the WAL-reset bug (fixed in 3.44.6, 3.50.7, 3.51.3). Foreshock is "
        "not affected, because one connection alone writes and checkpoints a run; do not write to "
        "a run that is being recorded with other programs",
    )


def _journal(folder: Path) -> Check:
    kind = filesystem(folder)
    journal = choose_journal(folder, "auto")
    where = "a network disk" if is_network(kind) else "a local disk"
    advice = (
        "; each commit waits for the disk, so record to a local folder and copy it where you can"
        if journal == "truncate"
        else ""
    )
    return Check("journal", True, f"{folder} is {where} ({kind or 'unknown'}): {journal}{advice}")


def _writable(folder: Path) -> list[Check]:
    probe = folder / f".foreshock-doctor-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
    except OSError as error:
        return [Check("writable", False, f"{folder} cannot be written ({error})")]
    try:
        checks = [Check("writable", True, f"{folder} can be written")]
        lock = WriterLock.take(probe)
        live = is_live(probe)
        if lock is not None:
            lock.release()
        detail = "work" if live else "do not work: two writers of one run would not be noticed"
        checks.append(Check("locks", live, f"file locks on {folder} {detail}"))
        return checks
    finally:
        for file in probe.iterdir():
            file.unlink()
        probe.rmdir()
