"""The XDS-I manifest: a DICOM Key Object Selection document that names the instances of a study and who keeps them.

PS3.3 A.35.4 and C.17.6, PS3.16 TID 2010, RAD TF-2 4.68.4.1.2. Text is written as ISO_IR 192 in Explicit VR Little
Endian; the same arguments give the same bytes, so that a manifest can be sent again as the same document.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from broker.model.errors import Rejected, XdsCode
from broker.model.ids import is_uid
from broker.model.imaging import InstanceRef, SeriesFacts, StudyFacts
from broker.wire import tags
from broker.wire.quiet_pydicom import quiet_pydicom
from broker.wire.study_text import copied
from broker.wire.tags import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION, TAGS, study_tags

KOS_CLASS = "1.2.840.10008.5.1.4.1.1.88.59"
MANIFEST_TITLE = ("113030", "DCM", "Manifest")

# Image classes whose registered name lacks the word "Image" (PS3.4 table B.5-1); RT Dose is no image reference.
_IMAGE_NAMES = ("Image Storage", "Enhanced US Volume Storage", "Segmentation Storage", "Parametric Map Storage",
                "Ophthalmic Thickness Map Storage", "Corneal Topography Map Storage")
_NOT_IMAGES = ("Surface Segmentation Storage",)
_INFLATED = 32 << 20        # bytes of a deflated manifest: about 100 000 instances
# What pydicom raises on bytes that are no DICOM file, or a damaged one.
_BROKEN = (InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, TypeError, KeyError, IndexError,
           AttributeError, NotImplementedError, OverflowError, RecursionError, struct.error, zlib.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadManifest:
    """What a manifest says. `patient_id` is the local DICOM Patient ID, `patient_domain` the OID of its issuer or empty.

    `retrieve_aes` are the distinct AE titles that answer C-MOVE for the instances, in order of appearance.
    """

    study_uid: str
    sop_uid: str
    patient_id: str
    patient_domain: str
    instances: tuple[InstanceRef, ...]
    retrieve_aes: tuple[str, ...]


def write_manifest(  # noqa: PLR0913 - one argument per fact that the study does not hold
    study: StudyFacts, *, retrieve_ae: str, location_uid: str, sop_uid: str, series_uid: str, now: datetime,
    issuer: tuple[str, str], accession_issuer: str | None = None,
) -> bytes:
    """Return the manifest of a study as a DICOM Part-10 file.

    `retrieve_ae` and `location_uid` go into every series item (RAD-16 and RAD-69); `issuer` is the (namespace, OID) of
    the local patient ids; `now` is an aware time in the region's zone. Raise `Rejected` for a study without
    instances (PS3.3 C.17.6.2: at least one) or with one whose UID or SOP class is no UID.
    """
    _check(study)
    study = copied(study)
    dataset = Dataset()
    stamp = {"Date": now.strftime("%Y%m%d"), "Time": now.strftime("%H%M%S")}
    order: dict[str, object] = {"AccessionNumber": study.accession}
    if study.accession and accession_issuer:
        order["IssuerOfAccessionNumberSequence"] = [_item(UniversalEntityID=accession_issuer, UniversalEntityIDType="ISO")]
    _put(
        dataset,
        SpecificCharacterSet="ISO_IR 192", TimezoneOffsetFromUTC=now.strftime("%z"),
        SOPClassUID=KOS_CLASS, SOPInstanceUID=sop_uid,
        InstanceCreationDate=stamp["Date"], InstanceCreationTime=stamp["Time"],
        PatientName=study.patient_name, PatientID=study.patient.value, PatientBirthDate=study.birth_date, PatientSex=study.sex,
        IssuerOfPatientID=issuer[0],
        IssuerOfPatientIDQualifiersSequence=[_item(UniversalEntityID=issuer[1], UniversalEntityIDType="ISO")],
        StudyInstanceUID=study.uid, StudyDate=study.date, StudyTime=study.time, StudyID=study.study_id,
        ReferringPhysicianName=study.referring, StudyDescription=study.description, **order,
        Modality="KO", SeriesInstanceUID=series_uid, SeriesNumber="1", InstanceNumber="1",
        ReferencedPerformedProcedureStepSequence=[], Manufacturer="XDS-I broker", InstitutionName=study.institution,
        ContentDate=stamp["Date"], ContentTime=stamp["Time"],
        ReferencedRequestSequence=[_request(study, order)],
        CurrentRequestedProcedureEvidenceSequence=[_item(
            ReferencedSeriesSequence=[_series(series, retrieve_ae, location_uid) for series in study.series if series.instances],
            StudyInstanceUID=study.uid)],
        ValueType="CONTAINER", ConceptNameCodeSequence=[_code(*MANIFEST_TITLE)], ContinuityOfContent="SEPARATE",
        ContentTemplateSequence=[_item(MappingResource="DCMR", TemplateIdentifier="2010")],
        ContentSequence=[
            _item(RelationshipType="CONTAINS", ValueType=value_type(sop_class), ReferencedSOPSequence=[_sop(sop_class, uid)])
            for series in study.series for sop_class, uid in series.instances],
    )
    if study.procedure_code:
        _put(dataset, ProcedureCodeSequence=[_code(*study.procedure_code)])
    return _encode(dataset, sop_uid)


def read_manifest(data: bytes) -> ReadManifest:
    """Read a manifest of any make. Retrieval attributes are taken from the instance item, else from its series item.

    Raise `Rejected` (InvalidDocumentContent) for bytes that are no readable Key Object Selection, and for one whose
    evidence (0040,A375) and content (0040,A730) name different instances or classes, which PS3.3 C.17.6.2.1 forbids, or
    whose evidence has an instance at two places. One repeated as it is counts once.
    """
    try:
        with quiet_pydicom():
            dataset = _parse(data)
            manifest = _read(dataset)
            problem = _fault(_text(dataset, "SOPClassUID"), manifest, set(_content(dataset)))
    except (tags.NotDicom, tags.Truncated, *_BROKEN) as error:
        raise Rejected(XdsCode.INVALID_DOCUMENT_CONTENT, f"not a readable DICOM file ({type(error).__name__})") from error
    if problem:
        raise Rejected(XdsCode.INVALID_DOCUMENT_CONTENT, problem, manifest.sop_uid if is_uid(manifest.sop_uid) else "")
    return manifest


def value_type(sop_class: str) -> str:
    """Return the content item type that refers to an instance of this class: IMAGE, WAVEFORM or COMPOSITE (TID 2010)."""
    name = UID(sop_class).name.partition(" - ")[0]
    if name.endswith("Waveform Storage"):
        return "WAVEFORM"
    return "IMAGE" if name.endswith(_IMAGE_NAMES) and name not in _NOT_IMAGES else "COMPOSITE"


def _check(study: StudyFacts) -> None:
    instances = [instance for series in study.series for instance in series.instances]
    if not instances:
        raise Rejected(XdsCode.INVALID_DOCUMENT_CONTENT, "a manifest needs at least one instance", study.uid)
    uids = [study.uid, *(series.uid for series in study.series), *(uid for instance in instances for uid in instance)]
    bad = sum(not is_uid(uid) for uid in uids)
    if bad:
        raise Rejected(XdsCode.INVALID_DOCUMENT_CONTENT, f"{bad} UIDs or SOP classes are missing or wrong", study.uid)


def _put(dataset: Dataset, **values: object) -> None:
    """Set elements by keyword as they are; what a study says was looked at before (`carried`)."""
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        content = Sequence(value) if isinstance(value, list) else value
        dataset.add(DataElement(tag, dictionary_VR(tag), content, validation_mode=config.IGNORE))


def _item(**values: object) -> Dataset:
    item = Dataset()
    _put(item, **values)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _sop(sop_class: str, uid: str) -> Dataset:
    return _item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)


def _series(series: SeriesFacts, retrieve_ae: str, location_uid: str) -> Dataset:
    return _item(
        SeriesInstanceUID=series.uid, RetrieveAETitle=retrieve_ae, RetrieveLocationUID=location_uid,
        ReferencedSOPSequence=[_sop(sop_class, uid) for sop_class, uid in series.instances])


def _request(study: StudyFacts, order: dict[str, object]) -> Dataset:
    return _item(
        StudyInstanceUID=study.uid, ReferencedStudySequence=[], RequestedProcedureID="", RequestedProcedureDescription="",
        RequestedProcedureCodeSequence=[], PlacerOrderNumberImagingServiceRequest="",
        FillerOrderNumberImagingServiceRequest="", **order)


def _encode(dataset: Dataset, sop_uid: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(KOS_CLASS), UID(sop_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(IMPLEMENTATION_UID), IMPLEMENTATION_VERSION
    dataset.file_meta = meta
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _parse(data: bytes) -> Dataset:
    """Return the data set of a Part-10 file. pydicom's own reading of files inflates without a limit."""
    meta = tags.read_meta(data)
    body, whole = data[meta.end:], True
    if meta.transfer_syntax == tags.DEFLATED:
        body, whole = tags.inflate(body, _INFLATED)
    if not whole:
        raise tags.NotDicom("too large when inflated")
    return read_dataset(
        io.BytesIO(body), meta.transfer_syntax == tags.IMPLICIT, meta.transfer_syntax != tags.BIG_ENDIAN)


