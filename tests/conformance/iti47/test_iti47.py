import tomllib
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from broker.config.profile import Profile
from broker.db import Database
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Demographics, PersonName
from broker.patients import demographics, iti47_query
from broker.wire import hl7v3_pdq
from broker.wire.hl7v3 import Ii
from broker.wire.hl7v3_pdq import read_candidates, write_continuation, write_pdq_query
from broker.wire.xml import Element
from tests.helpers.demographics import JING, fill
from tests.helpers.patients import NS, OURS, XAD, Bench, ack, attribute, details, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
VIEWER, OTHER = "2.999.5.9", "2.999.5.8"
ACT = "h:controlActProcess"
EVENT = f"{ACT}/h:subject/h:registrationEvent"
PLACE = "/PRPA_IN201305UV02/controlActProcess/queryByParameter"
QUERY_ID = Ii(VIEWER, "q-1")
ROW = iti47_query.row(OURS)


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return fill(Bench(database, region(profile), tmp_path))


def ask(bench: Bench, *parameters: list[str], quantity: int | None = None, sender: str = VIEWER) -> Element:
    return bench.v3(write_pdq_query(
        [(name, value) for name, value in parameters], sender=sender, receiver=OURS, quantity=quantity,
        message_id=MessageId("20260301101500+0800", "q-1")))


def ids(answer: Element) -> list[list[str]]:
    """Return the ids of each patient, the random one of the affinity domain as XAD."""
    return [["XAD" if one.get("root") == XAD else one.get("extension") or "" for one in patient.iterfind("h:id", NS)]
            for patient in answer.iterfind(f"{EVENT}/h:subject1/h:patient", NS)]


def status(answer: Element) -> list[str]:
    codes = [attribute(answer, f"{ACT}/h:queryAck/h:{name}", "code") for name in ("statusCode", "queryResponseCode")]
    return [ack(answer), *codes]


def quantities(answer: Element) -> list[str]:
    return [attribute(answer, f"{ACT}/h:queryAck/h:result{name}Quantity", "value") for name in ("Total", "Current", "Remaining")]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any], bench: Bench) -> None:
    before = len(bench.audited())
    answer = ask(bench, *case["ask"], quantity=case.get("quantity", 20))
    patients = case.get("patients", [])
    assert (answer.tag, attribute(answer, ACT + "/h:code", "code")) == (
        f"{{{NS['h']}}}PRPA_IN201306UV02", "PRPA_TE201306UV02")
    assert status(answer) == case["status"]
    assert ids(answer) == patients
    assert quantities(answer) == ([str(len(patients))] * 2 + ["0"])
    assert details(answer) == [[code, f"{PLACE}/{place}"] for code, place in case.get("errors", [])]
    assert attribute(answer, f"{ACT}/h:queryAck/h:queryId", "extension") == "q-1"
    assert [one.get("extension") for one in answer.iterfind(f"{ACT}/h:queryByParameter/h:queryId", NS)] == ["q-1"]
    degree = "h:subject1/h:patient/h:subjectOf1/h:queryMatchObservation/h:value"
    degrees = [attribute(event, degree, "value") for event in answer.iterfind(EVENT, NS)]
    assert degrees == [case.get("degree", "100")] * len(patients)
    without = [[one.get("root") for one in person.iterfind("h:asOtherIDs[h:id]/h:scopingOrganization/h:id", NS)]
               for person in answer.iterfind(f"{EVENT}/h:subject1/h:patient/h:patientPerson", NS)]
    assert without == case.get("without", [[]] * len(patients))
    nobodys = f"{EVENT}/h:subject1/h:patient/h:patientPerson/h:asOtherIDs/h:id"
    assert all(one.get("nullFlavor") for one in answer.iterfind(nobodys, NS))
    records = bench.audited()[before:]
    assert {(one["event"], one["type"], one["action"]) for one in records} == {("110112", "ITI-47", "E")}
    assert len(records) == max(len(patients), 1)
    assert {one["outcome"] for one in records} == {"0" if case["status"][0] == "AA" else "4"}
    assert records[0]["query"].startswith(b'<queryByParameter xmlns="urn:hl7-org:v3"><queryId')


def test_a_patient_is_shown_whole(bench: Bench) -> None:
    answer = ask(bench, ["livingSubjectId", '<value root="2.999.2.1" extension="A4"/>'],
                 ["otherIDsScopingOrganization", '<value root="2.999.2.1"/>'])
    patient = answer.find(f"{EVENT}/h:subject1/h:patient", NS)
    assert patient is not None
    assert [dict(one.attrib) for one in patient.iterfind("h:id", NS)] == [
        {"root": "2.999.2.1", "extension": "A4", "assigningAuthorityName": "HOSPA"}]
    [found] = read_candidates(answer).patients
    assert found.person == Demographics(
        names=JING.names, birth_date=JING.birth_date, sex=JING.sex, mother=JING.mother, addresses=JING.addresses,
        phones=JING.phones)
    assert (found.ids, found.confidence, found.without) == (((PatientId("2.999.2.1", "A4"), "HOSPA"),), 100, ())
    assert attribute(answer, f"{EVENT}/h:custodian/h:assignedEntity/h:id", "root") == OURS


