"""Text as hospitals send it, on the running broker: it is published, under the name it means, before and after packing."""

from pathlib import Path

import pytest

from broker.client.consult import Consultation
from broker.config import profile as profiles
from broker.model.ids import PatientId
from broker.model.metadata import DocumentEntry
from tests.corpus.doors import Desk, store
from tests.corpus.files import Specimen
from tests.corpus.run import CHANGES
from tests.helpers.rawdicom import CT, EXPLICIT, SERIES, SOP, STUDY, USUAL, data_set
from tests.helpers.region import Region
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.timeout(300)

PATIENT, CHARSET, NAME, SEX, INSTITUTION = 0x00100020, 0x00080005, 0x00100010, 0x00100040, 0x00080080
KANJI = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
# Patient: what the object says otherwise than usual, and what the entry of its manifest must hold.
SAID = {
    "SEX": ({CHARSET: b"GB18030", SEX: "女".encode("gbk"), NAME: "王^小东".encode("gbk")}, {"PID-5|王^小东", "PID-8|F"}),
    "SEXLESS": ({CHARSET: b"GB18030", SEX: "不详".encode("gbk"), NAME: "王^小东".encode("gbk")}, {"PID-5|王^小东"}),
    "LONG": ({INSTITUTION: "医".encode() * 300}, {"医" * 64, "PID-8|F"}),
    "LIE": ({CHARSET: b"ISO_IR 100", NAME: "张^智宏".encode("gbk")}, {"PID-5|张^智宏"}),
    "UTF8": ({CHARSET: b"", NAME: "张^智宏".encode()}, {"PID-5|张^智宏"}),
    "LABEL": ({CHARSET: b"iso ir-192", NAME: "张^智宏".encode()}, {"PID-5|张^智宏"}),
    "KANJI": ({CHARSET: b"\\ISO_2022_IR_87", NAME: KANJI}, {"PID-5|Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I"}),
    "张智宏": ({CHARSET: b"ISO_IR 100", NAME: b"X", PATIENT: "张智宏".encode("gbk")}, {"PID-3|张智宏^^^&2.999.2.1&ISO"}),
}


def specimen(number: int, patient: str, changes: dict[int, bytes]) -> Specimen:
    study = f"{STUDY}{number}"
    elements = {**USUAL, 0x0020000D: (b"UI", study.encode()), 0x0020000E: (b"UI", SERIES.encode()),
                0x00080018: (b"UI", f"{SOP}{number}".encode()), PATIENT: (b"LO", patient.encode())}
    elements.update({tag: (USUAL[tag][0], value) for tag, value in changes.items()})
    return Specimen("made by hand", Path(patient), "", data_set(elements), CT, f"{SOP}{number}", study, SERIES, patient, EXPLICIT)


def test_text_as_it_is_sent_is_published_and_found(tmp_path: Path) -> None:
    changes = {**CHANGES, "hospitals.toml": {'charset = "GB18030"\naccession_issuer = "2.999.2.2"': (
        'charset = "GB18030"\ncharsets = { "ISO_IR 100" = "GB18030" }\naccession_issuer = "2.999.2.2"')}}
    patients = {PatientId("2.999.2.1", value) for value in SAID}
    with Region(tmp_path, changes=changes) as region:
        assert [store(specimen(number, patient, said), region.dicom_port, "PACSA")
                for number, (patient, (said, _)) in enumerate(SAID.items())] == [""] * len(SAID)
        assert Desk(region, tmp_path / "got").feed(patients) == {}
        with Consultation(region.url, profiles.load(str(tmp_path / "region"))) as client:
            def entry(patient: str) -> DocumentEntry | None:
                found = client.documents(client.affinity_id(PatientId("2.999.2.1", patient)))
                return found[0] if found else None

            for patient, (_, wanted) in SAID.items():
                eventually(lambda patient=patient: entry(patient) is not None)     # type: ignore[misc]
                found = entry(patient)
                assert found is not None
                assert wanted <= {*found.source_patient_info, *found.authors[0].institutions}, patient
        said = region.logs()
        assert '"remark": "PatientSex left out"' in said
        assert '"remark": "InstitutionName shortened"' in said
        assert "王" not in said
        assert "Traceback" not in said
