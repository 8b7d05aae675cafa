"""Broken and hostile messages at the MLLP port of a running broker, each with the error HL7 names."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.model.ids import PatientId
from tests.helpers.mllp import codes, segment
from tests.helpers.region import Region
from tests.helpers.site import LIMITS, A, Site, adt, rest
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk")]

TRAPS = "葉^區瑋錦誠"    # second bytes that look like delimiters
FAMILY = "東伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞"


def framed(message: str) -> bytes:
    return b"\x0b" + message.strip().replace("\n", "\r").encode("gb18030") + b"\x1c\r"


def answers(connection: socket.socket, count: int) -> list[list[list[str]]]:
    data = b""
    while data.count(b"\x1c\r") < count:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return [[line.split("|") for line in text.strip(b"\x0b").decode("gb18030").split("\r") if line]
            for text in data.split(b"\x1c\r")[:-1]]


def send(site: Site, *messages: str) -> list[list[list[str]]]:
    with site.mllp() as connection:
        connection.sendall(b"".join(map(framed, messages)))
        return answers(connection, len(messages))


def outcome(answer: list[list[str]]) -> tuple[str, str]:
    """Return MSA-1 and the codes of ERR."""
    return segment(answer, "MSA")[1], ",".join(codes(answer))


REFUSED = {
    "ADT without PID-3": (adt("m1", pid3=""), "AE", "101"),
    "unknown authority": (adt("m1", pid3="Z-1^^^NOWHERE&2.999.77&ISO^PI"), "AE", "204"),
    "no authority where the region refuses that": (adt("m1", pid3="Z-1"), "AE", "204"),
    "wrong version": (adt("m1", version="3.0"), "AR", "203"),
    "unknown event": (adt("m1", kind="ADT^A99"), "AR", "201"),
    "unknown message": (adt("m1", kind="ORU^R01"), "AR", "200"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_message_is_refused_and_the_next_one_taken(site: Site, name: str) -> None:
    message, verdict, code = REFUSED[name]
    with site.unchanged(fed=1):
        bad, good = send(site, message, adt(f"next-{site.number()}"))
    assert outcome(bad) == (verdict, code), bad
    assert outcome(good) == ("AA", "")


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A region that completes an id without an authority from its sender, and takes messages of four megabytes."""
    changes = {"region.toml": {'unknown_authority = "refuse"': 'unknown_authority = "sender"'}}
    limits = {**LIMITS, "max_message": 4 << 20}
    with Region(tmp_path_factory.mktemp("lenient"), server=limits, changes=changes) as region:
        yield Site(region)


def test_an_id_without_authority_is_completed_from_its_sender(lenient: Site) -> None:
    (fed,) = send(lenient, adt("l1", pid3="Z-1"))
    (merged,) = send(lenient, adt("l2", pid3="Z-2", kind="ADT^A40^ADT_A39").replace("PV1||O\n", "MRG|Z-1\n"))
    assert (outcome(fed), outcome(merged)) == (("AA", ""), ("AA", ""))
    with lenient.unchanged():
        (stranger,) = send(lenient, adt("l3", pid3="Z-3").replace("HIS-A|HOSPA", "HIS-X|ELSEWHERE"))
    assert outcome(stranger) == ("AE", "204")
    rows = lenient.rows("patient_identity", "domain, value, state")
    assert [row for row in rows if row[1].startswith("Z-")] == [(A.domain, "Z-1", "retired"), (A.domain, "Z-2", "active")]
    with lenient.client() as client:
        assert client.affinity_id(PatientId(A.domain, "Z-2"))


# Any part of an authority names it: where it is unknown, nobody's is taken for it.
NAMED = {
    "a namespace and an OID": "NOWHERE&2.999.77&ISO", "a namespace": "NOWHERE", "an OID": "&2.999.77&ISO",
    "an id of no type": "&2.999.77", "a DNS name": "&nowhere.example&DNS", "parts that contradict": "HOSPA&2.999.77&ISO",
    "another hospital's": "HOSPB&2.999.3.1&ISO",
}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_authority_is_never_completed_from_the_sender(site: Site, lenient: Site, name: str) -> None:
    feed = adt("n1", pid3=f"N-1^^^{NAMED[name]}")
    merge = adt("n2", kind="ADT^A40^ADT_A39").replace("PV1||O\n", f"MRG|N-2^^^{NAMED[name]}\n")
    for region in (site, lenient):
        with region.unchanged():
            assert [outcome(answer) for answer in send(region, feed, merge)] == [("AE", "204")] * 2


def test_a_frame_split_at_every_byte_in_gb18030(site: Site) -> None:
    """Every cut of one feed, those in the middle of a character too."""
    message = framed(adt("split", "S-1", name=TRAPS))
    with site.mllp() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(message)):
            connection.sendall(message[:cut])
            time.sleep(0.0005)
            connection.sendall(message[cut:])
            (answer,) = answers(connection, 1)
            assert outcome(answer) == ("AA", "")
    assert len([row for row in site.rows("patient_identity", "value") if row == ("S-1",)]) == 1


