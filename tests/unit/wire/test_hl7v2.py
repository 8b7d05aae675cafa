import pytest

from broker.model.errors import Hl7Code, Problem, Rejected, TooLarge, Unavailable
from broker.model.stamp import Stamp
from broker.wire.hl7v2 import (
    Deframer,
    Form,
    Header,
    Message,
    frame,
    parse,
    parse_header,
    write_ack,
    write_broken,
    write_nack,
)

# Characters whose second byte in GB 18030 is a delimiter of HL7.
TRAPS = "葉區瑋錦誠"
STAMP = Stamp("20260301101501+0800", "r1")


def message(name: str = "张^伟", charset: str = "GB 18030-2000", encoding: str = "gb18030", node: str = "HIS-A") -> bytes:
    return (f"MSH|^~\\&|{node}|HOSPA|BROKER|REGION|20260301101500||ADT^A04^ADT_A01|m1|P|2.3.1||||||{charset}\r"
            f"EVN||20260301101500\rPID|||A1^^^HOSPA&2.999.2.1&ISO~N9^^^^NI||{name}~ZHANG^WEI|| 19790214|M\rPV1||O\r"
            ).encode(encoding)


def taken(limit: int, *pieces: bytes) -> list[bytes]:
    frames, found = Deframer(limit), []
    for piece in pieces:
        frames.feed(piece)
        while (data := frames.take()) is not None:
            found.append(data)
    return found


def test_a_stream_split_at_every_byte_gives_the_same_messages() -> None:
    stream = b"\n\0" + frame(b"MSH|one\r") + frame(b"MSH|two\r") + b"\r\n" + frame(b"") + b"noise"
    for cut in range(len(stream) + 1):
        assert taken(64, stream[:cut], stream[cut:]) == [b"MSH|one\r", b"MSH|two\r", b""]
    assert taken(64, *(bytes([byte]) for byte in stream)) == [b"MSH|one\r", b"MSH|two\r", b""]


def test_a_message_begun_again_replaces_the_one_never_ended() -> None:
    assert taken(64, b"\x0bMSH|lost\r", frame(b"MSH|new\r")) == [b"MSH|new\r"]
    assert taken(64, frame(b"MSH|a\x0bb\r")) == [b"MSH|a\x0bb\r"]


@pytest.mark.parametrize("stream", [frame(b"MSH|" + b"x" * 61), b"\x0bMSH|" + b"x" * 62])
def test_a_frame_over_the_limit_is_refused_whether_ended_or_not(stream: bytes) -> None:
    frames = Deframer(64)
    frames.feed(frame(b"MSH|fits\r") + stream)
    assert frames.take() == b"MSH|fits\r"
    with pytest.raises(TooLarge, match=r"server\.max_message = 64"):
        frames.take()
    assert frames.head.startswith(b"MSH|xxx")


def test_noise_between_frames_is_not_kept() -> None:
    frames = Deframer(64)
    for _ in range(100):
        frames.feed(b"noise" * 100)
        assert frames.take() is None
    assert not frames.inside
    frames.feed(b"\x0bMSH")
    assert frames.take() is None
    assert frames.inside


@pytest.mark.parametrize("character", TRAPS)
def test_characters_whose_second_byte_is_a_delimiter_survive(character: str) -> None:
    assert character.encode("gb18030")[1:] in (b"|", b"^", b"~", b"\\")
    parsed = parse(message(f"{character}^{character}{character}"))
    assert [value.get(1) for value in parsed.need("PID").values(5)] == [character, "ZHANG"]
    assert parsed.need("PID").get(5, 2) == character * 2
    assert parsed.need("PID").get(8) == "M"


@pytest.mark.parametrize("character", TRAPS)
def test_they_survive_in_the_header_before_the_character_set_is_known(character: str) -> None:
    parsed = parse(message(node=character * 3))
    assert (parsed.msh.get(3), parsed.form.charset, parsed.control_id) == (character * 3, "GB 18030-2000", "m1")


