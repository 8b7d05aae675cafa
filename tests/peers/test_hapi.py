"""Our HL7 v2 answers before HAPI and IPF's Gazelle profiles of ITI-8 (HL7 2.3.1) and ITI-9 (HL7 2.5)."""

import base64
import subprocess
from pathlib import Path

import pytest

from broker.model.errors import BrokerError, Hl7Code, Problem, Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire.hl7v2 import Header, parse, write_ack
from broker.wire.hl7v2_notify import write_link_change, write_update
from broker.wire.hl7v2_pdq import PdqAnswer, PdqPatient, write_pdq_cancel, write_pdq_query, write_pdq_reply
from broker.wire.hl7v2_pix import write_pix_reply

pytestmark = [pytest.mark.peer("java"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
JAVA = ROOT / "tests" / "peers" / "java" / "hl7"
JARS = ROOT / "build" / "hl7-jars"
NODE, MESSAGE_ID = ("BROKER", "REGION"), MessageId("20260301101501+0800", "r1")
ERRORS: dict[str, BrokerError | None] = {
    "none": None,
    "one": Rejected(Hl7Code.UNKNOWN_KEY, "HIS-A at HOSPA: unknown OID, id A&1 of 2.999.77", "PID^1^3^1^4"),
    "two": Rejected.of([Problem("101", "x", "PID^1^3"), Problem("103", "y", "PID^1^8")]),
    "a segment": Rejected(Hl7Code.SEGMENT_SEQUENCE, "segment PID is missing", "PID"),
    "an event": Rejected(Hl7Code.UNSUPPORTED_EVENT, "trigger event is not served", "MSH^1^9^1^2"),
    "a store": Unavailable("database"),
}


def header(kind: str, version: str) -> str:
    return f"MSH|^~\\&|HIS-A|HOSPA|OTHER|ELSE|20260301101500||{kind}|m1|P|{version}||||||UNICODE UTF-8\r"


def fetch_jars() -> None:
    """Fetch HAPI and the profiles once."""
    if not list(JARS.glob("hapi-base-*.jar")):
        subprocess.run(["mvn", "-q", "-B", "-f", str(JAVA / "pom.xml"), "dependency:copy-dependencies",
                        f"-DoutputDirectory={JARS}"], check=True, capture_output=True)


@pytest.fixture(scope="session")
def judge() -> list[str]:
    """The command of the judge; its jars are fetched once."""
    fetch_jars()
    return ["java", "-Xmx256m", "-cp", f"{JARS}/*", str(JAVA / "Hl7Judge.java")]


def test_hapi_and_the_gazelle_profiles_find_nothing_wrong(judge: list[str]) -> None:
    """And HAPI writes each as it read it. IPF's profile of ITI-8 is of HL7 2.3.1, that of ITI-9 of 2.5."""
    answers: dict[tuple[str, str, str], bytes] = {}
    for version in ("2.3", "2.3.1", "2.4", "2.5"):
        request = parse((header("ADT^A04^ADT_A01", version) + "PID|||1\r").encode(), NODE)
        for name, error in ERRORS.items():
            for profile in ("ITI_8_ACK_A04", "ITI_8_ACK") if version == "2.3.1" else ("-",):
                answers[version, name, profile] = write_ack(request, MESSAGE_ID, error)
    query = header("QBP^Q23^QBP_Q21", "2.5") + "QPD|IHE PIX Query|t1|A1^^^HOSPA&2.999.2.1&ISO\rRCP|I\r"
    asked = parse(query.encode(), NODE)
    answers["2.5", "found", "ITI_9_RSP_K23"] = write_pix_reply(asked, MESSAGE_ID, [(PatientId("1.2", "X"), "NS")])
    answers["2.5", "nothing found", "ITI_9_RSP_K23"] = write_pix_reply(asked, MESSAGE_ID)
    answers["2.5", "refused", "ITI_9_RSP_K23"] = write_pix_reply(asked, MESSAGE_ID, error=ERRORS["one"])
    lines = "".join(f"{profile}\t{base64.b64encode(data).decode()}\n" for (_, _, profile), data in answers.items())
    done = subprocess.run(judge, input=lines, capture_output=True, check=True, text=True)
    found = dict(zip(answers, done.stdout.splitlines(), strict=True))
    assert {key: said for key, said in found.items() if said} == {}


def test_they_find_nothing_wrong_with_what_we_tell_others(judge: list[str]) -> None:
    """Update notifications (ITI-10) and link changes (ITI-64), with letters of China in an id.

    HAPI drops the one space that PID-5 is by the standard, and then misses it: here it is shown a name in its place.
    """
    to = Header(sender=("BROKER", "REGION"), receiver=("HIS-A", "HOSPA"), message_id=MESSAGE_ID)
    one, other, person = ((PatientId(f"2.999.{n}", value), f"NS{n}") for n, value in ((2, "甲1"), (3, "B 1"), (1, "XAD1")))
    told = {
        "update": ("ITI_10_ADT_A31", write_update(to, [one, other])),
        "update of one": ("ITI_10_ADT_A31", write_update(to, [one])),
        "link": ("ITI_64_ADT_A43", write_link_change(to, person, one, person)),
        "link of a merged id": ("ITI_64_ADT_A43", write_link_change(to, person, one, person, other)),
    }
    shown = [(profile, data.replace(b"|| \r", b"||X^^^^^^L\r")) for profile, data in told.values()]
    lines = "".join(f"{profile}\t{base64.b64encode(data).decode()}\n" for profile, data in shown)
    done = subprocess.run(judge, input=lines, capture_output=True, check=True, text=True)
    assert {key: said for key, said in zip(told, done.stdout.splitlines(), strict=True) if said} == {}


def test_they_find_nothing_wrong_with_demographics_queries_and_answers(judge: list[str]) -> None:
    """ITI-21: the query, pages of an answer, nobody, a refusal, the end of a query."""
    to = Header(sender=("VIEW", "CONS"), receiver=("BROKER", "REGION"), message_id=MESSAGE_ID)
    asked = write_pdq_query(to, [("PID.5.1.1", "欧阳"), ("PID.7", "19790214"), ("PID.8", "F")])
    request = parse(asked, NODE)
    person = Demographics(
        names=(PersonName("欧阳", "静", use="L"),), birth_date="19790214", sex="F", phones=("0591 8811",),
        addresses=(Address(street="鼓楼路12", city="福州", state="福建", postcode="350001", country="CHN"),))
    patients = tuple(
        PdqPatient(ids=((PatientId("2.999.2.1", value), "HOSPA"), (PatientId("2.999.3.1", "B1"), "HOSPB")), person=person,
                   confidence=93)
        for value in ("A1", "A2"))
    told = {
        "query": ("ITI_21_QBP_Q22", asked),
        "end": ("ITI_21_QCN_J01", write_pdq_cancel(to, "tag")),
        "page": ("ITI_21_RSP_K22", write_pdq_reply(
            request, MESSAGE_ID, PdqAnswer(patients=patients, total=5, remaining=3, pointer="p1"))),
        "last page": ("ITI_21_RSP_K22", write_pdq_reply(request, MESSAGE_ID, PdqAnswer(patients=patients, total=5))),
        "nobody": ("ITI_21_RSP_K22", write_pdq_reply(request, MESSAGE_ID)),
        "refused": ("ITI_21_RSP_K22", write_pdq_reply(request, MESSAGE_ID, error=ERRORS["one"])),
    }
    lines = "".join(f"{profile}\t{base64.b64encode(data).decode()}\n" for profile, data in told.values())
    done = subprocess.run(judge, input=lines, capture_output=True, check=True, text=True)
    assert {key: said for key, said in zip(told, done.stdout.splitlines(), strict=True) if said} == {}