def test_several_messages_in_one_segment_are_answered_in_order(site: Site) -> None:
    """Each with a patient of its own, and each is carried out."""
    feeds = {f"many-{site.number()}": (f"M-{number}", f"葉^{FAMILY[number]}") for number in range(20)}
    found = send(site, *(adt(control, value, name=name) for control, (value, name) in feeds.items()))
    assert [segment(answer, "MSA")[1:3] for answer in found] == [["AA", control] for control in feeds]
    fed = site.rows("patient_identity", "value, message_id, demographics")
    assert [(value, control, json.loads(person)["names"][0]["given"]) for value, control, person in fed
            if value.startswith("M-")] == [(value, control, name[2:]) for control, (value, name) in feeds.items()]
    events = [(value, control) for value, kind, control in site.rows("patient_event", "value, kind, message_id")
              if kind == "fed" and control in feeds]
    assert events == [(value, control) for control, (value, _) in feeds.items()]


def times_fed(site: Site, control: str) -> int:
    return site.rows("patient_event", "kind, message_id").count(("fed", control))


def test_the_same_control_id_again_is_answered_the_same_and_does_nothing(site: Site) -> None:
    name = f"again-{site.number()}"
    (first,) = send(site, adt(name, "G-1"))
    with site.unchanged():
        (second,) = send(site, adt(name, "G-1"))
    assert second == first
    assert times_fed(site, name) == 1


def test_the_same_control_id_on_two_connections_at_once_is_carried_out_once(site: Site) -> None:
    for _ in range(10):
        name = f"twice-{site.number()}"
        message = framed(adt(name, "G-2"))
        with site.mllp() as one, site.mllp() as other:
            for connection in (one, other):
                connection.sendall(message[:-1])
            for connection in (one, other):
                connection.sendall(message[-1:])
            (first,), (second,) = answers(one, 1), answers(other, 1)
        assert outcome(first) == ("AA", "")
        assert second == first
        assert times_fed(site, name) == 1


def test_the_same_control_id_after_a_restart_is_answered_the_same_and_does_nothing(site: Site, tmp_path: Path) -> None:
    name = f"restart-{site.number()}"
    (first,) = send(site, adt(name, "G-3"))
    with site.unchanged():
        site.region.stop()
        site.region.start()
        (second,) = send(site, adt(name, "G-3"))
    assert second == first
    assert times_fed(site, name) == 1
    site.goes_on(tmp_path)


def test_a_message_over_the_limit_is_refused(site: Site) -> None:
    with site.unchanged(), site.mllp() as connection:
        connection.sendall(framed(adt("large", name="X" * (70 << 10))))
        (answer,) = answers(connection, 1)
        assert segment(answer, "MSA")[1:3] == ["AR", "large"]
        assert rest(connection) == b""
    site.feed()


def test_noise_is_no_message(site: Site) -> None:
    with site.unchanged(), site.mllp() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n\x0b\x1c\r\x0b\xff\xfe\x1c\r")
        assert [segment(answer, "MSA")[1] for answer in answers(connection, 2)] == ["AR", "AR"]
    site.feed()


HEAD = "MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20261126101500||{}|{}|P|2.3.1||||||UNICODE UTF-8\r"
A04 = HEAD.format("ADT^A04^ADT_A01", "{N}") + "EVN||20261126101500\r"
MERGE = HEAD.format("ADT^A40^ADT_A39", "{N}") + "EVN||20261126101500\r"
ASK = ("MSH|^~\\&|VIEW|WARD|BROKER|REGION|20261126101500||QBP^Q23^QBP_Q21|{N}|P|2.5||||||UNICODE UTF-8\r"
       "QPD|IHE PIX Query|{N}|W1^^^HOSPA&2.999.2.1&ISO\rRCP|I\r")
CX = "^^^HOSPA&2.999.2.1&ISO^PI"
# What hospitals' programs were seen to send: bytes between the marks, the answer, ids that are known afterwards.
FIELD = {
    "null for an id": (A04 + f'PID|||""{CX}||Qiu^Yi||19500505|F\rPV1||O\r', ("AE", "101"), []),
    "null beside an id": (A04 + f'PID|||""{CX}~W1{CX}||Tao^Wen^""||19720911|F\rPV1||O\r', ("AA", ""), ["W1"]),
    "null in a question": (ASK.replace("W1", '""'), ("AE", "101"), []),
    "null in a merge": (MERGE + f'PID|||A-1001{CX}\rMRG|""{CX}\r', ("AE", "101"), []),
    "LF": ((A04 + f"PID|||W2{CX}||Hu^Di||19810101|F\rPV1||O\r").replace("\r", "\n"), ("AA", ""), ["W2"]),
    "CR LF": ((A04 + f"PID|||W3{CX}||Hu^Du||19810102|F\rPV1||O\r").replace("\r", "\r\n"), ("AA", ""), ["W3"]),
    "LF before PV1": (A04 + f"PID|||W4{CX}||Hu^Da||19810103|F|||Long St^^Town\nPV1||O\r", ("AA", ""), ["W4"]),
    "a torn line": (A04 + f"PID|||W5{CX}||Hu^Da||19810103|F|||Long St\rTown\r", ("AE", "100"), []),
    "a short MSH-2": (A04.replace("^~\\&", "^~") + "PID|||W6^^^HOSPA||Lu^Mi||19820101|F\rPV1||O\r", ("AA", ""), ["W6"]),
    "a wrong MSH-2": (A04.replace("^~\\&", "^") + "PID|||W7^^^HOSPA||Lu^Mi||19820101|F\rPV1||O\r", ("AE", "102"), []),
    "a question and a feed": (ASK + A04 + f"PID|||W8{CX}||Xu^Ba||19830101|F\rPV1||O\r", ("AE", "100"), []),
    "a batch": ("BHS|^~\\&|HIS-A|HOSPA|X|Y|20261126||||{N}\r" + A04 + f"PID|||W9{CX}||Xu^Ba||19830101|F\r" + "BTS|1\r",
                ("AE", "100"), []),
    "a long name": (A04 + f"PID|||W9{CX}||{'x' * 251}||19830101|F\r", ("AE", "102"), []),
}


