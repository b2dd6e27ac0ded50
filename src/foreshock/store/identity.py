"""``run.json`` and the folder around it: written once, under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import sqlite3
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.store import codec, schema
from foreshock.store.connect import DATA_FILE
from foreshock.store.disk import sync
from foreshock.store.errors import (
    DamagedError,
    FolderNotWritableError,
    NotARunError,
    RunExistsError,
)
from foreshock.store.lock import WriterLock

INFO_FILE = "run.json"
# A folder under construction is hidden and says whose it is: `.exp1.tmp-3f9a`.
_TEMPORARY = ".{name}.tmp-"
# Construction takes milliseconds; a half-built folder this old was left by a killed process.
_STALE_SECONDS = 60.0


def build(
    path: Path, kind: str, config: Mapping[str, Any] | None, seed: int | None, journal: str
) -> tuple[WriterLock, dict[str, Any]]:
    """Makes the folder of a new run appear at ``path`` all at once.

    Args:
        path: Where; must not exist, unless as an empty folder.
        kind: Kind of the run.
        config: What the run was started with.
        seed: Its seed.
        journal: ``"wal"`` or ``"truncate"``.

    Returns:
        The lock of the new run, held since before it became visible, and its identity.

    Raises:
        RunExistsError: If something is there.
        FolderNotWritableError: If the folder above cannot be written.
    """
    if _occupied(path):
        raise RunExistsError(_exists(path))
    info = {
        "id": f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "config": dict(config or {}),
        "seed": seed,
        "versions": _versions(),
        "schema": schema.SCHEMA,
    }
    body = codec.dumps(info)
    draft = path.parent / f"{_TEMPORARY.format(name=path.name)}{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        draft.mkdir()
    except OSError as error:
        raise FolderNotWritableError(_not_writable(path, error)) from error
    lock: WriterLock | None = None
    try:
        lock = WriterLock.take(draft)
        assert lock is not None  # The name is random: nobody else knows the folder.
        with open(draft / INFO_FILE, "w", encoding="utf-8") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        # Closed before the rename: SQLite remembers the full name of its journal.
        db = sqlite3.connect(draft / DATA_FILE, isolation_level=None)
        try:
            # Nobody sees the draft, so SQLite need not sync each of its steps: one sync at the end
            # is enough. The first journal mode is written here because changing it costs two more.
            db.execute("PRAGMA synchronous = OFF")
            db.execute(f"PRAGMA journal_mode = {journal}")
            schema.create(db)
        finally:
            db.close()
        for file in (draft / DATA_FILE, draft):
            sync(file)
        os.rename(draft, path)
        sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        _discard(draft, lock)
        if _occupied(path):  # Someone else made it in the meantime.
            raise RunExistsError(_exists(path)) from error
        raise FolderNotWritableError(_not_writable(path, error)) from error
    except BaseException:
        _discard(draft, lock)
        raise
    return lock, json.loads(body)


def read(path: Path) -> dict[str, Any]:
    """The identity of a run.

    Args:
        path: Folder of the run.

    Returns:
        The content of its ``run.json``.

    Raises:
        NotARunError: If there is no ``run.json``.
        DamagedError: If it is not what was written there.
    """
    file = path / INFO_FILE
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotARunError(
            f"{path} is not a run: it has no {INFO_FILE}. "
            f"Type `foreshock ls {path.parent}` to see the runs there."
        ) from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{file} cannot be read ({error}). Restore it from a copy.") from error
    if not isinstance(info, dict) or "id" not in info:
        raise NotARunError(f"{file} was not written by Foreshock: it holds no `id`.")
    return info


def is_run(path: Path) -> bool:
    """Whether the folder looks like a run."""
    return (path / INFO_FILE).is_file()


def leftovers(folder: Path) -> list[Path]:
    """Half-built runs in this folder whose makers were killed."""
    now = time.time()
    found = []
    for draft in sorted(folder.glob(_TEMPORARY.format(name="*") + "*")):
        try:
            stale = now - draft.stat().st_mtime > _STALE_SECONDS
        except OSError:
            continue
        if stale and draft.is_dir():
            found.append(draft)
    return found


def _sweep(path: Path) -> None:
    """Removes what killed makers of this very run left behind."""
    for draft in leftovers(path.parent):
        if draft.name.startswith(_TEMPORARY.format(name=path.name)):
            lock = WriterLock.take(draft)
            if lock is not None:
                _discard(draft, lock)


def _discard(draft: Path, lock: WriterLock | None) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    if lock is not None:
        lock.release()


def _occupied(path: Path) -> bool:
    try:
        # An empty folder is as good as none: `rename` replaces it in one step.
        return os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))
    except OSError:
        return True


def _exists(path: Path) -> str:
    what = "holds a run" if is_run(path) else "exists and is not empty"
    return (
        f'{path} already {what}. Type `Run.open("{path}", "a")` to continue a run, choose another '
        "path, or delete the folder first."
    )


def _not_writable(path: Path, error: Exception) -> str:
    return (
        f"The run {path} cannot be created ({error}). Choose a path below a folder that you may "
        f"write, on a disk with room; `foreshock doctor` checks one."
    )


def _versions() -> dict[str, str | None]:
    return {
        "foreshock": _version("foreshock"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def _version(package: str) -> str | None:
    # Asked of the module where it is loaded, because the store must not be what imports torch.
    known = getattr(sys.modules.get(package), "__version__", None)
    if known is not None:
        return str(known)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
