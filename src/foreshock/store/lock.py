"""One writer per run: an advisory lock of the operating system that dies with its process.

The lock lies on a file of its own. SQLite's POSIX locks on ``data.sqlite`` belong to a process as
a whole and are dropped when *any* descriptor of that file is closed, which is also why nothing in
this package opens ``data.sqlite`` except through SQLite.
"""

from __future__ import annotations

import errno
import os
import time
import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_FILE = "writer.lock"
# Whoever asks whether a run is live holds a shared lock for an instant; a writer waits it out.
_PATIENCE = 0.5


class WriterLock:
    """The right to write a run, held while the object is.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lock = WriterLock.take(folder)
        >>> is_live(folder), WriterLock.take(folder) is None
        (True, True)
        >>> lock.release()
        >>> is_live(folder)
        False
    """

    def __init__(self, fd: int) -> None:
        """Use `WriterLock.take`."""
        self._fd = fd

    @classmethod
    def take(cls, folder: Path) -> WriterLock | None:
        """The lock of a run's folder, or ``None`` if someone else holds it."""
        fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                if _flock(fd, exclusive=True):
                    return cls(fd)
            except OSError as error:
                # The disk has no locks (Lustre without `-o flock`): say so, do not refuse to work.
                warnings.warn(
                    f"The disk of {folder} has no file locks ({error.strerror}); make sure that "
                    "only one process writes this run.",
                    stacklevel=4,
                )
                return cls(fd)
            if time.monotonic() > until:
                os.close(fd)
                return None
            time.sleep(0.01)

    def release(self) -> None:
        """Lets the lock go; the file stays, because removing it would race with the next taker.

        In a forked child this closes the child's copy only: the parent keeps the lock.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_live(folder: Path) -> bool:
    """Whether some process holds the writer's lock of this run at this moment."""
    try:
        fd = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _flock(fd, exclusive=False)
    except OSError:
        return False
    finally:
        os.close(fd)


def _flock(fd: int, *, exclusive: bool) -> bool:
    """Whether the lock was free; raises OSError where the disk has no locks."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no flock on this system")
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
