from typing import Any

import pytest

from broker.model.errors import Hl7Code, Problem, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire.hl7v2 import Header, parse, write_ack
from broker.wire.hl7v2_pix import (
    read_ack,
    read_person,
    read_pix_answer,
    write_adt,
    write_pix_query,
    write_pix_reply,
)

MESSAGE_ID = MessageId("20260301101500+0800", "m1")
HEADER = Header(sender=("HIS-A", "HOSPA"), receiver=("BROKER", "REGION"), message_id=MESSAGE_ID, charset="GB 18030-2000")
PATIENT = PatientId("2.999.2.1", "A|1")
PERSON = Demographics(
    names=(PersonName("區", "瑋", use="L"), PersonName("OU", "WEI", "X", "Jr", "Dr")), birth_date="19790214", sex="M",
    mother=PersonName("李", "梅"), addresses=(Address("鼓楼路 12", "福州", "福建", "350001", "CHN"),), phones=("0591-1", "139"),
    other_ids=(("2.999.9.1", "99999919790214001"), ("", "35012319790214001X")))


def person(pid: str) -> dict[str, Any]:
    return read_person(parse(f"MSH|^~\\&|A|B|C|D|1||ADT^A08|m|P|2.3.1\r{pid}\r".encode()).need("PID"))


def test_what_a_feed_says_of_a_person_is_read_back() -> None:
    parsed = parse(write_adt(HEADER, "A04", PATIENT, PERSON, namespace="HOSPA"))
    assert (parsed.name, parsed.msh.get(9, 3), parsed.msh.get(12)) == ("ADT^A04", "ADT_A01", "2.5")
    pid = parsed.need("PID")
    assert [(v.get(1), v.get(4), v.get(4, 2), v.get(4, 3)) for v in pid.values(3)] == [
        ("A|1", "HOSPA", "2.999.2.1", "ISO"), ("99999919790214001", "", "2.999.9.1", "ISO")]
    assert pid.get(19) == "35012319790214001X"
    assert read_person(pid) == {
        "names": PERSON.names, "birth_date": "19790214", "sex": "M", "mother": PERSON.mother, "addresses": PERSON.addresses,
        "phones": PERSON.phones}
    assert [segment.name for segment in parsed.segments] == ["MSH", "EVN", "PID", "PV1"]


def test_a_merge_names_both_ids() -> None:
    data = write_adt(HEADER, "A40", PATIENT, Demographics(), namespace="HOSPA", retired=PatientId("2.999.2.1", "A2"))
    lines = data.decode("gb18030").split("\r")
    assert lines[0].split("|")[8] == "ADT^A40^ADT_A39"
    assert lines[2:4] == [r"PID|||A\F\1^^^HOSPA&2.999.2.1&ISO", "MRG|A2^^^HOSPA&2.999.2.1&ISO"]


def test_empty_means_unchanged_and_two_quotes_deleted() -> None:
    assert person("PID|||1") == {}
    assert person('PID|||1||""|""|""|""|||""||""') == {
        "names": (), "mother": None, "birth_date": "", "sex": "", "addresses": (), "phones": ()}
    assert person("PID|||1||~ZHANG^WEI")["names"] == (PersonName("ZHANG", "WEI"),)
    assert person("PID|||1||||||||||^^^^86^591^1")["phones"] == ("865911",)


@pytest.mark.parametrize(("text", "date"), [
    ("1979", "1979"), ("197902", "197902"), ("19790214", "19790214"), ("197902141530", "19790214"),
    ("19790214153000.0+0800", "19790214"),
])
def test_birth_dates(text: str, date: str) -> None:
    assert person(f"PID|||1||||{text}")["birth_date"] == date


@pytest.mark.parametrize(("pid", "code", "location"), [
    ("PID|||1||||19791340", "102", "PID^1^7"), ("PID|||1||||14.02.79", "102", "PID^1^7"), ("PID|||1||||79", "102", "PID^1^7"),
    ("PID|||1||||１９７９", "102", "PID^1^7"), ("PID|||1|||||X", "103", "PID^1^8"),
])
def test_a_wrong_birth_date_or_sex_is_refused(pid: str, code: str, location: str) -> None:
    with pytest.raises(Rejected) as caught:
        person(pid)
    assert [(p.code, p.location) for p in caught.value.problems] == [(code, location)]


