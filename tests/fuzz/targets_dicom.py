"""DICOM: data sets, manifests, P-DATA streams, whole associations, and objects as the receiver takes them."""

import contextlib
import itertools
import json
import random
import shutil
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil

from broker.archive.tiers.online import OnlineStore
from broker.audit.spool import AuditLog
from broker.config import profile as profiles
from broker.db import Database
from broker.db import schema as database_schema
from broker.edge.dimse import pdata, scu
from broker.edge.dimse.association import Accept, Answered, Context
from broker.edge.dimse.c_store import IncomingObject, StoreRequest
from broker.edge.dimse.listener import Listener
from broker.edge.dimse.messages import Messages
from broker.edge.dimse.pdata import Limits, PeerGone, ProtocolError, UpperLayer
from broker.edge.dimse.requestor import Patience, Requestor
from broker.imaging import header
from broker.imaging.receiver import Receiver
from broker.model.charsets import CharacterSets
from broker.model.errors import BrokerError, Rejected, TooLarge
from broker.model.ids import is_uid
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire import dicom_json, tags
from broker.wire.kos import read_manifest
from broker.wire.tags import NotDicom, Truncated
from tests.fuzz.columns import misfits
from tests.fuzz.harness import Reader, Target
from tests.helpers.dicom import HOSPITAL, Board, sender, short_settings
from tests.helpers.waiting import eventually

CT = "1.2.840.10008.5.1.4.1.1.2"
_SYNTAXES = ("1.2.840.10008.1.2.1", tags.IMPLICIT, tags.BIG_ENDIAN, tags.DEFLATED)
_GROWTH = 64 << 20       # bytes in use that one connection may add
_CHARSETS = ("", "GB18030", "utf-8", "ISO_IR 100", "nonsense")
WORDS = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff", b"\x40\x00\x75\xa3SQ\0\0\xff\xff\xff\xff", b"\x08\x00\x05\x00CS\x0a\0ISO_IR 192",
    b"\x08\x00\x05\x00CS\x08\0GB18030 ", b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99", b"UN\0\0\xff\xff\xff\xff",
    b"OB\0\0", b"1.2.840.10008.1.2", b"\\ISO 2022 IR 58", b"\xff\xff\xff\xff", b"\xff\xff", b"\0\0\0\0",
)
PDU_WORDS = (
    b"\x04\0\0\0\0\x06", b"\x05\0\0\0\0\x04\0\0\0\0", b"\x07\0\0\0\0\x04\0\0\0\0", b"\0\0\0\x02\x01\x02", b"\0\0\0\x02\x01\x03",
    b"\0\0\0\x01", b"\0\0\0\0", b"\x04\0\xff\xff\xff\xff", b"\0\0\0\x01\x02\0\0\0\x01\0", b"\0\0\0\x08\x02\0\0\0\x01\x01",
    b"\x01\x00", b"\x03\x02",
)


