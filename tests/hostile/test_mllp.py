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
    """Give MSA-1 and the codes of ERR."""
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
    """A region that completes an id without an authority from its sender."""
    changes = {"region.toml": {'unknown_authority = "refuse"': 'unknown_authority = "sender"'}}
    with Region(tmp_path_factory.mktemp("lenient"), server=LIMITS, changes=changes) as region:
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
