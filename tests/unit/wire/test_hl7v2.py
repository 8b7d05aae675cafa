import pytest

from broker.model.errors import Hl7Code, Problem, Rejected, TooLarge, Unavailable
from broker.model.message_id import MessageId
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
from tests.helpers.hl7 import judge

# Characters whose second byte in GB 18030 is a delimiter of HL7.
TRAPS = "葉區瑋錦誠"
MESSAGE_ID = MessageId("20260301101501+0800", "r1")


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
    ("~GB 18030-2000", "gb18030", "葉"), ("ASCII~GB 18030-2000", "gb18030", "葉"), ("GB 18030-2000~ASCII", "gb18030", "葉"),
    ("GBK~GB18030", "gb18030", "葉"), ('""', "utf-8", "王"), ("gb18030", "gb18030", "葉"), ("GB 18030-2005", "gb18030", "葉"),
    ("GB18030-2022", "gb18030", "葉"), ("CP936", "gbk", "葉"), ("cp-936", "gbk", "葉"), ("MS936", "gbk", "葉"),
    ("WINDOWS-936", "gbk", "葉"), ("GB2312", "gb2312", "张"), ("GB 2312-80", "gb2312", "张"), ("GB_2312-1980", "gb2312", "张"),
    ("EUC-CN", "gb2312", "张"), ("Big5", "big5", "許"), ("BIG5-HKSCS", "big5hkscs", "許"), ("CP950", "cp950", "許"),
    ("ISO-8859-1", "latin-1", "Müller"), ("ISO 8859/1", "latin-1", "Müller"), ("ISO_8859-1:1987", "latin-1", "Müller"),
    ("ISO8859-15", "iso8859-15", "€"), ("ISO/IEC 8859-1", "latin-1", "Müller"), ("LATIN1", "latin-1", "Müller"),
    ("8859/16", "iso8859-16", "ș"), ("WINDOWS-1252", "cp1252", "€"), ("CP1251", "cp1251", "Ж"), ("KS X 1001", "cp949", "김"),
    ("US-ASCII", "ascii", "LI"), ("ISO IR6", "ascii", "LI"), ("UTF-8", "utf-8", "王"), ("utf8", "utf-8", "王"),
    ("unicode utf-8", "utf-8", "王"), ("UNICODE", "utf-8", "王"),
])
def test_character_sets(charset: str, encoding: str, name: str) -> None:
    assert parse(message(name, charset, encoding)).need("PID").get(5) == name


