"""Stubs that zeep and JAX-WS make of the served WSDL and schemas call every endpoint; only what stands there tells them how."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import zeep
from zeep.transports import Transport

from broker.model.ids import PatientId
from broker.wire.mime import content_type_parameters
from tests.helpers.region import Region
from tests.helpers.site import OURS, REPOSITORY, XAD, Site
from tests.helpers.waiting import eventually

ROOT = Path(__file__).parents[2]
JAVA = ROOT / "tests" / "peers" / "java" / "jaxws"
JARS = ROOT / "build" / "jaxws-jars"
REPORT = "a report: 報告".encode()
DEVICE, MANAGER, HOSPB = "2.999.3.9", "2.999.1.4", "2.999.3.1"
EXPLICIT_LE = "1.2.840.10008.1.2.1"

pytestmark = pytest.mark.timeout(900)


class Given:
    """A running region with a patient, a report and a picture."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.url = site, site.region.url
        self.report = site.submit(folder, REPORT)
        (self.picture,) = site.store(folder)
        self.instance = pydicom.dcmread(self.picture)
        eventually(lambda: site.known(self.uids[2]))
        kept, = (site.region.data / "online").rglob(self.uids[2])       # soon it is in a container
        self.digest = hashlib.sha256(kept.read_bytes()).hexdigest()

    @property
    def uids(self) -> tuple[str, str, str]:
        """Study, series, instance."""
        found = self.instance
        return str(found.StudyInstanceUID), str(found.SeriesInstanceUID), str(found.SOPInstanceUID)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    folder = tmp_path_factory.mktemp("stubs")
    with Region(folder, server={"plain_retrieve": True}) as region:
        yield Given(Site(region), folder / "files")


# --- zeep

def stub(given: Given, path: str) -> Any:
    transport = Transport(timeout=30)  # type: ignore[no-untyped-call]  # zeep has no annotations
    transport.session.trust_env = False
    return zeep.Client(f"{given.url}{path}?wsdl", transport=transport)  # type: ignore[no-untyped-call]  # as above


def raw_parts(answer: Any) -> list[bytes]:
    """Return the parts behind the root of a raw answer: zeep changes the bytes of binary parts."""
    _, parameters = content_type_parameters(answer.headers["Content-Type"])
    boundary = parameters["boundary"].encode()
    pieces = answer.content.split(b"--" + boundary)[2:-1]
    return [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces]


def end(kind: str, oid: str) -> dict[str, Any]:
    return {"typeCode": kind, "device": {"classCode": "DEV", "determinerCode": "INSTANCE", "id": [{"root": oid}]}}


def message(name: str, act: dict[str, Any], sender: str = DEVICE) -> dict[str, Any]:
    trigger = {"code": name.replace("_IN", "_TE"), "codeSystem": "2.16.840.1.113883.1.6"}
    return {
        "ITSVersion": "XML_1.0", "id": {"root": sender, "extension": f"zeep-{name}"}, "creationTime": {"value": "20261126101500"},
        "interactionId": {"root": "2.16.840.1.113883.1.6", "extension": name}, "processingCode": {"code": "P"},
        "processingModeCode": {"code": "T"}, "acceptAckCode": {"code": "AL"}, "receiver": end("RCV", MANAGER),
        "sender": end("SND", sender), "controlActProcess": {"classCode": "CACT", "moodCode": "EVN", "code": trigger, **act}}


