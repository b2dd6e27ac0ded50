"""What a writer owes the process it lives in: a flush at its end, and silence after a fork."""

from __future__ import annotations

import atexit
import ctypes
import os
import sqlite3
import warnings
from threading import RLock
from typing import Any, Protocol

from foreshock.store.errors import StoreError
from foreshock.store.lock import WriterLock


class OpenWriter(Protocol):
    """What this module needs of a writer."""

    mutex: Any
    lock: WriterLock
    db: sqlite3.Connection

    def leave(self) -> None:
        """Commit what is pending and let the run go."""
        ...


# Strong references: a run that its user let go of without `close()` keeps its rows until the end.
_writers: dict[int, OpenWriter] = {}
_held: list[OpenWriter] = []
_guard = RLock()


def register(writer: OpenWriter) -> None:
    """From now on the writer is flushed at the end of the process and silenced by a fork."""
    with _guard:
        _writers[id(writer)] = writer


def unregister(writer: OpenWriter) -> None:
    """The writer has left by itself."""
    with _guard:
        _writers.pop(id(writer), None)


def never_close(db: sqlite3.Connection) -> None:
    """Keeps a connection that came through a fork from being closed in the child.

    SQLite forbids even that, and Python would do it at the latest at the end of the child. A
    reference that is never given back prevents it.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))


@atexit.register
def _leave_all() -> None:
    # A script that ends without `close()` loses nothing, though its run reads as crashed: whether
    # it came to its natural end cannot be known from here.
    for writer in list(_writers.values()):
        try:
            writer.leave()
        except StoreError as error:
            warnings.warn(str(error), stacklevel=1)


def _before_fork() -> None:
    # While these are held no transaction is under way, so the child's copy of a connection is idle.
    # The writers first, as in `leave`: one order for all, or two threads could wait for each other.
    _held.extend(list(_writers.values()))
    for writer in _held:
        writer.mutex.acquire()
    _guard.acquire()


def _after_fork_in_parent() -> None:
    _guard.release()
    for writer in _held:
        writer.mutex.release()
    _held.clear()


def _after_fork_in_child() -> None:
    _guard.release()
    for writer in _held:
        # The lock lives as long as one copy of its descriptor: a child that outlives a killed
        # parent (a data loader) must not keep the run locked.
        writer.lock.release()
        never_close(writer.db)
        writer.mutex.release()
    _held.clear()
    _writers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
