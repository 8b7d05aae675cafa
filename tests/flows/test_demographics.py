"""Finding a patient by demographics in the whole broker, with the messages of docs/examples, as docs/demographics.md tells it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from broker.client.mllp import feed_v2
from broker.model.ids import PatientId
from broker.model.people import Demographics, PersonName
from broker.wire import xml
from broker.wire.hl7v2 import Header, parse
from broker.wire.hl7v2_pdq import PdqAnswer, read_pdq_answer
from broker.wire.hl7v2_pix import write_adt
from broker.wire.hl7v3_pdq import Candidates, read_candidates
from tests.helpers.region import Region

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
HOSPA = "2.999.2.1"


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    with Region(tmp_path_factory.mktemp("demographics")) as running:
        for value, given, sex in (("H1-1", "梅", "F"), ("H1-2", "雪", "F"), ("H1-3", "军", "M")):
            person = Demographics(names=(PersonName("林", given),), birth_date="19790214", sex=sex)
            header = Header(sender=("HIS-A", "HOSPA"), receiver=("BROKER", "REGION"), charset="GB 18030-2000", version="2.3.1")
            reply = feed_v2("127.0.0.1", running.mllp_port, write_adt(header, "A04", PatientId(HOSPA, value), person))
            assert b"MSA|AA" in reply
        yield running


def v2(region: Region, name: str, pointer: str = "") -> bytes:
    text = (EXAMPLES / f"{name}.hl7").read_text("utf-8").replace("POINTER", pointer).replace("\n", "\r")
    return feed_v2("127.0.0.1", region.mllp_port, text.encode())


def v3(region: Region, name: str) -> xml.Element:
    """Send an example; return the Body's child of its answer, whose action is that of its root."""
    body = (EXAMPLES / f"{name}.xml").read_bytes()
    answer = httpx.post(f"{region.url}/pdq", content=body, headers={"Content-Type": "application/soap+xml"}, trust_env=False)
    assert answer.status_code == 200, answer.text
    envelope = xml.parse(answer.content)
    [child] = envelope.iterfind(f"{{{xml.SOAP}}}Body/*")
    action = envelope.findtext(f"{{{xml.SOAP}}}Header/{{{xml.WSA}}}Action")
    assert action == f"{xml.HL7}:{xml.local_name(child)}"
    return child


def values(page: PdqAnswer | Candidates) -> list[list[str]]:
    return [[one.value for one, _ in patient.ids] for patient in page.patients]


def test_the_v2_examples_find_the_patients_page_by_page(region: Region) -> None:
    first = read_pdq_answer(parse(v2(region, "iti21-query")))
    assert (values(first), first.total, first.remaining) == ([["H1-1"]], 2, 1)
    second = read_pdq_answer(parse(v2(region, "iti21-continue", first.pointer)))
    assert (values(second), second.pointer) == ([["H1-2"]], "")
    assert second.patients[0].person.names == (PersonName("林", "雪"),)
    assert b"MSA|AA|pdq-3" in v2(region, "iti21-cancel")
    assert b"ERR||DSC^1^1|204^" in v2(region, "iti21-continue", first.pointer)


def test_the_v3_examples_find_the_same_patients(region: Region) -> None:
    first = read_candidates(v3(region, "iti47-query"))
    assert (values(first), first.total, first.remaining) == ([["H1-1"]], 2, 1)
    second = read_candidates(v3(region, "iti47-continue"))
    assert (values(second), second.remaining) == ([["H1-2"]], 0)
    assert xml.local_name(v3(region, "iti47-cancel")) == "MCCI_IN000002UV01"
    assert xml.local_name(v3(region, "iti47-continue")) == "PRPA_IN201306UV02"
    assert {("ITI-21", "E", "0"), ("ITI-21", "E", "4"), ("ITI-47", "E", "0"), ("ITI-47", "E", "4")} <= region.audited()


def test_both_are_listed(region: Region) -> None:
    services = {one["code"]: one for one in httpx.get(f"{region.url}/services", trust_env=False).json()["services"]}
    assert services["ITI-47"]["wsdl"] == f"{region.url}/pdq?wsdl"
    assert services["ITI-21"]["messages"] == ["QBP^Q22", "QCN^J01"]
