"""The forms of a file that `broker patients load` takes: what is in it, one after the other, and what became of each."""

import getpass
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from broker.app import patients
from broker.app.core import Core
from broker.edge.mllp.server import MllpServer
from broker.model.errors import BrokerError, Rejected, TooLarge
from broker.patients import files
from broker.patients.actor import PixManager
from broker.patients.feed import Feed
from broker.patients.files import Entry
from broker.patients.identifiers import Sender
from broker.wire.hl7v2 import Message, parse
from broker.wire.hl7v2_batch import messages
from broker.wire.patient_file import Line, Table, lines

HL7, CSV, NDJSON = "hl7", "csv", "ndjson"
TITLES = {HL7: "HL7 v2 message", CSV: "row", NDJSON: "Patient"}
_SUFFIXES = {".hl7": HL7, ".csv": CSV, ".ndjson": NDJSON, ".jsonl": NDJSON}
_HL7_BEGINS = (b"MSH", b"FHS", b"BHS")
_LOOKED_AT = 4096
_ADDRESS = "127.0.0.1"      # whom the audit names as the sender's machine
_SHOWN = 48                 # characters of the file's name in the history


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a record: its number in the file, its id as a message, AA or not, and why it was refused."""

    number: int
    control_id: str
    code: str
    text: str


@dataclass(frozen=True)
class Source:
    """Where records come from: the way into the index, the source as whom rows and Patients are fed, and their encoding."""

    core: Core
    manager: PixManager
    sender: Sender
    encoding: str

    @property
    def _largest(self) -> int:
        return self.core.settings.server.max_message

    def open(self, form: str, file: BinaryIO) -> tuple[bytes, Iterator[tuple[bytes, Answered]]]:
        """Return what a file of the refused records begins with, and each record as it came with what became of it.

        Raise `Rejected` for a table without a good header.
        """
        if form == HL7:
            return b"", self._messages(file)
        name = Path(file.name).name[:_SHOWN]
        if form == CSV:
            table = Table(file, self.encoding, self._largest)
            return table.header, self._fed(table, name, lambda line, of: files.of_row(line.cells, self.sender, of))
        return b"", self._fed(
            lines(file, self._largest), name, lambda line, of: files.of_resource(self.manager, line.raw, self.sender, of))

    def _fed(
        self, found: "Table | Iterator[Line]", name: str, feed: Callable[[Line, str], Feed],
    ) -> Iterator[tuple[bytes, Answered]]:
        load = partial(patients.load, self.core, self.manager, user=getpass.getuser())
        for line in found:
            message_id = f"{name}:{line.number}"
            error = _refused(load, _entry(line, message_id, feed))
            yield line.raw, Answered(line.number, message_id, "AE" if error else "AA", str(error) if error else "")

    def _messages(self, file: BinaryIO) -> Iterator[tuple[bytes, Answered]]:
        region = self.core.profile.region
        served = patients.served_by_mllp(self.core, self.manager)
        # The MLLP door, which listens to nobody: it answers what it is given.
        door = MllpServer(served, self.core.gate, self.core.settings, (region.application, region.facility))
        for number, message in enumerate(messages(file, self._largest), 1):
            if isinstance(message, TooLarge):
                yield b"", Answered(number, "", "AR", str(message))
            elif answer := door.answer(message, _ADDRESS):
                yield message, _answered(number, parse(answer))
            else:
                yield message, Answered(number, "", "AR", "an acknowledgement is no feed")


def _entry(line: Line, message_id: str, feed: Callable[[Line, str], Feed]) -> Entry:
    if line.problem is not None:
        return Entry(line.problem)
    try:
        return Entry(feed(line, message_id))
    except Rejected as error:
        return Entry(error)


def _refused(load: Callable[[Entry], None], entry: Entry) -> BrokerError | None:
    try:
        load(entry)
    except BrokerError as error:
        return error
    return None


def _answered(number: int, answer: Message) -> Answered:
    msa = answer.need("MSA")
    told = msa.get(3) or next((error.get(8) for error in answer.all("ERR")), "")     # MSA-3 is withdrawn in 2.7
    return Answered(number, msa.get(2), msa.get(1), told)


def form_of_suffix(file: Path) -> str:
    """Return the form that a file's name tells; empty where it tells none."""
    return _SUFFIXES.get(file.suffix.lower(), "")


def form_of(file: Path) -> str:
    """Return the form of a file by its suffix, else by how it begins; empty where neither tells."""
    if form := form_of_suffix(file):
        return form
    with file.open("rb") as stream:
        begin = stream.read(_LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n\t \x0b")
    if begin.startswith(_HL7_BEGINS):
        return HL7
    return NDJSON if begin.startswith(b"{") else ""
