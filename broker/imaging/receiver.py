"""Takes objects in: each is durable on disk before it is acknowledged, its rows follow within a second (`indexer`)."""

from dataclasses import replace

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import HEAD, OnlineStore, Part, StoredFile
from broker.config.profile import Hospital, Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging import header
from broker.imaging.indexer import Indexer
from broker.model.caller import Caller
from broker.model.errors import BrokerError, DimseCode, Rejected, Unavailable
from broker.model.ids import is_uid
from broker.model.imaging import StoredObject
from broker.wire import tags

SUCCESS = 0x0000


class Receiver:
    """The door through which pictures come in (`ports.Received`). One per process; `start` it before the first object."""

    def __init__(
        self, database: Database, online: OnlineStore, profile: Profile, coord: Coord, sdfo: Sdfo | None = None,
    ) -> None:
        self._online, self._profile = online, profile
        self._indexer = Indexer(database, online, profile, coord, sdfo)

    def start(self) -> None:
        """Begin to write index rows."""
        self._indexer.start()

    def stop(self) -> None:
        """Write the rows that wait, then end."""
        self._indexer.stop()

    def adopt_behind(self) -> None:
        """Begin to enter the files of recent days that a crash left without a row, beside what comes in."""
        self._indexer.adopt_behind()

    def open(self, caller: Caller, sop_class: str, sop_uid: str, transfer_syntax: str) -> "ReceivedFile":
        """Begin an object of the hospital that calls. Raise `Rejected` for UIDs that are not UIDs and for strangers,

        `Unavailable` when the store cannot take it or the index is too far behind.
        """
        hospital = self._profile.hospital_by_ae(caller.node)
        if hospital is None:
            raise Rejected(DimseCode.NOT_AUTHORISED, "the calling AE title belongs to no hospital")
        if not (is_uid(sop_class) and is_uid(sop_uid) and is_uid(transfer_syntax)):
            raise Rejected(DimseCode.INVALID_SOP_INSTANCE, "SOP Class, SOP Instance or Transfer Syntax UID is not a UID")
        if self._indexer.behind:
            raise Unavailable("index")
        begin = tags.part10_header(sop_class, sop_uid, transfer_syntax)
        part = self._online.begin()
        part.write(begin)
        meta = tags.FileMeta(sop_class, sop_uid, transfer_syntax, len(begin))
        return ReceivedFile(part, meta, hospital, self._indexer)


class ReceivedFile:
    """One object being received (`ports.ObjectWriter`)."""

    def __init__(self, part: Part, meta: tags.FileMeta, hospital: Hospital, indexer: Indexer) -> None:
        self._part, self._meta, self._hospital, self._indexer = part, meta, hospital, indexer
        indexer.announce(self)
        self._unread = True
        self._text: dict[str, str] | None = None
        self._stored: StoredObject | None = None
        self._kept: StoredFile | None = None

    @property
    def stored(self) -> StoredObject | None:
        """The object after `commit`, else None; its `sha256` is empty until `index`."""
        return self._stored

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the encoded data set. The first are read while the rest is on its way."""
        part = self._part
        part.write(data)
        if self._unread and part.size > HEAD:
            self._unread = False
            self._text = header.of_head(part.head, self._meta, self._hospital)

    def commit(self) -> int:
        """Make the object durable; return 0x0000, also for bytes that came before.

        Other bytes under a UID that is taken are kept aside: nothing is lost, so the sender hears success. Whether the
        object agrees with its study is found out when its row is written. Raise
        `Rejected` (nothing is kept) when the data set cannot be read or is another object than announced.
        """
        part = self._part
        try:
            text = self._text or header.identify(part.read, part.size, self._meta, self._hospital)
        except BrokerError:
            self.abort()
            raise
        self._kept = kept = part.commit(self._hospital.key, text["StudyInstanceUID"], self._meta.sop_uid)
        self._stored = StoredObject(
            hospital=self._hospital.key, study_uid=text["StudyInstanceUID"], series_uid=text["SeriesInstanceUID"],
            sop_uid=self._meta.sop_uid, sop_class=self._meta.sop_class, transfer_syntax=self._meta.transfer_syntax,
            path=kept.path, size=part.size, sha256="", tags=text)
        return SUCCESS

    def index(self) -> None:
        """Complete the object's SHA-256 and hand it to the index."""
        assert self._stored is not None
        assert self._kept is not None
        self._stored = replace(self._stored, sha256=self._part.sha256)
        self._indexer.add(self._stored, conflict=self._kept.conflict)
        self._indexer.forget(self)

    def abort(self) -> None:
        """Drop what was written; nothing is left behind."""
        self._part.abort()
        self._indexer.forget(self)
