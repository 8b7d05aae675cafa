"""The drill: rows are filled from the containers into a store of their own, and compared with the live ones."""

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from broker.archive.sdfo import Sdfo
from broker.config.profile import Profile
from broker.db import Database, schema
from broker.imaging.archiving.rebuild import Rebuilder, Rebuilt, Watch
from broker.imaging.store import rebuilt
from broker.imaging.store.rebuilt import PackedStudy

_SHOWN = 1000       # differences that are told one by one


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not alike of a packed study: `lost` would not come back, `strange` would come as new, else column by column."""

    hospital: str
    study_uid: str
    what: str
    container: str


@dataclass(slots=True)
class Drilled:
    """What a drill found, and the seconds that filling the rows took. `differences` tells the first thousand of `different`."""

    rebuilt: Rebuilt
    seconds: float
    different: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, study: PackedStudy, what: str) -> None:
        """Note a difference."""
        self.different += 1
        if len(self.differences) < _SHOWN:
            self.differences.append(Difference(study.hospital, study.study_uid, what, study.path))


def drill(live: Database, sdfo: Sdfo, profile: Profile, watch: Watch = lambda _: None) -> Drilled:
    """Do what `Rebuilder` does into a temporary SQLite file, and compare. Nothing is changed, and nothing is published.

    Studies that are packed while this runs may show as different. Raise `Unavailable` when a store is away.
    """
    with tempfile.TemporaryDirectory(prefix="broker-drill-") as folder, \
            closing(Database(f"sqlite:///{Path(folder) / 'drill.db'}")) as fresh:
        schema.upgrade(fresh)
        began = time.monotonic()
        found = Drilled(Rebuilder(fresh, sdfo, profile).run(watch), 0.0)
        found.seconds = time.monotonic() - began
        _compare(live, fresh, found, "lost")
        _compare(fresh, live, found, "strange")
    return found


def _compare(these: Database, those: Database, found: Drilled, alone: str) -> None:
    """Note what `these` have alone, and where both differ, once."""
    after = 0
    while True:
        with these.read() as unit:
            some = rebuilt.packed(unit, after)
        if not some:
            return
        after = some[-1][0]
        with those.read() as unit:
            others = {_key(other): other for other in rebuilt.packed_with(unit, {study.study_uid for _, study in some})}
        for _, study in some:
            other = others.get(_key(study))
            if other is None:
                found.add(study, alone)
            elif alone == "lost" and other.columns != study.columns:
                names = (name for name in study.columns if study.columns[name] != other.columns[name])
                found.add(study, ", ".join(sorted(names)))


def _key(study: PackedStudy) -> tuple[str, str, int]:
    return study.hospital, study.study_uid, study.part
