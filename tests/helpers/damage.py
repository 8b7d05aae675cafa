"""Damage done to containers, and a centre that keeps it from being given out."""

from collections.abc import Sequence
from pathlib import Path

from lxml import etree

from broker.archive.sdfo import Sdfo
from broker.audit.spool import AuditLog
from broker.db import Database
from broker.imaging.damage import Quarantine
from broker.model.caller import Caller
from broker.security.gate import Gate
from broker.security.rules import Open
from tests.helpers.archive import archive_of


def quarantine(database: Database, sdfo: Sdfo, folder: Path) -> Quarantine:
    """Have the readers of these tiers tell what they notice; the audit spool is `folder`/audit."""
    gate = Gate(Open(), AuditLog(folder / "audit", "broker", "demo"))
    made = Quarantine(database, sdfo, gate, Caller(node="here", user="archive"))
    sdfo.noticed = made.noticed
    return made


def flip(file: Path, at: int) -> None:
    """Change one byte of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 0x01
    file.write_bytes(data)


def spoil(sdfo: Sdfo, container: str, *sop_uids: str) -> Path:
    """Change a byte in the middle of these pictures of a container; return its file."""
    file = archive_of(sdfo) / container
    for sop_uid in sop_uids:
        place = sdfo.locate(container, sop_uid)
        assert place is not None
        flip(file, place.offset + place.size // 2)
    return file


def audited(folder: Path) -> Sequence[etree._Element]:
    """Return the audit messages about damage."""
    records = [etree.fromstring(line) for file in (folder / "audit").glob("*.xml") for line in file.read_bytes().splitlines()]
    return [record for record in records if str(record.xpath("string(//EventTypeCode/@csd-code)")).startswith("ARCHIVE-")]
