import contextlib
import copy
import io
import string
from datetime import timedelta, timezone
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.imaging import InstanceRef, SeriesFacts
from broker.wire.kos import read_manifest, value_type, write_manifest
from tests.helpers.manifests import CT, ECG, NOW, SR, kos, study


def parsed(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_a_manifest_names_every_instance_with_its_source() -> None:
    manifest = read_manifest(kos(study()))
    assert manifest.study_uid == "2.25.100"
    assert manifest.sop_uid == "2.25.200"
    assert (manifest.patient_id, manifest.patient_domain) == ("A-20417", "2.999.2.1")
    assert manifest.retrieve_aes == ("BROKER",)
    assert manifest.instances == (
        InstanceRef("2.25.100", "2.25.100.1", "2.25.100.1.1", CT, "2.999.1.3"),
        InstanceRef("2.25.100", "2.25.100.1", "2.25.100.1.2", CT, "2.999.1.3"),
        InstanceRef("2.25.100", "2.25.100.2", "2.25.100.2.1", SR, "2.999.1.3"),
    )


def test_a_manifest_holds_what_the_profile_demands() -> None:
    zone = timezone(timedelta(hours=8))
    dataset = parsed(kos(study(procedure_code=("CTCH", "99HOSP", "胸部")), now=NOW.astimezone(zone)))
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == "Ye^XiaoDong^^Dr^Jr=葉^曉東"
    assert dataset.StudyDescription == "胸部 CT 平扫"
    assert (dataset.ContentDate, dataset.ContentTime, dataset.TimezoneOffsetFromUTC) == ("20240506", "093005", "+0800")
    assert dataset.InstanceCreationDate == "20240506"
    assert dataset.Modality == "KO"
    assert dataset.IssuerOfPatientID == "HOSPA"
    assert dataset.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "2.999.2.1"
    assert dataset.IssuerOfAccessionNumberSequence[0].UniversalEntityID == "2.999.2.2"
    title = dataset.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning) == ("113030", "DCM", "Manifest")
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    assert dataset.ReferencedRequestSequence[0].AccessionNumber == "A20240506-17"
    assert dataset.ProcedureCodeSequence[0].CodeMeaning == "胸部"
    series = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [(item.RetrieveAETitle, item.RetrieveLocationUID) for item in series] == [("BROKER", "2.999.1.3")] * 2
    assert [item.ValueType for item in dataset.ContentSequence] == ["IMAGE", "IMAGE", "COMPOSITE"]


def test_equal_arguments_give_equal_bytes() -> None:
    assert kos(study()) == kos(study())


def test_a_study_without_issuer_of_its_order_number_has_none() -> None:
    dataset = parsed(kos(study(), accession_issuer=None))
    assert dataset.AccessionNumber == "A20240506-17"
    assert "IssuerOfAccessionNumberSequence" not in dataset


def test_text_that_breaks_its_type_is_copied_unchanged() -> None:
    dataset = pydicom.dcmread(io.BytesIO(kos(study(birth_date="unknown", study_id="x" * 20))))
    assert dataset.get_item(0x00100030).value == b"unknown "
    assert dataset.get_item(0x00200010).value == b"x" * 20


@pytest.mark.parametrize("series", [
    (),
    (SeriesFacts(uid="2.25.1"),),
    (SeriesFacts(uid="2.25.1", instances=((CT, "not a uid"),)),),
    (SeriesFacts(uid="2.25.1", instances=(("", "2.25.1.1"),)),),
])
def test_a_study_without_proper_instances_has_no_manifest(series: tuple[SeriesFacts, ...]) -> None:
    with pytest.raises(Rejected, match="InvalidDocumentContent"):
        kos(study(series=series))


@pytest.mark.parametrize(("sop_class", "kind"), [
    (CT, "IMAGE"),
    ("1.2.840.10008.5.1.4.1.1.1.1.1", "IMAGE"),         # Digital X-Ray Image Storage - For Processing
    ("1.2.840.10008.5.1.4.1.1.6", "IMAGE"),             # retired ultrasound
    ("1.2.840.10008.5.1.4.1.1.66.4", "IMAGE"),          # segmentation
    ("1.2.840.10008.5.1.4.1.1.66.5", "COMPOSITE"),      # surface segmentation
    (ECG, "WAVEFORM"),
    (SR, "COMPOSITE"),
    ("1.2.840.10008.5.1.4.1.1.11.1", "COMPOSITE"),      # presentation state
    ("1.2.840.10008.5.1.4.1.1.104.1", "COMPOSITE"),     # encapsulated PDF
    ("1.2.999.1", "COMPOSITE"),                         # private
])
def test_value_types(sop_class: str, kind: str) -> None:
    assert value_type(sop_class) == kind


def _drop_content_item(dataset: Dataset) -> None:
    del dataset.ContentSequence[0]


def _add_content_item(dataset: Dataset) -> None:
    item = copy.deepcopy(dataset.ContentSequence[0])
    item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.100.9"
    dataset.ContentSequence.append(item)


def _other_class(dataset: Dataset) -> None:
    dataset.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPClassUID = SR


def _drop_evidence(dataset: Dataset) -> None:
    del dataset.CurrentRequestedProcedureEvidenceSequence


