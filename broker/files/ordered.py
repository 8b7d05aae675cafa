"""File systems that write an object's bytes before its name: there both become durable in one step instead of two.

See docs/decisions/0044-object-and-name-in-one-commit.md. Linux only; anywhere else the answer is no.
"""

import ctypes
import os
from pathlib import Path

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4     # <linux/fs.h>, SYNC_FILE_RANGE_*
_MOUNTS, _EXT4, _DEVICES = Path("/proc/self/mountinfo"), Path("/proc/fs/ext4"), Path("/sys/dev/block")
_KEEPS_ORDER = frozenset(("data=ordered", "data=journal"))

_libc = ctypes.CDLL(None, use_errno=True)


def is_ordered(folder: Path) -> bool:
    """Say whether the file system of `folder` journals a name only after the bytes that were written back before it.

    ext4 with a journal in mode `ordered` or `journal`, and XFS do. Raise OSError when `folder` is not there.
    """
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kind = _kind(number)
    if kind == "ext4":
        return not _KEEPS_ORDER.isdisjoint(_ext4_options(number))
    return kind == "xfs"


def write_back(handle: int) -> None:
    """Return when the bytes of an open file are on its device, if not yet safe there. Raise OSError when it fails."""
    flags = _WAIT_BEFORE | _WRITE | _WAIT_AFTER
    if _libc.sync_file_range(handle, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _kind(number: str) -> str:
    """Return the type of the mounted file system with this device number; empty when the system does not tell."""
    try:
        mounts = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in mounts:     # "36 35 98:0 /root /mount options ... - type source options", proc(5)
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return ""


def _ext4_options(number: str) -> list[str]:
    """Return the options a mounted ext4 has in force; one without a journal has no `data=`."""
    try:
        name = Path(os.readlink(_DEVICES / number)).name
        return (_EXT4 / name / "options").read_text("ascii").split()
    except OSError:
        return []
