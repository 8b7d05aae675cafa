"""Damage done to containers, and a centre that keeps it from being given out, finds and mends it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from broker.archive.sdfo import Sdfo
from broker.audit.spool import AuditLog
from broker.db import Database
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.mend import Mender
from broker.imaging.archiving.pace import Rate
from broker.imaging.archiving.pack import Packer
from broker.imaging.archiving.verify import Scrub, Verified, Verifier
from broker.imaging.damage import Quarantine
from broker.imaging.store import containers, damages, studies
from broker.model.caller import Caller
from broker.model.imaging import InstanceRef
from broker.security.gate import Gate
from broker.security.rules import Open
from tests.helpers.archive import archive_of
from tests.helpers.fetch import OURS, Centre, octets, read, refs_of


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


@dataclass
class Archive:
    """A centre whose studies are packed as the worker does it, and what verifies and mends it. `now` is its time."""

    centre: Centre
    folder: Path
    now: float = 1.7e9

    def __post_init__(self) -> None:
        self.quarantine = quarantine(self.centre.database, self.centre.sdfo, self.folder)

    def clock(self) -> float:
        """The time."""
        return self.now

    @property
    def packer(self) -> Packer:
        """What packs studies."""
        centre = self.centre
        return Packer(centre.database, centre.sdfo, centre.profile, centre.coord, self.clock)

    @property
    def verifier(self) -> Verifier:
        """What reads containers."""
        return Verifier(self.centre.database, self.centre.sdfo, self.quarantine, self.clock)

    @property
    def mender(self) -> Mender:
        """What replaces them."""
        centre = self.centre
        return Mender(centre.database, centre.sdfo, centre.profile, self.quarantine, self.packer, centre.fetch, clock=self.clock)

    def scrub(self, **retention: float) -> Scrub:
        """What the worker has, with other rules."""
        changed = self.centre.profile.retention.model_copy(update=retention)
        return Scrub(self.centre.database, self.verifier, self.centre.coord, changed, self.clock, self.clock)

    def pack(self, study_uid: str = "1.2.1", count: int = 3) -> list[InstanceRef]:
        """Have a study packed."""
        refs = refs_of(study_uid, count, OURS)
        self.receive(refs)
        assert self.packer.migrate(self.study(study_uid).id) is Outcome.ARCHIVED
        return refs

    def receive(self, refs: list[InstanceRef]) -> None:
        """Have hospital A send pictures."""
        self.centre.land("a", refs)
        with self.centre.database.write() as unit:
            studies.mark(unit, self.study(refs[0].study_uid).id, "quiet")

    def study(self, study_uid: str = "1.2.1") -> studies.Study:
        """The study's row."""
        with self.centre.database.read() as unit:
            found = studies.study(unit, "a", study_uid)
        assert found is not None
        return found

    def path(self, study_uid: str = "1.2.1") -> str:
        """The path of a study's container."""
        with self.centre.database.read() as unit:
            container = containers.current(unit, self.study(study_uid).id)
        assert container is not None
        return container.path

    def file(self, study_uid: str = "1.2.1") -> Path:
        """Its container's file."""
        return self.file_of(self.path(study_uid))

    def file_of(self, path: str) -> Path:
        """The file of a container."""
        return archive_of(self.centre.sdfo) / path

    def verify(self, **options: object) -> list[Verified]:
        """Read containers."""
        verifier = self.verifier
        return list(verifier.each(verifier.todo(**options), Rate(0, self.clock)))  # type: ignore[arg-type]

    def damage(self) -> list[str]:
        """What is damaged, by SOP Instance UID."""
        with self.centre.database.read() as unit:
            return [one.sop_uid for one in damages.listed(unit)]

    def given(self, refs: list[InstanceRef]) -> set[str]:
        """The pictures that a consumer is given, which are what was packed."""
        found = self.centre.fetch.retrieve(refs).found
        assert all(read(one.source) == octets(ref.sop_uid) for ref, one in found.items())
        return {ref.sop_uid for ref in found}