def test_a_query_and_its_answers() -> None:
    data = write_pix_query(HEADER, PATIENT, ["2.999.1.1", "2.999.3.1"], "tag-1")
    lines = data.decode("gb18030").split("\r")
    assert lines[0] == (r"MSH|^~\&|HIS-A|HOSPA|BROKER|REGION|20260301101500+0800||QBP^Q23^QBP_Q21|m1|P|2.5||||||GB 18030-2000"
                        "|||ITI-9^IHE")
    assert lines[1:] == [
        r"QPD|IHE PIX Query|tag-1|A\F\1^^^&2.999.2.1&ISO|^^^&2.999.1.1&ISO~^^^&2.999.3.1&ISO", "RCP|I", ""]
    found = [(PatientId("2.999.1.1", "X1"), "REGION"), (PatientId("2.999.3.1", "區1"), "HOSPB")]
    reply = write_pix_reply(parse(data), MESSAGE_ID, found)
    assert reply.decode("gb18030").split("\r")[1:] == [
        "MSA|AA|m1", "QAK|tag-1|OK", lines[1], "PID|||X1^^^REGION&2.999.1.1&ISO~區1^^^HOSPB&2.999.3.1&ISO||~^^^^^^S", ""]
    assert read_pix_answer(parse(reply)) == (found[0][0], found[1][0])
    assert read_pix_answer(parse(write_pix_reply(parse(data), MESSAGE_ID))) == ()
    assert write_pix_query(HEADER, PATIENT).decode("gb18030").split("\r")[1] == r"QPD|IHE PIX Query|m1|A\F\1^^^&2.999.2.1&ISO"


def test_qpd_is_answered_byte_for_byte() -> None:
    raw = b"QPD|IHE PIX Query|t\\X31\\|1^^^A&1.2&ISO^^||" + "兀".encode("cp950") + b"\xa2\xcc| "
    request = parse(b"MSH|^~\\&|A|B|C|D|1||QBP^Q23|m|P|2.5||||||BIG-5\r" + raw + b"\rRCP|I\r")
    lines = write_pix_reply(request, MESSAGE_ID).split(b"\r")
    assert lines[1:] == [b"MSA|AA|m", b"QAK|t\\X31\\|NF", raw, b""]


def test_refusals_are_read_as_rejected() -> None:
    request = parse(write_pix_query(HEADER, PATIENT))
    problems = [Problem(Hl7Code.UNKNOWN_KEY, "unknown assigning authority", f"QPD^1^4^{n}") for n in (1, 3)]
    reply = write_pix_reply(request, MESSAGE_ID, error=Rejected.of([*problems, Problem("101", "x", "QPD")]))
    assert reply.decode("gb18030").split("\r")[1:4] == [
        "MSA|AE|m1",
        "ERR||QPD^1^4^1~QPD^1^4^3|204^Unknown key identifier^HL70357|E||||unknown assigning authority",
        "QAK|m1|AE"]
    query = write_pix_query(HEADER, PATIENT).replace(b"|2.5|", b"|2.4|")
    old = write_pix_reply(parse(query), MESSAGE_ID, error=Rejected.of(problems))
    assert old.decode("gb18030").split("\r")[1:4] == [
        "MSA|AE|m1|unknown assigning authority",
        "ERR|QPD^1^4^204&Unknown key identifier&HL70357~QPD^1^4^204&Unknown key identifier&HL70357", "QAK|m1|AE"]
    with pytest.raises(Rejected) as caught:
        read_pix_answer(parse(old))
    assert [(p.code, p.context, p.location) for p in caught.value.problems] == [
        ("204", "unknown assigning authority", "QPD^1^4")] * 2
    with pytest.raises(Rejected) as caught:
        read_pix_answer(parse(reply))
    assert [(p.code, p.location) for p in caught.value.problems] == [("204", "QPD^1^4^1~QPD^1^4^3")]
    read_ack(parse(write_ack(request, MESSAGE_ID)))
    with pytest.raises(Rejected, match="the receiver answered AR"):
        read_ack(parse(b"MSH|^~\\&|A|B|C|D|1||ACK|m|P|2.5\rMSA|AR|m1\r"))