PERSON = {
    "classCode": "PSN", "determinerCode": "INSTANCE",
    "name": [{"use": "L", "_value_1": [{"family": {"_value_1": "欧阳"}}, {"given": {"_value_1": "娜"}}]}],
    "administrativeGenderCode": {"code": "F"}, "birthTime": {"value": "19790214"},
    "personalRelationship": [{"classCode": "PRS", "code": {"code": "MTH"}, "relationshipHolder1": {
        "classCode": "PSN", "determinerCode": "INSTANCE", "name": [{"_value_1": [{"family": {"_value_1": "李"}}]}]}}],
}
EVENT = {
    "classCode": "REG", "moodCode": "EVN", "id": [{"nullFlavor": "NA"}], "statusCode": {"code": "active"},
    "subject1": {"typeCode": "SBJ", "patient": {
        "classCode": "PAT", "id": [{"root": HOSPB, "extension": "ZEEP-1"}], "statusCode": {"code": "active"},
        "addr": [{"_value_1": [{"streetAddressLine": {"_value_1": "鼓楼路 12"}}, {"city": {"_value_1": "福州"}}]}],
        "telecom": [{"use": "HP", "value": "tel:+86-591-1"}], "patientPerson": PERSON,
        "providerOrganization": {"classCode": "ORG", "determinerCode": "INSTANCE", "id": [{"root": HOSPB}], "contactParty": [
            {"classCode": "CON", "nullFlavor": "NI"}]}}},
    "custodian": {"typeCode": "CST", "assignedEntity": {"classCode": "ASSIGNED", "id": [{"root": HOSPB}]}},
}


def test_zeep_feeds_and_asks_the_pix_manager(given: Given) -> None:
    client = stub(given, "/pix")
    with client.transport.session:
        fed = client.service.PIXManager_PRPA_IN201301UV02(
            **message("PRPA_IN201301UV02", {"subject": {"typeCode": "SUBJ", "registrationEvent": EVENT}}))
        assert (fed.acknowledgement.typeCode.code, fed.sender.device.id[0].root) == ("CA", MANAGER)
        [stored] = [text for value, text in given.site.rows("patient_identity", "value, demographics") if value == "ZEEP-1"]
        person = json.loads(stored)
        assert (person["names"][0]["family"], person["mother"]["family"], person["addresses"][0]["city"], person["phones"]) == (
            "欧阳", "李", "福州", ["+86-591-1"])
        asked = {"queryByParameter": {
            "queryId": {"root": "2.999.5.9", "extension": "q1"}, "statusCode": {"code": "new"},
            "responsePriorityCode": {"code": "I"}, "parameterList": {
                "dataSource": [{"value": {"root": XAD}, "semanticsText": "DataSource.id"}],
                "patientIdentifier": [{"value": [{"root": HOSPB, "extension": "ZEEP-1"}], "semanticsText": "Patient.id"}]}}}
        answer = client.service.PIXManager_PRPA_IN201309UV02(**message("PRPA_IN201309UV02", asked, "2.999.5.9"))
        unknown = {"queryByParameter": {**asked["queryByParameter"], "parameterList": {"patientIdentifier": [
            {"value": [{"root": "2.999.77", "extension": "X"}], "semanticsText": "Patient.id"}]}}}
        refused = client.service.PIXManager_PRPA_IN201309UV02(**message("PRPA_IN201309UV02", unknown, "2.999.5.9"))
    act = answer.controlActProcess
    assert (answer.acknowledgement.typeCode.code, act.queryAck.queryResponseCode.code) == ("AA", "OK")
    [found] = act.subject[0].registrationEvent.subject1.patient.id
    assert (found.root, found.assigningAuthorityName, len(found.extension)) == (XAD, "REGION", 15)
    assert act.queryByParameter.parameterList.dataSource[0].semanticsText._value_1 == "DataSource.id"
    [detail] = refused.acknowledgement.acknowledgementDetail
    assert detail.code.code == "204"
    assert "2.999.77" in detail.text._value_1
    assert detail.location[0]._value_1.endswith("patientIdentifier/value")


