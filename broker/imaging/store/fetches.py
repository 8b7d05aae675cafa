"""Fetch jobs and what they wait for: at most one open job per hospital and study.

A job is queued, running (its owner beats), then done or failed. Whoever opens, joins or ends a job first takes the
study's flight (`alone`), so that a want never joins a job that is just ending. Times are seconds since the epoch.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import Lock, batches, lock, sql
from broker.imaging.store.machines import DONE, FETCH_FAILED, FETCH_JOB, QUEUED, RUNNING
from broker.imaging.store.tables import fetch_job, fetch_want, instance, study
from broker.model.ports import Unit

NOT_SENT = "did not send it"                # is in the reason of what the PACS cannot send
AGAIN = "not asked for again so soon: "     # begins the reason of what an earlier job found out

_OPEN = fetch_job.c.state.in_((QUEUED, RUNNING))


@dataclass(frozen=True, slots=True)
class Job:
    """One fetch of a study from a hospital's PACS. `state` is queued, running, done or failed; `reason` says why it failed."""

    id: int
    hospital: str
    study_uid: str
    state: str
    owner: str
    created_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance a job waits for."""

    series_uid: str
    sop_uid: str


def alone(unit: Unit, hospital: str, study_uid: str) -> None:
    """Return when no other unit opens, joins or ends a job of this study; held until the unit ends.

    Take several in sorted order.
    """
    lock(unit, Lock.FETCH_STUDY, [f"{hospital} {study_uid}"])


def enqueue(unit: Unit, hospital: str, study_uid: str, wants: Sequence[tuple[str, str]], now: float) -> int:
    """Return the id of the open job of this study with `wants`, (series, sop) pairs, among what it waits for.

    Joins the job that is open, else opens one.
    """
    alone(unit, hospital, study_uid)
    connection = sql(unit)
    found: int | None = connection.scalar(
        sa.select(fetch_job.c.id).where(fetch_job.c.study_uid == study_uid, fetch_job.c.hospital == hospital, _OPEN))
    if found is None:
        found = connection.execute(
            fetch_job.insert().returning(fetch_job.c.id),
            {"hospital": hospital, "study_uid": study_uid, "state": FETCH_JOB.first("asked for"), "owner": "", "created_at": now,
             "beat_at": 0.0, "ended_at": 0.0, "reason": ""}).scalar_one()
    known = set(connection.scalars(sa.select(fetch_want.c.sop_uid).where(fetch_want.c.job_id == found)))
    rows = [
        {"job_id": found, "sop_uid": sop, "series_uid": series, "landed": False}
        for sop, series in {sop: series for series, sop in wants}.items() if sop not in known
    ]
    if rows:
        connection.execute(fetch_want.insert(), rows)
    return found


def expecting(unit: Unit, instances: Collection[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    """Return the open job that expects each of these (hospital, study, SOP) instances; without those no job expects."""
    connection = sql(unit)
    studies = {(hospital, study_uid) for hospital, study_uid, _ in instances}
    jobs = connection.execute(
        sa.select(fetch_job.c.id, fetch_job.c.hospital, fetch_job.c.study_uid)
        .where(_OPEN, fetch_job.c.study_uid.in_({study_uid for _, study_uid in studies}))).all()
    found: dict[tuple[str, str, str], int] = {}
    for job_id, *key in jobs:
        for batch in batches(sop_uid for *whose, sop_uid in instances if whose == key):
            wanted = connection.scalars(
                sa.select(fetch_want.c.sop_uid).where(fetch_want.c.job_id == job_id, fetch_want.c.sop_uid.in_(batch)))
            found |= {(key[0], key[1], sop_uid): job_id for sop_uid in wanted}
    return found


def landed(unit: Unit, job_id: int, sop_uids: Sequence[str]) -> None:
    """Note that these instances of a job are durable. Call it in the unit that records them."""
    for batch in batches(sop_uids):
        sql(unit).execute(
            fetch_want.update().values(landed=True).where(fetch_want.c.job_id == job_id, fetch_want.c.sop_uid.in_(batch)))


def will_not_come(unit: Unit, job_id: int, reasons: Mapping[str, str]) -> None:
    """Note why these instances of a job will not come, reason by SOP Instance UID: nobody waits for them any more.

    A reason is told to the consumer as it is: it holds nothing about a patient. One that lands all the same is given.
    """
    query = fetch_want.update().where(
        fetch_want.c.job_id == job_id, fetch_want.c.sop_uid == sa.bindparam("sop"), fetch_want.c.landed.is_(sa.false())
    ).values(reason=sa.bindparam("why"))
    if reasons:
        sql(unit).execute(query, [{"sop": sop_uid, "why": reason} for sop_uid, reason in sorted(reasons.items())])


def reasons(unit: Unit, job_id: int) -> dict[str, str]:
    """Return why instances of a job will not come, by SOP Instance UID; those that may still come are not named."""
    rows = sql(unit).execute(
        sa.select(fetch_want.c.sop_uid, fetch_want.c.reason)
        .where(fetch_want.c.job_id == job_id, fetch_want.c.reason != "", fetch_want.c.landed.is_(sa.false())))
    return {row.sop_uid: row.reason for row in rows}


def known_reasons(unit: Unit, job: Job, since: float) -> dict[str, str]:
    """Return why instances that `job` waits for did not come to a job of the same study that ended after `since`.

    Only what that job itself found out counts, so that a reason is not handed on for ever.
    """
    before, want = fetch_want.alias(), fetch_want
    rows = sql(unit).execute(
        sa.select(before.c.sop_uid, before.c.reason)
        .join(fetch_job, fetch_job.c.id == before.c.job_id).join(want, want.c.sop_uid == before.c.sop_uid)
        .where(fetch_job.c.study_uid == job.study_uid, fetch_job.c.hospital == job.hospital, fetch_job.c.ended_at >= since,
               want.c.job_id == job.id, before.c.reason != "", before.c.landed.is_(sa.false()),
               ~before.c.reason.startswith(AGAIN, autoescape=True))
        .order_by(before.c.job_id))
    return {row.sop_uid: row.reason for row in rows}


def missing(unit: Unit, job_id: int) -> list[Wanted]:
    """Return what a job still waits for: neither noted as landed nor on record, nor known not to come."""
    here = (
        sa.exists().where(instance.c.study_id == study.c.id, instance.c.sop_uid == fetch_want.c.sop_uid)
        .where(study.c.study_uid == fetch_job.c.study_uid, study.c.hospital == fetch_job.c.hospital))
    rows = sql(unit).execute(
        sa.select(fetch_want.c.series_uid, fetch_want.c.sop_uid).join(fetch_job, fetch_job.c.id == fetch_want.c.job_id)
        .where(fetch_want.c.job_id == job_id, fetch_want.c.landed.is_(sa.false()), fetch_want.c.reason == "", ~here)
        .order_by(fetch_want.c.series_uid, fetch_want.c.sop_uid))
    return [Wanted(series, sop) for series, sop in rows]


def claim(unit: Unit, owner: str, limits: Mapping[str, int], now: float) -> Job | None:
    """Return the oldest queued job of a hospital with fewer running jobs than its limit, now running and ours; else None.

    Hospitals that `limits` does not name are left alone.
    """
    lock(unit, Lock.FETCH_QUEUE)
    connection = sql(unit)
    running = Counter(connection.scalars(sa.select(fetch_job.c.hospital).where(fetch_job.c.state == RUNNING)))
    free = [hospital for hospital, limit in limits.items() if running[hospital] < limit]
    job_id = connection.scalar(
        sa.select(fetch_job.c.id).where(fetch_job.c.state == QUEUED, fetch_job.c.hospital.in_(free))
        .order_by(fetch_job.c.id).limit(1))
    if job_id is None:
        return None
    FETCH_JOB.move(unit, "claimed", fetch_job.c.id == job_id, owner=owner, beat_at=now)
    job = state(unit, job_id)
    return job if job is not None and job.owner == owner else None


def beat(unit: Unit, owner: str, job_ids: Collection[int], now: float) -> set[int]:
    """Say that the owner works on these jobs; return those that are its own. One that is not among them was taken away."""
    return set(sql(unit).scalars(
        fetch_job.update().values(beat_at=now)
        .where(fetch_job.c.id.in_(job_ids), fetch_job.c.state == RUNNING, fetch_job.c.owner == owner)
        .returning(fetch_job.c.id)))


def finish(unit: Unit, job: Job, reason: str, now: float) -> None:
    """End a running job of ours: done when `reason` is empty, else failed. No-op when it is not ours any more.

    Call `alone` first and look at `missing` under it: what joined until then is part of the job.
    """
    FETCH_JOB.move(unit, "ended", fetch_job.c.id == job.id, fetch_job.c.owner == job.owner,
                   to=FETCH_FAILED if reason else DONE, reason=reason, ended_at=now)


def give_back(unit: Unit, owner: str) -> None:
    """Queue the running jobs of an owner that stops."""
    FETCH_JOB.move(unit, "given back", fetch_job.c.owner == owner, owner="", beat_at=0.0)


def abandoned(unit: Unit, before: float) -> bool:
    """Say whether there is a running job whose owner did not beat since `before`."""
    return sql(unit).scalar(sa.select(sa.exists().where(*_dead(before)))) or False


def reap(unit: Unit, before: float) -> int:
    """Queue again the running jobs whose owner did not beat since `before`; return how many."""
    return FETCH_JOB.move(unit, "abandoned", *_dead(before), owner="", beat_at=0.0)


def queued(unit: Unit) -> list[Job]:
    """Return the queued jobs, oldest first."""
    return [Job(*row) for row in sql(unit).execute(_JOBS.where(fetch_job.c.state == QUEUED).order_by(fetch_job.c.id))]


def refuse(unit: Unit, job: Job, reason: str, now: float) -> None:
    """End a queued job that will not be tried. No-op when it is not queued any more."""
    alone(unit, job.hospital, job.study_uid)
    FETCH_JOB.move(unit, "refused", fetch_job.c.id == job.id, reason=reason, ended_at=now)


def state(unit: Unit, job_id: int) -> Job | None:
    """Return a job as it is now, or None when it is unknown or forgotten."""
    row = sql(unit).execute(_JOBS.where(fetch_job.c.id == job_id)).one_or_none()
    return Job(*row) if row else None


def forget(unit: Unit, before: float) -> int:
    """Remove the jobs that ended before this time; return how many."""
    old = sa.select(fetch_job.c.id).where(fetch_job.c.ended_at > 0, fetch_job.c.ended_at < before)
    sql(unit).execute(fetch_want.delete().where(fetch_want.c.job_id.in_(old)))
    return FETCH_JOB.remove(unit, "forgotten", fetch_job.c.ended_at > 0, fetch_job.c.ended_at < before)


_JOBS = sa.select(
    fetch_job.c.id, fetch_job.c.hospital, fetch_job.c.study_uid, fetch_job.c.state, fetch_job.c.owner,
    fetch_job.c.created_at, fetch_job.c.reason)


def _dead(before: float) -> tuple[sa.ColumnElement[bool], ...]:
    return fetch_job.c.state == RUNNING, fetch_job.c.beat_at < before
