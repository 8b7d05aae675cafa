"""Whose picture it is, and what several pictures say of one study together. Pure.

What is the same patient id is decided here and nowhere else. Neither answer depends on the order in which pictures come.
"""

import unicodedata
from collections.abc import Mapping, Sequence

from broker.config.profile import Hospital, Profile
from broker.model.ids import PatientId

LONGEST = 250           # characters of a patient id that are kept; LO allows 64

FACTS = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "StudyDescription", "ReferringPhysicianName", "InstitutionName", "TimezoneOffsetFromUTC",
    "ProcedureCodeValue", "ProcedureCodingSchemeDesignator", "ProcedureCodeMeaning",
)
# What a patient is, beside the id.
PERSON = ("PatientName", "PatientBirthDate", "PatientSex")
# Values that mean something only together are taken from one picture.
_TOGETHER = (
    ("PatientID", "IssuerOfPatientID"), ("StudyDate", "StudyTime"),
    ("ProcedureCodeValue", "ProcedureCodingSchemeDesignator", "ProcedureCodeMeaning"),
)
_UNITS = (*_TOGETHER, *((keyword,) for keyword in FACTS if not any(keyword in unit for unit in _TOGETHER)))
_PADDING = "\0\ufeff"
_DAMAGED = frozenset("?\ufffd")


def plain_id(text: str) -> str:
    """Return a patient id as it is stored and compared: without blanks and padding around it, in Unicode NFC.

    Case, zeros and blanks inside tell ids apart (LO is case-sensitive, PS3.5 6.2).
    """
    while (bare := text.strip().strip(_PADDING)) != text:
        text = bare
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def patient_of(tags: Mapping[str, str], hospital: Hospital | None, profile: Profile) -> PatientId:
    """Return whom a picture of this hospital names; the value is empty when it names nobody.

    The id is one of the hospital's own, unless Issuer of Patient ID (0010,0021) names the authority of another hospital.
    """
    own = hospital.domain if hospital else ""
    issuer = tags.get("IssuerOfPatientID", "")
    return PatientId(_authority(issuer, profile) or own if issuer else own, plain_id(tags.get("PatientID", ""))[:LONGEST])


def _authority(issuer: str, profile: Profile) -> str:
    """Return the OID of the hospital authority that an issuer's text names, as namespace, OID, or both (HL7 HD); else empty."""
    for name in map(plain_id, issuer.split("&")):
        domain = profile.domain(name) or profile.domain_by_namespace(name)
        if domain is not None and any(hospital.domain == domain.oid for hospital in profile.hospitals):
            return domain.oid
    return ""


def facts_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return what a picture says of its study, without what is empty."""
    return {keyword: tags[keyword] for keyword in FACTS if tags.get(keyword)}


def fuller(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Return what two descriptions of a study say together: of each value the one that says more.

    Undamaged before damaged text, then the longer, then the first by code point: whichever way round, and in whatever
    order many are put together, the result is the same.
    """
    found: dict[str, str] = {}
    for unit in _UNITS:
        best = min(one, other, key=lambda facts: _rank([facts.get(keyword, "") for keyword in unit]))
        found |= {keyword: best[keyword] for keyword in unit if best.get(keyword)}
    return found


def _rank(values: Sequence[str]) -> tuple[int, int, int, Sequence[str]]:
    text = "".join(values)
    return -sum(map(bool, values)), len(_DAMAGED.intersection(text)), -len(text), values


def is_corrected(known: Mapping[str, str], said: Mapping[str, str]) -> bool:
    """Say whether a picture tells another name, birth date or sex than is known of the patient of its study."""
    return any(said.get(keyword) and known.get(keyword) and _person(said[keyword]) != _person(known[keyword])
               for keyword in PERSON)


def _person(text: str) -> str:
    """Return a name or date without what means nothing in it: empty components, case, blanks (PS3.5 6.2.1)."""
    groups = ("^".join(part.strip() for part in group.split("^")).rstrip("^") for group in plain_id(text).split("="))
    return "=".join(groups).rstrip("=").casefold().replace(".", "")
