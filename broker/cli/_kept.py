"""The folders and files of an installation that hold patient data, and how loose each may be."""

from dataclasses import dataclass
from pathlib import Path

from broker.config.settings import Settings
from broker.files.modes import FILE, FOLDER, PRIVATE, make_folder, tighten, too_loose


@dataclass(frozen=True, slots=True)
class Kept:
    """One of them. `mode` is the most that others may do with it; a file is made by whoever needs it."""

    name: str
    path: Path
    mode: int

    @property
    def is_loose(self) -> bool:
        """Whether others may do more with it than they should."""
        return too_loose(self.path, self.mode)

    def prepare(self) -> bool:
        """Make the folder, or take from what is there what others should not have. Return whether it is as it should be."""
        if self.mode != FILE:
            make_folder(self.path, self.mode)
        return tighten(self.path, self.mode)


def kept(settings: Settings) -> list[Kept]:
    """Return all of them, each before what is in it."""
    found = [
        Kept("data", settings.data, FOLDER),
        Kept("online pictures", settings.online_folder, FOLDER),
        *([] if settings.archive.url else [Kept("archive", settings.archive_folder, FOLDER)]),
        Kept("documents", settings.documents_folder, FOLDER),
        Kept("audit spool", settings.audit_folder, FOLDER),
        Kept("run folder", settings.run_folder, PRIVATE),
    ]
    url = settings.database_url
    if url.startswith("sqlite:///"):
        file = url.removeprefix("sqlite:///").partition("?")[0]
        found += [Kept("database", Path(file + part), FILE) for part in ("", "-wal", "-shm")]
    return found
