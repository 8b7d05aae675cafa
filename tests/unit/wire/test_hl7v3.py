from pathlib import Path

import pytest
from lxml import etree

from broker.edge.soap import schema
from broker.model.errors import Hl7Code, Problem, Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire import hl7v3
from broker.wire.xml import Element, parse

NS = {"h": "urn:hl7-org:v3"}
OURS = "2.999.1.4"
MESSAGE_ID = MessageId("20260301101500+0800", "m-1")
PATIENT = PatientId("2.999.3.1", "B&1")
PERSON = Demographics(
    names=(PersonName("欧阳", "娜", use="L"), PersonName("OUYANG", "NA", "MIDDLE", "Jr", "Dr")), birth_date="19790214", sex="F",
    mother=PersonName("李<"), addresses=(Address("鼓楼路 12", "福州", "福建", "350001", "CN"),), phones=("+86-591-1",),
    other_ids=(("2.999.9.1", "99999919790214002X"), ("", "unspeakable")))
SAMPLES = Path(__file__).parent / "samples_hl7v3.xml"
WRAPPER = """<id root="1.2.40.5.99.1" extension="m-0001"/><creationTime value="20260301101500"/>
  <interactionId root="2.16.840.1.113883.1.6" extension="{0}"/>
  <processingCode code="T"/><processingModeCode code="T"/><acceptAckCode code="AL"/>
  <receiver typeCode="RCV"><device classCode="DEV" determinerCode="INSTANCE"><id root="1.2.40.5.1"/></device></receiver>
  <sender typeCode="SND"><device classCode="DEV" determinerCode="INSTANCE"><id root="1.2.40.5.2"/></device></sender>"""


def sample(root: str) -> str:
    element = next(child for child in etree.fromstring(SAMPLES.read_bytes()) if etree.QName(child).localname == root)
    return etree.tostring(element).decode().replace('<W xmlns=""/>', WRAPPER.format(root))


def add() -> bytes:
    return hl7v3.write_add_patient(PATIENT, PERSON, sender="2.999.3.9", receiver="2.999.1.4", message_id=MESSAGE_ID)


def query(domains: tuple[str, ...] = ("2.999.1.1", "2.999.8")) -> bytes:
    return hl7v3.write_pix_query(PATIENT, domains, sender="2.999.3.9", receiver="2.999.1.4", message_id=MESSAGE_ID)


def valid(data: bytes) -> Element:
    element = parse(data)
    schema.check("hl7v3.xsd", element)
    assert element.prefix is None
    return element


ROOTS = ["PRPA_IN201301UV02", "MCCI_IN000002UV01", "PRPA_IN201304UV02", "PRPA_IN201309UV02", "PRPA_IN201310UV02"]


@pytest.mark.parametrize("root", ROOTS)
def test_messages_of_the_field_are_valid(root: str) -> None:
    schema.check("hl7v3.xsd", parse(sample(root).encode()))


@pytest.mark.parametrize(("root", "old", "new"), [
    ("PRPA_IN201301UV02", '<statusCode code="active"/>', ""),
    ("PRPA_IN201301UV02", '<acceptAckCode code="AL"/>', ""),
    ("PRPA_IN201301UV02", '<processingCode code="T"/><processingModeCode code="T"/>',
     '<processingModeCode code="T"/><processingCode code="T"/>'),
    ("PRPA_IN201301UV02", '<sender typeCode="SND">', "<sender>"),
    ("PRPA_IN201301UV02", '<device classCode="DEV" determinerCode="INSTANCE"><id root="1.2.40.5.2"/></device>', ""),
    ("PRPA_IN201301UV02", "<name><family>LIN</family><given>MEI</given></name>", ""),
    ("PRPA_IN201301UV02", "<custodian", "<author"),
    ("PRPA_IN201309UV02", "<semanticsText>Patient.id</semanticsText>", ""),
    ("PRPA_IN201309UV02", '<statusCode code="new"/>', ""),
    ("PRPA_IN201310UV02", "<queryResponseCode", "<queryResponse"),
    ("MCCI_IN000002UV01", "<targetMessage>", "<target>"),
])
def test_a_missing_or_misplaced_part_is_not(root: str, old: str, new: str) -> None:
    text = sample(root)
    assert old in text
    broken = text.replace(old, new, 1)
    for name in ("custodian", "targetMessage"):
        if old == f"<{name}" or old == f"<{name}>":
            broken = broken.replace(f"</{name}>", f"</{new.strip('<>')}>")
    with pytest.raises(Rejected, match="SchemaInvalid"):
        schema.check("hl7v3.xsd", parse(broken.encode()))


