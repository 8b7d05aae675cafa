"""The local append-only audit spool: one file a day, one message a line, every line written whole."""

import errno
import fcntl
import os
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import structlog

from broker.audit.message import write_messages
from broker.files.modes import FILE, make_folder
from broker.model.caller import AuditFacts, Caller
from broker.model.transaction import Outcome, TransactionRow

log = structlog.get_logger("broker.audit")


class AuditLog:
    """Appends audit messages; never fails or blocks the work (ITI TF-1 9.2.2). Several processes may share a folder."""

    def __init__(self, folder: Path, source_id: str, site: str) -> None:
        self._folder, self._source_id, self._site = folder, source_id, site
        self._guard = threading.Lock()
        self._day = date.min
        self._handle = -1
        self.lost = 0

    def record(self, row: TransactionRow, caller: Caller, facts: AuditFacts, outcome: Outcome, description: str = "") -> None:
        """Append the messages of one call. A full or missing disk is counted in `lost` and logged, nothing else."""
        now = datetime.now(UTC)
        lines = write_messages(
            row, caller, facts, outcome, description=description, source_id=self._source_id, site=self._site, when=now)
        data = "".join([(line.replace("\n", "&#10;") if "\n" in line else line) + "\n" for line in lines]).encode()
        try:
            self._append(now.date(), data)
        except OSError as error:
            self.lost += len(lines)
            log.error("audit record lost", reason=error.strerror, lost=self.lost)

    def close(self) -> None:
        """Close the file of the day; a later record opens it again."""
        last, self._handle, self._day = self._handle, -1, date.min
        if last >= 0:
            os.close(last)

    __del__ = close     # a log that nobody has any more keeps no descriptor

    def _append(self, day: date, data: bytes) -> None:
        with self._guard:
            if day != self._day:
                make_folder(self._folder)
                self.close()
                self._handle = os.open(self._folder / f"audit-{day:%Y%m%d}.xml", os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE)
                self._day = day
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            try:
                self._write(data)
            finally:
                fcntl.flock(self._handle, fcntl.LOCK_UN)

    def _write(self, data: bytes) -> None:
        """Write a record whole, or take back what a full disk took of it: the next one must not go on in its line."""
        written = os.write(self._handle, data)
        if written != len(data):
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