@pytest.mark.parametrize(("charset", "encoding", "name"), [
    ("GB 18030-2000", "gb18030", "王\u3400"), ("GBK", "gbk", "镕基"), ("UNICODE UTF-8", "utf-8", "王𠮷"),
    ("BIG-5", "big5", "許功蓋"), ("8859/1", "latin-1", "Müller"), ("", "ascii", "LI"), ("", "utf-8", "王"),
    ("ASCII", "utf-8", "王"),
    ("~GB 18030-2000", "gb18030", "葉"),
])
def test_character_sets(charset: str, encoding: str, name: str) -> None:
    assert parse(message(name, charset, encoding)).need("PID").get(5) == name


@pytest.mark.parametrize(("data", "code", "location"), [
    (b"", "100", "MSH^1"), (b"garbage", "100", "MSH^1"), (b"PID|||1\rMSH|^~\\&|", "100", "MSH^1"), (b"MSH|^~\\&", "100", "MSH^1"),
    (b"MSH|^^\\&|a|b\r", "102", "MSH^1^2"), (b"MSH|^~\\|a|b|\r", "102", "MSH^1^2"), (b"MSHAbcdeA|a\r", "102", "MSH^1^2"),
    (message(charset="KLINGON"), "103", "MSH^1^18"), (message(charset="GBK~BIG-5"), "103", "MSH^1^18"),
    (message("张", "UNICODE UTF-8"), "102", "MSH^1^18"), (message("张", ""), "102", "MSH^1^18"),
    (message("a\x01b"), "102", "PID"), (message("a\0b"), "102", "PID"),
])
def test_what_is_no_message_is_refused(data: bytes, code: str, location: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse(data)
    assert (caught.value.problems[0].code, caught.value.problems[0].location) == (code, location)


def test_too_many_segments_or_repetitions_are_refused() -> None:
    with pytest.raises(TooLarge):
        parse(message() + b"Z\r" * 10_001)
    with pytest.raises(Rejected, match="too many repetitions"):
        parse(message("~" * 2000)).need("PID").values(5)


def test_line_ends_around_segments_and_blank_lines_are_dropped_but_a_trailing_blank_stays() -> None:
    data = b"\r\n \xef\xbb\xbfMSH|^~\\&|A|B|C|D|1||ADT^A04|m1|P|2.5\r\n\r\r\nPID|||1|| \r\n\n"
    parsed = parse(data.lstrip(b"\r\n "))
    assert [segment.text for segment in parsed.segments][1:] == ["PID|||1|| "]
    assert parsed.raw == data.lstrip(b"\r\n ")


def test_fields_components_and_repetitions() -> None:
    parsed = parse(message())
    assert (parsed.name, parsed.control_id, parsed.msh.field(2)) == ("ADT^A04", "m1", "^~\\&")
    pid = parsed.need("PID")
    assert [(v.get(1), v.get(4, 2), v.get(5)) for v in pid.values(3)] == [("A1", "2.999.2.1", ""), ("N9", "", "NI")]
    assert (pid.get(7), pid.get(40), pid.get(3, 9), pid.values(40)) == ("19790214", "", "", ())
    assert parsed.all("ZZZ") == ()
    with pytest.raises(Rejected, match="segment ZZZ is missing"):
        parsed.need("ZZZ")


def test_other_delimiters() -> None:
    parsed = parse(b"MSH$%~@#$A$B$C$D$1$$ADT%A04$m@F@1$P$2.5\rPID$$$1%%%N#1.2#ISO$$O@S@X%Y|^\r")
    assert (parsed.name, parsed.control_id) == ("ADT^A04", "m$1")
    assert (parsed.need("PID").get(3, 4, 2), parsed.need("PID").get(5), parsed.need("PID").get(5, 2)) == ("1.2", "O%X", "Y|^")
    assert write_ack(parsed, STAMP).split(b"\r")[1] == b"MSA$AA$m@F@1"


@pytest.mark.parametrize(("text", "meaning"), [
    (r"a\F\b\S\c\T\d\R\e\E\f", r"a|b^c&d~e" "\\f"), (r"\H\loud\N\ ", "loud "), (r"\XD5C5\x", "张x"), (r"\X0D\ ", r"\X0D\ "),
    (r"\XZZ\\X1\ ", r"\XZZ\\X1\ "), (r"\Q\ ", r"\Q\ "), ("plain", "plain"), ("one\\", "one\\"),
])
def test_escapes(text: str, meaning: str) -> None:
    assert Form.of("GB 18030-2000").unquote(text) == meaning


def test_an_acknowledgement_changes_the_nodes_over_and_speaks_the_senders_character_set() -> None:
    request = parse(message(node="葉"))
    lines = write_ack(request, STAMP).decode("gb18030").split("\r")
    assert lines == [
        r"MSH|^~\&|BROKER|REGION|葉|HOSPA|20260301101501+0800||ACK^A04^ACK|r1|P|2.3.1||||||GB 18030-2000", "MSA|AA|m1", ""]
    bare = parse(b"MSH|^~\\&|A|B|C|D|1||ADT^A04|m1|T|2.5\r")
    assert write_ack(bare, STAMP).split(b"\r")[0] == rb"MSH|^~\&|C|D|A|B|20260301101501+0800||ACK^A04^ACK|r1|T|2.5"


@pytest.mark.parametrize(("error", "code", "errors"), [
    (Rejected(Hl7Code.UNKNOWN_KEY, "a|b", "PID^1^3^1^4"), "AE",
     [r"ERR||PID^1^3^1^4|204^Unknown key identifier^HL70357|E||||a\F\b"]),
    (Rejected.of([Problem("101", "x", "PID^1^3"), Problem("103", "y", "PID^1^8")]), "AE",
     ["ERR||PID^1^3|101^Required field missing^HL70357|E||||x", "ERR||PID^1^8|103^Table value not found^HL70357|E||||y"]),
    (Rejected(Hl7Code.UNSUPPORTED_EVENT, "x", "MSH^1^9^1^2"), "AR",
     ["ERR||MSH^1^9^1^2|201^Unsupported event code^HL70357|E||||x"]),
    (Unavailable("database"), "AR", ["ERR|||207^Application internal error^HL70357|E||||database is not available"]),
    (Rejected("Denied", "x"), "AE", ["ERR|||207^Application internal error^HL70357|E||||x"]),
])
def test_errors_are_told_in_the_form_of_version_25(error: Rejected, code: str, errors: list[str]) -> None:
    lines = write_ack(parse(message()), STAMP, error).decode("gb18030").split("\r")
    assert lines[1:-1] == [f"MSA|{code}|m1", *errors]


def test_a_bug_says_nothing_about_itself() -> None:
    lines = write_broken(parse(message()), STAMP).decode("gb18030").split("\r")
    assert lines[1:3] == ["MSA|AE|m1", "ERR|||207^Application internal error^HL70357|E||||internal error"]


def test_what_has_no_header_is_answered_without_one() -> None:
    lines = write_nack(STAMP, Rejected(Hl7Code.SEGMENT_SEQUENCE, "x", "MSH^1")).decode().split("\r")
    assert lines == [r"MSH|^~\&|||||20260301101501+0800||ACK|r1|P|2.5", "MSA|AR|",
                     "ERR||MSH^1|100^Segment sequence error^HL70357|E||||x", ""]


@pytest.mark.parametrize("data", [message("张", "KLINGON"), message("张", "UNICODE UTF-8"), message() + b"\0"])
def test_the_header_of_an_unreadable_message_names_it(data: bytes) -> None:
    header = parse_header(data)
    assert isinstance(header, Message)
    assert (header.control_id, header.form.charset) == ("m1", "")
    assert parse_header(b"garbage") is None
    assert parse_header(b"") is None


def test_a_reply_its_character_set_cannot_hold_is_written_in_utf8() -> None:
    request = parse(message("Müller", "8859/1", "latin-1"))
    lines = write_ack(request, STAMP, Rejected(Hl7Code.UNKNOWN_KEY, "张", "PID^1^3")).decode("utf-8").split("\r")
    assert lines[0].split("|")[17] == "UNICODE UTF-8"
    assert lines[2].endswith("|张")


def test_the_header_we_write() -> None:
    header = Header(sender=("A|B", "F"), receiver=("C", "D"), stamp=STAMP, charset="8859/1", version="2.3.1")
    assert header.segment("ADT^A04", Form.of("8859/1")) == (
        r"MSH|^~\&|A\F\B|F|C|D|20260301101501+0800||ADT^A04|r1|P|2.3.1||||||8859/1")
    assert len(Header(sender=("A", "B"), receiver=("C", "D")).stamp.id) == 20
