"""Bodies that are no resources of FHIR R4, each refused with what is wrong; what JSON and XML say alike is read alike."""

import json
from typing import Any

import pytest

from broker.model.errors import Rejected
from broker.wire import fhir
from broker.wire.fhir_outcome import answer_of
from tests.helpers.fhir import patient

NS = 'xmlns="http://hl7.org/fhir"'
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'

JSON: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "structure: the body is no JSON (line 1, column 1)"),
    "no JSON": (b'{"resourceType": "Patient",}', "structure: the body is no JSON (line 1, column 28)"),
    "no object": (b"[]", "structure: the body is not a JSON object"),
    "nested 10 000 deep, lists": (b"[" * 10_000, "structure: the body is nested more than 64 deep"),
    "nested 10 000 deep, objects": (b'{"a":' * 10_000, "structure: the body is nested more than 64 deep"),
    "nested 10 000 deep, in an element": (
        b'{"resourceType":"Patient","extension":' + b'[{"extension":' * 10_000,
        "structure: the body is nested more than 64 deep"),
    "brackets in a text are none": (
        json.dumps(patient("urn:oid:2.999.2.1|A1", name=[{"family": '["{' * 100, "give": 1}])).encode(),
        "structure: Patient.name[0].give is no element of HumanName in R4"),
    "not UTF-8": (b'{"resourceType": "Patient", "id": "\xb9\xfa"}', "structure: the body is not UTF-8"),
    "UTF-16": ('{"resourceType": "Patient"}'.encode("utf-16"), "structure: the body is not UTF-8"),
    "half a character": (b'{"resourceType":"Patient","birthDate":"\\ud800"}', "value: Patient.birthDate is no date"),
    "a NUL": (b'{"resourceType":"Patient","name":[{"family":"a\\u0000b"}]}', "value: Patient.name[0].family is no string"),
    "twice": (b'{"resourceType":"Patient","gender":"male","gender":"female"}',
              "structure: a property is there twice in one object"),
    "no type": (b"{}", "structure: no resourceType that is taken: none"),
    "another type": (b'{"resourceType":"Observation"}', "structure: no resourceType that is taken: Observation"),
    "a type that is not wanted here": (
        b'{"resourceType":"Bundle"}', "structure: the body must be Patient, and it is Bundle"),
    "one where a list must be": (
        b'{"resourceType":"Patient","name":{"family":"x"}}', "structure: Patient.name must be a list"),
    "a list where one must be": (
        b'{"resourceType":"Patient","gender":["male"]}', "structure: Patient.gender must not be a list"),
    "a text where an object must be": (
        b'{"resourceType":"Patient","name":["x"]}', "structure: Patient.name[0] must be an object"),
    "a text for a truth value": (b'{"resourceType":"Patient","active":"true"}', "value: Patient.active is no boolean"),
    "a number for a text": (
        b'{"resourceType":"Patient","identifier":[{"value":1}]}', "value: Patient.identifier[0].value is no string"),
    "an empty text": (
        b'{"resourceType":"Patient","identifier":[{"value":""}]}', "value: Patient.identifier[0].value is no string"),
    "null": (b'{"resourceType":"Patient","name":null}', "structure: Patient.name must be a list"),
    "no number": (b'{"resourceType":"Patient","multipleBirthInteger":NaN}', "structure: the body is no JSON"),
    "a number of 5 000 digits": (
        b'{"resourceType":"Patient","multipleBirthInteger":' + b"9" * 5000 + b"}", "structure: the body is no JSON"),
    "an extension of what is no primitive": (
        b'{"resourceType":"Patient","_name":[{"id":"x"}]}', "structure: Patient._name is no element of Patient in R4"),
    "a contained resource without a type": (
        b'{"resourceType":"Patient","contained":[{}]}', "structure: Patient.contained[0] has no resourceType"),
}
XML: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "structure: empty, not XML in an ASCII-compatible encoding, or a DTD is present"),
    "a DTD with entities": (
        f"{BOMB}<Patient {NS}><id value='&b;'/></Patient>",
        "structure: empty, not XML in an ASCII-compatible encoding, or a DTD is present"),
    "nested 10 000 deep": ("<a>" * 10_000, "structure: not well-formed: Excessive depth in document: 256"),
    "nested 100 deep": (
        f"<Patient {NS}>" + "<extension>" * 100 + "</extension>" * 100 + "</Patient>",
        "structure: the body is nested more than 64 deep"),
    "not UTF-8": ('<?xml version="1.0" encoding="GB18030"?><Patient/>', "structure: the body is not UTF-8"),
    "no namespace": ("<Patient/>", "structure: Patient is not in the namespace http://hl7.org/fhir"),
    "an element of another namespace": (
        f'<Patient {NS}><gender xmlns="urn:x" value="male"/></Patient>', "structure: gender is no element of Patient in R4"),
    "an unknown element": (f"<Patient {NS}><nick value='x'/></Patient>", "structure: nick is no element of Patient in R4"),
    "twice": (
        f"<Patient {NS}><gender value='male'/><gender value='female'/></Patient>",
        "structure: Patient.gender is there more than once"),
    "a truth value that is none": (f"<Patient {NS}><active value='yes'/></Patient>", "value: Patient.active is no boolean"),
    "a number that is none": (
        f"<Patient {NS}><multipleBirthInteger value='two'/></Patient>", "value: Patient.multipleBirthInteger is no integer"),
    "two resources in one place": (
        f"<Patient {NS}><contained><Patient/><Patient/></contained></Patient>", "structure: contained must hold one resource"),
}