def _be_an_image(dataset: Dataset) -> None:
    dataset.SOPClassUID = CT


def _bad_uid(dataset: Dataset) -> None:
    dataset.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = ""


@pytest.mark.parametrize(("spoil", "why"), [
    (_drop_content_item, "name different instances"),
    (_add_content_item, "name different instances"),
    (_other_class, "give an instance different SOP classes"),
    (_drop_evidence, "names no instance"),
    (_be_an_image, "not a Key Object Selection"),
    (_bad_uid, "no UID"),
])
def test_a_manifest_that_contradicts_itself_is_refused(spoil: Any, why: str) -> None:
    dataset = parsed(kos(study()))
    spoil(dataset)
    with pytest.raises(Rejected, match=why) as refusal:
        read_manifest(saved(dataset))
    assert refusal.value.problems[0].code == "InvalidDocumentContent"
    assert refusal.value.problems[0].location == "2.25.200"


def _repeat_content(dataset: Dataset) -> None:
    dataset.ContentSequence.append(copy.deepcopy(dataset.ContentSequence[0]))


def _repeat_evidence(dataset: Dataset) -> None:
    references = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    references.append(copy.deepcopy(references[0]))


@pytest.mark.parametrize("repeat", [_repeat_content, _repeat_evidence])
def test_an_instance_named_twice_is_one_instance(repeat: Any) -> None:
    """Content may refer to an instance more than once (another frame, another remark); nobody asks for it twice."""
    dataset = parsed(kos(study()))
    repeat(dataset)
    assert read_manifest(saved(dataset)).instances == read_manifest(kos(study())).instances


def test_one_instance_in_two_series_is_refused() -> None:
    dataset = parsed(kos(study()))
    series = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    series[1].ReferencedSOPSequence.append(copy.deepcopy(series[0].ReferencedSOPSequence[0]))
    with pytest.raises(Rejected, match="places an instance twice") as refusal:
        read_manifest(saved(dataset))
    assert refusal.value.problems[0].code == "InvalidDocumentContent"


def test_retrieval_attributes_of_an_instance_win_over_those_of_its_series() -> None:
    dataset = parsed(kos(study(), retrieve_ae="SERIES1\\SERIES2"))
    sop = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[1]
    sop.RetrieveLocationUID, sop.RetrieveAETitle = "2.999.77", "INSTANCE"
    manifest = read_manifest(saved(dataset))
    assert [ref.source_uid for ref in manifest.instances] == ["2.999.1.3", "2.999.77", "2.999.1.3"]
    assert manifest.retrieve_aes == ("SERIES1", "SERIES2", "INSTANCE")


def test_an_implicit_manifest_with_nested_content_is_read() -> None:
    dataset = parsed(kos(study()))
    group = Dataset()
    group.RelationshipType, group.ValueType, group.ContentSequence = "CONTAINS", "CONTAINER", list(dataset.ContentSequence)
    dataset.ContentSequence = [group]
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
    assert len(read_manifest(buffer.getvalue()).instances) == 3


def test_a_patient_id_in_another_character_set_is_decoded() -> None:
    dataset = parsed(kos(study(patient=PatientId("2.999.2.1", "葉-1"))))
    dataset.SpecificCharacterSet = "GB18030"
    assert read_manifest(saved(dataset)).patient_id == "葉-1"


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")   # it comments on what it cannot read
@pytest.mark.parametrize("data", [
    b"", b"DICM", b"\0" * 128 + b"DICM", b"\0" * 200, b"%PDF-1.4", b"\0" * 128 + b"DICM" + b"\2\0" * 40])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(Rejected, match="InvalidDocumentContent"):
        read_manifest(data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_manifest_is_read_or_refused(data: st.DataObject) -> None:
    broken = bytearray(kos(study()))
    for at in data.draw(st.lists(st.integers(132, len(broken) - 1), min_size=1, max_size=4)):
        broken[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(broken)), st.integers(0, len(broken))))
    with contextlib.suppress(Rejected):
        assert read_manifest(bytes(broken[:cut])).instances


UIDS = st.lists(st.integers(0, 10**8), min_size=1, max_size=6).map(lambda arcs: "1.2." + ".".join(map(str, arcs)))


@pytest.mark.slow
@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    listed=st.dictionaries(UIDS, st.lists(UIDS, min_size=1, max_size=5, unique=True), min_size=1, max_size=4),
    patient=st.text(string.ascii_letters + string.digits + "^&~|' 张三葉曉", min_size=1, max_size=20).map(str.strip).filter(bool),
)
def test_what_is_written_is_read_back(listed: dict[str, list[str]], patient: str) -> None:
    facts = study(
        patient=PatientId("2.999.2.1", patient),
        series=tuple(SeriesFacts(uid=uid, instances=tuple((CT, sop) for sop in sops)) for uid, sops in listed.items()))
    manifest = read_manifest(write_manifest(
        facts, retrieve_ae="AE", location_uid="2.999.1", sop_uid="2.25.1", series_uid="2.25.2", now=NOW,
        issuer=("N", "2.999.2.1")))
    assert [(ref.series_uid, ref.sop_uid) for ref in manifest.instances] == [
        (uid, sop) for uid, sops in listed.items() for sop in sops]
    assert manifest.patient_id == patient
