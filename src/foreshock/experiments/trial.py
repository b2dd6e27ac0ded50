"""One trial of a sweep, in a process of its own: ``python -m foreshock.experiments.trial``.

It reads its task from standard input, one line of JSON, and dies with the process that holds the
other end of that pipe. The run is written into a hidden folder, ``.sweep/TRIAL/run``, and renamed
when it is finished: a folder with a trial's name is a finished trial, whatever was killed when.

Who works on a trial holds a lock in its hidden folder, which the operating system takes back when
the process ends, so two sweeps share a folder and neither repeats what the other does. Hidden
folders appear and vanish only while the lock of ``.sweep`` itself is held. A disk without file
locks bears one sweep at a time: nobody can tell there what is in work, so a sweep removes what its
own processes left and nothing else.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from foreshock.store import Run
from foreshock.store.disk import sync
from foreshock.store.lock import WriterLock, is_live

#: Below the folder of a sweep: what is not finished.
HIDDEN = ".sweep"
#: Below the folder of a sweep: recordings of trials that crashed, and runs that were repeated.
CRASHED, REPEATED = ".crashed", ".repeated"
#: Exit code: this trial is another process's (EX_TEMPFAIL).
BUSY = 75
#: Read by BLAS and torch when they are imported, so they are set for the process and not in it.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
#: Lines of a log that say what a crash was.
LAST_LINES = 12
_PR_SET_PDEATHSIG = 1
# Often enough for a progress bar, and 0.1 ms each.
_TELL_SECONDS = 0.3


@contextlib.contextmanager
def hidden(out: Path) -> Iterator[Path]:
    """The right to make and remove hidden folders, held for milliseconds.

    Args:
        out: Folder of the sweep.

    Yields:
        Its ``.sweep``.
    """
    home = out / HIDDEN
    home.mkdir(parents=True, exist_ok=True)
    while (lock := WriterLock.take(home)) is None:
        pass  # `take` waits half a second before it gives up
    try:
        yield home
    finally:
        lock.release()


def in_work(out: Path, name: str) -> bool:
    """Whether some process works on this trial at this moment."""
    return is_live(out / HIDDEN / name)


def clear(out: Path) -> None:
    """Remove what dead processes left unfinished; what is in work stays."""
    if not (out / HIDDEN).is_dir():
        return
    with hidden(out) as home:
        if not is_live(home):  # although we hold its lock: no locks here, and `hidden` has said so
            return
        for folder in home.iterdir():
            if folder.is_dir() and not is_live(folder):
                shutil.rmtree(folder, ignore_errors=True)


def discard(out: Path, name: str, *, crashed: bool = False) -> Path | None:
    """Remove what a process that has ended left of its trial, unless another took it over.

    Args:
        out: Folder of the sweep.
        name: Of the trial.
        crashed: Whether to keep what it recorded.

    Returns:
        Where that is, or ``None``.
    """
    kept = None
    with hidden(out) as home:
        folder = home / name
        if folder.is_dir() and not is_live(folder):
            if crashed and (folder / "run").is_dir():
                kept = set_aside(folder / "run", out / CRASHED / name)
            shutil.rmtree(folder, ignore_errors=True)
    return kept


def set_aside(run: Path, target: Path) -> Path:
    """Move a run to where nobody looks for finished ones, in place of what was there before.

    Args:
        run: Its folder.
        target: Where to.

    Returns:
        The same.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(run, target)
    return target


@contextlib.contextmanager
def claim(out: Path, name: str) -> Iterator[Path | None]:
    """The right to work on a trial, with an empty folder for it.

    Args:
        out: Folder of the sweep.
        name: Of the trial.

    Yields:
        The hidden folder, for `discard` to remove; ``None`` if another process has the right.
    """
    with hidden(out) as home:
        folder = home / name
        folder.mkdir(exist_ok=True)
        lock = WriterLock.take(folder)
        if lock is not None:
            shutil.rmtree(folder / "run", ignore_errors=True)
            (folder / "progress").unlink(missing_ok=True)
    if lock is None:
        yield None
        return
    try:
        yield folder
    finally:
        lock.release()