def test_zeep_queries_the_registry(given: Given) -> None:
    client = stub(given, "/xds/registry")
    client.settings.strict = False      # zeep knows no substitution groups, in which ebRIM lists its objects
    with client.transport.session:
        answer = client.service["DocumentRegistry_RegistryStoredQuery"](
            ResponseOption={"returnComposedObjects": True, "returnType": "LeafClass"},
            AdhocQuery={"id": "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d", "Slot": [
                {"name": "$XDSDocumentEntryPatientId", "ValueList": {"Value": [f"'{given.site.patient}'"]}},
                {"name": "$XDSDocumentEntryStatus", "ValueList": {
                    "Value": ["('urn:oasis:names:tc:ebxml-regrep:StatusType:Approved')"]}}]})
    assert answer.status.endswith(":Success")
    listed = [one for one in answer.RegistryObjectList._raw_elements if one.tag.endswith("}ExtrinsicObject")]
    assert given.report in {one.get("value") for entry in listed for one in entry.iterfind("{*}ExternalIdentifier")}


def test_zeep_retrieves_a_document(given: Given) -> None:
    client = stub(given, "/xds/repository")
    client.settings.raw_response = True
    with client.transport.session:
        answer = client.service.DocumentRepository_RetrieveDocumentSet(
            DocumentRequest=[{"RepositoryUniqueId": REPOSITORY, "DocumentUniqueId": given.report}])
    assert answer.status_code == 200
    assert raw_parts(answer) == [REPORT]


def test_zeep_retrieves_a_picture(given: Given) -> None:
    client, (study, series, instance) = stub(given, "/xds/imaging"), given.uids
    client.settings.raw_response = True
    with client.transport.session:
        answer = client.service.ImagingDocumentSource_RetrieveImagingDocumentSet(
            StudyRequest=[{"studyInstanceUID": study, "SeriesRequest": [{"seriesInstanceUID": series, "DocumentRequest": [
                {"RepositoryUniqueId": OURS, "DocumentUniqueId": instance}]}]}],
            TransferSyntaxUIDList={"TransferSyntaxUID": [EXPLICIT_LE]})
    assert answer.status_code == 200
    assert [hashlib.sha256(part).hexdigest() for part in raw_parts(answer)] == [given.digest]


# --- JAX-WS

@pytest.fixture(scope="module")
def classes(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with its stubs, made from what the running broker serves; the jars are fetched once."""
    if not list(JARS.glob("jaxws-tools-*.jar")):
        run("mvn", "-q", "-B", "-f", str(JAVA / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={JARS}")
    sources, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("classes")
    for path in ("/pix", "/pdq", "/xds/registry", "/xds/repository", "/xds/imaging"):
        name = path.rpartition("/")[2]
        run("java", "-Xmx512m", "-cp", f"{JARS}/*", "com.sun.tools.ws.WsImport", "-quiet", "-extension", "-Xnocompile", "-keep",
            "-s", str(sources), "-p", f"stubs.{name}", f"{given.url}{path}?wsdl")
    # All of them by name: nothing refers to package-info, which says that elements are qualified.
    files = [str(file) for file in (*sources.rglob("*.java"), JAVA / "Stubs.java")]
    run("javac", "-proc:none", "-encoding", "UTF-8", "-cp", f"{JARS}/*", "-d", str(made), *files)
    return made


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-4000:]
    return done.stdout.decode()


@pytest.mark.peer("java")
def test_jaxws_stubs_call_every_endpoint(given: Given, classes: Path) -> None:
    text = run("java", "-Xmx512m", "-cp", f"{classes}:{JARS}/*", "Stubs", given.url, str(given.site.patient), REPOSITORY,
               given.report, OURS, *given.uids)
    answers = dict(line.split(" ", 1) for line in text.splitlines())
    assert answers.pop("query").startswith("Success ")
    assert answers == {
        "feed": "CA", "pix": f"AA {XAD} REGION Patient.id",
        "retrieve": f"Success {hashlib.sha256(REPORT).hexdigest()}", "images": f"Success {given.digest}"}
    with given.site.client() as client:
        assert client.affinity_id(PatientId(HOSPB, "JAX-1")).domain == XAD