def test_a_confidence_that_is_wanted_at_least(bench: Bench) -> None:
    text = write_pdq_query(
        [("livingSubjectName", '<value use="SRCH"><family>OUY</family></value><value><family>李</family></value>')],
        sender=VIEWER, receiver=OURS).decode()
    degree = ('<matchCriterionList><minimumDegreeMatch><value xmlns:x="http://www.w3.org/2001/XMLSchema-instance" x:type="INT"'
              ' value="{}"/><semanticsText>MinimumDegreeMatch</semanticsText></minimumDegreeMatch></matchCriterionList>')
    for least, found in (("95", [["XAD", "A2"]]), ("90", [["XAD", "A2"], ["XAD", "A4"]])):
        assert ids(bench.v3(text.replace("<parameterList>", degree.format(least) + "<parameterList>").encode())) == found
    assert details(bench.v3(text.replace("<parameterList>", degree.format("high") + "<parameterList>").encode())) == [
        ["102", f"{PLACE}/matchCriterionList/minimumDegreeMatch/value"]]


# -- continuation

MANY = (["livingSubjectName", "<value><family>赵</family></value>"], ["livingSubjectBirthTime", '<value value="1990"/>'],
        ["otherIDsScopingOrganization", '<value root="2.999.2.1"/>'])


@pytest.fixture
def many(bench: Bench) -> Bench:
    """Seven persons of one name, born on different days."""
    for day in range(1, 8):
        bench.feed("A04", f"M{day}", Demographics(names=(PersonName("赵", "云"),), birth_date=f"199002{day:02}", sex="M"))
    return bench


def more(bench: Bench, start: int | None = None, quantity: int | None = None, sender: str = VIEWER, **how: Any) -> Element:
    return bench.v3(write_continuation(
        how.pop("query_id", QUERY_ID), sender=sender, receiver=OURS, start=start, quantity=quantity, **how))


def test_pages_follow_each_other_to_the_end(many: Bench) -> None:
    first = ask(many, *MANY, quantity=3)
    assert (ids(first), quantities(first), status(first)[0]) == ([["M1"], ["M2"], ["M3"]], ["7", "3", "4"], "AA")
    second = more(many, 4, 3)
    assert (ids(second), quantities(second)) == ([["M4"], ["M5"], ["M6"]], ["7", "3", "1"])
    assert status(second) == ["AA", "deliveredResponse", "OK"]
    echoes = [[etree.tostring(one) for one in answer.iterfind(f"{ACT}/h:queryByParameter", NS)] for answer in (first, second)]
    assert echoes[0] == echoes[1] != []
    assert (ids(more(many, 7, 3)), ids(more(many, 2, 2))) == ([["M7"]], [["M2"], ["M3"]])
    behind = more(many, 8, 3)
    assert (ids(behind), quantities(behind)) == ([], ["7", "0", "0"])


def test_without_a_number_the_next_page_follows(many: Bench) -> None:
    ask(many, *MANY, quantity=3)
    assert [ids(more(many)), ids(more(many, quantity=2)), ids(more(many, 2)), ids(more(many))] == [
        [["M4"], ["M5"], ["M6"]], [["M7"]], [["M2"], ["M3"], ["M4"]], [["M5"], ["M6"], ["M7"]]]


def test_pages_do_not_shift_when_others_come_and_go(many: Bench) -> None:
    ask(many, *MANY, quantity=3)
    many.feed("A04", "M0", Demographics(names=(PersonName("赵", "云"),), birth_date="19900101", sex="M"))
    many.feed("A08", "M2", JING)
    assert ids(more(many, 4, 3)) == [["M4"], ["M5"], ["M6"]]


@pytest.mark.parametrize("change", ["sender", "query", "late", "ended", "ended under the plain name"])
def test_a_query_goes_on_for_its_sender_and_for_a_while(many: Bench, change: str) -> None:
    ask(many, *MANY, quantity=3)
    if change == "late":
        many.now += demographics.KEPT_SECONDS
    if change.startswith("ended"):
        text = write_continuation(QUERY_ID, sender=VIEWER, receiver=OURS, end=True)
        if "plain" in change:
            text = text.replace(b"QUQI_IN000003UV01_Cancel", b"QUQI_IN000003UV01")
        end = many.v3(text)
        assert (end.tag, ack(end)) == (f"{{{NS['h']}}}MCCI_IN000002UV01", "CA")
    query_id = Ii(VIEWER, "q-2") if change == "query" else QUERY_ID
    answer = more(many, 4, 3, sender=OTHER if change == "sender" else VIEWER, query_id=query_id)
    assert (status(answer), ids(answer), quantities(answer)) == (["AE", "aborted", "AE"], [], ["0", "0", "0"])
    assert details(answer) == [["204", "/QUQI_IN000003UV01/controlActProcess/queryContinuation/queryId"]]
    assert attribute(answer, f"{ACT}/h:queryAck/h:queryId", "extension") == query_id.extension