def _read(dataset: Dataset) -> ReadManifest:
    refs: list[InstanceRef] = []
    titles: list[str] = []
    for study in _items(dataset, "CurrentRequestedProcedureEvidenceSequence"):
        for series in _items(study, "ReferencedSeriesSequence"):
            for sop in _items(series, "ReferencedSOPSequence"):
                refs.append(InstanceRef(
                    _text(study, "StudyInstanceUID"), _text(series, "SeriesInstanceUID"),
                    _text(sop, "ReferencedSOPInstanceUID"), _text(sop, "ReferencedSOPClassUID"),
                    _text(sop, "RetrieveLocationUID") or _text(series, "RetrieveLocationUID")))
                titles += (_text(sop, "RetrieveAETitle") or _text(series, "RetrieveAETitle")).split("\\")
    issuer = next(iter(_items(dataset, "IssuerOfPatientIDQualifiersSequence")), Dataset())
    return ReadManifest(
        study_uid=_text(dataset, "StudyInstanceUID"), sop_uid=_text(dataset, "SOPInstanceUID"),
        patient_id=_patient_id(dataset), patient_domain=_text(issuer, "UniversalEntityID"),
        instances=tuple(dict.fromkeys(refs)),
        retrieve_aes=tuple(dict.fromkeys(title.strip() for title in titles if title.strip())))


