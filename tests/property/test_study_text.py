"""Whatever pictures say: the manifest is read again, and its metadata are what our own repository and registry take."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.config import profile as profiles
from broker.edge.soap import schema
from broker.model.charsets import CharacterSets
from broker.model.ids import PatientId
from broker.model.imaging import SeriesFacts, StudyFacts
from broker.registry import rules
from broker.wire import tags
from broker.wire.ebxml import read_submission, submit_request, with_slots
from broker.wire.kos import read_manifest
from broker.wire.study_text import carried
from broker.wire.xdsi import ManifestFacts, describe
from broker.wire.xml import parse
from tests.helpers.manifests import CT, LOCAL, NOW, PATIENT, kos

PROFILE = profiles.load("demo")
HOSPITAL = PROFILE.hospitals[0]
ENTRY = "urn:uuid:3e0fd0cb-0d6f-4d0e-9c53-6f1f6f0a2b10"
READ = sorted(tag for tag, keyword in tags.KEYWORDS.items() if keyword != "SpecificCharacterSet")
VALUES = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")),
    st.text(st.sampled_from("^&|~\\=男女医　A1<>\"'"), max_size=400).map(str.encode),
    st.integers(0, 5000).map(lambda size: b"\xe5\x8c\xbb" * size),
    st.sampled_from([b"\xe7\x94\xb7", b"20240105", b"2024", b"\xe2\x80\xa8", b"\xef\xbc\x92" * 8, b"250000",
                     b"   ", b"\xe3\x80\x80"]),
)


def facts(text: dict[str, str]) -> StudyFacts:
    """A study as the index has it."""
    get = text.get
    procedure = (get("ProcedureCodeValue", "C"), get("ProcedureCodingSchemeDesignator", "LN"), get("ProcedureCodeMeaning", ""))
    return StudyFacts(
        uid="2.25.100", patient=PatientId(LOCAL.domain, get("PatientID", "A")[:250]), patient_name=get("PatientName", ""),
        birth_date=get("PatientBirthDate", ""), sex=get("PatientSex", ""), date=get("StudyDate", ""), time=get("StudyTime", ""),
        accession=get("AccessionNumber", ""), study_id=get("StudyID", ""), description=get("StudyDescription", ""),
        referring=get("ReferringPhysicianName", ""), institution=get("InstitutionName", ""),
        procedure_code=procedure,
        series=(SeriesFacts(uid="2.25.100.1", modality=get("Modality", ""), body_part=get("BodyPartExamined", ""),
                            description=get("SeriesDescription", ""), instances=((CT, "2.25.100.1.1"),)),))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*READ, *(tags.PROCEDURES << 32 | tag for tag in tags.PROCEDURE)]), VALUES),
       st.sampled_from([b"ISO_IR 192", b"GB18030", b"ISO_IR 100", b"\\ISO 2022 IR 87", b""]))
@example({0x00100040: "女".encode("gb18030")}, b"GB18030")
@example({0x00080080: "医".encode() * 300}, b"ISO_IR 192")
@example({0x00100020: b"&" * 250, 0x00100010: b"^&~|\\" * 60, 0x00080050: b"~" * 64, 0x00080080: b"&" * 300}, b"ISO_IR 192")
def test_whatever_pictures_say_is_published(raw: dict[int, bytes], label: bytes) -> None:
    study = facts(tags.study_tags({**raw, 0x00080005: label}, CharacterSets("GB18030")))
    document = kos(study)
    read = read_manifest(document)
    assert (read.patient_id, len(read.instances)) == (study.patient.value, 1)
    made = ManifestFacts(document=document, unique_id="2.25.200", entry_id=ENTRY, set_uid="2.25.300", at=NOW, patient=PATIENT)
    element = parse(submit_request(describe(study, made, PROFILE, HOSPITAL)))
    schema.check("lcm.xsd", element)
    registered: Any = with_slots(read_submission(element), {ENTRY: {"repositoryUniqueId": "2.999.1.2"}})
    rules.validate(registered, PROFILE)
    assert carried(carried(study)[0])[1] == (), "once is enough"
