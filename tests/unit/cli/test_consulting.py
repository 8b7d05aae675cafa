import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from broker.cli import _consult, fetch, query
from broker.config.data import data
from broker.config.profile import Profile
from broker.model.ids import PatientId, new_oid, new_uuid_urn
from broker.model.imaging import SeriesFacts, StudyFacts
from broker.model.metadata import HAS_MEMBER, Association, Code, DocumentEntry, RegistryObjects, SubmissionSet
from broker.wire import ebxml, kos
from broker.wire.xml import QUERY
from tests.helpers.client import Script, fault, mtom, peer, plain, retrieved

pytestmark = pytest.mark.outside

CT = "1.2.840.10008.5.1.4.1.1.2"
PATIENT = "R-1^^^&2.999.1.1&ISO"
IMAGES = ("1.2.5.1", "1.2.5.2")
KOS = kos.write_manifest(
    StudyFacts(uid="1.2.5", patient=PatientId("2.999.2.1", "A-1"), series=(
        SeriesFacts(uid="1.2.5.0", modality="CT", instances=tuple((CT, uid) for uid in IMAGES)),)),
    retrieve_ae="BROKER", location_uid="2.999.1.3", sop_uid=new_oid(), series_uid=new_oid(),
    now=datetime(2026, 3, 1, tzinfo=UTC), issuer=("HOSPA", "2.999.2.1"))
ENTRY = DocumentEntry(
    id=new_uuid_urn(), unique_id="1.2.9", patient_id=PATIENT, mime_type="application/dicom", title="胸部 CT",
    service_start_time="20260228173000", hash=hashlib.sha1(KOS).hexdigest(), size=len(KOS), repository_unique_id="2.999.1.2",
    source_patient_id="A-1^^^&2.999.2.1&ISO",
    codes={"eventCodeList": (Code("CT", "1.2.840.10008.2.16.4"), Code("816094009", "2.16.840.1.113883.6.96"))})


def registry(entries: Iterable[DocumentEntry]) -> Script:
    listing = ebxml.write_objects(RegistryObjects(documents=tuple(entries))).decode()
    return plain(f'<q:AdhocQueryResponse xmlns:q="{QUERY}" status="{ebxml.SUCCESS}">{listing}</q:AdhocQueryResponse>')


def manifest() -> Script:
    return mtom(retrieved([("1.2.9", "k@b")]), [("k@b", KOS)])


def pictures(*came: str) -> Script:
    missing = [("XDSDocumentUniqueIdError", uid) for uid in IMAGES if uid not in came]
    return mtom(retrieved([(uid, f"{uid}@b") for uid in came], missing), [(f"{uid}@b", uid.encode() * 9) for uid in came])


def run(command: Callable[..., None], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments)


def test_fetch_lays_out_every_picture_and_tells_what_came(tmp_path: Path) -> None:
    with peer(registry([ENTRY]), manifest(), pictures(*IMAGES)) as other:
        done = run(fetch.fetch, PATIENT, "--to", str(tmp_path), "--url", other.url, "--json")
    assert done.exit_code == 0, done.output
    assert [(tmp_path / "1.2.5" / "1.2.5.0" / f"{uid}.dcm").read_bytes() for uid in IMAGES] == [u.encode() * 9 for u in IMAGES]
    said = json.loads(done.stdout)
    assert said["missing"] == []
    assert said["studies"] == [{
        "study": "1.2.5", "title": "胸部 CT", "date": "2026-03-01", "hospital": "First People's Hospital", "modality": "CT",
        "asked": 2, "objects": 2, "bytes": sum(len(uid) * 9 for uid in IMAGES)}]


def test_fetch_names_what_is_missing_and_ends_with_1(tmp_path: Path) -> None:
    with peer(registry([ENTRY]), manifest(), pictures(IMAGES[0])) as other:
        done = run(fetch.fetch, PATIENT, "--to", str(tmp_path), "--url", other.url)
    assert done.exit_code == 1
    assert f"missing {IMAGES[1]}: XDSDocumentUniqueIdError" in done.stderr
    assert "1 objects" in done.stdout


def test_fetch_without_any_study_ends_with_1(tmp_path: Path) -> None:
    with peer(registry([])) as other:
        done = run(fetch.fetch, PATIENT, "--to", str(tmp_path), "--url", other.url)
    assert (done.exit_code, done.stdout) == (1, "no studies are published for this patient\n")


