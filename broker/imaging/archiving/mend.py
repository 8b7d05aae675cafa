"""Damaged containers are replaced: a new version is packed from the good pictures, and from good copies of the others.

A copy is good when it has the SHA-256 that was packed. It is online already, all of the container is (a recalled study), or the
hospital's PACS is asked for it as for any retrieve. A new version never lacks a picture: while one has no good copy the old one
stays, and gives what is good of it.
"""

import functools
import threading
import time
from collections.abc import Callable, Collection

import structlog

from broker.archive.formats.sdicom import Entry
from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Sdfo
from broker.config.profile import Profile
from broker.db import Database
from broker.imaging import locate, maker
from broker.imaging.alone import Alone
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.pack import Packer
from broker.imaging.archiving.verify import Verdict, Verifier
from broker.imaging.damage import Quarantine
from broker.imaging.fetch import Retriever
from broker.imaging.store import damages, proofs, studies
from broker.imaging.store.damages import WHOLE
from broker.imaging.store.proofs import Kept
from broker.model.errors import Unavailable
from broker.model.imaging import InstanceRef

_PATIENCE = 30.0        # seconds the worker waits for a PACS; what comes later is found at the next attempt

log = structlog.get_logger("broker.imaging.archiving")


class Mender:
    """Mends what is in quarantine. Safe to run in several processes at once."""

    def __init__(  # noqa: PLR0913 - the parts it puts to work
        self, database: Database, sdfo: Sdfo, profile: Profile, quarantine: Quarantine, packer: Packer, fetch: Retriever,
        *, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo, self._profile, self._clock = database, sdfo, profile, clock
        self._quarantine, self._packer, self._fetch = quarantine, packer, fetch
        self._verifier = Verifier(database, sdfo, quarantine, clock)
        self._alone = Alone(database, "mend", "a damaged container was not mended")
        self.stop = threading.Event()

    def run_due(self) -> int:
        """Mend what is damaged, each study by itself; return how many are mended. What fails is tried again later and later.

        When `stop` is set it ends after the one that is under way.
        """
        now = self._clock()
        self._alone.begin()
        with self._database.read() as unit:
            found = {one.study_id: one.hospital for one in damages.listed(unit)}
        done = 0
        for study_id, hospital in found.items():
            if self.stop.is_set():
                break
            if not self._alone.waits(study_id, now):
                done += bool(self._alone.attempt(study_id, now, functools.partial(self.mend, study_id, _PATIENCE), hospital))
        return done

    def mend(self, study_id: int, patience: float | None = None) -> bool:
        """Return whether a damaged container of this part of a study was replaced, or is whole again; False when none is damaged.

        A PACS is waited for as long as a retrieve waits, or `patience` seconds. Raise `Damaged` saying why it cannot be mended
        now, `Unavailable` when a store is away or the study is being packed.
        """
        with self._database.read() as unit:
            container = proofs.of_part(unit, study_id)
            known = damages.damaged(unit, [study_id]).get(container.path, set()) if container else set()
        if container is None or not known:
            return False
        verified = self._verifier.verify(container)     # a reader finds one picture; others may be damaged, too
        if verified.verdict is not Verdict.DAMAGED:
            return verified.cleared
        if not self._sdfo.has_good_copy(container.path, container.sha256):      # one that was recalled
            self._gather(container, set(verified.sop_uids), patience)
        outcome = self._packer.migrate(study_id)
        if outcome not in {Outcome.ARCHIVED, Outcome.WAITING, Outcome.HELD}:
            raise Unavailable("the study, which is being packed or received,")
        with self._database.read() as unit:
            if proofs.get(unit, container.id) is not None:      # its online copies are there still, and are given
                raise Unavailable("the study, whose container is in its grace time or held,")
        self._quarantine.mended(container, verified.sop_uids)
        return True

    def _gather(self, container: Kept, bad: set[str], patience: float | None) -> None:
        """Have a good copy of every damaged picture online. Raise `Damaged` when one cannot be had."""
        try:
            entries = self._sdfo.index(container.path, fresh=True).entries
        except Unavailable as error:
            raise Damaged(f"without its index its file must be brought back from a copy of the archive: {error}") from error
        wanted = [entries[sop_uid] for sop_uid in bad - {WHOLE}]
        missing = self._without_copy(container, wanted)
        if not missing:
            return
        why = self._ask(container, missing, patience)
        missing = self._without_copy(container, missing)
        if missing:
            raise Damaged(f"{len(missing)} of its {len(entries)} pictures have no good copy: {why}")

    def _without_copy(self, container: Kept, wanted: Collection[Entry]) -> list[Entry]:
        with self._database.read() as unit:
            here = {row.sop_uid: row.online.sha256 for row in studies.instances(unit, container.study_id)}
        return [entry for entry in wanted if here.get(entry.sop_uid) != entry.sha256]

    def _ask(self, container: Kept, missing: Collection[Entry], patience: float | None) -> str:
        """Ask the PACS that the pictures came from; return why the first that did not come did not."""
        hospital = self._profile.hospital(container.hospital)
        if hospital is None or not hospital.port:
            return f"hospital {container.hospital} has no PACS that can be asked"
        with self._database.read() as unit:
            first = locate.is_first(unit, container.study_uid, container.hospital, self._profile)
        source = maker.location(hospital, "archive", self._profile, first=first)
        refs = [InstanceRef(container.study_uid, entry.series_uid, entry.sop_uid, source_uid=source) for entry in missing]
        gathered = self._fetch.retrieve(refs, deadline=patience)
        return next(iter(gathered.missing.values()), "what came is not what was packed")
