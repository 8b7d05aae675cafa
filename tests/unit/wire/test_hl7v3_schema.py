"""What senders of HL7 V3 write that the schema does not promise, and how it says what is wrong."""

from pathlib import Path

import pytest
from lxml import etree

from broker.edge.soap import schema
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire import hl7v3
from broker.wire.xml import Element, parse

WSDL = Path(__file__).parents[3] / "wsdl"
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
PERSON = Demographics(
    names=(PersonName("欧阳", "娜"),), birth_date="19790214", sex="F", mother=PersonName("李"), phones=("1",),
    addresses=(Address("鼓楼路 12", "福州"),), other_ids=(("2.999.9.1", "X"),))
NAME = "<name><family>欧阳</family><given>娜</given></name>"
DEVICE = '<device classCode="DEV" determinerCode="INSTANCE"><id root="2.999.1.4"/></device>'
CUSTODIAN = '<assignedEntity classCode="ASSIGNED"><id root="2.999.3.1"/></assignedEntity>'


def feed(old: str, new: str) -> Element:
    text = hl7v3.write_add_patient(
        PatientId("2.999.3.1", "B1"), PERSON, sender="2.999.3.9", receiver="2.999.1.4",
        message_id=MessageId("20260301101500+0800", "m1")).decode()
    assert old in text
    return parse(text.replace(old, new, 1).replace("<PRPA_IN201301UV02 ", f"<PRPA_IN201301UV02 {XSI} ", 1).encode())


@pytest.mark.parametrize(("old", "new"), [
    ('<contactParty classCode="CON" nullFlavor="NI"/>', '<contactParty xsi:nil="true"/>'),
    ('<contactParty classCode="CON" nullFlavor="NI"/>', '<contactParty xsi:nil="1" classCode="CON" nullFlavor="NI"/>'),
    (NAME, '<name xsi:nil="true"/>'),
    (NAME, '<name><family>欧阳</family><given xsi:nil="true"/></name>'),
    (NAME, f'{NAME}<desc xsi:nil="true"/><telecom xsi:nil="true"/>'),
    ('<birthTime value="19790214"/>', '<birthTime xsi:nil="true"/>'),
    ('<birthTime value="19790214"/>', '<birthTime value="19790214"/><deceasedInd xsi:nil="true"/><deceasedTime xsi:nil="true"/>'),
    ('<administrativeGenderCode code="F"/>', '<administrativeGenderCode xsi:nil="true"/>'),
    (CUSTODIAN, '<assignedEntity xsi:nil="true"/>'),
    (f'<custodian typeCode="CST">{CUSTODIAN}</custodian>', '<custodian xsi:nil="true"/>'),
    (DEVICE, '<device xsi:nil="true"/>'),
    ('<statusCode code="active"/><subject1', '<statusCode xsi:nil="true"/><effectiveTime xsi:nil="true"/><subject1'),
    ('<custodian typeCode="CST">', '<author xsi:nil="true"/><custodian typeCode="CST">'),
    ("</registrationEvent>", '<replacementOf xsi:nil="true"/></registrationEvent>'),
    ('<id nullFlavor="NA"/>', '<id xsi:nil="false" nullFlavor="NA"/>'),
])
def test_nil_is_taken_on_every_element(old: str, new: str) -> None:
    element = feed(old, new)
    schema.check("hl7v3.xsd", element)
    found = hl7v3.read_registration(element)
    assert [(ii.root, ii.extension) for ii in found.ids] == [("2.999.3.1", "B1")]
    assert not element.xpath("//@classCode[.='']"), "nothing is left of what the check added"
    schema.check("hl7v3.xsd", element)


@pytest.mark.parametrize(("old", "new"), [
    ('<id root="2.999.3.1" extension="B1"/>', '<id xsi:type="II" root="2.999.3.1" extension="B1"/>'),
    ("<name>", '<name xsi:type="PN">'), ("<name>", '<name xsi:type="EN">'), ("<family>", '<family xsi:type="en.family">'),
    ("<addr>", '<addr xsi:type="AD">'), ("<city>", '<city xsi:type="adxp.city">'),
    ("<telecom ", '<telecom xsi:type="TEL" '), ("<birthTime ", '<birthTime xsi:type="TS" '),
    ("<administrativeGenderCode ", '<administrativeGenderCode xsi:type="CE" '),
    ('<acceptAckCode code="AL"/>', '<acceptAckCode xsi:type="CS" code="AL"/>'),
    ("<creationTime ", '<creationTime xsi:type="TS" '),
    ('<patient classCode="PAT">', '<patient xsi:type="PRPA_MT201301UV02.Patient" classCode="PAT">'),
    ('<device classCode="DEV"', '<device xsi:type="MCCI_MT100200UV01.Device" classCode="DEV"'),
    ('<statusCode code="active"/><subject1',
     '<statusCode code="active"/><effectiveTime xsi:type="IVL_TS"><low xsi:type="IVXB_TS" value="1"/></effectiveTime><subject1'),
])
def test_a_type_that_is_the_declared_one_is_taken(old: str, new: str) -> None:
    element = feed(old, new)
    schema.check("hl7v3.xsd", element)
    assert b"xsi:type" not in etree.tostring(element)
    assert hl7v3.read_registration(element).person["names"] == PERSON.names