def _content(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for item in _items(dataset, "ContentSequence"):
        for sop in _items(item, "ReferencedSOPSequence"):
            yield _text(sop, "ReferencedSOPInstanceUID"), _text(sop, "ReferencedSOPClassUID")
        yield from _content(item)


def _fault(sop_class: str, manifest: ReadManifest, content: set[tuple[str, str]]) -> str:
    if sop_class != KOS_CLASS:
        return "not a Key Object Selection document"
    if not manifest.instances:
        return "the evidence sequence (0040,A375) names no instance"
    if not all(is_uid(uid) for ref in manifest.instances for uid in (ref.study_uid, ref.series_uid, ref.sop_uid)):
        return "the evidence sequence (0040,A375) holds something that is no UID"
    return _contradiction(manifest.instances, content)


def _contradiction(instances: tuple[InstanceRef, ...], content: set[tuple[str, str]]) -> str:
    evidence = {(ref.sop_uid, ref.sop_class) for ref in instances}
    if {uid for uid, _ in evidence} != {uid for uid, _ in content}:
        return "evidence (0040,A375) and content (0040,A730) name different instances"
    if evidence != content:
        return "evidence (0040,A375) and content (0040,A730) give an instance different SOP classes"
    if len({(ref.study_uid, ref.series_uid, ref.sop_uid) for ref in instances}) != len(evidence):
        return "the evidence sequence (0040,A375) places an instance twice"
    return ""


def _items(dataset: Dataset, keyword: str) -> Sequence:
    """Return the items of a sequence; none when it is absent or is no sequence."""
    if keyword not in dataset:
        return Sequence()
    value = dataset[keyword].value
    return value if isinstance(value, Sequence) else Sequence()


def _patient_id(dataset: Dataset) -> str:
    """Return the Patient ID by the declared character set, as the studies' own tags are read."""
    declared = dataset.get("SpecificCharacterSet") or ""
    terms = declared if isinstance(declared, str) else "\\".join(map(str, declared))
    raw = {TAGS["SpecificCharacterSet"]: terms.encode("ascii", "replace"), TAGS["PatientID"]: _raw(dataset, "PatientID")}
    return study_tags(raw).get("PatientID", "")


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an element that holds no more than ASCII."""
    return _raw(dataset, keyword).decode("ascii", "replace").strip(" \0")


def _raw(dataset: Dataset, keyword: str) -> bytes:
    """Return the bytes of an element: pydicom's own conversion warns about, and so prints, bad values."""
    tag = tag_for_keyword(keyword)
    element = dataset.get_item(tag) if tag is not None else None
    value = element.value if isinstance(element, RawDataElement) else None
    return value if isinstance(value, bytes) else b""
