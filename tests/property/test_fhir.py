"""What the FHIR codec writes it reads back, in JSON and XML, and the R4B models find it good; any JSON is taken or refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.people import Demographics, PersonName
from broker.wire import fhir
from broker.wire.fhir_outcome import refused
from broker.wire.fhir_patient import read_patient, write_patient
from broker.wire.fhir_types import RESOURCES, TYPES
from tests.helpers.fhir import checked
from tests.property.test_hl7v3 import ADDRESS, EXAMPLES, PATIENT, TEXT, WORD

NAME = st.builds(PersonName, WORD, TEXT, TEXT, TEXT, TEXT, st.sampled_from(("", "L", "D", "M", "N", "S"))).filter(
    lambda name: bool(name.given) or not name.middle)
DATE = st.dates().filter(lambda day: day.year > 1000).map(lambda day: f"{day:%Y%m%d}")
PERSON = st.builds(
    Demographics, names=st.lists(NAME, max_size=3).map(tuple),
    birth_date=st.one_of(st.just(""), DATE, DATE.map(lambda day: day[:6])),
    sex=st.sampled_from(("", "M", "F", "O", "U")), mother=st.none() | st.builds(PersonName, WORD),
    addresses=st.lists(ADDRESS, max_size=2).map(tuple),
    phones=st.lists(WORD | WORD.map("mailto:".__add__), max_size=2).map(tuple))
NAMES = sorted({name for fields in TYPES.values() for name in fields} | {"resourceType", "_birthDate", "x"})
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT, st.sampled_from(sorted(RESOURCES)))
ANY: st.SearchStrategy[Any] = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4), max_leaves=12)


@EXAMPLES
@given(st.lists(PATIENT, max_size=3), PERSON, st.sampled_from((fhir.JSON, fhir.XML)))
def test_a_person_comes_back(ids: list[PatientId], person: Demographics, form: str) -> None:
    body = fhir.write(write_patient("X1", ids, person), form)
    checked(body, f"{fhir.MEDIA_TYPES[form]}; charset=utf-8")
    found = read_patient(fhir.read(body, form, ["Patient"]))
    assert [(one.oid, one.value) for one in found.identifiers] == [(one.domain, one.value) for one in ids]
    assert Demographics(**found.person) == person


@EXAMPLES
@given(ANY)
def test_any_json_is_taken_or_refused(value: Any) -> None:
    data = json.dumps({"resourceType": "Patient", **(value if isinstance(value, dict) else {"name": value})}).encode()
    try:
        found = fhir.read(data, fhir.JSON, ["Patient"])
    except Rejected as error:
        checked(refused(error, fhir.JSON).body, "application/fhir+json; charset=utf-8")
        return
    assert fhir.read(fhir.write(found, fhir.JSON), fhir.JSON, ["Patient"]) == found


@EXAMPLES
@given(st.binary(max_size=200), st.sampled_from((fhir.JSON, fhir.XML)))
def test_any_bytes_are_refused(data: bytes, form: str) -> None:
    with pytest.raises(Rejected):
        fhir.read(data, form, ["Patient"])