@pytest.mark.parametrize(("old", "new"), [
    ("<name>", '<name xsi:type="AD">'), ("<birthTime ", '<birthTime xsi:type="PN" '),
    ('<id root="2.999.3.1" extension="B1"/>', '<id xsi:type="Nonsense" root="2.999.3.1" extension="B1"/>'),
])
def test_another_type_is_refused_by_its_place(old: str, new: str) -> None:
    with pytest.raises(Rejected, match=r"/@type: xsi:type does not name its type"):
        schema.check("hl7v3.xsd", feed(old, new))


@pytest.mark.parametrize(("old", "new", "told"), [
    ('<acceptAckCode code="AL"/>', "", "receiver: it is not allowed here; expected: acceptAckCode"),
    (' typeCode="SND"', "", "sender: attribute typeCode is missing"),
    (NAME, "", "administrativeGenderCode: it is not allowed here; expected: realmCode, typeId, templateId, id, name"),
    (f"{CUSTODIAN}", "", "custodian: a child is missing; expected: realmCode, typeId, templateId, assignedEntity"),
    ('ITSVersion="XML_1.0"', 'ITSVersion="1"', "PRPA_IN201301UV02/@ITSVersion: "),
    ('<id root="2.999.3.1" extension="B1"/>', '<id root="2.999.3.1" extension="B1">text</id>', "id: it must be empty"),
    ("<birthTime ", '<birthTime xsi:nil="maybe" ', "birthTime/@nil"),
    ('<id root="2.999.3.1" extension="B1"/>', '<id xsi:nil="true" root="2.999.3.1">1</id>', "id: xsi:nil says that it is empty"),
])
def test_an_error_names_what_is_missing_or_wrong_and_no_value(old: str, new: str, told: str) -> None:
    with pytest.raises(Rejected) as caught:
        schema.check("hl7v3.xsd", feed(old, new))
    [problem] = caught.value.problems
    assert told in problem.context
    assert problem.context.startswith("line ")
    assert not any(secret in problem.context for secret in ("欧阳", "娜", "B1", "19790214"))


@pytest.mark.parametrize(("old", "new"), [
    (NAME, "<name>欧阳<second>a</second><family>欧阳</family>娜</name>"),
    (NAME, '<name other="1"><x:y xmlns:x="urn:x"/></name>'),
    ("<city>福州</city>", "<city>福<b>州</b></city><district>鼓楼</district>text"),
    ('<telecom value="tel:1"/>', '<telecom value="tel:1" use="HP"><useablePeriod><low value="2020"/></useablePeriod></telecom>'),
    ("<scopingOrganization ", "<scopingOrganization mine='1' "),
    ('<statusCode code="active"/><subject1', '<statusCode code="active"/><effectiveTime>yesterday<x/></effectiveTime><subject1'),
])
def test_what_lies_in_a_data_type_is_taken_as_it_comes(old: str, new: str) -> None:
    schema.check("hl7v3.xsd", feed(old, new))


def test_what_we_write_is_what_the_served_schema_promises() -> None:
    served = etree.XMLSchema(file=str(WSDL / "schema" / "hl7v3.xsd"))
    query = hl7v3.write_pix_query(PatientId("2.999.3.1", "B1"), ["2.999.1.1"], sender="2.999.3.9", receiver="2.999.1.4")
    message_id = MessageId("20260301101500+0800", "m1")
    answer = hl7v3.write_pix_answer(parse(query), message_id, [(PatientId("2.999.1.1", "X"), "REGION")], manager="2.999.1.4")
    refusal = hl7v3.write_ack(feed("<name>", "<name>"), message_id, Rejected("204", "unknown", "/x"), manager="2.999.1.4")
    for written in (query, answer, refusal, etree.tostring(feed("<name>", "<name>"))):
        served.assertValid(parse(written))


@pytest.mark.parametrize("file", ["repository.wsdl", "imaging.wsdl"])
def test_the_wsdl_says_what_travels_as_mtom(file: str) -> None:
    space = {
        "wsp": "http://www.w3.org/ns/ws-policy", "wsdl": "http://schemas.xmlsoap.org/wsdl/",
        "wsoma": "http://schemas.xmlsoap.org/ws/2004/09/policy/optimizedmimeserialization"}
    root = parse((WSDL / file).read_bytes())
    [policy] = root.findall("wsp:Policy", space)
    assert policy.find("wsp:ExactlyOne/wsp:All/wsoma:OptimizedMimeSerialization", space) is not None
    name = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd}Id"
    assert [one.get("URI") for one in root.findall("wsdl:binding/wsp:PolicyReference", space)] == [f"#{policy.get(name)}"]
    assert b"Policy" not in (WSDL / "pix.wsdl").read_bytes() + (WSDL / "registry.wsdl").read_bytes()
