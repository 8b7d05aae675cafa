"""A PACS that can misbehave: C-ECHO and C-FIND are honest, what a C-MOVE does is a script."""

import contextlib
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom

from broker.edge.dimse import pdata
from broker.edge.dimse.pdata import CommandSet
from broker.wire import tags
from tests.helpers import dicom
from tests.helpers.dimse import Parrot

PENDING, SUCCESS = 0xFF00, 0x0000
_FIND_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "PatientID", "PatientName", "StudyDate",
              "Modality", "AccessionNumber")


class BadPacs:
    """Listens at `port`; `holds` are its files. `greet` meets a connection before its association, `move` a C-MOVE.

    Both are reset by `behave`. `asked` keeps the SOP Instance UIDs of each C-MOVE, empty for a whole study.
    """

    def __init__(self, port: int, broker_port: int, ae: str = "PACSB") -> None:
        self.port, self.broker_port, self.ae = port, broker_port, ae
        self.holds: list[Path] = []
        self.asked: list[tuple[str, ...]] = []
        self.greet: Callable[[Parrot], bool] = lambda _peer: True
        self.move: Callable[[BadPacs, Parrot, CommandSet, Sequence[Path]], None] = BadPacs.send_all
        self._server: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.start()

    def behave(self) -> None:
        """Be a good PACS again."""
        self.greet, self.move = lambda _peer: True, BadPacs.send_all
        self.asked.clear()

    def start(self) -> None:
        """Listen."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def die(self) -> None:
        """Be gone: nobody listens, all connections are cut."""
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End."""
        self.die()

    def send(self, files: Sequence[Path]) -> None:
        """Store files into the broker, as this PACS."""
        if files:
            done = dicom.store(files, self.broker_port, self.ae)
            assert done.returncode == 0, done.stdout + done.stderr

    def send_all(self, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        """What a good PACS does."""
        self.send(wanted)
        peer.respond(command, SUCCESS)

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        peer = Parrot(connection=connection)
        try:
            if self.greet(peer):
                peer.accept()
                while self._answer(peer):
                    pass
        except (OSError, AssertionError, pdata.ProtocolError):
            pass                            # the broker gave up, as it should
        finally:
            self._open.discard(connection)
            connection.close()

    def _answer(self, peer: Parrot) -> bool:
        kind, body = peer.hear()
        if kind != 4:
            if kind == 5:
                peer.say(b"\6\0\0\0\0\4\0\0\0\0")
            return False
        command, data = CommandSet.read(body[6:]), b""
        while command.has_data_set:
            _, piece = peer.hear()
            data += piece[6:]
            if piece[5] & 2:
                break
        field = command.number(pdata.FIELD)
        if field == pdata.C_ECHO_RQ:
            peer.respond(command, SUCCESS)
        elif field == pdata.C_FIND_RQ:
            self._find(peer, command, data)
        elif field == pdata.C_MOVE_RQ:
            self._move(peer, command, data)
        return True

    def _move(self, peer: Parrot, command: CommandSet, data: bytes) -> None:
        keys = _text(data)
        sops = tuple(uid for uid in keys.get("SOPInstanceUID", "").split("\\") if uid)
        self.asked.append(sops)
        wanted = [file for file in self.holds if (ids := _ids(file))["StudyInstanceUID"] == keys["StudyInstanceUID"]
                  and (not sops or ids["SOPInstanceUID"] in sops)]
        self.move(self, peer, command, wanted)

    def _find(self, peer: Parrot, command: CommandSet, data: bytes) -> None:
        keys = _text(data)
        level = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[
            keys["QueryRetrieveLevel"]]
        known = [ids for ids in map(_ids, self.holds) if ids["StudyInstanceUID"] == keys["StudyInstanceUID"]]
        rows = {ids[level]: ids for ids in known}
        for ids in rows.values():
            peer.respond(command, PENDING, tags.write_identifier({**ids, "QueryRetrieveLevel": keys["QueryRetrieveLevel"]}))
        peer.respond(command, SUCCESS)


def _text(data: bytes) -> dict[str, str]:
    """Return an identifier's values by keyword, several ones with backslashes between."""
    found = pydicom.dcmread(io.BytesIO(data), force=True)
    return {element.keyword: "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value) for element in found}


_known: dict[Path, dict[str, str]] = {}


def _ids(file: Path) -> dict[str, str]:
    if file not in _known:
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        _known[file] = {key: str(dataset.get(key, "")) for key in _FIND_KEYS if key != "PatientName"}
    return _known[file]


# --- scripts of a C-MOVE


def refuse(_pacs: BadPacs, peer: Parrot, command: CommandSet, _wanted: Sequence[Path]) -> None:
    """It cannot."""
    peer.respond(command, 0xA801)


def silent(_pacs: BadPacs, peer: Parrot, _command: CommandSet, _wanted: Sequence[Path]) -> None:
    """It says nothing more."""
    peer.socket.settimeout(60)
    peer.hear()


def pending(_pacs: BadPacs, peer: Parrot, command: CommandSet, _wanted: Sequence[Path]) -> None:
    """It says for ever that it goes on."""
    while True:
        peer.respond(command, PENDING)
        time.sleep(0.3)


def half_and_abort(pacs: BadPacs, peer: Parrot, _command: CommandSet, wanted: Sequence[Path]) -> None:
    """It sends half of what it was asked for and breaks off."""
    pacs.send(wanted[:len(wanted) // 2])
    peer.say(b"\7\0\0\0\0\4\0\0\2\0")
    peer.socket.close()


def nothing(_pacs: BadPacs, peer: Parrot, command: CommandSet, _wanted: Sequence[Path]) -> None:
    """It says success and sends nothing."""
    peer.respond(command, SUCCESS)


def dies(pacs: BadPacs, _peer: Parrot, _command: CommandSet, wanted: Sequence[Path]) -> None:
    """It sends one object and is gone."""
    pacs.send(wanted[:1])
    pacs.die()


def stops_at(sop_uid: str) -> Callable[[BadPacs, Parrot, CommandSet, Sequence[Path]], None]:
    """It fails the whole request at an object that it cannot send, as Orthanc does."""
    def script(pacs: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        names = [_ids(file)["SOPInstanceUID"] for file in wanted]
        pacs.send(wanted[:names.index(sop_uid)] if sop_uid in names else wanted)
        peer.respond(command, 0xC000 if sop_uid in names else SUCCESS)
    return script


def aborts_at(sop_uid: str) -> Callable[[BadPacs, Parrot, CommandSet, Sequence[Path]], None]:
    """It breaks off the association at an object that it cannot send."""
    def script(pacs: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        names = [_ids(file)["SOPInstanceUID"] for file in wanted]
        pacs.send(wanted[:names.index(sop_uid)] if sop_uid in names else wanted)
        if sop_uid in names:
            peer.say(b"\7\0\0\0\0\4\0\0\2\0")
            peer.socket.close()
        else:
            peer.respond(command, SUCCESS)
    return script


def skips(sop_uid: str) -> Callable[[BadPacs, Parrot, CommandSet, Sequence[Path]], None]:
    """It goes on after an object that it cannot send, and names it at the end, as dcmtk's dcmqrscp does."""
    value = sop_uid.encode() + b"\0" * (len(sop_uid) % 2)
    failed = struct.pack("<HHL", 0x0008, 0x0058, len(value)) + value    # Failed SOP Instance UID List

    def script(pacs: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        good = [file for file in wanted if _ids(file)["SOPInstanceUID"] != sop_uid]
        pacs.send(good)
        if len(good) < len(wanted):
            peer.respond(command, 0xB000 if good else 0xA702, failed)
        else:
            peer.respond(command, SUCCESS)
    return script
