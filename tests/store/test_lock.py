"""The writer's lock: exclusive, visible from outside, and gone with its process."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

import foreshock
from foreshock.store import Run, lock
from foreshock.store.lock import WriterLock, is_live


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from foreshock.store.lock import WriterLock\n"
        "held = WriterLock.take(pathlib.Path(sys.argv[1])); print(held is not None, flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(foreshock.__file__).parents[1])},
    )
    assert process.stdout is not None and process.stdin is not None
    with process.stdout, process.stdin:
        assert process.stdout.readline() == b"True\n"
        assert is_live(tmp_path)
        assert WriterLock.take(tmp_path) is None
        process.kill()
        process.wait(60)
    assert not is_live(tmp_path)
    held = WriterLock.take(tmp_path)
    assert held is not None
    held.release()


def test_asking_does_not_take(tmp_path: Path) -> None:
    assert not is_live(tmp_path)
    assert list(tmp_path.iterdir()) == []
    held = WriterLock.take(tmp_path)
    assert held is not None and is_live(tmp_path)
    held.release()
    held.release()
    assert not is_live(tmp_path)


def test_a_disk_without_locks_is_warned_about_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match=r"has no file locks \(Function not implemented\)"):
        run = Run.create(tmp_path / "run")
    run.close()
    assert not is_live(tmp_path / "run")
