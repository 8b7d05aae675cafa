"""The Service Maker: which study is complete, and the manifest of one that is."""

import hashlib
import uuid
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import structlog

from broker.archive.formats.sdicom import Entry
from broker.config.profile import Hospital, Profile
from broker.imaging.store import publications, studies
from broker.imaging.store.publications import Draft
from broker.model.errors import Rejected
from broker.model.ids import PatientId, new_oid, new_uuid_urn
from broker.model.imaging import SeriesFacts, StudyFacts
from broker.model.ports import Unit
from broker.wire.ebxml import read_submission, submit_request
from broker.wire.kos import read_manifest, write_manifest
from broker.wire.ports import Manifest
from broker.wire.xdsi import ManifestFacts, describe, remarks
from broker.wire.xml import parse

log = structlog.get_logger("broker.publish")


def collect(unit: Unit, profile: Profile, now: float, only: Container[int] | None = None) -> int:
    """Make complete the studies that have been quiet long enough, and due those we publish; return how many are due.

    `only` are the row ids of those to look at, if not at all. Studies of a hospital of kind `origin` are published when
    someone asks for it, not because a copy came by; but for parts that an operator made.
    """
    found = 0
    for study in studies.quiet(unit, now - profile.retention.quiet_seconds):
        if only is not None and study.id not in only:
            continue
        if not studies.mark(unit, study.id, "quiet"):
            continue
        hospital = profile.hospital(study.hospital)
        if hospital is not None and (hospital.kind != "origin" or study.part):
            publications.request(unit, study.id, study.patient, now)
            found += 1
    return found


def with_archived_instances(study: StudyFacts, packed: Iterable[Entry], described: Mapping[str, SeriesFacts]) -> StudyFacts:
    """Return a study with the instances of its containers beside those that are online.

    Images that come late to an archived study must not push the earlier ones out of its manifest.
    """
    found = {series.uid: dict.fromkeys(series.instances) for series in study.series}
    for entry in packed:
        found.setdefault(entry.series_uid, {})[entry.sop_class, entry.sop_uid] = None
    about = {**described, **{series.uid: series for series in study.series}}
    return replace(study, series=tuple(
        replace(about.get(uid, SeriesFacts(uid=uid)), instances=tuple(sorted(listed, key=lambda one: one[1])))
        for uid, listed in sorted(found.items())))


def build_submission(  # noqa: PLR0913 - the study, and each fact of its surroundings
    study: StudyFacts, row: publications.Publication, patient: PatientId, profile: Profile, ae_title: str, now: float, *,
    first: bool = True,
) -> Draft:
    """Return the manifest of a study with fresh identifiers; it replaces the one published before.

    One that is `restored` has the identifiers it had, and replaces nothing: consumers keep them, the registry may be new.
    `patient` is the affinity-domain id, `ae_title` our own: pictures are had from us wherever they are kept. `first` is
    false for a study whose UID another hospital used before. Raise `Rejected` when the study cannot have a manifest.
    """
    hospital = profile.hospital(row.hospital)
    if hospital is None:
        raise Rejected("UnknownHospital", f"there is no hospital {row.hospital!r} in the profile any more")
    for remark in remarks(study, hospital.accession_issuer):
        log.warning("the metadata say less than the pictures", study=row.study_id, hospital=hospital.key, remark=remark)
    domain = profile.domain(study.patient.domain)
    at = datetime.fromtimestamp(int(now), _zone(profile.region.timezone))
    manifest_uid = row.manifest_uid if row.restored else new_oid()
    document = write_manifest(
        study, retrieve_ae=ae_title, location_uid=location(hospital, row.tier, profile, first=first), sop_uid=manifest_uid,
        series_uid=new_oid(), now=at, issuer=(domain.namespace if domain else "", study.patient.domain),
        accession_issuer=hospital.accession_issuer)
    facts = ManifestFacts(
        document=document, unique_id=manifest_uid, entry_id=row.entry_uuid if row.restored else new_uuid_urn(),
        set_uid=submission_uid(manifest_uid), at=at, patient=patient, replaces="" if row.restored else row.entry_uuid)
    return Draft(document, submit_request(describe(study, facts, profile, hospital)))


def submission_uid(manifest_uid: str) -> str:
    """Return the SubmissionSet.uniqueId of a manifest: an OID of a name-based UUID (X.667), the same whenever it is asked for.

    So a registry that has the manifest says so when it is submitted once more, and the archive needs to keep one UID only.
    """
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{manifest_uid} submission').int}"


def location(hospital: Hospital, tier: str, profile: Profile, *, first: bool = True) -> str:
    """Return the Retrieve Location UID: the hospital's own where it has one, else ours.

    The same Study Instance UID may come from several hospitals, with the same SOP Instance UIDs and other bytes (a disc that
    was imported, ids that were coerced). RAD-69 has nothing but this UID to tell them apart, so only the study that was
    here `first` may use ours: the others have one that follows from ours and the hospital's key.
    """
    if hospital.source_uid and (tier == "origin" or hospital.kind != "origin"):
        return hospital.source_uid
    return profile.region.source_uid if first else second_location(hospital, profile)


def second_location(hospital: Hospital, profile: Profile) -> str:
    """Return the Retrieve Location UID of a hospital's studies whose UID another hospital used first.

    An OID of a name-based UUID (X.667): the same in every process, and after every change of the profile's order.
    """
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{profile.region.source_uid} {hospital.key}').int}"


def as_manifest(made: Draft) -> Manifest:
    """Return a draft in the form in which it is sent."""
    return Manifest(made.document, read_submission(parse(made.submission)))


def published_facts(made: Draft) -> dict[str, str]:
    """Return what is to be remembered of a draft that was accepted: its ids, its patient, the digest of its instances."""
    read = read_manifest(made.document)
    entry = as_manifest(made).submission.objects.documents[0]
    listed = ((ref.series_uid, ref.sop_uid, ref.sop_class) for ref in read.instances)
    return {
        "manifest_uid": read.sop_uid, "entry_uuid": entry.id, "digest": _digest(listed), "entry_patient": entry.patient_id}


def instances_digest(study: StudyFacts) -> str:
    """Return what the instance list of a study comes down to: equal digests need no new manifest."""
    return _digest((series.uid, uid, sop_class) for series in study.series for sop_class, uid in series.instances)


def instance_count(study: StudyFacts) -> int:
    """Return the number of instances."""
    return sum(len(series.instances) for series in study.series)


def _digest(listed: Iterable[tuple[str, str, str]]) -> str:
    return hashlib.sha256("\n".join(sorted(" ".join(row) for row in listed)).encode()).hexdigest()


def _zone(offset: str) -> timezone:
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
