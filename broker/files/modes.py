"""Who may read what we keep: our user, our group to read, nobody else. Pictures, documents and the index are patient data."""

import os
import stat
from pathlib import Path

UMASK = 0o027       # for everything that is made without a mode of its own
FOLDER = 0o750
FILE = 0o640
PRIVATE = 0o700     # where only processes of our own user meet


def make_folder(folder: Path, mode: int = FOLDER) -> None:
    """Make a folder that may be there already, with its missing parents, none of them looser than `mode`. Raise OSError."""
    try:
        folder.mkdir(mode)
    except FileNotFoundError:
        make_folder(folder.parent, mode)
        folder.mkdir(mode, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise


def make_file(file: Path) -> None:
    """Make an empty file that may be there already, not looser than `FILE`. Raise OSError."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE))


def too_loose(path: Path, mode: int) -> bool:
    """Return whether others may do more with a file or folder than `mode` says; False when it is not there."""
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o777 & ~mode)
    except OSError:
        return False


def tighten(path: Path, mode: int) -> bool:
    """Take from a file or folder of ours what `mode` does not say. Return whether it is as tight as that now.

    A folder with the sticky bit is everybody's and left alone.
    """
    if not too_loose(path, mode):
        return True
    try:
        found = path.stat()
        if found.st_mode & stat.S_ISVTX:
            return False
        path.chmod(stat.S_IMODE(found.st_mode) & mode)
    except OSError:
        return False
    return True
