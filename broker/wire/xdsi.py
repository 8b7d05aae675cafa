"""Metadata of a manifest: from what a study says to DocumentEntry, SubmissionSet and associations.

The mapping of RAD TF-2 4.68.4.1.2.3.2 with the region's codes. Pure: identifiers and time come from the caller.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.config import profile as region
from broker.config.profile import Hospital, Profile
from broker.model.ids import PatientId, escape_hl7, is_oid
from broker.model.imaging import StudyFacts
from broker.model.metadata import HAS_MEMBER, RPLC, Association, Author, Code, DocumentEntry, RegistryObjects, SubmissionSet
from broker.wire.study_text import LONGEST, carried, day_of, modality_of, time_of
from broker.wire.terms import BODY_PARTS, MODALITIES

ACCESSION = "urn:ihe:iti:xds:2013:accession"
STUDY_INSTANCE_UID = "urn:ihe:iti:xds:2016:studyInstanceUID"
MIME_TYPE = "application/dicom"

_ENTRY_CODES = ("classCode", "confidentialityCode", "formatCode", "healthcareFacilityTypeCode", "practiceSettingCode")
_DTM = {2: "%Y%m%d%H", 4: "%Y%m%d%H%M", 6: "%Y%m%d%H%M%S"}
_TITLE = 127    # ITI TF-3 4.2.3.2.30: fewer than 128 characters
_CUTS = (64, 32, 16, 8, 4)  # characters of each component of a name that is too long as XPN
_SET_ID = "submission-set"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts:
    """A manifest about to be submitted: the KOS bytes, its SOP Instance UID and what the submission is called.

    `patient` is the affinity-domain id; `replaces` the entryUUID of the manifest this one takes the place of, or empty.
    `at` is an aware time: creation of the document and of the submission.
    """

    document: bytes
    unique_id: str
    entry_id: str
    set_uid: str
    at: datetime
    patient: PatientId
    replaces: str = ""


def describe(study: StudyFacts, facts: ManifestFacts, profile: Profile, hospital: Hospital) -> RegistryObjects:
    """Return the metadata with which the manifest of `hospital`'s study is provided and registered.

    Only the DocumentEntry has a UUID already; all other ids are symbolic, so that a repeat of the submission is known
    by the uniqueId of its SubmissionSet. The repository adds its own id.
    """
    study, _ = carried(study)
    author = Author(institutions=(_organisation(study.institution or hospital.title.strip() or hospital.key),))
    stamp = facts.at.astimezone(UTC).strftime("%Y%m%d%H%M%S")
    content_type = profile.codes.publish.get("contentTypeCode")
    submission_set = SubmissionSet(
        id=_SET_ID, unique_id=facts.set_uid, source_id=hospital.source_id, patient_id=str(facts.patient), submission_time=stamp,
        content_type=_code(content_type) if content_type else None, authors=(author,))
    links = [Association(id="member", type=HAS_MEMBER, source=_SET_ID, target=facts.entry_id, submission_set_status="Original")]
    if facts.replaces:
        links.append(Association(id="replace", type=RPLC, source=facts.entry_id, target=facts.replaces))
    entry = _entry(study, facts, profile, hospital, author, stamp)
    return RegistryObjects(submission_sets=(submission_set,), documents=(entry,), associations=tuple(links))


def _entry(
    study: StudyFacts, facts: ManifestFacts, profile: Profile, hospital: Hospital, author: Author, stamp: str,
) -> DocumentEntry:
    return DocumentEntry(
        id=facts.entry_id, unique_id=facts.unique_id, patient_id=str(facts.patient), mime_type=MIME_TYPE,
        title=(study.description or " ".join(_modalities(study)))[:_TITLE], creation_time=stamp,
        service_start_time=utc(study.date, study.time, profile.region.timezone), language_code=profile.region.language,
        hash=hashlib.sha1(facts.document, usedforsecurity=False).hexdigest(), size=len(facts.document),
        source_patient_id=str(study.patient if _fits(str(study.patient)) else facts.patient),
        source_patient_info=tuple(patient_info(study)),
        reference_id_list=tuple(references(study, hospital.accession_issuer)), authors=(author,),
        codes=_codes(study, profile.codes))


def remarks(study: StudyFacts, accession_issuer: str | None) -> tuple[str, ...]:
    """Return what the metadata do not carry as the pictures have it: `PatientSex left out`."""
    fitted, found = carried(study)
    more = {
        "PatientID left out": not _fits(f"PID-3|{fitted.patient}"),
        "PatientName shortened": _name(fitted) != xpn(fitted.patient_name),
        "AccessionNumber left out": bool(
            fitted.accession and accession_issuer and len(tuple(references(fitted, accession_issuer))) < 2),
        "Modality left out": any(series.modality.strip() and not modality_of(series.modality) for series in study.series),
    }
    return (*found, *(remark for remark, true in more.items() if true))


def _organisation(name: str) -> str:
    """Return a name as XON, shortened where it is too long with its escapes."""
    return next(text for length in range(len(name), 0, -1) if _fits(text := escape_hl7(name[:length])))


def _fits(text: str) -> bool:
    return len(text) <= LONGEST


def utc(date: str, time: str, zone: str) -> str:
    """Return a DICOM date and time of `zone` (±hhmm) as a DTM in UTC with the precision of the time given.

    A date without a usable time stays as it is, for it cannot be converted; anything that is no date gives empty text.
    """
    day, clock = day_of(date), time_of(time).partition(".")[0]
    if not day:
        return ""
    pattern = _DTM.get(len(clock), "")
    local = _parsed(f"{day}{clock}{zone}", f"{pattern}%z") if pattern else None
    return local.astimezone(UTC).strftime(pattern) if local else day


def _parsed(text: str, pattern: str) -> datetime | None:
    try:
        return datetime.strptime(text, pattern)  # noqa: DTZ007 - the zone is part of the pattern where it matters
    except ValueError:
        return None


def xpn(name: str) -> str:
    """Return a DICOM person name as HL7 XPN: PS3.5 6.2 orders prefix before suffix, HL7 suffix before prefix.

    Component groups become repetitions; if there are several, each says its representation (XPN.8 A, I, P) and type L.
    """
    groups = [(mark, _components(group)) for mark, group in zip("AIP", name.split("="), strict=False)]
    filled = [(mark, parts) for mark, parts in groups if any(parts)]
    if len(filled) > 1:
        return "~".join("^".join([*parts, "", "L", mark]) for mark, parts in filled)
    return "".join("^".join(parts).rstrip("^") for _mark, parts in filled)


def _components(group: str) -> list[str]:
    family, given, middle, prefix, suffix = ([escape_hl7(part.strip()) for part in group.split("^")] + [""] * 5)[:5]
    return [family, given, middle, suffix, prefix]


def patient_info(study: StudyFacts) -> Iterable[str]:
    """Return the sourcePatientInfo fields PID-3, 5, 7 and 8 of what `carried` left, as far as they fit (ITI TF-3 4.2.3.1.7)."""
    if _fits(f"PID-3|{study.patient}"):
        yield f"PID-3|{study.patient}"
    name = _name(study)
    if name:
        yield f"PID-5|{name}"
    if study.birth_date:
        yield f"PID-7|{study.birth_date}"
    if study.sex in {"M", "F", "O"}:
        yield f"PID-8|{study.sex}"


def _name(study: StudyFacts) -> str:
    """Return the name as XPN: whole, else with shorter components, else without its further representations."""
    for name in (study.patient_name, *(_cut(study.patient_name, most) for most in _CUTS), study.patient_name.partition("=")[0]):
        if _fits(f"PID-5|{xpn(name)}"):
            return xpn(name)
    return ""


def _cut(name: str, most: int) -> str:
    return "=".join("^".join(part[:most] for part in group.split("^")) for group in name.split("="))


def references(study: StudyFacts, accession_issuer: str | None) -> Iterable[str]:
    """Return the referenceIdList: the accession number where its issuer is known, and the study (CXi, ITI TF-3 4.2.3.1.7)."""
    accession = f"{escape_hl7(study.accession)}^^^&{accession_issuer}&ISO^{ACCESSION}"
    if study.accession and accession_issuer and _fits(accession):
        yield accession
    yield f"{study.uid}^^^^{STUDY_INSTANCE_UID}"


def _codes(study: StudyFacts, codes: region.Codes) -> dict[str, tuple[Code, ...]]:
    found: dict[str, tuple[Code, ...]] = {
        attribute: (_code(codes.publish[attribute]),) for attribute in _ENTRY_CODES if attribute in codes.publish}
    kind = _type_code(study, codes)
    if kind:
        found["typeCode"] = (kind,)
    events = tuple(code for code in _events(study, codes) if _is_allowed(code, codes, "eventCodeList"))
    if events:
        found["eventCodeList"] = events
    return found


def _type_code(study: StudyFacts, codes: region.Codes) -> Code | None:
    """Return the procedure's code if the region knows its scheme and allows it, else the region's own."""
    if study.procedure_code:
        value, designator, meaning = study.procedure_code
        scheme = codes.scheme_aliases.get(designator, designator)
        code = Code(value, scheme, meaning.strip() or value)
        if value and is_oid(scheme) and _is_allowed(code, codes, "typeCode"):
            return code
    default = codes.publish.get("typeCode")
    return _code(default) if default else None


def _events(study: StudyFacts, codes: region.Codes) -> Iterable[Code]:
    for modality in _modalities(study):
        yield Code(modality, codes.event_scheme, MODALITIES[modality])
    snomed = codes.scheme_aliases.get("SCT", "")
    parts = dict.fromkeys(BODY_PARTS[s.body_part.upper()] for s in study.series if s.body_part.upper() in BODY_PARTS)
    if snomed:
        yield from (Code(code, snomed, meaning) for code, meaning in parts)


def _modalities(study: StudyFacts) -> list[str]:
    return sorted({modality_of(series.modality) for series in study.series if series.instances} & MODALITIES.keys())


def _is_allowed(code: Code, codes: region.Codes, attribute: str) -> bool:
    allowed = codes.allowed.get(attribute, ())
    return not allowed or any((code.code, code.scheme) == (one.code, one.scheme) for one in allowed)


def _code(code: region.Code) -> Code:
    return Code(code.code, code.scheme, code.display or code.code)