def refusal(data: bytes, form: str) -> str:
    with pytest.raises(Rejected) as caught:
        fhir.read(data, form, ["Patient"])
    [problem] = caught.value.problems
    assert answer_of(problem)[0] == 400
    return f"{problem.code}: {problem.context}"


@pytest.mark.parametrize("case", JSON)
def test_bad_json(case: str) -> None:
    data, expected = JSON[case]
    assert refusal(data, fhir.JSON) == expected


@pytest.mark.parametrize("case", XML)
def test_bad_xml(case: str) -> None:
    data, expected = XML[case]
    assert refusal(data.encode() if isinstance(data, str) else data, fhir.XML).startswith(expected)


def test_an_attribute_that_fhir_does_not_have() -> None:
    data = f"<Patient {NS}><name lang='zh'><family value='x'/></name></Patient>".encode()
    assert refusal(data, fhir.XML) == "structure: Patient.name[0].lang is no element of HumanName in R4"


@pytest.mark.parametrize(("data", "form"), [
    (b'{"resourceType":"Patient","photo":[' + b",".join([b"{}"] * 1001) + b"]}", fhir.JSON),
    (f"<Patient {NS}>{'<photo/>' * 1001}</Patient>".encode(), fhir.XML)])
def test_a_list_longer_than_anybodys_is_refused(data: bytes, form: str) -> None:
    with pytest.raises(Rejected, match=r"Patient\.photo is there more than 1000 times") as caught:
        fhir.read(data, form, ["Patient"])
    assert answer_of(caught.value.problems[0]) == (422, "too-long")


def test_a_refusal_repeats_names_of_elements_no_longer_than_people_need() -> None:
    text = refusal(json.dumps({"resourceType": "Patient", "x" * 1000: 1}).encode(), fhir.JSON)
    assert text == f"structure: Patient.{'x' * 64}... is no element of Patient in R4"


SAME: dict[str, tuple[dict[str, Any], str]] = {
    "lists, numbers and truth values": (
        {"resourceType": "Patient", "active": True, "name": [{"given": ["a", "b"]}], "multipleBirthInteger": 2},
        "<active value='true'/><name><given value='a'/><given value='b'/></name><multipleBirthInteger value='2'/>"),
    "ids and extensions beside values": (
        {"resourceType": "Patient", "name": [{"id": "n", "given": [None, "b"], "_given": [{"id": "g"}]}],
         "_birthDate": {"extension": [{"url": "http://x.example", "valueCode": "unknown"}]}},
        "<name id='n'><given id='g'/><given value='b'/></name>"
        "<birthDate><extension url='http://x.example'><valueCode value='unknown'/></extension></birthDate>"),
    "a resource within": (
        {"resourceType": "Patient", "contained": [{"resourceType": "Patient", "id": "p"}]},
        "<contained><Patient><id value='p'/></Patient></contained>"),
    "a schema's place": ({"resourceType": "Patient", "id": "p"}, "<id value='p'/>"),
}


@pytest.mark.parametrize("case", SAME)
def test_json_and_xml_say_the_same(case: str) -> None:
    resource, content = SAME[case]
    attributes = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="a b"'
    assert fhir.read(f"<Patient {NS} {attributes}>{content}</Patient>".encode(), fhir.XML, ["Patient"]) == resource
    assert fhir.read(json.dumps(resource).encode(), fhir.JSON, ["Patient"]) == resource


def test_texts_are_written_so_that_xml_can_carry_them() -> None:
    text = 'a"<&>\t\r\n\ufffe\x00区'
    body = fhir.write({"resourceType": "Patient", "name": [{"family": text}]}, fhir.XML)
    assert fhir.read(body, fhir.XML, ["Patient"])["name"][0]["family"] == 'a"<&>\t\r\n\ufffd\ufffd区'


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 500_000, b"\\" * 500_000, b'["' * 500_000, b'"' * 500_000])
def test_time_grows_with_the_body_alone(body: bytes) -> None:
    """A quadratic look at quotes would take hours: the suite's own limit ends it."""
    assert refusal(body, fhir.JSON).startswith("structure: ")
