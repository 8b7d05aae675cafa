"""The document store: files `<folder>/<first two hash digits>/<token>` and one row for each.

A document with nobody knowing its registration's fate must neither vanish nor be left without a row, whenever the
process dies. So the row comes first and goes last, and a registry that is another transaction (or another machine)
decides in between:

    pending   a call owns it: the file becomes durable, then the registry is asked
    stored    the registry said yes
    kept      the registry did not answer, or the call died after the file was durable: nobody may drop it any more
    (gone)    the registry said no: file first, then row; only the call that brought the document does this

All three are retrievable, as ITI TF-2 3.41.4.1.3 wants the bytes to be there before the entry is: a uniqueId is known
only to its sender until it is registered. Repeating a submission finds the kept bytes and commits them. One uniqueId
has one content: other bytes are refused, the same bytes are stored once. Two calls that bring the same new document
at the same time each hold their own file until the first has committed.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from broker.db import Database, Lock, lock
from broker.files.durable import fsync_folder, sweep_folder
from broker.files.modes import make_file, make_folder
from broker.files.sources import FileSlice, Spooled
from broker.model.errors import Problem, Rejected, Unavailable, XdsCode
from broker.model.ports import Unit
from broker.repository import store
from broker.repository.store import Document

log = structlog.get_logger("broker.repository")

GRACE = 3600.0      # seconds after which a pending document's call is taken for dead; no call lives so long
_INCOMING = ".incoming"
_NO_LINK = frozenset((errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS))


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingDocument:
    """A document that came with a submission."""

    unique_id: str
    mime_type: str
    spooled: Spooled


@dataclass(slots=True)
class StagedDocuments:
    """Documents of one submission: the uniqueIds, and the rows this call added for those that were not there."""

    unique_ids: tuple[str, ...]
    added: list[Document] = field(default_factory=list)


class Documents:
    """The files and rows below one folder. Several processes may share it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder

    def incoming(self) -> Path:
        """Return the folder for files that are no documents yet; it is on the same disk as the documents."""
        folder = self._folder / _INCOMING
        try:
            make_folder(folder)
        except OSError as error:
            raise Unavailable.store("document store", error) from error
        return folder

    def stage(self, documents: Sequence[IncomingDocument]) -> StagedDocuments:
        """Make the documents durable and retrievable; their spooled files stay their owner's.

        Raise `Rejected` (XDSNonIdenticalHash) for a uniqueId that has other bytes, `Unavailable` when the disk does
        not take them; nothing is left then.
        """
        staged = self._enter(documents)
        try:
            for row, document in zip(staged.added, self._new(staged, documents), strict=True):
                self._place(document.spooled.path, self._folder / row.path)
        except OSError as error:
            log.error("a document could not be written", reason=errno.errorcode.get(error.errno or 0, "OSError"))
            self.discard(staged)
            raise Unavailable.store("document store", error) from error
        return staged

    def commit(self, staged: StagedDocuments) -> None:
        """The registry said yes: the documents are stored, each once."""
        surplus: list[Document] = []
        try:
            with self._database.write() as unit:
                lock(unit, Lock.DOCUMENT, staged.unique_ids)
                store.confirm(unit, staged.unique_ids)
                for row in staged.added:
                    if any(other.state == store.STORED and other.id != row.id for other in store.find(unit, row.unique_id)):
                        surplus.append(row)
                    else:
                        store.mark(unit, [row.id], "registered")
        except Unavailable:
            log.warning("documents are registered but still marked pending", documents=len(staged.added))
        self.discard(StagedDocuments(staged.unique_ids, surplus))

    def keep_undecided(self, staged: StagedDocuments) -> None:
        """The registry did not answer: what it decided is unknown, so the documents stay."""
        with contextlib.suppress(Unavailable), self._database.write() as unit:
            store.mark(unit, [row.id for row in staged.added], "undecided")

    def discard(self, staged: StagedDocuments) -> None:
        """The registry said no: take back what this call brought, never what was there before."""
        gone = [row.id for row in staged.added if _unlink(self._folder / row.path)]
        if gone:
            with contextlib.suppress(Unavailable), self._database.write() as unit:
                store.remove(unit, gone)

    def find(self, unique_id: str) -> tuple[Document, FileSlice] | None:
        """Return a document and its bytes; None when it is unknown or its file is not whole."""
        return self.find_all([unique_id]).get(unique_id)

    def find_all(self, unique_ids: Iterable[str]) -> dict[str, tuple[Document, FileSlice]]:
        """Return those of these documents that are known, with their bytes, as far as their files are whole."""
        with self._database.read() as unit:
            rows = store.find_all(unit, unique_ids)
        found = {unique_id: self._whole(listed) for unique_id, listed in rows.items()}
        return {unique_id: one for unique_id, one in found.items() if one is not None}

    def _whole(self, rows: Sequence[Document]) -> tuple[Document, FileSlice] | None:
        for row in rows:
            path = self._folder / row.path
            if _size(path) == row.size:
                return row, FileSlice(str(path), row.size)
        if any(row.state != store.PENDING for row in rows):
            log.error("a document's file is missing or damaged", document=rows[0].id)
        return None

    def recover(self, now: float) -> None:
        """Clear up after calls that died: rows that never got their file go, files whose fate is unknown are kept, once."""
        kept: list[int] = []
        with self._database.write() as unit:
            rows = store.pending_before(unit, now - GRACE)
            for row in rows:
                if self._is_whole(row) and not self._is_surplus(unit, row, kept):
                    kept.append(row.id)
            gone = [row for row in rows if row.id not in kept]
            store.mark(unit, kept, "undecided")
            store.remove(unit, [row.id for row in gone if _unlink(self._folder / row.path)])
        sweep_folder(self.incoming(), now - GRACE)
        if rows:
            log.warning("documents of interrupted submissions", kept=len(kept), dropped=len(gone))

    def _is_whole(self, row: Document) -> bool:
        return _size(self._folder / row.path) == row.size

    def _is_surplus(self, unit: Unit, row: Document, kept: Sequence[int]) -> bool:
        """Say whether a repetition of the submission brought the same document again, and that one stays."""
        return any(
            other.id != row.id and (other.state != store.PENDING or other.id in kept) and self._is_whole(other)
            for other in store.find(unit, row.unique_id))

    def _enter(self, documents: Sequence[IncomingDocument]) -> StagedDocuments:
        """Enter a pending row for each document that is not there yet, all or none."""
        staged = StagedDocuments(tuple(document.unique_id for document in documents))
        problems: list[Problem] = []
        with self._database.write() as unit:
            lock(unit, Lock.DOCUMENT, staged.unique_ids)
            for document in documents:
                known = store.find(unit, document.unique_id)
                if any(row.sha1 != document.spooled.sha1 for row in known):
                    problems.append(Problem(
                        XdsCode.NON_IDENTICAL_HASH, f"document {document.unique_id} is already stored with other content"))
                elif not any(row.state != store.PENDING for row in known):
                    staged.added.append(_entered(unit, document))
            if problems:
                raise Rejected.of(problems)
        return staged

    @staticmethod
    def _new(staged: StagedDocuments, documents: Sequence[IncomingDocument]) -> list[IncomingDocument]:
        added = {row.unique_id for row in staged.added}
        return [document for document in documents if document.unique_id in added]

    def _place(self, source: str, target: Path) -> None:
        """Return the file its second name, or copy it where the disk is another; durable when this returns."""
        if not target.parent.is_dir():
            make_folder(target.parent)
            fsync_folder(str(self._folder))
        _fsync(source)
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            near = self.incoming() / target.name
            make_file(near)
            shutil.copyfile(source, near)
            _fsync(str(near))
            os.rename(near, target)
        fsync_folder(str(target.parent))


def _entered(unit: Unit, document: IncomingDocument) -> Document:
    digest = document.spooled.sha1
    row = Document(
        unique_id=document.unique_id, sha1=digest, size=document.spooled.size, mime_type=document.mime_type,
        path=f"{digest[:2]}/{secrets.token_hex(16)}", at=time.time())
    return replace(row, id=store.add(unit, row))


def _unlink(path: Path) -> bool:
    """Remove a file and say whether it is gone; a row outlives a file that cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.error("a document could not be removed", reason=errno.errorcode.get(error.errno or 0, "OSError"))
        return False
    return True


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _fsync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
