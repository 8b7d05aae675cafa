"""What a decision about a conflict changes in SQL: parts of a study, what they show, what an origin lists for them.

Call everything with the study's parts locked (`studies.parts`). Times are seconds since the epoch.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

import sqlalchemy as sa

from broker.db import sql
from broker.imaging.store import cases, publications, recalls, studies
from broker.imaging.store import tables as t
from broker.imaging.store.cases import Aside, Case
from broker.imaging.store.containers import Container, delete_instances
from broker.imaging.store.machines import COMPLETE, DROPPING, RECEIVING, STUDY
from broker.imaging.store.studies import Instance, Study
from broker.model.ids import PatientId
from broker.model.imaging import Online, StoredObject
from broker.model.ports import Unit


def new_part(unit: Unit, main: Study, patient: PatientId, facts: dict[str, str], tier: str, now: float) -> Study:
    """Return a further part of a study, for `patient`, without pictures; what is known of the series goes along."""
    connection = sql(unit)
    number: int = connection.execute(sa.select(sa.func.max(t.study.c.part)).where(
        t.study.c.study_uid == main.study_uid, t.study.c.hospital == main.hospital)).scalar_one() + 1
    study_id: int = connection.execute(t.study.insert().returning(t.study.c.id), {
        "hospital": main.hospital, "study_uid": main.study_uid, "part": number, "tier": tier,
        "state": STUDY.first("divided"),
        "patient_domain": patient.domain, "patient_value": patient.value, **studies.described(facts), "objects": 0, "bytes": 0,
        "first_at": now, "last_at": now, "used_at": now}).scalar_one()
    names = ["series_uid", "modality", "body_part", "description"]
    connection.execute(t.series.insert().from_select(
        ["study_id", *names], sa.select(sa.literal(study_id), *(t.series.c[name] for name in names))
        .where(t.series.c.study_id == main.id)))
    return replace(main, id=study_id, part=number, tier=tier, state=COMPLETE, patient=patient, facts=facts, objects=0, bytes=0)


def stored(study: Study, what: Aside | Instance, online: Online) -> StoredObject:
    """Return an object of a study as it lies at `online`."""
    return StoredObject(
        hospital=study.hospital, study_uid=study.study_uid, series_uid=what.series_uid, sop_uid=what.sop_uid,
        sop_class=what.sop_class, transfer_syntax=what.transfer_syntax, path=online.path, size=online.size,
        sha256=online.sha256)


def show(unit: Unit, study: Study, items: Iterable[Aside], now: float) -> None:
    """Let objects that lie aside be pictures of this study."""
    found = [stored(study, item, item.online) for item in items]
    if found:
        studies.add_instances(unit, study.id, found, now)
        delete_instances(unit, study.id, ())        # counts


def hide(unit: Unit, study_id: int, sop_uids: Collection[str]) -> None:
    """Let these pictures not be of this study any more."""
    delete_instances(unit, study_id, list(sop_uids))


def here(unit: Unit, parts: Iterable[Study], sop_uids: Collection[str]) -> list[tuple[Study, Instance]]:
    """Return which of these pictures are online, each with its part."""
    return [(part, row) for part in parts for row in studies.instances(unit, part.id) if row.sop_uid in sop_uids]


def put_was(unit: Unit, case: Case, part: Study, row: Instance, aside: Online, now: float) -> None:
    """Note what a decision takes the place of."""
    cases.put(unit, case.id, stored(part, row, aside), cases.WAS, part.id, now)


def set_facts(unit: Unit, study_id: int, facts: dict[str, str]) -> None:
    """Replace what is known of a part."""
    sql(unit).execute(t.study.update().where(t.study.c.id == study_id).values(studies.described(facts)))


def is_empty(unit: Unit, study_id: int) -> bool:
    """Say whether a part has no picture, neither here nor listed by its origin nor packed."""
    packed = sa.select(sa.exists().where(t.container.c.study_id == study_id, t.container.c.state == "current"))
    return not (studies.instances(unit, study_id) or studies.origin_catalogue(unit, study_id) or sql(unit).scalar(packed))


def publish_anew(unit: Unit, part: Study, now: float, *, asked: bool) -> None:
    """Have the manifest of a part made anew; of a study that nobody published so far only when it is `asked` for."""
    if asked or publications.exists(unit, part.id):
        publications.request_anew(unit, part.id, part.patient, now)


def unpacked(unit: Unit, study_id: int, container: Container, items: Iterable[StoredObject], now: float) -> bool:
    """Make a packed study one of the online tier again, its pictures in these files; False when it has changed meanwhile.

    The container's row is gone then.
    """
    part = studies.get(unit, study_id)
    studies.parts(unit, part.hospital, part.study_uid)      # the lock of all parts: nothing comes meanwhile
    row = sql(unit).execute(sa.select(t.study.c.state).where(t.study.c.id == study_id).with_for_update()).one()
    gone = sql(unit).execute(t.container.delete().where(t.container.c.id == container.id, t.container.c.state == "current"))
    found = list(items)
    came = {one.sop_uid for one in studies.instances(unit, study_id)}
    if row.state not in {COMPLETE, DROPPING, RECEIVING} or not gone.rowcount or came.intersection(i.sop_uid for i in found):
        return False
    if found:
        studies.add_instances(unit, study_id, found, now)
    delete_instances(unit, study_id, ())
    recalls.over(unit, study_id)
    STUDY.move(unit, "unpacked", t.study.c.id == study_id, to=RECEIVING if row.state == RECEIVING else COMPLETE, tier="online")
    return True
