"""Which disk is which, and which journal follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreshock.store import Run, disk
from tests.store.oracles import query

TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:28 / /home rw - autofs systemd-1 rw
31 30 0:29 / /home rw,relatime shared:3 master:1 - nfs4 server:/home rw
32 22 0:30 / /scratch rw - lustre 10.0.0.1@tcp:/fs rw
33 22 0:31 / /scratch/local rw - xfs /dev/nvme0n1 rw
34 22 0:32 / /mnt/my\040bucket rw - fuse.gcsfuse bucket rw
35 22 8:1 / /mnt/usb rw - fuseblk /dev/sdb1 rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/var/runs", "ext4", False),
        ("/home/me/runs", "nfs4", True),  # the later mount covers the automounter's
        ("/homework", "ext4", False),  # a prefix of letters is not a folder above
        ("/scratch/me", "lustre", True),
        ("/scratch/local/me", "xfs", False),
        ("/mnt/my bucket/runs", "fuse.gcsfuse", True),
        ("/mnt/usb/runs", "fuseblk", False),
    ],
)
def test_the_longest_mount_decides(path: str, kind: str, network: bool) -> None:
    assert disk.filesystem(Path(path), TABLE) == kind
    assert disk.is_network(kind) is network


def test_an_unknown_disk_is_taken_for_local() -> None:
    assert disk.filesystem(Path("/x"), "") == ""
    assert not disk.is_network("")


def test_a_path_that_does_not_exist_lies_on_the_disk_of_the_folder_above(tmp_path: Path) -> None:
    assert disk.nearest(tmp_path / "a" / "b") == tmp_path
    assert disk.filesystem(tmp_path / "a" / "b") == disk.filesystem(tmp_path)


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("ext4", "auto", ("wal", 1)),
        ("nfs4", "auto", ("truncate", 2)),
        ("nfs4", "wal", ("wal", 1)),
        ("ext4", "truncate", ("truncate", 2)),
    ],
)
def test_the_journal_follows_the_disk_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, asked: str, expected: tuple
) -> None:
    monkeypatch.setattr(disk, "filesystem", lambda path: kind)
    run = Run.create(tmp_path / "run", journal=asked)  # type: ignore[arg-type]
    assert run._writer is not None
    db = run._writer.db
    # 1 is NORMAL, 2 is FULL.
    (mode,), (synchronous,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")
    )
    run.close()
    assert (mode, synchronous) == expected
    # Closed, it is a single file whatever the journal was.
    assert query(tmp_path / "run", "PRAGMA journal_mode") == [("delete",)]
    names = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert names == ["data.sqlite", "run.json", "writer.lock"]


def test_an_unknown_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"The `journal` of a `Run` must be .* Got 'off'"):
        Run.create(tmp_path / "run", journal="off")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