def code_of(module: str) -> dict[str, str]:
    """What made a run, beside its configuration.

    Args:
        module: Name of an experiment's module.

    Returns:
        ``sources``, a digest of this module and of those of its package that it imports, and the
        versions of ``foreshock`` and ``torch``.

    Examples:
        >>> sorted(code_of("foreshock.experiments.grokking"))
        ['foreshock', 'sources', 'torch']
    """
    package, seen, waiting = module.rpartition(".")[0], dict[str, bytes](), [module]
    while waiting:
        name = waiting.pop()
        spec = importlib.util.find_spec(name)
        if name in seen or spec is None or not spec.has_location or spec.origin is None:
            continue
        seen[name] = Path(spec.origin).read_bytes()
        for node in ast.walk(ast.parse(seen[name])):
            if isinstance(node, ast.ImportFrom) and node.module and package:
                if node.module.startswith(f"{package}."):
                    waiting.append(node.module)
                elif node.module == package:
                    waiting += [f"{package}.{alias.name}" for alias in node.names]
    text = b"\0".join(seen[name] for name in sorted(seen))
    told = {"sources": hashlib.sha256(text).hexdigest()[:16]}
    for library in ("foreshock", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # on a path only
            told[library] = importlib.metadata.version(library)
    return told


# ------------------------------------------------------------------ in the process of the sweep


class Child(Protocol):
    """A process that carries out a trial."""

    def poll(self) -> int | None:
        """Its exit code, or ``None`` while it runs."""
        ...

    def end(self) -> None:
        """Kill it and wait for its end."""
        ...

    def said(self) -> tuple[str, ...]:
        """The last lines it printed."""
        ...


def log_of(out: Path, name: str) -> Path:
    """The file that holds what the process of a trial printed."""
    return out / f"{name}.log"


class _Process:
    """The process of a trial; it lives while we hold the other end of its standard input."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path, offset: int) -> None:
        self._child, self._log, self._offset = child, log, offset

    def poll(self) -> int | None:
        code = self._child.poll()
        if code is not None:
            self._let_go()
        return code

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        self._let_go()

    def said(self) -> tuple[str, ...]:
        if not self._log.exists():
            return ()
        with open(self._log, "rb") as file:
            file.seek(self._offset)  # what attempts before this one said is not ours
            text = file.read().decode(errors="replace")
        return tuple(text.rstrip().splitlines()[-LAST_LINES:])

    def _let_go(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()


def environment(threads: int) -> dict[str, str]:
    """The environment of a trial: that of this process, with so many threads."""
    counts = dict.fromkeys(THREADS, str(threads))
    return {**os.environ, **counts, "PYTHONUNBUFFERED": "1"}


def start(task: Mapping[str, Any]) -> Child:
    """Start a process that carries out a task.

    Args:
        task: As for `carry_out`, without ``started``.

    Returns:
        The process. It adds to the log beside the run, and ends when this process does.
    """
    out = Path(task["out"])
    out.mkdir(parents=True, exist_ok=True)
    log = log_of(out, task["name"])
    path = [os.path.abspath(entry) for entry in sys.path]
    told = {**task, "parent": os.getpid(), "started": time.time(), "path": path}
    with open(log, "ab") as file:
        offset = file.tell()
        child = subprocess.Popen(
            # -P: what lies where the sweep was started hides no library; see `path` below.
            [sys.executable, "-P", "-m", "foreshock.experiments.trial"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(task["threads"]),
            start_new_session=True,  # Ctrl-C is for the sweep, which ends its trials
        )
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(told).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        pass  # it died at once; its exit code and log say so
    return _Process(child, log, offset)


def told(out: Path, name: str) -> float:
    """Which share of its steps a trial has made; 0 if it has not said."""
    try:
        done, total = (out / HIDDEN / name / "progress").read_text().split()
        return min(int(done) / max(int(total), 1), 1.0)
    except (OSError, ValueError):  # not there, or half written
        return 0.0


# ------------------------------------------------------------------ in the process of a trial


def carry_out(task: Mapping[str, Any]) -> int:
    """Run one trial, unless it is finished or in work.

    Args:
        task: ``module`` (which has an ``EXPERIMENT``), ``experiment`` (its name), ``config`` (all
            fields), ``small``, ``out`` (folder of the sweep), ``name`` (of the trial), ``started``
            (epoch seconds when the process was asked for), ``threads`` (of its numerical
            libraries), ``pace`` (seconds here for one of the reference).

    Returns:
        0, or `BUSY` if another process works on it or has finished it.
    """
    out, name = Path(task["out"]), task["name"]
    with claim(out, name) as folder:
        if folder is None or (out / name).exists():  # finished by another, just now
            return BUSY
        experiment = importlib.import_module(task["module"]).EXPERIMENT
        asked = {key: task[key] for key in ("experiment", "config", "small")}
        asked["code"] = code_of(task["module"])
        config = experiment.config(**{key: _tuples(v) for key, v in task["config"].items()})
        startup = time.time() - task["started"]
        start = time.perf_counter()
        path = folder / "run"
        experiment.run(config, path, progress=_teller(folder / "progress")).close()
        took = {"seconds": time.perf_counter() - start, "startup": startup}
        with Run.open(path, "a") as record:
            record.event("trial", "sweep", asked)
            record.event("timing", "sweep", took | {key: task[key] for key in ("threads", "pace")})
        os.rename(path, out / name)
        sync(out)
    return 0


def _tuples(value: Any) -> Any:
    """JSON has lists alone, frozen configurations tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _teller(file: Path) -> Any:
    """A progress function that writes ``done total`` into a file, now and then."""
    last = [0.0]

    def tell(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] >= _TELL_SECONDS:
            last[0] = now
            file.write_text(f"{done} {total}")

    return tell


def _die_with_parent(parent: int) -> None:
    """A killed sweep must not leave trials behind that go on."""
    # The pipe works on every system, as soon as the interpreter switches threads; the signal of
    # Linux also in the middle of a long call.
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _exit_at_end_of_input() -> None:
    # The descriptor itself: at its end the interpreter would wait for the lock of `sys.stdin`.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    _task = json.loads(sys.stdin.buffer.readline())
    _die_with_parent(_task["parent"])
    # Last, what the sweep can import: an experiment may lie beside the script that sweeps it.
    sys.path += [entry for entry in _task["path"] if entry not in sys.path]
    _code = carry_out(_task)
    # The run is closed and on disk. To take torch down again would be half a second of every trial.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_code)
