"""Studies, instances and where a picture is."""

from dataclasses import dataclass, field

from broker.model.ids import PatientId


@dataclass(frozen=True, slots=True)
class InstanceRef:
    """One SOP instance in its hierarchy, as a manifest or RAD-69 names it. `source_uid` is the Retrieve Location UID."""

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str = ""
    source_uid: str = ""


@dataclass(frozen=True, slots=True)
class Online:
    """A file of the online store; `sha256` as written at ingest (hex)."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Archived:
    """One image inside an S-DICOM container: container path, offset of the Part-10 bytes, length, SHA-256 (hex)."""

    container: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Only the PACS of `hospital` (its key in the profile) has it."""

    hospital: str


Location = Online | Archived | Origin


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object the receiver made durable: what the index, the maker and waiting fetches need of it.

    `tags` holds decoded text by DICOM keyword (PatientID, StudyDate, …), `path` the final file, `job` the fetch it
    belongs to or None for a submission, `hospital` the profile key of the sender.
    """

    hospital: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    path: str
    size: int
    sha256: str
    tags: dict[str, str] = field(default_factory=dict)
    job: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """A series as the manifest needs it; `instances` are (SOP class, SOP Instance UID)."""

    uid: str
    modality: str = ""
    body_part: str = ""
    description: str = ""
    instances: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """A study as the manifest and its DocumentEntry need it. Text is decoded; dates are DICOM DA/TM, local time."""

    uid: str
    patient: PatientId
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    date: str = ""
    time: str = ""
    accession: str = ""
    study_id: str = ""
    description: str = ""
    referring: str = ""
    institution: str = ""
    procedure_code: tuple[str, str, str] | None = None
    series: tuple[SeriesFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A study that is to be packed: what it has online, and which rule says so.

    `rule` is the name of a rule of the region, or one of those that `imaging/store/due.py` names.
    """

    id: int
    hospital: str
    study_uid: str
    images: int
    bytes: int
    rule: str