def test_a_feed_is_read_back() -> None:
    found = hl7v3.read_registration(valid(add()))
    where = "/PRPA_IN201301UV02/controlActProcess/subject/registrationEvent/subject1/patient"
    assert found.wrapper == hl7v3.Wrapper(
        interaction="PRPA_IN201301UV02", message_id=hl7v3.Ii("2.999.3.9", "m-1"), senders=(hl7v3.Ii("2.999.3.9"),))
    assert str(found.wrapper.message_id) == "2.999.3.9.m-1"
    assert found.ids == (hl7v3.Ii("2.999.3.1", "B&1", f"{where}/id[1]"),)
    assert [(i.root, i.extension) for i in found.other_ids] == [("2.999.9.1", "99999919790214002X")]
    assert Demographics(**found.person, other_ids=PERSON.other_ids) == PERSON
    revised = valid(hl7v3.write_add_patient(PATIENT, PERSON, sender="2.999.3.9", receiver="2.999.1.4", revise=True))
    assert hl7v3.read_registration(revised).wrapper.interaction == "PRPA_IN201302UV02"


def test_a_feed_of_the_field_is_read() -> None:
    found = hl7v3.read_registration(parse(sample("PRPA_IN201301UV02").encode()))
    assert (found.person["names"], found.person["birth_date"], found.person["sex"]) == (
        (PersonName("LIN", "MEI"),), "19790214", "F")
    merge = hl7v3.read_registration(parse(sample("PRPA_IN201304UV02").encode()))
    assert [(i.root, i.extension) for i in merge.retired] == [("1.2.40.7.1", "H1-2077")]


@pytest.mark.parametrize(("old", "new", "key", "value"), [
    ("<name><family>LIN</family><given>MEI</given></name>", "<name>  欧阳\n 娜 </name>", "names", (PersonName("欧阳 娜"),)),
    ("<name><family>LIN</family><given>MEI</given></name>", '<name nullFlavor="UNK"/>', "names", ()),
    ("<name><family>LIN</family><given>MEI</given></name>", "<name/>", "names", ()),
    ('<administrativeGenderCode code="F"/>', '<administrativeGenderCode nullFlavor="UNK"/>', "sex", ""),
    ('<administrativeGenderCode code="F"/>', '<administrativeGenderCode code="UN"/>', "sex", "A"),
    ('<birthTime value="19790214"/>', '<birthTime value="197902141200+0800"/>', "birth_date", "19790214"),
    ('<birthTime value="19790214"/>', "", "birth_date", ""),
])
def test_parts_that_vary(old: str, new: str, key: str, value: object) -> None:
    text = sample("PRPA_IN201301UV02")
    assert old in text
    assert hl7v3.read_registration(valid(text.replace(old, new).encode())).person[key] == value


@pytest.mark.parametrize(("old", "new", "code", "place"), [
    ('code="F"', 'code="X"', "103", "patientPerson/administrativeGenderCode"),
    ('value="19790214"', 'value="14.02.1979"', "102", "patientPerson/birthTime"),
])
def test_a_wrong_birth_time_or_sex_is_refused(old: str, new: str, code: str, place: str) -> None:
    with pytest.raises(Rejected) as caught:
        hl7v3.read_registration(parse(sample("PRPA_IN201301UV02").replace(old, new).encode()))
    assert [p.code for p in caught.value.problems] == [code]
    assert caught.value.problems[0].location.endswith(place)


def test_prefixes_and_comments_of_the_sender_do_not_matter() -> None:
    text = sample("PRPA_IN201309UV02").replace("<", "<x:").replace("<x:/", "</x:").replace("xmlns=", "xmlns:x=")
    read = hl7v3.read_pix_query(parse(text.encode()))
    assert (read.patient.root, read.patient.extension) == ("1.2.40.7.1", "H1-1001")
    assert read.parameters.startswith(b'<queryByParameter xmlns="urn:hl7-org:v3">')
    assert b"x:" not in read.parameters


