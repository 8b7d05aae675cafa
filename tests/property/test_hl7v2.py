from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import BrokerError
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Demographics, PersonName
from broker.wire.hl7v2 import Deframer, Form, Header, frame, parse, parse_header
from broker.wire.hl7v2_pix import read_person, read_pix_answer, write_adt, write_pix_query, write_pix_reply

MESSAGE_ID = MessageId("20260301101500+0800", "m1")
CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co", "Zl", "Zp", "Cf", "Zs"))
TEXT = st.text(CHARACTERS | st.sampled_from("|^~\\&葉區瑋錦誠"), max_size=12)
NAME = TEXT.filter(lambda text: text != '""')       # that is HL7's null
PAYLOADS = st.lists(st.binary(max_size=40).filter(lambda b: b"\x1c" not in b and b"\x0b" not in b), max_size=6)
NOISE = st.sampled_from([b"", b"\n", b"\0\0", b"\r\n", b"noise"])
PEOPLE = st.builds(
    Demographics,
    names=st.lists(
        st.builds(PersonName, family=NAME.filter(bool), given=NAME), min_size=1, max_size=3).map(tuple),
    birth_date=st.sampled_from(["19790214", "197902", "2000"]), sex=st.sampled_from("MFUOAN"))


@settings(derandomize=True, deadline=None)
@given(PAYLOADS, NOISE, st.data())
def test_any_chunking_gives_the_same_messages(payloads: list[bytes], noise: bytes, data: st.DataObject) -> None:
    stream = noise + noise.join(frame(payload) for payload in payloads) + noise
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames, found = Deframer(64), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames.feed(stream[begin:end])
        while (message := frames.take()) is not None:
            found.append(message)
    assert found == payloads
    assert not frames.inside


@settings(derandomize=True, deadline=None)
@given(TEXT)
def test_escapes_round_trip(text: str) -> None:
    for form in (Form(), Form.of("GB 18030-2000"), Form("$", "%", "@", "#", "!")):
        quoted = form.quote(text)
        assert not set(quoted) & {form.field, form.component, form.repetition, form.subcomponent}
        assert form.unquote(quoted) == text


@settings(derandomize=True, deadline=None)
@given(PEOPLE, TEXT.filter(bool), st.sampled_from(["UNICODE UTF-8", "GB 18030-2000", "BIG-5", "8859/1", ""]))
def test_a_feed_round_trips_in_every_character_set(person: Demographics, value: str, charset: str) -> None:
    header = Header(sender=("葉|A", "F"), receiver=("B", "R"), message_id=MESSAGE_ID, charset=charset)
    message = parse(write_adt(header, "A04", PatientId("1.2", value), person))
    pid = message.need("PID")
    assert (message.msh.get(3), pid.get(3), pid.get(3, 4, 2)) == ("葉|A", value, "1.2")
    read = read_person(pid)
    assert (read["names"], read["birth_date"], read["sex"]) == (person.names, person.birth_date, person.sex)


@settings(derandomize=True, deadline=None)
@given(st.lists(TEXT.filter(bool), max_size=4), TEXT.filter(bool), st.sampled_from(["UNICODE UTF-8", "GB 18030-2000"]))
def test_an_answer_round_trips_and_echoes_its_query(values: list[str], tag: str, charset: str) -> None:
    header = Header(sender=("A", "F"), receiver=("B", "R"), message_id=MESSAGE_ID, charset=charset)
    request = parse(write_pix_query(header, PatientId("1.2", tag), ["1.3"], tag))
    ids = [PatientId("1.3", value) for value in values]
    answer = parse(write_pix_reply(request, MESSAGE_ID, [(patient, "NS") for patient in ids]))
    assert read_pix_answer(answer) == tuple(ids)
    assert answer.need("QPD").raw == request.need("QPD").raw


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.binary(max_size=20), st.integers(0, 200), st.integers(0, 4))
def test_mutated_messages_are_read_or_refused(tail: bytes, patch: bytes, at: int, cut: int) -> None:
    good = (b"MSH|^~\\&|A|B|C|D|1||ADT^A04|m|P|2.5||||||GB 18030-2000\r"
            b"PID|||1^^^N&1.2&ISO||\xc8~\xd5\\^\x85^~A||19790214|M\r")
    data = good[:at] + patch + good[at + cut:] + tail
    for reader in (parse, parse_header):
        try:
            message = reader(data)
            for segment in message.segments if message else ():
                for number in range(1, 12):
                    assert isinstance(segment.get(number, 2), str)
                    segment.values(number)
        except BrokerError:
            continue