def exchange(site: Site, data: bytes) -> list[list[str]]:
    with site.mllp() as connection:
        connection.sendall(b"\x0b" + data + b"\x1c\r")
        (answer,) = answers(connection, 1)
    return answer


@pytest.mark.parametrize("name", FIELD)
def test_what_the_field_sends(site: Site, name: str) -> None:
    """Every answer comes from us and names the message it answers; what is refused leaves nothing behind."""
    text, expected, known = FIELD[name]
    control = f"field-{site.number()}"
    before = {row[0] for row in site.rows("patient_identity", "value")}
    answer = exchange(site, text.replace("{N}", control).encode())
    assert outcome(answer) == expected
    assert (segment(answer, "MSH")[2:4], segment(answer, "MSA")[2]) == (["BROKER", "REGION"], control)
    assert {row[0] for row in site.rows("patient_identity", "value")} - before == set(known)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_two_bytes_a_character_are_refused_with_a_reason(site: Site, codec: str) -> None:
    with site.unchanged():
        answer = exchange(site, adt("wide", "W-1").replace("\n", "\r").encode(codec))
    assert (segment(answer, "MSA")[2], outcome(answer)) == ("wide", ("AE", "103"))
    assert f"the message is in {codec[:6].upper()}" in segment(answer, "MSA")[3]


CHARSETS = {"CP936": "gbk", "GBK": "gbk", "GB18030-2005": "gb18030", "ISO-8859-1": "latin-1", "BIG5": "big5", "utf8": "utf-8"}


@pytest.mark.parametrize("charset", CHARSETS)
def test_character_sets_as_they_are_spelt(site: Site, charset: str) -> None:
    name = {"latin-1": "Müller^Jörg", "big5": "許^功蓋"}.get(CHARSETS[charset], "王^镕基")
    text = adt(f"spelt-{site.number()}", f"SP-{charset}", name=name).replace("GB 18030-2000", charset)
    assert outcome(exchange(site, text.replace("\n", "\r").encode(CHARSETS[charset]))) == ("AA", "")
    people = {value: json.loads(person) for value, person in site.rows("patient_identity", "value, demographics")}
    family, given = name.split("^")
    assert [people[f"SP-{charset}"]["names"][0][key] for key in ("family", "given")] == [family, given]


def test_utf8_under_another_label_is_taken_and_logged_as_doubtful(site: Site) -> None:
    control = f"doubt-{site.number()}"
    assert outcome(exchange(site, adt(control, "DB-1", name="王^小明").replace("\n", "\r").encode())) == ("AA", "")
    eventually(lambda: any(control in line for line in logged(site, "doubtful character set")))
    lines = site.region.log.read_text("utf-8").splitlines()
    assert not any("王" in line or "王".encode().decode("gb18030", "replace") in line for line in lines)


def test_fs_without_cr_is_closed_with_a_log_line(site: Site) -> None:
    with site.unchanged(), site.mllp() as connection:
        connection.sendall(framed(adt("open", "OP-1"))[:-1])
        assert rest(connection) == b""
    eventually(lambda: logged(site, "ends with FS, without the CR behind it"))
    site.feed()


def logged(site: Site, text: str) -> list[str]:
    return [line for line in site.region.log.read_text("utf-8").splitlines() if text in line]


def test_messages_of_four_megabytes_and_those_of_others(lenient: Site) -> None:
    """While one sender's refused feeds of the largest size are at work, another one's are carried out."""
    with lenient.mllp() as slow, lenient.mllp() as quick:
        for number in range(5):
            slow.sendall(framed(adt(f"big-{number}", name="\\" * ((4 << 20) - 1000))))
            quick.sendall(framed(adt(f"small-{lenient.number()}", "Q-1")))
            (answer,) = answers(quick, 1)
            assert outcome(answer) == ("AA", "")
        assert [outcome(answer) for answer in answers(slow, 5)] == [("AE", "102")] * 5
