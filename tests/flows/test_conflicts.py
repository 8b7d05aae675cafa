"""Two patients under one Study Instance UID, and a corrected patient, in a running region with its commands."""

import json
from pathlib import Path
from typing import Any

import pydicom
import pytest

from broker.client.consult import Consultation
from broker.config import profile as profiles
from broker.model.ids import PatientId
from tests.helpers import dicom, mllp
from tests.helpers.conflicts import STUDY, Picture, sop
from tests.helpers.region import Region
from tests.helpers.site import adt
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.timeout(900)]

DOMAIN = "2.999.2.1"


def send(region: Region, *pictures: Picture) -> None:
    folder = region.folder / "sent"
    folder.mkdir(exist_ok=True)
    files = []
    for picture in pictures:
        files.append(folder / f"{picture.patient}.{picture.number}.{picture.pixels}.dcm")
        files[-1].write_bytes(picture.encoded())
    done = dicom.store(files, region.dicom_port, "PACSA")
    assert done.returncode == 0, done.stderr


def consultation(region: Region, patient: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return whose Patient ID is on each picture that a consultation of this patient gets, and what is missing."""
    with Consultation(region.url, profiles.load(str(region.folder / "region"))) as client:
        folder = region.folder / "got" / patient
        manifests = client.manifests(client.documents(client.affinity_id(PatientId(DOMAIN, patient))), folder / "manifests")
        got = client.pictures(manifests.files, folder)
    found = {picture.sop_uid: str(pydicom.dcmread(picture.path).PatientID) for picture in got.pictures}
    return found, {problem.location: problem.context for problem in got.missing}


def listed(region: Region, *more: str) -> list[dict[str, Any]]:
    return list(json.loads(region.run("conflicts", "--json", *more)))


def feed(region: Region, *patients: str) -> None:
    for number, patient in enumerate(patients):
        answer = mllp.send(region.mllp_port, adt(f"C{number}", patient, name=f"{patient}^X"))
        assert mllp.segment(answer, "MSA")[1] == "AA"


def shows(region: Region, patient: str, *numbers: int, of: str = "") -> None:
    wanted = {sop(number): of or patient for number in numbers}
    eventually(lambda: consultation(region, patient)[0] == wanted)


def audited(region: Region, code: str) -> list[set[str]]:
    """Return the patients of each audit message of this kind."""
    return [
        {one.get("ParticipantObjectID", "") for one in message.iter("ParticipantObjectIdentification")}
        for message in region.audit()
        if any(kind.get("csd-code") == code for kind in message.iter("EventTypeCode"))]


def test_two_patients_of_one_study_from_the_first_picture_to_the_decision_and_back(tmp_path: Path) -> None:
    with Region(tmp_path) as region:
        feed(region, "MA", "MB")
        send(region, Picture("MA", 1), Picture("MB", 2))
        shows(region, "MA", 1)
        assert consultation(region, "MB") == ({}, {})
        (conflict,) = listed(region)
        assert (conflict["kind"], conflict["hospital"], conflict["study"]) == ("patient", "a", STUDY)
        assert (conflict["here"]["patient"], conflict["came"]["patient"]) == (f"MA^^^&{DOMAIN}&ISO", f"MB^^^&{DOMAIN}&ISO")
        assert listed(region, "--hospital", "b") == []
        assert "names another patient" in region.run("conflicts")
        said = json.loads(region.run("publish", "--hospital", "a", "--study", STUDY, "--json"))
        assert (said["state"], said["instances"], said["kept_aside"]) == ("published", 1, 1)
        assert "kept aside" in region.logs()
        assert "MB^" not in region.logs()

        assert "assigned to MB" in region.run("conflicts", "settle", "1", "--assign", "MB")
        shows(region, "MB", 2)
        shows(region, "MA", 1)
        assert listed(region) == []
        assert [(one["state"], one["assigned"]) for one in listed(region, "--all")] == [("assigned", f"MB^^^&{DOMAIN}&ISO")]

        assert "open again" in region.run("conflicts", "undo", "1")
        shows(region, "MA", 1)
        shows(region, "MB")

        region.run("conflicts", "settle", "1", "--assign", "HOSPA:MA")
        eventually(lambda: consultation(region, "MA")[0] == {sop(1): "MA", sop(2): "MB"})
        region.run("conflicts", "undo", "1")
        region.run("conflicts", "settle", "1", "--reject")
        shows(region, "MA", 1)
        for code, times in (("CONFLICT-ASSIGN", 2), ("CONFLICT-UNDO", 2), ("CONFLICT-REJECT", 1)):
            found = audited(region, code)
            assert len(found) == 2 * times, "one message for each patient"
            assert all(STUDY in objects for objects in found)
        assert any(f"MB^^^&{DOMAIN}&ISO" in objects for objects in audited(region, "CONFLICT-ASSIGN"))
        assert audited(region, "ITI-57"), "what was taken back is audited as such"


def test_a_correction_is_applied_by_the_running_broker(tmp_path: Path) -> None:
    changes = {
        "hospitals.toml": {'ae_title = "PACSA"': 'ae_title = "PACSA"\ncorrections = "apply"'},
        "retention.toml": {"online_days = 365": "online_days = 1"}}
    with Region(tmp_path, changes=changes) as region:
        feed(region, "MA", "MB")
        send(region, Picture("MA", 1), Picture("MA", 2))
        shows(region, "MA", 1, 2)
        eventually(lambda: list((region.data / "archive").glob("*/*.seq")), 90.0)
        send(region, Picture("MB", 1), Picture("MB", 2))
        shows(region, "MB", 1, 2)
        shows(region, "MA")
        (conflict,) = listed(region, "--all")
        assert (conflict["kind"], conflict["state"], conflict["by"]) == ("correction", "assigned", "profile:corrections")
        region.run("conflicts", "undo", "1")
        shows(region, "MA", 1, 2)
        shows(region, "MB")


@pytest.mark.parametrize(("arguments", "status", "said"), [
    (("settle", "1"), 2, "say either"), (("settle", "1", "--assign", "X", "--reject"), 2, "say either"),
    (("settle", "9", "--reject"), 2, "no conflict 9"), (("undo", "9"), 2, "no conflict 9"),
    (("settle", "9", "--assign", "NOWHERE:1"), 2, "no namespace"), (("--hospital", "zz"), 2, "no hospital 'zz'"), ((), 0, ""),
])
def test_wrong_use_of_the_command(tmp_path: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    region = Region(tmp_path)
    region.run("db", "upgrade")
    assert region.run("conflicts", *arguments, expect=status) == ("" if said else "nothing is kept aside\n")