def test_an_end_of_what_is_not_there_is_acknowledged(bench: Bench) -> None:
    assert ack(more(bench, end=True)) == "CA"


@pytest.mark.parametrize(("start", "quantity", "place"), [
    (0, 3, "startResultNumber"), (-4, 3, "startResultNumber"), (4, -3, "continuationQuantity"), (4, 0, "continuationQuantity")])
def test_numbers_of_a_continuation_that_are_none_are_refused(many: Bench, start: int, quantity: int, place: str) -> None:
    ask(many, *MANY, quantity=3)
    answer = more(many, start, quantity)
    assert status(answer) == ["AE", "aborted", "QE"]
    assert details(answer) == [["102", f"/QUQI_IN000003UV01/controlActProcess/queryContinuation/{place}"]]


def test_a_continuation_names_its_query(many: Bench) -> None:
    assert details(more(many, 4, 3, query_id=Ii())) == [
        ["101", "/QUQI_IN000003UV01/controlActProcess/queryContinuation/queryId"]]


def test_an_answer_is_bounded_and_says_that_there_are_more(many: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demographics, "MOST_PERSONS", 5)
    answer = ask(many, *MANY, quantity=4)
    assert (status(answer)[0], quantities(answer)) == ("AA", ["5", "4", "1"])
    [detail] = answer.iterfind("h:acknowledgement/h:acknowledgementDetail", NS)
    assert detail.get("typeCode") == "W"
    assert read_candidates(answer).warning.startswith("more persons answer than were looked at")


# -- hostile

@pytest.mark.parametrize(("name", "value", "place"), [
    ("livingSubjectName", f"<value><family>{'x' * (1 << 22)}</family></value>", "livingSubjectName[1]/value"),
    ("livingSubjectId", f'<value root="2.999.2.1" extension="{"x" * (1 << 20)}"/>', "livingSubjectId[1]/value"),
    ("patientTelecom", f'<value value="tel:{"1" * (1 << 20)}"/>', "patientTelecom[1]/value"),
    ("livingSubjectId", '<value root="2.999.2.1" extension="A1"/>' * 101, "livingSubjectId[1]/value")])
def test_too_long_and_too_many_values_are_refused(bench: Bench, name: str, value: str, place: str) -> None:
    assert details(ask(bench, [name, value])) == [["102", f"{PLACE}/parameterList/{place}"]]


def test_too_many_parameters_are_refused(bench: Bench) -> None:
    answer = ask(bench, *[["livingSubjectName", "<value><family>x</family></value>"]] * 10_000)
    assert details(answer) == [["102", f"{PLACE}/parameterList/livingSubjectName"]]
    some = ask(bench, *[["livingSubjectName", "<value><family>张</family></value>"]] * 100)
    assert ids(some) == [["XAD", "A1", "B1", "B2", "C1"]]


def test_a_parameter_of_hl7_that_ihe_does_not_have_is_refused_unless_it_is_null(bench: Bench) -> None:
    text = write_pdq_query([("livingSubjectName", "<value><family>李</family></value>")], sender=VIEWER, receiver=OURS).decode()
    other = "<principalCareProviderId>{}<semanticsText>x</semanticsText></principalCareProviderId></parameterList>"
    answers = [bench.v3(text.replace("</parameterList>", other.format(value)).encode()) for value in (
        '<value root="2.999.1" extension="D1"/>', '<value nullFlavor="UNK"/>')]
    assert details(answers[0]) == [["103", f"{PLACE}/parameterList/principalCareProviderId"]]
    assert ids(answers[1]) == [["XAD", "A2"]]


def test_a_store_that_is_away_is_an_internal_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.supplier, "_database", Database("sqlite:////proc/nowhere.db"))
    assert (status(ask(bench, *MANY))[0], details(ask(bench, *MANY))) == ("AE", [["INTERR", ""]])


def test_the_row_says_how_it_travels() -> None:
    told = [(one.name.rpartition("}")[2], *(text.removeprefix("urn:hl7-org:v3:") for text in (one.action, one.reply_action)))
            for one in ROW.messages]
    assert ROW.endpoint == "/pdq"
    assert told == [
        (hl7v3_pdq.QUERY, hl7v3_pdq.QUERY, hl7v3_pdq.ANSWER),
        (hl7v3_pdq.CONTINUE, "QUQI_IN000003UV01_Continue", hl7v3_pdq.ANSWER),
        (hl7v3_pdq.CONTINUE, "QUQI_IN000003UV01_Cancel", "MCCI_IN000002UV01"),
        (hl7v3_pdq.CANCEL, "QUQI_IN000003UV01_Cancel", "MCCI_IN000002UV01")]
