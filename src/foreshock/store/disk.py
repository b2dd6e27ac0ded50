"""Which file system a run lies on, and which SQLite journal is safe there."""

from __future__ import annotations

import os
import re
from pathlib import Path

# WAL needs memory shared between the processes that open the file; these file systems have none
# across hosts, or break its locks, and a WAL on them corrupts. `9p` and `virtiofs` are the shared
# folders of virtual machines and WSL.
_NETWORK = frozenset(
    "9p afs beegfs ceph cifs glusterfs gfs2 gpfs lustre mmfs ncpfs nfs nfs4 ocfs2 orangefs panfs "
    "pvfs2 smb2 smb3 smbfs virtiofs vboxsf wekafs".split()
)
# A FUSE file system is taken for a network disk (sshfs, s3fs, gcsfuse, JuiceFS ...) except these.
_LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.ntfs", "fuse.ntfs-3g"})

JOURNALS = ("auto", "wal", "truncate")


def nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = Path(os.path.abspath(path))
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def filesystem(path: Path, mountinfo: str | None = None) -> str:
    r"""Type of the file system that holds (or would hold) ``path``, ``""`` where unknown.

    Args:
        path: Need not exist.
        mountinfo: Text of ``/proc/self/mountinfo``, read from there by default. Where there is no
            such file (macOS) the answer is ``""``.

    Returns:
        The type as the kernel names it, such as ``"ext4"`` or ``"nfs4"``.

    Examples:
        >>> table = "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / /mnt/my\\040data rw - nfs4 s:/ rw"
        >>> filesystem(Path("/mnt/my data/runs"), table), filesystem(Path("/mnt"), table)
        ('nfs4', 'ext4')
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        path = Path(os.path.realpath(nearest(path)))
    found, kind = -1, ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        columns, kinds = fields.split(), rest.split()
        if len(columns) < 5 or not kinds:
            continue
        # The kernel writes a blank in a mount point as \040.
        mount = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), columns[4]))
        # >=: of two mounts on one point, the later one covers the earlier.
        if path.is_relative_to(mount) and len(mount.parts) >= found:
            found, kind = len(mount.parts), kinds[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether a file system of this type may lie on another machine.

    Args:
        kind: As `filesystem` returns it.

    Returns:
        True for network disks and for FUSE; an unknown disk is taken for a local one.

    Examples:
        >>> [is_network(k) for k in ("ext4", "nfs4", "fuse.sshfs", "fuseblk", "")]
        [False, True, True, False, False]
    """
    if kind in _LOCAL_FUSE:
        return False
    return kind in _NETWORK or kind == "fuse" or kind.startswith("fuse.")


def choose_journal(path: Path, journal: str) -> str:
    """Which journal to use.

    Args:
        path: Where the run is, or will be.
        journal: ``"auto"``, ``"wal"`` or ``"truncate"``.

    Returns:
        ``"wal"`` or ``"truncate"``, by what the disk under ``path`` can do unless told.

    Raises:
        ValueError: If ``journal`` is not one of the three words.
    """
    if journal not in JOURNALS:
        raise ValueError(
            f'The `journal` of a `Run` must be "auto", "wal" or "truncate". Got {journal!r}.'
        )
    if journal != "auto":
        return journal
    return "truncate" if is_network(filesystem(path)) else "wal"


def sync(path: Path) -> None:
    """Makes the content of a file, or the entries of a folder, survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # Some network disks cannot sync a folder; the rename itself is still atomic.
    finally:
        os.close(fd)