def _tags(_scratch: Path) -> Reader:
    """The first byte says how the data set behind it is written; 4 and above: a whole Part-10 file."""
    def read(data: bytes) -> str:
        way, body = data[0] % 6 if data else 0, data[1:]
        charset = _CHARSETS[len(data) % len(_CHARSETS)]
        if way >= len(_SYNTAXES):
            return f"file {_look(body, tags.read_meta(body), charset)}"
        syntax = _SYNTAXES[way]
        if syntax == tags.DEFLATED:
            return _look(_deflate(body), tags.FileMeta(CT, "1.2", syntax, 0), charset)
        whole = tags.scan(body, syntax, whole=True)
        for part in (len(body) // 3, len(body) * 2 // 3):
            with contextlib.suppress(Truncated):
                assert tags.scan(body[:part], syntax) == whole, "the beginning says something else than the whole"
        return _look(body, tags.FileMeta(CT, "1.2", syntax, 0), charset)
    return read


def _deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


def _look(data: bytes, meta: tags.FileMeta, charset: str) -> str:
    text = tags.study_tags(tags.scan(data, meta.transfer_syntax, meta.end, whole=True), CharacterSets(charset))
    for value in text.values():
        value.encode()
    return f"{meta.transfer_syntax[-5:]} {len(text)}"


def _identify(_scratch: Path) -> Reader:
    """Objects as C-STORE brings them; what the scanner cannot read pydicom is asked for."""
    def read(data: bytes) -> str:
        syntax = _SYNTAXES[data[0] % 4 if data else 0]
        body = _deflate(data[1:]) if syntax == tags.DEFLATED else data[1:]
        begin = tags.part10_header(CT, "2.25.1.1.1", syntax)
        whole = begin + body
        meta = tags.FileMeta(CT, "2.25.1.1.1", syntax, len(begin))
        text = header.identify(lambda at, length: whole[at:at + length], len(whole), meta, HOSPITAL)
        return f"{syntax[-5:]} {len(text)}"
    return read


def _attributes(_scratch: Path) -> Reader:
    """The beginning of a picture that is being packed, of which its container's header is made."""
    def read(data: bytes) -> str:
        syntax = _SYNTAXES[data[0] % 4 if data else 0]
        body = _deflate(data[1:]) if syntax == tags.DEFLATED else data[1:]
        found = dicom_json.describe(tags.part10_header(CT, "2.25.1.1.1", syntax) + body)
        assert json.loads(dicom_json.write(found)) == found
        return f"{syntax[-5:]} {len(found)} {sum('Value' in one for one in found.values())}"
    return read


def _kos(_scratch: Path) -> Reader:
    def read(data: bytes) -> str:
        manifest = read_manifest(data)
        assert all(is_uid(uid) for ref in manifest.instances for uid in (ref.study_uid, ref.series_uid, ref.sop_uid))
        return f"{len(manifest.instances)} of {len(manifest.retrieve_aes)}"
    return read


class _Wire:
    """A socket that gives what it was given, in pieces, and keeps what is sent."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data, self._at, self._source = data, 0, random.Random(seed)
        self._most = self._source.choice((1, 5, 100, 1 << 18))
        self.sent = bytearray()

    def recv_into(self, view: memoryview, size: int, _flags: int) -> int:
        count = min(self._source.randint(1, self._most), size or len(view), len(self._data) - self._at)
        view[:count] = self._data[self._at:self._at + count]
        self._at += count
        return count

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, _seconds: float | None) -> None:
        """Nothing waits here."""

    def setsockopt(self, *_option: int | bytes) -> None:
        """Nothing to set."""


class _Sink:
    """An object that is kept in memory; refuses one that says so."""

    stored = None

    def __init__(self, said: list[Any]) -> None:
        self._said, self._data = said, bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._data += data
        if b"refuse" in self._data:
            raise Rejected("C000", "no")

    def commit(self) -> int:
        return 0

    def index(self) -> None:
        self._said.append(("stored", bytes(self._data)))

    def abort(self) -> None:
        self._said.append("dropped")


def converse(stream: bytes, seed: int) -> tuple[list[Any], bytes]:
    """Let a upper with contexts 1, 3 and 5 read a stream in pieces of chance; return what it made of it and what it answered."""
    said: list[Any] = []
    wire = _Wire(stream, seed)
    upper = UpperLayer(cast("socket.socket", wire), Limits(send=1.0, data_set=4096), lambda _seconds: None)
    upper.begin()

    def receive(request: StoreRequest) -> IncomingObject:
        said.append(request)
        return IncomingObject(lambda: _Sink(said), 8192)

    try:
        messages = Messages(upper, dict.fromkeys((1, 3, 5), CT), receive, lambda reception: reception.close())
        said.extend((message.context, message.command.number(pdata.FIELD), message.data) for message in messages.incoming())
        said.append("released")
    except (ProtocolError, PeerGone, TooLarge) as error:
        said.append(type(error).__name__)
    return said, bytes(wire.sent)


def well_formed(script: bytes) -> bytes:
    """Return a stream of P-DATA whose lengths are right: each piece of the script is context, control, length, content."""
    stream, at = bytearray(), 0
    while at + 3 <= len(script):
        context, control, length = script[at], script[at + 1], script[at + 2]
        body = script[at + 3:at + 3 + length]
        stream += struct.pack(">BBLLBB", 4, 0, len(body) + 6, len(body) + 2, context, control) + body
        at += 3 + length
    return bytes(stream) + b"\5\0\0\0\0\4\0\0\0\0"


def _pdu(_scratch: Path) -> Reader:
    """The first byte says whether a raw stream follows, or the script of one."""
    def read(data: bytes) -> str:
        stream = well_formed(data[1:]) if data[:1] == b"\1" else data[1:]
        said, sent = converse(stream, 1)
        for seed in (2, 3):
            assert converse(stream, seed) == (said, sent), "another chunking gives another answer"
        if said[-1] != "released":
            raise ProtocolError(f"{said[-1]} after {len(said) - 1}")
        return f"{[one[0] if isinstance(one, tuple) else str(one)[:12] for one in said][:8]}"
    return read


def _pacs(_scratch: Path) -> Reader:
    """What a PACS answers to our C-FINDs, level by level."""
    hospital = profiles.load("demo").hospital("b")
    assert hospital is not None
    proposed = [Context(1, "1.2.840.10008.5.1.4.1.2.2.1", (tags.IMPLICIT,))]
    accept = Accept((Answered(1, 0, tags.IMPLICIT),), 16384)

    def read(data: bytes) -> str:
        patience = Patience(1e9, 1e9)
        upper = UpperLayer(cast("socket.socket", _Wire(data, 1)), Limits(send=1.0, data_set=4096), patience)
        peer = Requestor(
            upper, proposed, accept, patience, lambda _request: IncomingObject(lambda: _Sink([]), 1), IncomingObject.close)
        rows = scu._Find(hospital, peer, "2.25.1").everything()
        assert all(is_uid(row["SOPInstanceUID"]) and is_uid(row["SeriesInstanceUID"]) for row in rows)
        return f"{len(rows)} rows"
    return read


def _receiver(scratch: Path) -> Reader:
    """Objects through the receiver to disk and index: nothing is left of what was refused."""
    database = Database(f"sqlite:///{scratch / 'broker.db'}")
    database_schema.upgrade(database)
    online = OnlineStore(scratch / "online", fsync=False)
    receiver = Receiver(database, online, profiles.load("demo"), Board())
    receiver.start()
    count = itertools.count(1)

    def read(data: bytes) -> str:
        number = next(count)
        uid = f"2.25.7.{100 + number % 900}"     # as long as the one it takes the place of
        syntax = _SYNTAXES[data[0] % 4 if data else 0]
        body = data[1:].replace(b"2.25.1.1.1", uid.encode())
        try:
            incoming = receiver.open(sender("PACSA"), CT, uid, syntax)
            incoming.write(_deflate(body) if syntax == tags.DEFLATED else body)
            incoming.commit()
            incoming.index()
        except BrokerError:
            assert not list((online.folder / ".incoming").glob("*")), "a file is left behind"
            raise
        if number % 50 == 0:
            assert not misfits(database)
        if number % 200 == 0:
            shutil.rmtree(online.folder / "a", ignore_errors=True)
        assert incoming.stored is not None
        return f"stored {len(incoming.stored.tags)}"
    return read


def _association(scratch: Path) -> Reader:
    """Bytes on the DICOM port itself, from the first one: the negotiation and what comes behind it."""
    database = Database(f"sqlite:///{scratch / 'broker.db'}")
    database_schema.upgrade(database)
    receiver = Receiver(database, OnlineStore(scratch / "online", fsync=False), profiles.load("demo"), Board())
    receiver.start()
    listener = Listener(
        receiver, Gate(Open(), AuditLog(scratch / "audit", "broker", "demo")), profiles.load("demo"),
        short_settings(io_timeout=0.4, idle_timeout=0.6))
    threading.Thread(target=listener.serve, args=(threading.Event(),), daemon=True).start()
    count = itertools.count(1)
    memory = psutil.Process().memory_info

    def read(data: bytes) -> str:
        before = memory().rss
        answer = speak(listener.port, data)
        assert memory().rss - before < _GROWTH
        if next(count) % 50 == 0:
            eventually(lambda: threading.active_count() < 10, 20.0)     # no thread is left behind
        return f"{answer[:1].hex()} {answer[-10:-9].hex()} {len(answer) // 100}"
    return read


def speak(port: int, data: bytes) -> bytes:
    """Send these bytes and give everything that is answered until the server closes."""
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        except TimeoutError:
            raise
        except OSError:     # it did not wait for the end
            pass
    return bytes(answer)


_BOUNDS: dict[str, Any] = {"words": WORDS, "allowed": (Truncated, NotDicom)}
_MAKERS: tuple[tuple[str, Callable[[Path], Reader], tuple[str, ...]], ...] = (
    ("tags", _tags, ("dataset",)), ("identify", _identify, ("object",)), ("attributes", _attributes, ("object",)),
    ("kos", _kos, ("kos",)))
TARGETS = (
    *(Target(name=name, make=make, golden=golden, slope=2e-5, **_BOUNDS) for name, make, golden in _MAKERS),
    Target(name="pdu", make=_pdu, golden=("pdu",), words=PDU_WORDS, allowed=(ProtocolError,), slope=5e-5),
    Target(name="pacs", make=_pacs, golden=("pacs",), words=(*PDU_WORDS, *WORDS), allowed=(ProtocolError, PeerGone), slope=2e-5),
    Target(name="receiver", make=_receiver, golden=("object",), slope=2e-5, **_BOUNDS),
    Target(name="association", make=_association, golden=("association",), words=PDU_WORDS, longest=1 << 14, short=30,
           memory=16 << 30),       # address space, of which each thread reserves some: `read` looks at what is in use
)
