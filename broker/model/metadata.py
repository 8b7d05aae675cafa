"""XDS metadata objects (ITI TF-3 4.2) as dataclasses. Identifiers are the standard's attribute names in snake case."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broker.model.caller import AuditFacts
from broker.model.errors import Rejected
from broker.model.ids import PatientId

STABLE = "urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1"
ON_DEMAND = "urn:uuid:34268e47-fdf5-41a6-ba33-82133c465248"
APPROVED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved"
DEPRECATED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Deprecated"

HAS_MEMBER = "urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember"
RPLC = "urn:ihe:iti:2007:AssociationType:RPLC"
XFRM = "urn:ihe:iti:2007:AssociationType:XFRM"
APND = "urn:ihe:iti:2007:AssociationType:APND"
XFRM_RPLC = "urn:ihe:iti:2007:AssociationType:XFRM_RPLC"
SIGNS = "urn:ihe:iti:2007:AssociationType:signs"
IS_SNAPSHOT_OF = "urn:ihe:iti:2010:AssociationType:IsSnapshotOf"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value. Equality for the standard is (code, scheme); compare with `same`."""

    code: str
    scheme: str
    display: str = ""

    def same(self, other: "Code") -> bool:
        """Say whether both name the same concept; the display name is not compared."""
        return (self.code, self.scheme) == (other.code, other.scheme)


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """One author: XCN person, XON institutions, roles, specialties, XTN telecommunication."""

    person: str = ""
    institutions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    specialties: tuple[str, ...] = ()
    telecoms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentEntry:
    """A DocumentEntry. Times are DTM in UTC, `hash` is SHA-1 in hex, `size` bytes; empty text = absent.

    `codes` is keyed by the attribute name: classCode, typeCode, formatCode, confidentialityCode,
    healthcareFacilityTypeCode, practiceSettingCode, eventCodeList. `patient_id` and `source_patient_id` are CX text.
    """

    id: str
    unique_id: str
    patient_id: str
    mime_type: str
    object_type: str = STABLE
    status: str = ""
    home: str = ""
    lid: str = ""
    version: str = ""
    title: str = ""
    comments: str = ""
    creation_time: str = ""
    service_start_time: str = ""
    service_stop_time: str = ""
    language_code: str = ""
    hash: str = ""
    size: int | None = None
    repository_unique_id: str = ""
    source_patient_id: str = ""
    source_patient_info: tuple[str, ...] = ()
    reference_id_list: tuple[str, ...] = ()
    legal_authenticator: str = ""
    uri: str = ""
    authors: tuple[Author, ...] = ()
    codes: Mapping[str, tuple[Code, ...]] = field(default_factory=dict)
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionSet:
    """A SubmissionSet."""

    id: str
    unique_id: str
    source_id: str
    patient_id: str
    submission_time: str = ""
    status: str = ""
    home: str = ""
    title: str = ""
    comments: str = ""
    content_type: Code | None = None
    authors: tuple[Author, ...] = ()
    intended_recipients: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A Folder."""

    id: str
    unique_id: str
    patient_id: str
    status: str = ""
    home: str = ""
    title: str = ""
    comments: str = ""
    last_update_time: str = ""
    codes: tuple[Code, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """An Association. `submission_set_status` is Original, Reference or empty."""

    id: str
    type: str
    source: str
    target: str
    submission_set_status: str = ""
    status: str = ""
    documentation: Code | None = None
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryObjects:
    """What a submission or a query answer holds; a submission has exactly one submission set."""

    submission_sets: tuple[SubmissionSet, ...] = ()
    documents: tuple[DocumentEntry, ...] = ()
    folders: tuple[Folder, ...] = ()
    associations: tuple[Association, ...] = ()

    @property
    def patients(self) -> tuple[PatientId, ...]:
        """Every patient that any of the objects names, each once; what is no patient id is left out."""
        return _patients(one.patient_id for kind in (self.submission_sets, self.documents, self.folders) for one in kind)

    def note(self, facts: AuditFacts) -> None:
        """Tell an audit record whose submission this is, as far as it can be read."""
        facts.submission_set = self.submission_sets[0].unique_id if self.submission_sets else ""
        facts.patients.extend(_patients(one.patient_id for one in self.submission_sets))


def _patients(texts: Iterable[str]) -> tuple[PatientId, ...]:
    found: list[PatientId] = []
    for text in dict.fromkeys(texts):
        with contextlib.suppress(Rejected):
            found.append(PatientId.parse(text))
    return tuple(found)
