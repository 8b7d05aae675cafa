"""Whatever is written in HL7 V3 comes back; whatever is sent is read or refused, and answered with a valid message."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.edge.soap import schema
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.people import Address, Demographics, PersonName
from broker.model.stamp import Stamp
from broker.wire import hl7v3
from broker.wire.xml import Element, parse

STAMP = Stamp("20260301101500+0800", "m1")
LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co", "Zl", "Zp", "Cf", "Zs"))
WORD = st.text(LETTERS | st.sampled_from("<>&'\"葉區瑋錦誠𠮷"), min_size=1, max_size=12)
PART = st.just("") | WORD
OID = st.lists(st.integers(0, 10**6), min_size=1, max_size=5).map(lambda arcs: "2.999." + ".".join(map(str, arcs)))
PATIENT = st.builds(PatientId, OID, WORD)
NAME = st.builds(PersonName, family=WORD, given=PART, use=st.sampled_from(["", "L", "A"]))
PEOPLE = st.builds(
    Demographics,
    names=st.lists(NAME, min_size=1, max_size=3).map(tuple), birth_date=st.sampled_from(["", "19790214", "197902", "2000"]),
    sex=st.sampled_from(["", "M", "F", "A"]), mother=st.none() | st.builds(PersonName, WORD, PART),
    addresses=st.lists(st.builds(Address, PART, WORD, PART, PART, PART), max_size=2).map(tuple),
    phones=st.lists(WORD, max_size=2).map(tuple), other_ids=st.lists(st.tuples(OID, WORD), max_size=3).map(tuple))
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=80)


def valid(data: bytes) -> Element:
    element = parse(data)
    schema.check("hl7v3.xsd", element)
    return element


@EXAMPLES
@given(PATIENT, PEOPLE, st.booleans())
def test_a_feed_comes_back(patient: PatientId, person: Demographics, revise: bool) -> None:
    written = hl7v3.write_add_patient(patient, person, sender="2.999.3.9", receiver="2.999.1.4", revise=revise, stamp=STAMP)
    read = hl7v3.read_registration(valid(written))
    assert [(ii.root, ii.extension) for ii in read.ids] == [(patient.domain, patient.value)]
    assert [(ii.root, ii.extension) for ii in read.other_ids] == list(person.other_ids)
    assert (read.retired, read.wrapper.interaction) == ((), hl7v3.REVISE if revise else hl7v3.ADD)
    assert read.person["names"] == person.names
    assert (read.person["birth_date"], read.person["sex"]) == (person.birth_date, person.sex)
    assert (read.person["mother"], read.person["addresses"]) == (person.mother, person.addresses)
    assert read.person["phones"] == person.phones


@EXAMPLES
@given(PATIENT, WORD, st.lists(NAME, max_size=2))
def test_a_merge_comes_back(patient: PatientId, retired: str, names: list[PersonName]) -> None:
    written = hl7v3.write_merge_patient(
        patient, PatientId(patient.domain, retired), names, sender="2.999.3.9", receiver="2.999.1.4", stamp=STAMP)
    read = hl7v3.read_registration(valid(written))
    assert [(ii.root, ii.extension) for ii in read.retired] == [(patient.domain, retired)]
    assert [(ii.root, ii.extension) for ii in read.ids] == [(patient.domain, patient.value)]


@EXAMPLES
@given(PATIENT, st.lists(OID, max_size=3, unique=True), st.lists(PATIENT, max_size=4, unique=True))
def test_a_query_and_its_answer_come_back(patient: PatientId, domains: list[str], ids: list[PatientId]) -> None:
    request = valid(hl7v3.write_pix_query(patient, domains, sender="2.999.3.9", receiver="2.999.1.4", stamp=STAMP))
    read = hl7v3.read_pix_query(request)
    assert (read.patient.root, read.patient.extension) == (patient.domain, patient.value)
    assert [ii.root for ii in read.domains] == domains
    answer = valid(hl7v3.write_pix_answer(request, STAMP, [(one, "") for one in ids], custodian="2.999.1.4"))
    assert hl7v3.read_pix_answer(answer) == tuple(ids)


GOOD = [
    hl7v3.write_add_patient(
        PatientId("2.999.3.1", "B-1"), Demographics(names=(PersonName("葉", "曉東"),), birth_date="19790214", sex="M"),
        sender="2.999.3.9", receiver="2.999.1.4", stamp=STAMP),
    hl7v3.write_merge_patient(
        PatientId("2.999.3.1", "B-1"), PatientId("2.999.3.1", "B-2"), (), sender="2.999.3.9", receiver="2.999.1.4", stamp=STAMP),
    hl7v3.write_pix_query(PatientId("2.999.3.1", "B-1"), ["2.999.1.1"], sender="2.999.3.9", receiver="2.999.1.4", stamp=STAMP),
]
PIECES = st.sampled_from([
    b"", b"<id/>", b"<name/>", b'"', b" nullFlavor='NA'",
    b"\xff", b"&#xD;", b"<!-- -->", b"2.999", b"</id>"])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.sampled_from(GOOD), st.integers(0, 2000), st.integers(0, 40), PIECES, st.integers(0, 2000))
def test_a_damaged_message_is_read_or_refused(good: bytes, at: int, length: int, piece: bytes, graft: int) -> None:
    data = good[:at] + piece + good[graft:graft + length // 2] + good[at + length:]
    with contextlib.suppress(BrokerError):
        element = parse(data)
        for read in (hl7v3.read_registration, hl7v3.read_pix_query, hl7v3.read_pix_answer, hl7v3.read_ack):
            with contextlib.suppress(BrokerError):
                read(element)
        schema.check("hl7v3.xsd", element)
        valid(hl7v3.write_ack(element, STAMP, Rejected(Hl7Code.DATA_TYPE, "no", "/x")))
