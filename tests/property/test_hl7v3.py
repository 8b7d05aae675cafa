"""What the HL7 V3 codec writes it reads back, and any answer is valid by the schema."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.edge.soap import schema
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire import hl7v3
from broker.wire.xml import parse

EXAMPLES = settings(derandomize=True, max_examples=120, deadline=None)
NODES: dict[str, Any] = {"sender": "2.999.3.9", "receiver": "2.999.1.4", "message_id": MessageId("20260301101501+0800", "m1")}
LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp", "Cn"), exclude_characters="\ufffe\uffff")
WORD = st.text(LETTERS, min_size=1, max_size=12)
TEXT = st.one_of(st.just(""), WORD)
OID = st.lists(st.integers(0, 10**6), min_size=1, max_size=5).map(lambda arcs: "2.999." + ".".join(map(str, arcs)))
PATIENT = st.builds(PatientId, OID, WORD)
NAME = st.builds(PersonName, WORD, TEXT, TEXT, TEXT, TEXT, st.sampled_from(("", "L", "A"))).filter(
    lambda name: bool(name.given) or not name.middle)      # a second given name needs a first one
ADDRESS = st.builds(Address, WORD, TEXT, TEXT, TEXT, TEXT)
DATE = st.one_of(st.just(""), st.dates().map(lambda day: day.strftime("%Y%m%d").zfill(8)))
PERSON = st.builds(
    Demographics, names=st.lists(NAME, max_size=3).map(tuple), birth_date=DATE, sex=st.sampled_from(("", "M", "F", "A")),
    mother=st.none() | NAME.map(lambda name: PersonName(*(getattr(name, part) for part in (
        "family", "given", "middle", "suffix", "prefix")))),
    addresses=st.lists(ADDRESS, max_size=2).map(tuple),
    phones=st.lists(WORD.filter(lambda text: not text.startswith("tel:")), max_size=2).map(tuple),
    other_ids=st.lists(st.tuples(OID, WORD), max_size=3).map(tuple))


@EXAMPLES
@given(PATIENT, PERSON, st.booleans())
def test_a_person_comes_back(patient: PatientId, person: Demographics, revise: bool) -> None:
    element = parse(hl7v3.write_add_patient(patient, person, revise=revise, **NODES))
    schema.check("hl7v3.xsd", element)
    found = hl7v3.read_registration(element)
    assert [(ii.root, ii.extension) for ii in found.ids] == [(patient.domain, patient.value)]
    assert tuple((ii.root, ii.extension) for ii in found.other_ids) == person.other_ids
    assert Demographics(**found.person, other_ids=person.other_ids) == person
    assert [ii.root for ii in found.wrapper.senders] == ["2.999.3.9"]
    schema.check("hl7v3.xsd", parse(hl7v3.write_ack(element, NODES["message_id"], manager="2.999.1.4")))


@EXAMPLES
@given(PATIENT, PATIENT, st.lists(NAME, min_size=1, max_size=2))
def test_a_merge_comes_back(survivor: PatientId, retired: PatientId, names: list[PersonName]) -> None:
    element = parse(hl7v3.write_merge_patient(survivor, retired, names, **NODES))
    schema.check("hl7v3.xsd", element)
    found = hl7v3.read_registration(element)
    assert [(ii.root, ii.extension) for ii in (*found.ids, *found.retired)] == [
        (one.domain, one.value) for one in (survivor, retired)]
    assert found.person["names"] == tuple(names)


@EXAMPLES
@given(PATIENT, st.lists(OID, max_size=4), st.lists(st.tuples(PATIENT, WORD), max_size=4), WORD)
def test_a_query_and_its_answer_come_back(
    patient: PatientId, domains: list[str], ids: list[tuple[PatientId, str]], why: str,
) -> None:
    element = parse(hl7v3.write_pix_query(patient, domains, **NODES))
    schema.check("hl7v3.xsd", element)
    query = hl7v3.read_pix_query(element)
    assert (query.patient.root, query.patient.extension) == (patient.domain, patient.value)
    assert [ii.root for ii in query.domains] == domains
    answer = parse(hl7v3.write_pix_answer(element, NODES["message_id"], ids, manager="2.999.1.4"))
    schema.check("hl7v3.xsd", answer)
    assert hl7v3.read_pix_answer(answer) == tuple(one for one, _ in ids)
    refusal = parse(hl7v3.write_pix_answer(
        element, NODES["message_id"], manager="2.999.1.4", error=Rejected("204", why, "/x[1]")))
    schema.check("hl7v3.xsd", refusal)
    with pytest.raises(Rejected) as caught:
        hl7v3.read_pix_answer(refusal)
    assert [(p.code, p.context, p.location) for p in caught.value.problems] == [("204", why, "/x[1]")]