@pytest.mark.parametrize("charset", [
    "UNICODE UTF-16", "UTF-16", "UTF-16LE", "UNICODE UTF-32", "UCS-2", "ISO IR87", "CNS 11643-1992", "8859/12", "8859", "ISO",
    "K" * 200,
])
def test_a_character_set_that_is_not_taken_is_named_and_those_that_are(charset: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse(message(charset=charset))
    (problem,) = caught.value.problems
    given = charset if len(charset) <= 40 else "K" * 40 + "..."
    assert problem.context == (
        f"the character set '{given}' is not supported; known are ASCII, 8859/1 to 8859/16, GB 18030-2000, GBK, GB2312, BIG-5,"
        " KS X 1001, UNICODE UTF-8")


@pytest.mark.parametrize(("name", "charset", "encoding", "doubtful"), [
    ("张伟", "GB 18030-2000", "utf-8", True), ("张伟", "GBK", "utf-8", True), ("Müller", "8859/1", "utf-8", True),
    ("许功盖", "BIG-5", "utf-8", False), ("张伟", "GB 18030-2000", "gb18030", False), ("Müller", "8859/1", "latin-1", False),
    ("张伟", "UNICODE UTF-8", "utf-8", False), ("张伟", "", "utf-8", False), ("ZHANG", "GB 18030-2000", "ascii", False),
])
def test_utf8_under_another_label_is_doubtful_and_read_as_labelled(
    name: str, charset: str, encoding: str, doubtful: bool,
) -> None:
    data = message(name, charset, encoding)
    if charset == "BIG-5":      # what UTF-8 is in Big5 is no text
        with pytest.raises(Rejected, match="BIG-5"):
            parse(data)
        return
    parsed = parse(data)
    assert parsed.is_doubtful is doubtful
    used = {"GB 18030-2000": "gb18030", "GBK": "gb18030", "8859/1": "latin-1"}.get(charset, "utf-8")
    assert parsed.need("PID").get(5) == name.encode(encoding).decode(used)


@pytest.mark.parametrize(("data", "code", "location"), [
    (b"", "100", "MSH^1"), (b"garbage", "100", "MSH^1"), (b"PID|||1\rMSH|^~\\&|", "100", "MSH^1"), (b"MSH|^~\\&", "100", "MSH^1"),
    (b"MSH|^^\\&|a|b\r", "102", "MSH^1^2"), (b"MSH|^|a|b|c|\r", "102", "MSH^1^2"), (b"MSHAbcdeA|a\r", "102", "MSH^1^2"),
    (b"MSH|^~\\&#$|a|b\r", "102", "MSH^1^2"), (b"MSH||a|b|c|d\r", "102", "MSH^1^2"), (b"MSH|^~|a|b|^~|\xff\r", "102", "MSH^1^18"),
    (b"MSH|^~\\&|" + b"a" * 10_001 + b"|\r", "102", "MSH^1"),
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
        parse(message() + b"ZZZ\r" * 10_001)
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
    assert write_ack(parsed, MESSAGE_ID).split(b"\r")[1] == b"MSA$AA$m@F@1"


@pytest.mark.parametrize(("text", "meaning"), [
    (r"a\F\b\S\c\T\d\R\e\E\f", r"a|b^c&d~e" "\\f"), (r"\H\loud\N\ ", "loud "), (r"\XD5C5\x", "张x"), (r"\X0D\ ", r"\X0D\ "),
    (r"\XZZ\\X1\ ", r"\XZZ\\X1\ "), (r"\Q\ ", r"\Q\ "), ("plain", "plain"), ("one\\", "one\\"),
])
def test_escapes(text: str, meaning: str) -> None:
    assert Form.of("GB 18030-2000").unquote(text) == meaning


def test_an_acknowledgement_changes_the_nodes_over_and_speaks_the_senders_character_set() -> None:
    request = parse(message(node="葉"), ("BROKER", "REGION"))
    lines = write_ack(request, MESSAGE_ID).decode("gb18030").split("\r")
    assert lines == [
        r"MSH|^~\&|BROKER|REGION|葉|HOSPA|20260301101501+0800||ACK^A04^ACK|r1|P|2.3.1||||||GB 18030-2000", "MSA|AA|m1", ""]
    bare = parse(b"MSH|^~\\&|A|B|C|D|1||ADT^A04|m1|T|2.5\r", ("A|1", "D"))
    assert write_ack(bare, MESSAGE_ID).split(b"\r")[0] == rb"MSH|^~\&|A\F\1|D|A|B|20260301101501+0800||ACK^A04^ACK|r1|T|2.5"


@pytest.mark.parametrize("nodes", ["X|Y", "|", '""|""', "BROKER|"])
def test_answers_come_from_us_whomever_the_message_names(nodes: str) -> None:
    good = f"MSH|^~\\&|HIS|H|{nodes}|1||ADT^A04|m1|P|2.5\rPID|||1\r".encode()
    batch = f"BHS|^~\\&|HIS|H|{nodes}|1||||b1\r".encode() + good + b"BTS|1\r"
    ours = ("BROKER", "REGION")
    replies = [write_ack(parse(good, ours), MESSAGE_ID), write_broken(parse(good, ours), MESSAGE_ID)]
    for bad in (batch, good + good, good + b"\0\x01\r", good.replace(b"^~\\&", b"^^^^")):
        header = parse_header(bad, ours)
        assert header
        replies.append(write_ack(header, MESSAGE_ID, Rejected(Hl7Code.SEGMENT_SEQUENCE, "x")))
    assert {tuple(reply.split(b"\r")[0].split(b"|")[2:6]) for reply in replies} == {(b"BROKER", b"REGION", b"HIS", b"H")}
    nobody = write_nack(MESSAGE_ID, Rejected(Hl7Code.SEGMENT_SEQUENCE, "x"), ours)
    assert nobody.split(b"\r")[0].split(b"|")[2:6] == [b"BROKER", b"REGION", b"", b""]


PROBLEMS = [
    (Rejected(Hl7Code.UNKNOWN_KEY, "a|b", "PID^1^3^1^4"), r"MSA|AE|m1|a\F\b",
     [r"ERR||PID^1^3^1^4|204^Unknown key identifier^HL70357|E||||a\F\b"], "ERR|PID^1^3^204&Unknown key identifier&HL70357"),
    (Rejected.of([Problem("101", "x", "PID^1^3"), Problem("103", "y", "PID^1^8")]), "MSA|AE|m1|x",
     ["ERR||PID^1^3|101^Required field missing^HL70357|E||||x", "ERR||PID^1^8|103^Table value not found^HL70357|E||||y"],
     "ERR|PID^1^3^101&Required field missing&HL70357~PID^1^8^103&Table value not found&HL70357"),
    (Rejected(Hl7Code.SEGMENT_SEQUENCE, "x", "PID"), "MSA|AE|m1|x",
     ["ERR||PID|100^Segment sequence error^HL70357|E||||x"], "ERR|PID^^^100&Segment sequence error&HL70357"),
    (Rejected(Hl7Code.UNSUPPORTED_EVENT, "x", "MSH^1^9^1^2"), "MSA|AR|m1|x",
     ["ERR||MSH^1^9^1^2|201^Unsupported event code^HL70357|E||||x"], "ERR|MSH^1^9^201&Unsupported event code&HL70357"),
    (Unavailable("database"), "MSA|AR|m1|database is not available",
     ["ERR|||207^Application internal error^HL70357|E||||database is not available"],
     "ERR|^^^207&Application internal error&HL70357"),
    (Rejected("Denied", "x"), "MSA|AE|m1|x", ["ERR|||207^Application internal error^HL70357|E||||x"],
     "ERR|^^^207&Application internal error&HL70357"),
]


@pytest.mark.parametrize("version", ["2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8", "2.8.1", "2.8.2"])
@pytest.mark.parametrize(("error", "msa", "errors", "old"), PROBLEMS)
def test_errors_are_told_in_the_form_of_the_version(
    version: str, error: Rejected, msa: str, errors: list[str], old: str,
) -> None:
    """MSA-3 is withdrawn in 2.7, where ERR-8 says the same; from 2.6 on ERR-2.2 is required."""
    request = parse(message().replace(b"2.3.1", version.encode()), ("BROKER", "REGION"))
    answer = write_ack(request, MESSAGE_ID, error).decode("gb18030")
    if version > "2.1":     # of which hl7apy knows no components in ERR-1
        judge(answer)
    lines = answer.split("\r")
    assert (lines[0].split("|")[8], lines[0].split("|")[11]) == ("ACK^A04^ACK" if version >= "2.3.1" else "ACK^A04", version)
    if version >= "2.6":
        errors = [line.replace("|PID|", "|PID^1|") for line in errors]
    said = msa if version < "2.7" else "|".join(msa.split("|")[:3])
    assert lines[1:-1] == [said, *([old] if version < "2.5" else errors)]


def test_msa_3_has_at_most_80_characters_as_it_is_written() -> None:
    for text in ("葉" * 200, "|" * 200, "x" * 79 + "|"):
        lines = write_ack(parse(message()), MESSAGE_ID, Rejected(Hl7Code.UNKNOWN_KEY, text)).decode("gb18030").split("\r")
        brief = lines[1].split("|")[3]
        assert 78 <= len(brief) <= 80
        assert text.startswith(Form().unquote(brief))


def test_a_bug_says_nothing_about_itself() -> None:
    lines = write_broken(parse(message().replace(b"2.3.1", b"2.5")), MESSAGE_ID).decode("gb18030").split("\r")
    assert lines[1:3] == [
        "MSA|AE|m1|internal error", "ERR|||207^Application internal error^HL70357|E||||internal error"]


def test_what_has_no_header_is_answered_without_one() -> None:
    lines = write_nack(MESSAGE_ID, Rejected(Hl7Code.SEGMENT_SEQUENCE, "x", "MSH^1")).decode().split("\r")
    assert lines == [r"MSH|^~\&|||||20260301101501+0800||ACK|r1|P|2.5", "MSA|AR||x",
                     "ERR||MSH^1|100^Segment sequence error^HL70357|E||||x", ""]


@pytest.mark.parametrize("data", [
    message("张", "KLINGON"), message("张", "UNICODE UTF-8"), message() + b"\0",
    message().replace(b"^~\\&", b""), message().replace(b"^~\\&", b"^"), message().replace(b"^~\\&", b"^^^^"),
    message().replace(b"^~\\&", b"^~\\&#!"), message().replace(b"^~\\&", b"abcd"), message().replace(b"^~\\&", "葉".encode()),
    message(node="\x01"), message(node="葉"), message(node="葉").replace(b"^~\\&", b"^|||")[:0] or message(),
    message(charset="UNICODE UTF-16"), message("a\rb"), message() + message(), b"\xef\xbb\xbf" + message("张", "KLINGON"),
    message().replace(b"\r", b"\n"), message().replace(b"\r", b"\r\n"), message(node="a" * 20_000)[:60] + message()[11:],
])
def test_the_header_of_an_unreadable_message_names_it(data: bytes) -> None:
    header = parse_header(data)
    assert isinstance(header, Message)
    assert (header.control_id, header.form.charset) == ("m1", "")
    answer = parse(write_ack(header, MESSAGE_ID, Rejected(Hl7Code.DATA_TYPE, "x")))
    assert (answer.need("MSA").get(1), answer.need("MSA").get(2)) == ("AE", "m1")


def test_what_has_no_header_has_no_name() -> None:
    for data in (b"garbage", b"", b"MSH", b"MSHA|1|", b"MSH\xff\xff", b"\xff\xfe", b"M\0S\0"):
        assert parse_header(data) is None


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_two_and_four_bytes_a_character_are_refused_by_name_and_answered(codec: str, mark: str) -> None:
    data = (mark + message("张", "UNICODE UTF-16").decode("gb18030")).encode(codec)
    with pytest.raises(Rejected, match=f"the message is in {codec[:6].upper()}, .*send UNICODE UTF-8") as caught:
        parse(data)
    assert (caught.value.problems[0].code, caught.value.problems[0].location) == ("103", "MSH^1^18")
    header = parse_header(data)
    assert header
    assert header.control_id == "m1"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_a_block_that_is_framed_in_two_bytes_a_character_ends(codec: str) -> None:
    stream = "\x0bMSH|one\r\x1c\r".encode(codec) + frame(b"MSH|two\r")
    for cut in range(len(stream) + 1):
        found = taken(64, stream[:cut], stream[cut:])
        assert [data.strip(b"\0").replace(b"\0", b"") for data in found] == [b"MSH|one\r", b"MSH|two\r"]


def test_a_reply_its_character_set_cannot_hold_is_written_in_utf8() -> None:
    request = parse(message("Müller", "8859/1", "latin-1"))
    lines = write_ack(request, MESSAGE_ID, Rejected(Hl7Code.UNKNOWN_KEY, "张", "PID^1^3")).decode("utf-8").split("\r")
    assert lines[0].split("|")[17] == "UNICODE UTF-8"
    assert lines[1] == "MSA|AE|m1|张"


def test_the_header_we_write() -> None:
    header = Header(sender=("A|B", "F"), receiver=("C", "D"), message_id=MESSAGE_ID, charset="8859/1", version="2.3.1")
    assert header.segment("ADT^A04", Form.of("8859/1")) == (
        r"MSH|^~\&|A\F\B|F|C|D|20260301101501+0800||ADT^A04|r1|P|2.3.1||||||8859/1")
    assert len(Header(sender=("A", "B"), receiver=("C", "D")).message_id.control_id) == 20
