"""What SQL knows of where instances are: rows of what is online, containers of what is packed."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import batches, sql
from broker.imaging.store.tables import container, instance, study
from broker.model.ids import PatientId
from broker.model.imaging import Online
from broker.model.ports import Unit


@dataclass(frozen=True, slots=True)
class Holding:
    """A part of a study of one hospital: the tier of its owner copy, its patient's local id, when it was last retrieved."""

    id: int
    hospital: str
    study_uid: str
    tier: str
    patient: PatientId
    used_at: float
    part: int = 0


@dataclass(frozen=True, slots=True)
class OnlineInstance:
    """An instance that has a file."""

    study_id: int
    series_uid: str
    sop_uid: str
    transfer_syntax: str
    online: Online


def holdings(unit: Unit, study_uids: Collection[str]) -> list[Holding]:
    """Return every hospital's row of these studies, oldest first."""
    found: list[Holding] = []
    for batch in batches(sorted(study_uids)):
        rows = sql(unit).execute(
            sa.select(study.c.id, study.c.hospital, study.c.study_uid, study.c.tier, study.c.patient_domain,
                      study.c.patient_value, study.c.used_at, study.c.part)
            .where(study.c.study_uid.in_(batch)).order_by(study.c.id))
        found += [
            Holding(row.id, row.hospital, row.study_uid, row.tier, PatientId(row.patient_domain, row.patient_value), row.used_at,
                    row.part) for row in rows]
    return found


def online(unit: Unit, study_id: int, sop_uids: Collection[str]) -> Iterator[OnlineInstance]:
    """Return those of the instances that this study has online."""
    for batch in batches(sorted(sop_uids)):
        for row in sql(unit).execute(
                sa.select(instance.c.series_uid, instance.c.sop_uid, instance.c.transfer_syntax, instance.c.path,
                          instance.c.size, instance.c.sha256)
                .where(instance.c.study_id == study_id, instance.c.sop_uid.in_(batch))):
            yield OnlineInstance(
                study_id, row.series_uid, row.sop_uid, row.transfer_syntax, Online(row.path, row.size, row.sha256))


def containers(unit: Unit, study_id: int) -> list[str]:
    """Return the paths of the study's current containers, newest first."""
    return list(sql(unit).scalars(
        sa.select(container.c.path).where(container.c.study_id == study_id, container.c.state == "current")
        .order_by(container.c.id.desc())))