def test_query_lists_the_studies(tmp_path: Path) -> None:
    with peer(registry([ENTRY]), manifest()) as other:
        done = run(query.query, PATIENT, "--url", other.url, "--json")
    assert done.exit_code == 0, done.output
    (study,) = json.loads(done.stdout)["studies"]
    assert study == {"title": "胸部 CT", "date": "2026-03-01", "hospital": "First People's Hospital", "modality": "CT",
                     "images": 2, "study": "1.2.5", "document": "1.2.9"}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A configuration whose hospital A shares its authority with another one; its path."""
    folder = tmp_path / "region"
    shutil.copytree(data("profiles") / "demo", folder)
    with (folder / "hospitals.toml").open("a", encoding="utf-8") as file:
        file.write('\n[[hospital]]\nkey = "a2"\ntitle = "Branch"\nkind = "sends"\ndomain = "2.999.2.1"\n'
                   'source_id = "2.999.22"\nae_title = "PACSA2"\n')
    config = tmp_path / "broker.toml"
    config.write_text('profile = "region"\ndata = "data"\n', "utf-8")
    return config


def submitted(source: str) -> Script:
    objects = RegistryObjects(
        submission_sets=(SubmissionSet(id="urn:uuid:5", unique_id="1.5", source_id=source, patient_id=PATIENT),),
        associations=(Association(id="urn:uuid:6", type=HAS_MEMBER, source="urn:uuid:5", target=ENTRY.id,
                                  submission_set_status="Original"),))
    listing = ebxml.write_objects(objects).decode()
    return plain(f'<q:AdhocQueryResponse xmlns:q="{QUERY}" status="{ebxml.SUCCESS}">{listing}</q:AdhocQueryResponse>')


@pytest.mark.parametrize(("source", "expected"), [
    ("2.999.2", "First People's Hospital"), ("2.999.22", "Branch"), ("2.999.77", "First People's Hospital / Branch")])
def test_hospitals_that_share_an_authority_are_told_apart(shared: Path, tmp_path: Path, source: str, expected: str) -> None:
    with peer(registry([ENTRY]), manifest(), submitted(source)) as other:
        done = run(query.query, PATIENT, "--url", other.url, "--json", "--config", str(shared))
    assert done.exit_code == 0, done.output
    assert [row["hospital"] for row in json.loads(done.stdout)["studies"]] == [expected]
    with peer(registry([ENTRY]), manifest(), submitted(source), pictures(*IMAGES)) as other:
        done = run(fetch.fetch, PATIENT, "--to", str(tmp_path / "got"), "--url", other.url, "--json", "--config", str(shared))
    assert [row["hospital"] for row in json.loads(done.stdout)["studies"]] == [expected]


def test_a_registry_that_does_not_say_who_submitted_leaves_all_who_may_have(shared: Path) -> None:
    with peer(registry([ENTRY]), manifest(), fault("Sender", "no such query")) as other:
        done = run(query.query, PATIENT, "--url", other.url, "--json", "--config", str(shared))
    assert [row["hospital"] for row in json.loads(done.stdout)["studies"]] == ["First People's Hospital / Branch"]


def test_query_of_a_patient_without_studies_is_no_failure() -> None:
    with peer(registry([])) as other:
        done = run(query.query, PATIENT, "--url", other.url)
    assert (done.exit_code, done.stdout) == (0, "no studies are published for this patient\n")


@pytest.mark.parametrize(("arguments", "says"), [
    (("no-such-form",), "not a patient id"),
    (("NOWHERE:1",), "there is no namespace 'NOWHERE' in the profile (known: REGION, HOSPA, HOSPB, IDCARD)"),
    (("HOSPA:",), "there is no namespace"),
    (("A-1^^^&2.999.2.1&ISO", "--config", "/nonexistent/broker.toml"), "broker.toml"),
    (("A-1^^^&2.999.2.1&ISO", "--url", "http://127.0.0.1:9"), "is not available"),
])
def test_wrong_use_and_an_absent_broker_end_with_2_and_one_line(arguments: tuple[str, ...], says: str) -> None:
    done = run(query.query, *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "expected"), [
    ("HOSPA:A-20417", PatientId("2.999.2.1", "A-20417")),
    ("HOSPB:with:colon", PatientId("2.999.3.1", "with:colon")),
    ("A-1^^^&2.999.2.1&ISO", PatientId("2.999.2.1", "A-1")),
])
def test_both_forms_of_a_patient_id_are_understood(text: str, expected: PatientId, profile: Profile) -> None:
    assert _consult.patient_id(text, profile) == expected


@pytest.mark.parametrize(("time", "expected"), [
    ("20260228173000", "2026-03-01"), ("202602281559", "2026-02-28"), ("20260228", "2026-02-28"), ("2026", "2026"), ("", ""),
])
def test_a_day_is_told_in_the_regions_zone(time: str, expected: str) -> None:
    assert _consult.day(time, "+0800") == expected
