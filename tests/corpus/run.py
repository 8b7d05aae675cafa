"""The two ways: sent to us by C-STORE, fetched from online and from S-DICOM; and kept by an Orthanc that we ask."""

import json
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from broker.app.whole import App
from broker.archive.tiers.online import ASIDE
from broker.config import profile as profiles
from broker.config import settings
from broker.db import sql
from broker.imaging.store import machines, studies
from broker.imaging.store import tables as t
from broker.model.errors import BrokerError
from broker.model.ids import PatientId, is_uid
from broker.model.imaging import InstanceRef
from tests.corpus.doors import Desk, Got, store
from tests.corpus.files import Specimen, same_elements
from tests.helpers.dicom import Orthanc
from tests.helpers.region import Region

A, B = "2.999.2.1", "2.999.3.1"
SOURCE, THEIRS = "2.999.20.{}", "2.999.3.3"     # Retrieve Location UIDs
YOUNG = "online_days = 365", "online_days = 100000"      # the files are old: nothing is to be packed before it is asked for
CHANGES = {
    "domains.toml": {'feeders = [{ application = "HIS-A"': 'feeders = [{ device_oid = "2.999.2.9" }, { application = "HIS-A"'},
    "retention.toml": dict([YOUNG]),
}
EQUAL, SAME, DIFFERS = "equal", "same elements", "differs"
_PATIENCE = 300.0       # seconds until everything is published or given up

Tell = Callable[[str], None]


@dataclass(slots=True)
class Fate:
    """What became of one file on one way. `refused` and `unpublished` are reasons; `online` and `archive` the fetches."""

    one: Specimen
    turn: int = 0
    source: str = ""
    refused: str = ""
    unpublished: str = ""
    online: str = ""        # equal | same elements | differs | the reason why it was not given
    archive: str = ""

    @property
    def ref(self) -> InstanceRef:
        """How a manifest names it."""
        return InstanceRef(self.one.study_uid, self.one.series_uid, self.one.sop_uid, source_uid=self.source)


@dataclass(slots=True)
class Way:
    """All files of one way."""

    name: str
    fates: list[Fate] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def stored(self) -> list[Fate]:
        """What the first receiver took."""
        return [fate for fate in self.fates if not fate.refused]


def by_cstore(folder: Path, files: Sequence[Specimen], tell: Tell) -> Way:
    """Send all to hospital A, publish, fetch from online, pack, fetch from the containers."""
    way = Way("C-STORE")
    fates, rounds = _rounds(files)
    way.fates += fates
    region = Region(folder, changes=CHANGES)
    _add_hospitals(region, rounds)
    with region:
        desk = Desk(region, folder / "got")
        for fate in fates:
            fate.refused = fate.one.why or store(fate.one, region.dicom_port, f"PACS{fate.turn}")
        tell(f"sent: {len(way.stored)} of {len(files)} stored")
        app = _app(region)
        try:
            _settled(app, tell)
            patients = set[PatientId]().union(*(_patients(app, f"s{turn}") for turn in range(rounds)))
            refused = desk.feed(patients)
            _settled(app, tell)
            named = desk.manifests(patients - refused.keys())
            reasons, aside = _reasons(app), _aside(app)
            for fate in way.stored:
                fate.refused = aside.get((f"s{fate.turn}", fate.one.sop_uid), "")
            tell(f"published: {len(named)}")
            _judge(way.stored, named, reasons, desk.fetch([fate.ref for fate in way.stored]), "online")
        finally:
            app.close()
        _forget_age(region)
        tell(region.run("migrate").strip())
        _judge(way.stored, named, reasons, desk.fetch([fate.ref for fate in way.stored]), "archive")
        way.wrong += _still_online(region)
        way.wrong += _tracebacks(region)
    return way


def by_origin(folder: Path, files: Sequence[Specimen], tell: Tell) -> Way:
    """Put all into an Orthanc, publish every study it has, fetch."""
    way = Way("Orthanc as an origin")
    region = Region(folder)
    with Orthanc(folder / "pacs", "PACSB", region.dicom_port, port=region.pacs_port) as pacs, region:
        taken: set[str] = set()
        for one in files:
            fate = Fate(one, refused=one.why or _upload(pacs, one), source=THEIRS)
            if not fate.refused and one.sop_uid in taken:
                fate.refused = "Orthanc has this SOP Instance UID already"
            taken.add(one.sop_uid)
            way.fates.append(fate)
        tell(f"uploaded: {len(way.stored)} of {len(files)} stored")
        desk, app = Desk(region, folder / "got"), _app(region)
        try:
            reasons = _publish_each(app, desk, {fate.one.study_uid for fate in way.stored}, tell)
            patients = {PatientId(B, fate.one.patient) for fate in way.stored if fate.one.patient}
            named = desk.manifests(patients)
        finally:
            app.close()
        tell(f"published: {len(named)}")
        got = desk.fetch(list(named))
        _judge(way.stored, named, reasons, got, "online")
        way.wrong += _tracebacks(region)
    return way