def test_a_query_and_its_answers() -> None:
    request = valid(query())
    read = hl7v3.read_pix_query(request)
    place = "/PRPA_IN201309UV02/controlActProcess/queryByParameter/parameterList"
    assert (read.patient.root, read.patient.extension) == ("2.999.3.1", "B&1")
    assert read.patient.location == f"{place}/patientIdentifier/value"
    assert [(d.root, d.location) for d in read.domains] == [
        ("2.999.1.1", f"{place}/dataSource[1]/value"), ("2.999.8", f"{place}/dataSource[2]/value")]
    found = [(PatientId("2.999.1.1", "X1"), "REGION"), (PatientId("2.999.2.1", "A<1"), "HOSPA")]
    answer = valid(hl7v3.write_pix_answer(request, MESSAGE_ID, found, manager=OURS))
    assert hl7v3.read_pix_answer(answer) == (found[0][0], found[1][0])
    assert [e.get("assigningAuthorityName") for e in answer.iterfind(".//h:patient/h:id", NS)] == ["REGION", "HOSPA"]
    assert answer.xpath("string(.//h:acceptAckCode/@code)", namespaces=NS) == "NE"
    assert answer.xpath("string(h:receiver/h:device/h:id/@root)", namespaces=NS) == "2.999.3.9"
    nothing = valid(hl7v3.write_pix_answer(request, MESSAGE_ID, manager=OURS))
    assert hl7v3.read_pix_answer(nothing) == ()
    assert nothing.find(".//h:subject", NS) is None
    assert nothing.xpath("string(.//h:queryResponseCode/@code)", namespaces=NS) == "NF"


@pytest.mark.parametrize(("error", "status", "detail"), [
    (Rejected("204", "unknown", "/x"), "AE", ("204", hl7v3.ERRORS, "/x")),
    (Rejected("101", "missing"), "QE", ("101", hl7v3.ERRORS, None)),
    (Rejected("SchemaInvalid", "wrong"), "QE", ("SYN113", hl7v3.ADMINISTRATIVE, None)),
    (Unavailable("database"), "QE", ("INTERR", hl7v3.ADMINISTRATIVE, None)),
])
def test_refusals(error: Rejected, status: str, detail: tuple[str, str, str | None]) -> None:
    answer = valid(hl7v3.write_pix_answer(valid(query()), MESSAGE_ID, manager=OURS, error=error))
    assert answer.xpath("string(.//h:acknowledgement/h:typeCode/@code)", namespaces=NS) == "AE"
    assert answer.xpath("string(.//h:queryAck/h:statusCode/@code)", namespaces=NS) == "aborted"
    assert answer.xpath("string(.//h:queryResponseCode/@code)", namespaces=NS) == status
    code = answer.find(".//h:acknowledgementDetail/h:code", NS)
    assert code is not None
    assert (code.get("code"), code.get("codeSystem"), answer.findtext(".//h:location", None, NS)) == detail
    with pytest.raises(Rejected) as caught:
        hl7v3.read_pix_answer(answer)
    assert caught.value.problems[0].code == detail[0]


def test_acknowledgements() -> None:
    request = valid(add())
    hl7v3.read_ack(valid(hl7v3.write_ack(request, MESSAGE_ID, manager=OURS)))
    refused = valid(hl7v3.write_ack(request, MESSAGE_ID, Rejected.of([
        Problem(Hl7Code.UNKNOWN_KEY, "a & b", "/x"), Problem(Hl7Code.DUPLICATE_KEY, "c")]), manager=OURS))
    with pytest.raises(Rejected) as caught:
        hl7v3.read_ack(refused)
    assert caught.value.problems == (Problem("204", "a & b", "/x"), Problem("205", "c", ""))
    away = valid(hl7v3.write_ack(request, MESSAGE_ID, Unavailable("database"), manager=OURS))
    assert away.xpath("string(h:acknowledgement/h:typeCode/@code)", namespaces=NS) == "CR"
    assert away.xpath("string(h:acknowledgement/h:targetMessage/h:id/@extension)", namespaces=NS) == "m-1"
    with pytest.raises(Rejected, match="answered nothing"):
        hl7v3.read_ack(parse(b'<MCCI_IN000002UV01 xmlns="urn:hl7-org:v3"/>'))


def test_anything_can_be_acknowledged() -> None:
    empty = parse(b'<PRPA_IN201309UV02 xmlns="urn:hl7-org:v3"/>')
    assert b'nullFlavor="UNK"' in hl7v3.write_ack(empty, MESSAGE_ID, Rejected("SchemaInvalid", "x"), manager=OURS)
    assert b'queryResponseCode code="QE"' in hl7v3.write_pix_answer(
        empty, MESSAGE_ID, manager=OURS, error=Rejected("SchemaInvalid", "x"))
    for text, code in (("", "101"), ("<patientIdentifier><value root='1.2' extension='a'/></patientIdentifier>" * 2, "102")):
        query = f"<queryByParameter><parameterList>{text}</parameterList></queryByParameter>"
        body = f"<controlActProcess>{query}</controlActProcess>"
        with pytest.raises(Rejected, match=code):
            hl7v3.read_pix_query(parse(f'<PRPA_IN201309UV02 xmlns="urn:hl7-org:v3">{body}</PRPA_IN201309UV02>'.encode()))