def _upload(pacs: Orthanc, one: Specimen) -> str:
    try:
        pacs.upload([one.path])
    except urllib.error.HTTPError as error:
        with error:
            return f"Orthanc: {json.load(error).get('OrthancError', error.reason)}"
    return "" if is_uid(one.study_uid) else "no Study Instance UID to ask for"


def _publish_each(app: App, desk: Desk, studies: Iterable[str], tell: Tell) -> dict[str, str]:
    """Publish every study of hospital B, its patient registered when it is known; return why not, by study."""
    reasons, waiting = {}, []
    for study_uid in sorted(studies):
        reasons[study_uid] = _publish(app, study_uid)
        if reasons[study_uid] == "waiting_patient":
            waiting.append(study_uid)
    refused = desk.feed(_patients(app, "b"))
    for study_uid in waiting:
        reasons[study_uid] = _publish(app, study_uid)
    tell(f"asked for {len(reasons)} studies, {len(refused)} patients refused")
    return {study_uid: why for study_uid, why in reasons.items() if why}


def _publish(app: App, study_uid: str) -> str:
    try:
        done = app.publisher.publish_study("b", study_uid)
    except BrokerError as error:
        return str(error)
    return "" if done.state == "published" else done.reason or done.state


def _rounds(files: Sequence[Specimen]) -> tuple[list[Fate], int]:
    """Return each file a hospital of its own among those that hold its SOP Instance UID, and how many hospitals that takes."""
    seen: Counter[str] = Counter()
    fates = []
    for one in files:
        turn = seen[one.sop_uid] if one.sop_uid else 0
        seen[one.sop_uid] += 1
        fates.append(Fate(one, turn, SOURCE.format(turn)))
    return fates, max(fate.turn for fate in fates) + 1


def _add_hospitals(region: Region, count: int) -> None:
    rows = [
        f'[[hospital]]\nkey = "s{turn}"\nkind = "sends"\ndomain = "{A}"\nsource_uid = "{SOURCE.format(turn)}"\n'
        f'source_id = "2.999.2"\nae_title = "PACS{turn}"\n' for turn in range(count)]
    with (region.folder / "region" / "hospitals.toml").open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(rows))


def _aside(app: App) -> dict[tuple[str, str], str]:
    """Return what was kept aside, by hospital and SOP Instance UID."""
    with app.database.read() as unit:
        return {(row.hospital, row.sop_uid): "kept aside" for row in sql(unit).execute(sa.select(t.conflict))}


def _app(region: Region) -> App:
    read = settings.load(region.config)
    return App(read, profiles.load(read.profile, region.folder))


def _patients(app: App, hospital: str) -> set[PatientId]:
    """Return the patients as the broker read them."""
    with app.database.read() as unit:
        return {study.patient for study in studies.find_studies(unit, hospital=hospital, limit=100_000) if study.patient.value}


def _settled(app: App, tell: Tell) -> None:
    """Return when every study is complete and every publication is published or given up."""
    until, waits = time.monotonic() + _PATIENCE, ("receiving",)
    while time.monotonic() < until:
        with app.database.read() as unit:
            growing = unit_count(unit, t.study.c.state.in_(waits))
            due = unit_count(unit, t.publication.c.state == machines.DUE)
        if not growing and not due:
            return
        time.sleep(1.0)
    tell(f"not settled: {growing} studies receive, {due} publications are due")


def unit_count(unit: Any, condition: Any) -> int:
    """Count the rows of the one table that the condition is about."""
    return int(sql(unit).scalar(sa.select(sa.func.count()).where(condition)) or 0)


def _reasons(app: App) -> dict[str, str]:
    """Return why a study is not published, by study."""
    query = sa.select(t.study.c.study_uid, t.publication.c.state, t.publication.c.reason).join(
        t.publication, t.publication.c.study_id == t.study.c.id).where(t.publication.c.state != machines.PUBLISHED)
    with app.database.read() as unit:
        return {row.study_uid: row.reason or row.state for row in sql(unit).execute(query)}


def _judge(
    fates: Iterable[Fate], named: Container[InstanceRef], reasons: Mapping[str, str], got: Got, where: str,
) -> None:
    for fate in fates:
        one = fate.one
        if fate.ref not in named:
            fate.unpublished = reasons.get(one.study_uid, "its manifest does not name it")
        if fate.ref not in got.data:
            came = got.missing.get(fate.ref, "not asked for: it is not published")
        else:
            syntax, data = got.data[fate.ref]
            came = EQUAL if data == one.data else SAME if same_elements(one.data, one.syntax, data, syntax) else DIFFERS
        setattr(fate, where, came)


def _forget_age(region: Region) -> None:
    """Let the retention rules pack everything now."""
    file = region.folder / "region" / "retention.toml"
    file.write_text(file.read_text("utf-8").replace(YOUNG[1], "online_days = 0"), "utf-8")


def _still_online(region: Region) -> list[str]:
    online = region.data / "online"
    left = [file for file in online.rglob("*") if file.is_file() and not file.is_relative_to(online / ASIDE)]
    return [f"{len(left)} files are online though all was packed"] if left else []


def _tracebacks(region: Region) -> list[str]:
    count = region.logs().count("Traceback")
    return [f"{count} tracebacks in the log"] if count else []
