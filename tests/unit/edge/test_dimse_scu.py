import io
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from broker.audit.spool import AuditLog
from broker.config.profile import Hospital, Limits, Profile
from broker.edge.dimse import contexts, pdata, requestor, scu
from broker.edge.dimse.scu import Scu
from broker.model.caller import Caller
from broker.model.errors import Unavailable
from broker.model.imaging import StoredObject
from broker.model.ports import RetrieveFailed, Want
from broker.model.syntaxes import RECEIVED_SYNTAXES
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire import tags
from tests.helpers import dicom
from tests.helpers.dicom import CT
from tests.helpers.dimse import Parrot, item, pacs, store_request
from tests.helpers.ports import free_port
from tests.helpers.waiting import PATIENCE

pytestmark = pytest.mark.outside

FIND, MOVE, GET = contexts.STUDY_FIND, contexts.STUDY_MOVE, contexts.STUDY_GET
RELEASE = b"\6\0\0\0\0\4\0\0\0\0"
Script = Callable[[Parrot], None]


@dataclass
class Shelf:
    """A receiver in memory."""

    objects: dict[str, bytes] = field(default_factory=dict)
    callers: set[Caller] = field(default_factory=set)
    full: bool = False

    def open(self, caller: Caller, sop_class: str, sop_uid: str, transfer_syntax: str) -> "Slot":
        self.callers.add(caller)
        if self.full:
            raise Unavailable("online store")
        return Slot(self, sop_uid)


@dataclass
class Slot:
    """One object of the shelf."""

    shelf: Shelf
    sop_uid: str
    data: bytes = b""
    stored: StoredObject | None = None

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def commit(self) -> int:
        return 0

    def index(self) -> None:
        self.shelf.objects[self.sop_uid] = self.data

    def abort(self) -> None:
        self.data = b""


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def ask(profile: Profile, shelf: Shelf, tmp_path: Path) -> Scu:
    return Scu(profile, dicom.short_settings(), shelf, Gate(Open(), AuditLog(tmp_path / "audit", "broker", "demo")))


@pytest.fixture
def audited(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: [line for file in (tmp_path / "audit").glob("*.xml") for line in file.read_text("utf-8").splitlines()]


def at(profile: Profile, port: int, *routes: str, idle: float = 1.0, total: float = 10.0) -> Hospital:
    limits = Limits(connect_seconds=0.5, idle_seconds=idle, total_seconds=total)
    return dicom.hospital(dicom.hospital_at(profile, "b", port, routes=routes or ("move",), limits=limits), "b")


def accepting(script: Script) -> Script:
    def go(peer: Parrot) -> None:
        peer.accept()
        script(peer)

    return go


def answering(*statuses: int) -> Script:
    def go(peer: Parrot) -> None:
        command, _ = peer.request()
        for status in statuses:
            peer.respond(command, status)
        assert peer.hear()[0] == 5
        peer.say(RELEASE)

    return accepting(go)


def noting(asked: list[int]) -> Script:
    """A PACS that notes the command field of a request and answers it with success."""
    def go(peer: Parrot) -> None:
        command, _ = peer.request()
        asked.append(command.number(pdata.FIELD))
        peer.respond(command, 0)
        assert peer.hear()[0] == 5
        peer.say(RELEASE)

    return accepting(go)


def test_an_echo_that_is_answered_returns(ask: Scu, profile: Profile) -> None:
    asked: list[int] = []
    with pacs(noting(asked)) as port:
        ask.echo(at(profile, port))
    assert asked == [pdata.C_ECHO_RQ]


def reject(peer: Parrot) -> None:
    peer.hear()
    peer.say(b"\3\0\0\0\0\4\0\1\1\7")


def silent(peer: Parrot) -> None:
    peer.hear()
    peer.hear()


def half(peer: Parrot) -> None:
    peer.hear()
    peer.say(b"\2\0\0\0\4\0" + b"\0" * 500)
    peer.hear()


def endless(peer: Parrot) -> None:
    peer.hear()
    peer.say(b"\2\0\xff\xff\xff\xff" + b"\0" * 5000)
    peer.hear()


def swapping(element: int, value: int) -> Script:
    def go(peer: Parrot) -> None:
        command, _ = peer.request()
        peer.respond(command, 0, changes={element: value})
        peer.hear()

    return accepting(go)


def saying(data: bytes | None = None) -> Script:
    """A PACS that answers any request with these bytes; None = with nothing, and closes."""
    def go(peer: Parrot) -> None:
        peer.request()
        if data is not None:
            peer.say(data)
            peer.hear()

    return accepting(go)


@pytest.mark.parametrize(("script", "words"), [
    (reject, r"refused: Called AE title not recognised"),
    (silent, r"no answer"),
    (half, r"no answer"),
    (endless, r"no answer"),
    (lambda _peer: None, r"no answer"),
    (saying(b""), r"silent for 1 seconds"),
    (saying(), r"connection closed"),
    (saying(b"\7\0\0\0\0\4\0\0\0\0"), r"association aborted"),
    (saying(b"\5\0\0\0\0\4\0\0\0\0"), r"released before"),
    (saying(b"\4\0\0\0\0\6\0\0\0\1\1\3"), r"fragment lengths"),
    (swapping(pdata.STATUS, -1), r"an answer without a status"),
    (swapping(pdata.RESPONDED_TO, 99), r"an answer to something else"),
    (swapping(pdata.FIELD, 0x8001), r"an answer to something else"),
    (answering(0x0122), r"SOP Class Not Supported, status 0x0122"),
])
def test_every_failure_of_a_pacs_is_unavailable_with_a_plain_reason(
        ask: Scu, profile: Profile, script: Script, words: str) -> None:
    told = rf"^PACS PACSB of hospital b \(.*{words}.*\) is not available$"
    with pacs(script) as port, pytest.raises(Unavailable, match=told):
        ask.echo(at(profile, port))


def accepted(*items: bytes, head: bytes = b"\0\1" + b"\0" * 66) -> Script:
    """A PACS that answers with these items of an A-ASSOCIATE-AC, and then C-ECHO."""
    def go(peer: Parrot) -> None:
        peer.hear()
        body = head + b"".join(items)
        peer.say(struct.pack(">BBL", 2, 0, len(body)) + body)
        if peer.hear()[0] == 4:
            peer.say(pdata.write_command(1, [(pdata.FIELD, 0x8030), (pdata.RESPONDED_TO, 1), (pdata.STATUS, 0)]))
            peer.hear()

    return go


GOOD = item(0x21, b"\1\0\0\0" + item(0x40, tags.IMPLICIT.encode()))


@pytest.mark.parametrize("items", [
    [GOOD],
    [item(0x99, b"?"), GOOD, item(0x50, item(0x51, b"\0\0\0\0"))],
    [GOOD, item(0x21, b"\3\0\0\0" + item(0x40, b"1.2")), item(0x50, item(0x51, b"\0\0\0\x07") + item(0x54, b"\xff"))],
    [item(0x50, b""), item(0x21, b"\1\0\0\0" + item(0x40, tags.IMPLICIT.encode() + b"\0"))],
])
def test_an_odd_accept_is_used(ask: Scu, profile: Profile, items: list[bytes]) -> None:
    with pacs(accepted(*items)) as port:
        ask.echo(at(profile, port))


@pytest.mark.parametrize(("items", "words"), [
    ([], "did not accept this service"),
    ([item(0x21, b"\1\0\3\0" + item(0x40, b""))], "did not accept this service"),
    ([item(0x21, b"\1\0\0\0")], "did not accept this service"),
    ([item(0x21, b"\1\0\0\0" + item(0x40, b"1.2.840.10008.1.2.1"))], "did not accept this service"),
    ([item(0x21, b"\5\0\0\0" + item(0x40, tags.IMPLICIT.encode()))], "did not accept this service"),
    ([item(0x21, b"\1")], "no answer that can be read"),
    ([GOOD[:-1]], "no answer that can be read"),
    ([b"\x21"], "no answer that can be read"),
])
def test_an_accept_that_is_of_no_use_is_told(ask: Scu, profile: Profile, items: list[bytes], words: str) -> None:
    with pacs(accepted(*items)) as port, pytest.raises(Unavailable, match=words):
        ask.echo(at(profile, port))


@pytest.mark.parametrize(("answer", "words"), [
    (b"\3\0\0\0\0\4\0\1\1\3", "Calling AE title not recognised"),
    (b"\3\0\0\0\0\4\0\2\3\2", "Local limit exceeded"),
    (b"\3\0\0\0\0\4\0\1\x09\x09", "source 9, reason 9"),
    (b"\3\0\0\0\0\0", "source 0, reason 0"),
    (b"\7\0\0\0\0\4\0\0\2\1", "aborted the association at once"),
    (b"\4\0\0\0\0\0", "PDU of type 4"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "PDU of type 72"),
    (b"\2\0", "connection closed"),
])
def test_a_refusal_of_a_pacs_is_put_into_words(ask: Scu, profile: Profile, answer: bytes, words: str) -> None:
    def go(peer: Parrot) -> None:
        peer.hear()
        peer.say(answer)

    with pacs(go) as port, pytest.raises(Unavailable, match=words):
        ask.echo(at(profile, port))


def test_nobody_listening_is_unavailable_at_once(ask: Scu, profile: Profile) -> None:
    for hospital in (at(profile, free_port()), at(profile, 11112).model_copy(update={"host": "no.such.host.invalid"})):
        with pytest.raises(Unavailable):
            ask.echo(hospital)


def test_a_service_the_pacs_does_not_offer_is_unavailable(ask: Scu, profile: Profile) -> None:
    def refuse(peer: Parrot) -> None:
        peer.accept(refuse=[MOVE])
        peer.hear()

    with pacs(refuse) as port, pytest.raises(Unavailable):
        ask.retrieve(at(profile, port), Want("1.2"), lambda: True)


@pytest.mark.parametrize(("statuses", "words"), [
    ((0xFF00, 0xFF00, 0x0000), ""),
    ((0xB000,), ""),
    ((0xFF00, 0xA702), "unable to perform sub-operations"),
    ((0xA801,), "Move destination unknown"),
    ((0xC000,), "Unable to Process"),
    ((0xFE00,), "Cancel"),
])
def test_the_final_status_of_a_move_decides(
        ask: Scu, profile: Profile, audited: Callable[[], list[str]], statuses: tuple[int, ...], words: str) -> None:
    with pacs(answering(*statuses)) as port:
        if words:
            with pytest.raises(Unavailable, match=words):
                ask.retrieve(at(profile, port), Want("1.2"), lambda: True)
        else:
            ask.retrieve(at(profile, port), Want("1.2"), lambda: True)
    [message] = audited()
    assert f'EventOutcomeIndicator="{8 if words else 0}"' in message
    assert 'csd-code="110104"' in message
    assert 'csd-code="C-MOVE"' in message
    assert 'ParticipantObjectID="1.2"' in message
    assert 'UserID="BROKER" UserIsRequestor="true"' in message


@pytest.mark.parametrize(("want", "identifier"), [
    (Want("1.2"), {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}),
    (Want("1.2", ("1.3", "1.4")), {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3\\1.4"}),
    (Want("1.2", ("1.3",), ("1.5", "1.6")), {
        "QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.5\\1.6"}),
    (Want("1.2", (), ("1.5",)), {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2", "SOPInstanceUID": "1.5"}),
])
def test_a_move_names_us_and_what_is_wanted(ask: Scu, profile: Profile, want: Want, identifier: dict[str, str]) -> None:
    def check(peer: Parrot) -> None:
        command, data = peer.request()
        assert (command.number(pdata.FIELD), command.text(pdata.DESTINATION)) == (pdata.C_MOVE_RQ, "BROKER")
        raw = tags.scan(data, tags.IMPLICIT, whole=True)
        assert {tags.KEYWORDS[tag]: value.decode().strip("\0 ") for tag, value in raw.items()} == identifier
        peer.respond(command, 0)
        peer.hear()

    with pacs(accepting(check)) as port:
        ask.retrieve(at(profile, port), want, lambda: True)


def test_a_long_list_of_instances_fits_the_pdus_of_the_pacs(ask: Scu, profile: Profile) -> None:
    uids = tuple(f"1.2.840.{number:050}" for number in range(1000))

    def check(peer: Parrot) -> None:
        command, data = peer.request()
        listed = tags.scan(data, tags.IMPLICIT, whole=True)[tags.TAGS["SOPInstanceUID"]]
        assert listed.decode().strip("\0").split("\\") == list(uids)
        peer.respond(command, 0)
        peer.hear()

    with pacs(accepting(check)) as port:
        ask.retrieve(at(profile, port), Want("1.2", ("1.3",), uids), lambda: True)


def test_a_pacs_that_never_ends_is_given_up_after_the_total_time(ask: Scu, profile: Profile) -> None:
    def forever(peer: Parrot) -> None:
        command, _ = peer.request()
        with pytest.raises(OSError):    # noqa: PT011 - reset or broken pipe, as the kernel likes
            while True:
                peer.respond(command, 0xFF00)
                time.sleep(0.1)

    with pacs(accepting(forever)) as port, pytest.raises(Unavailable, match="not done after 1 seconds"):
        ask.retrieve(at(profile, port, total=1.0), Want("1.2"), lambda: True)


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("talks", [True, False])
def test_progress_is_asked_each_second_and_cancels(
        ask: Scu, profile: Profile, monkeypatch: pytest.MonkeyPatch, obeys: bool, talks: bool) -> None:
    monkeypatch.setattr(requestor, "_CANCELLING", 0.5)

    def until_cancelled(peer: Parrot) -> None:
        command, _ = peer.request()
        peer.socket.settimeout(0.1)
        while True:
            if talks:
                peer.respond(command, 0xFF00)
            try:
                cancel = peer.answer()
                break
            except TimeoutError:
                continue
        assert (cancel.number(pdata.FIELD), cancel.number(pdata.RESPONDED_TO)) == (pdata.C_CANCEL_RQ, 1)
        peer.socket.settimeout(PATIENCE)
        if obeys:
            peer.respond(command, 0xFE00)
        peer.hear()

    goes_on = iter([True, False])       # asked oftener than the PACS may be silent
    with pacs(accepting(until_cancelled)) as port:
        ask.retrieve(at(profile, port, idle=2 * PATIENCE), Want("1.2"), lambda: next(goes_on))
    assert list(goes_on) == []


TEXT = {"PatientID": "B-1", "PatientName": "葉^曉東", "StudyDescription": "胸部 CT"}


def answers(rows: dict[tuple[str, str], list[dict[str, str]] | int]) -> Script:
    """A PACS that answers C-FIND by (level, series UID asked for); a number = that failure status."""
    def go(peer: Parrot) -> None:
        while True:
            kind, body = peer.hear()
            if kind != 4:
                peer.say(RELEASE)
                return
            command = pdata.CommandSet.read(body[6:])
            assert command.number(pdata.FIELD) == pdata.C_FIND_RQ
            _, body = peer.hear()
            asked = tags.study_tags(tags.scan(body[6:], tags.IMPLICIT, whole=True))
            found = rows.get((asked["QueryRetrieveLevel"], asked.get("SeriesInstanceUID", "")), [])
            if isinstance(found, int):
                peer.respond(command, found)
                continue
            for row in found:
                peer.respond(command, 0xFF00, tags.write_identifier({"SpecificCharacterSet": "ISO_IR 192", **row}))
            peer.respond(command, 0)

    return accepting(go)


STUDY = [{"StudyInstanceUID": "1.2", **TEXT}]
SERIES = [{"StudyInstanceUID": "1.2", "SeriesInstanceUID": f"1.2.{n}", "Modality": "CT", "SeriesNumber": str(n)} for n in (1, 2)]


def images(series: str) -> list[dict[str, str]]:
    return [{"SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.9", "SOPClassUID": CT, "InstanceNumber": "1"}]


@pytest.mark.parametrize("relational", [
    {("IMAGE", ""): images("1.2.1") + images("1.2.2")},
    {("IMAGE", "1.2.1"): images("1.2.1"), ("IMAGE", "1.2.2"): images("1.2.2")},
    {("IMAGE", ""): 0xA900, ("IMAGE", "1.2.1"): images("1.2.1"), ("IMAGE", "1.2.2"): images("1.2.2")},
    {("IMAGE", ""): [{"SOPInstanceUID": "1.2.1.9"}], ("IMAGE", "1.2.1"): [{"SOPInstanceUID": "1.2.1.9", "SOPClassUID": CT,
     "InstanceNumber": "1"}], ("IMAGE", "1.2.2"): images("1.2.2")},
    {("IMAGE", ""): [*images("1.2.1"), {"StudyInstanceUID": "6.6", "SeriesInstanceUID": "6.6.1", "SOPInstanceUID": "6.6.6"},
                     {"SeriesInstanceUID": "x", "SOPInstanceUID": "../evil"}, *images("1.2.2")]},
])
def test_a_study_is_found_whatever_the_pacs_insists_on(
        ask: Scu, profile: Profile, audited: Callable[[], list[str]],
        relational: dict[tuple[str, str], list[dict[str, str]] | int]) -> None:
    with pacs(answers({("STUDY", ""): STUDY, ("SERIES", ""): SERIES, **relational})) as port:
        found = ask.find_study(at(profile, port), "1.2")
    assert found == [
        {**TEXT, "StudyInstanceUID": "1.2", "SeriesInstanceUID": f"1.2.{n}", "Modality": "CT", "SeriesNumber": str(n),
         "SOPInstanceUID": f"1.2.{n}.9", "SOPClassUID": CT, "InstanceNumber": "1"} for n in (1, 2)]
    [message] = audited()
    assert 'csd-code="110112"' in message
    assert 'ParticipantObjectID="B-1^^^&amp;2.999.3.1&amp;ISO"' in message
    assert "<ParticipantObjectQuery>" in message


def test_an_unknown_study_is_an_empty_answer(ask: Scu, profile: Profile) -> None:
    with pacs(answers({})) as port:
        assert ask.find_study(at(profile, port), "1.2") == []


def test_names_without_a_character_set_are_read_as_the_hospital_writes(ask: Scu, profile: Profile) -> None:
    row = tags.write_identifier({"StudyInstanceUID": "1.2", "PatientName": "?"}).replace(b"? ", "葉".encode("gbk"))

    def go(peer: Parrot) -> None:
        for level in range(3):
            command, _ = peer.request()
            data = row if level == 0 else tags.write_identifier(images("1.2.1")[0])
            peer.respond(command, 0xFF00, data)
            peer.respond(command, 0)
        peer.hear()

    with pacs(accepting(go)) as port:
        assert [found["PatientName"] for found in ask.find_study(at(profile, port), "1.2")] == ["葉"]


@pytest.mark.parametrize(("data", "words"), [
    (b"\1\2\3", "cannot be read"),
    (b"\0" * 10_000, "server.max_message"),
])
def test_an_answer_that_is_no_identifier_is_the_pacs_failure(
        profile: Profile, shelf: Shelf, tmp_path: Path, data: bytes, words: str) -> None:
    def go(peer: Parrot) -> None:
        command, _ = peer.request()
        peer.respond(command, 0xFF00, data)
        peer.hear()

    gate = Gate(Open(), AuditLog(tmp_path / "audit", "broker", "demo"))
    small = Scu(profile, dicom.short_settings(max_message=5000), shelf, gate)
    with pacs(accepting(go)) as port, pytest.raises(Unavailable, match=words):
        small.find_study(at(profile, port), "1.2")


def test_more_answers_than_a_study_can_have_are_refused(
        ask: Scu, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scu, "_MOST", 10)

    def go(peer: Parrot) -> None:
        command, _ = peer.request()
        for _ in range(11):
            peer.respond(command, 0xFF00, tags.write_identifier(STUDY[0]))
        peer.hear()

    with pacs(accepting(go)) as port, pytest.raises(Unavailable, match="limit exceeded"):
        ask.find_study(at(profile, port), "1.2")


def sending(objects: dict[str, bytes], statuses: list[int], final: int = 0) -> Script:
    """A PACS that serves a C-GET of CT objects and notes the status of each."""
    def go(peer: Parrot) -> None:
        command, _ = peer.request()
        assert command.number(pdata.FIELD) == pdata.C_GET_RQ
        for sop_uid, data in objects.items():
            peer.say(store_request(peer.context(CT), CT, sop_uid, data))
            statuses.append(peer.answer().number(pdata.STATUS))
            peer.respond(command, 0xFF00)
        peer.respond(command, final)
        assert peer.hear()[0] == 5
        peer.say(RELEASE)

    return accepting(go)


def objects() -> dict[str, bytes]:
    found = {}
    for number in range(3):
        file = io.BytesIO()
        dicom.ct_dataset("1.2", "1.2.1", f"1.2.9.{number}", size=64).save_as(file, enforce_file_format=True)
        data = file.getvalue()
        found[f"1.2.9.{number}"] = data[tags.read_meta(data).end:]
    return found


@pytest.mark.parametrize("knows", [True, False])
def test_a_get_stores_what_comes_as_the_hospitals(
        ask: Scu, profile: Profile, shelf: Shelf, audited: Callable[[], list[str]], knows: bool) -> None:
    statuses: list[int] = []
    find = answers({("IMAGE", ""): images("1.2.1") if knows else []})
    with pacs(find, sending(objects(), statuses)) as port:
        ask.retrieve(at(profile, port, "get"), Want("1.2"), lambda: True)
    assert shelf.objects == objects()
    assert statuses == [0, 0, 0]
    assert shelf.callers == {Caller(node="PACSB", address="127.0.0.1", local_node="BROKER")}
    assert 'csd-code="C-GET"' in audited()[-1]


def test_a_store_that_fails_is_answered_and_the_get_goes_on(ask: Scu, profile: Profile, shelf: Shelf) -> None:
    statuses: list[int] = []
    shelf.full = True
    with pacs(answers({}), sending(objects(), statuses, 0xB000)) as port:
        ask.retrieve(at(profile, port, "get"), Want("1.2"), lambda: True)
    assert statuses == [0xA700] * 3
    assert shelf.objects == {}


def test_a_pacs_that_dies_in_mid_object_leaves_nothing(ask: Scu, profile: Profile, shelf: Shelf) -> None:
    def die(peer: Parrot) -> None:
        peer.request()
        peer.say(store_request(peer.context(CT), CT, "1.2.9", b"x" * 50_000)[:-100])

    with pacs(answers({}), accepting(die)) as port, pytest.raises(Unavailable):
        ask.retrieve(at(profile, port, "get"), Want("1.2"), lambda: True)
    assert shelf.objects == {}


def test_when_one_route_fails_the_next_is_tried(ask: Scu, profile: Profile) -> None:
    asked: list[int] = []
    with pacs(reject, reject, noting(asked)) as port:
        done = ask.retrieve(at(profile, port, "get", "move"), Want("1.2"), lambda: True)
    assert (asked, done.status) == ([pdata.C_MOVE_RQ], 0)
    with pacs(reject, reject) as port:      # nobody waits any more: the next one is not tried
        ask.retrieve(at(profile, port, "get", "move"), Want("1.2"), lambda: False)


@pytest.mark.parametrize("catalogue", [(), (CT,)])
def test_a_get_proposes_each_class_in_each_syntax_with_our_role(ask: Scu, profile: Profile, catalogue: tuple[str, ...]) -> None:
    seen: list[tuple[int, str, str]] = []

    def look(peer: Parrot) -> None:
        peer.accept()
        seen.extend(peer.proposed)
        peer.request()

    asked = [] if catalogue else [answers({("IMAGE", ""): images("1.2.1")})]
    with pacs(*asked, look) as port, pytest.raises(Unavailable):
        ask.retrieve(at(profile, port, "get"), Want("1.2", sop_classes=catalogue), lambda: True)
    assert seen[0][1] == GET
    assert {abstract for _, abstract, _ in seen[1:]} == {CT}
    assert {syntax for _, _, syntax in seen[1:]} == set(RECEIVED_SYNTAXES)


UIDS = [f"1.2.9.{number}" for number in range(3)]
LIST = b"\x08\0\x58\0" + len("\\".join(UIDS[:2]) + "\0").to_bytes(4, "little") + "\\".join(UIDS[:2]).encode() + b"\0"


def ending(status: int, data: bytes = b"") -> Script:
    """A PACS whose final response has this data set."""
    def go(peer: Parrot) -> None:
        command, _ = peer.request()
        peer.respond(command, 0xFF00)
        peer.respond(command, status, data)
        peer.hear()
        peer.say(RELEASE)

    return accepting(go)


@pytest.mark.parametrize("route", ["move", "get"])
@pytest.mark.parametrize(("data", "failed"), [
    (LIST, tuple(UIDS[:2])),
    (b"", ()),
    (LIST[:4] + b"\0" * 4 + LIST, tuple(UIDS[:2])),
    (b"\x08\0\x52\0\6\0\0\0IMAGE " + LIST, tuple(UIDS[:2])),
    (LIST[:-3], ()),
    (b"\x08\0\x58\0UI\2\x001\0", ()),
    (b"\x08\0\x58\0\0\0\0\0", ()),
    (b"\1", ()),
])
def test_what_a_pacs_could_not_send_is_told(
        ask: Scu, profile: Profile, route: str, data: bytes, failed: tuple[str, ...]) -> None:
    want = Want("1.2", sop_classes=(CT,))
    with pacs(ending(0xB000, data), ending(0xA702, data)) as port:
        done = ask.retrieve(at(profile, port, route), want, lambda: True)
        assert (done.status, done.failed) == (0xB000, failed)
        with pytest.raises(RetrieveFailed, match="unable to perform sub-operations, status 0xA702") as told:
            ask.retrieve(at(profile, port, route), want, lambda: True)
    assert (told.value.retrieved.status, told.value.retrieved.failed) == (0xA702, failed)


@pytest.mark.parametrize("status", [0x0001, 0x0107, 0x0116, 0xB000, 0xB007])
def test_a_warning_is_no_failure(ask: Scu, profile: Profile, status: int) -> None:
    with pacs(ending(status)) as port:
        assert ask.retrieve(at(profile, port), Want("1.2"), lambda: True).status == status


def test_what_one_route_could_not_send_is_asked_for_by_the_next(ask: Scu, profile: Profile) -> None:
    asked: list[str] = []

    def move(peer: Parrot) -> None:
        command, data = peer.request()
        asked.append(tags.study_tags(tags.scan(data.replace(b"\\", b"/"), tags.IMPLICIT, whole=True))["SOPInstanceUID"])
        peer.respond(command, 0)
        peer.hear()
        peer.say(RELEASE)

    want = Want("1.2", ("1.2.1",), tuple(UIDS), (CT,))
    with pacs(ending(0xB000, LIST), accepting(move)) as port:
        assert ask.retrieve(at(profile, port, "get", "move"), want, lambda: True).status == 0
    assert asked == ["/".join(UIDS[:2])]
    with pacs(ending(0xB000, LIST)) as port:    # of a whole study the caller knows what is missing, and asks for it
        assert ask.retrieve(at(profile, port, "get", "move"), Want("1.2", sop_classes=(CT,)), lambda: True).failed


def foreign(peer: Parrot, command: pdata.CommandSet, status: int, extra: bytes, data: bytes = b"") -> None:
    """Answer with elements of other groups behind those of the command set."""
    answer = bytearray(pdata.write_command(peer.context(command.text(pdata.CLASS)), [
        (pdata.CLASS, command.text(pdata.CLASS)), (pdata.FIELD, command.number(pdata.FIELD) | pdata.RESPONSE),
        (pdata.RESPONDED_TO, command.number(pdata.MESSAGE_ID)), (pdata.DATA_SET, 1 if data else pdata.NO_DATA_SET),
        (pdata.STATUS, status)]))
    answer += extra
    answer[2:6], answer[6:10] = (len(answer) - 6).to_bytes(4, "big"), (len(answer) - 10).to_bytes(4, "big")
    peer.say(bytes(answer))
    if data:
        peer.say(pdata.write_data_set(peer.context(command.text(pdata.CLASS)), data, 0))


FOREIGN = [
    b"\x08\0\x58\0\0\0\0\0",                   # what Orthanc says when a part of a C-GET failed
    b"\x08\0\x58\0\x08\0\0\x001.2.9.1\0",
    b"\x09\0\x10\0\4\0\0\0ACME\x09\0\1\x10\2\0\0\0xx",
    b"\x08\0\x58\0\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0",     # longer than what is left
    b"\x08\0\x58\0UI\0\0",                     # with a value representation
    b"\x08\0\x58",
]


def test_orthanc_names_what_it_could_not_send_in_the_command_set(ask: Scu, profile: Profile) -> None:
    def get(peer: Parrot) -> None:
        command, _ = peer.request()
        foreign(peer, command, 0xFF00, LIST)
        foreign(peer, command, 0xB000, LIST)
        peer.hear()
        peer.say(RELEASE)

    with pacs(accepting(get)) as port:
        done = ask.retrieve(at(profile, port, "get"), Want("1.2", sop_classes=(CT,)), lambda: True)
    assert (done.status, done.failed) == (0xB000, tuple(UIDS[:2]))


@pytest.mark.parametrize("extra", FOREIGN)
def test_elements_of_other_groups_in_a_command_set_are_passed_over(
        ask: Scu, profile: Profile, shelf: Shelf, extra: bytes) -> None:
    rows = {"STUDY": STUDY, "SERIES": SERIES[:1], "IMAGE": images("1.2.1")}

    def find(peer: Parrot) -> None:
        for level in rows.values():
            command, _ = peer.request()
            for row in level:
                foreign(peer, command, 0xFF00, extra, tags.write_identifier(row))
            foreign(peer, command, 0, extra)
        peer.hear()
        peer.say(RELEASE)

    def get(peer: Parrot) -> None:
        command, _ = peer.request()
        for sop_uid, data in objects().items():
            request = bytearray(store_request(peer.context(CT), CT, sop_uid, data))
            end = 6 + int.from_bytes(request[2:6], "big")
            request[end:end] = extra
            request[2:6], request[6:10] = (end - 6 + len(extra)).to_bytes(4, "big"), (end - 10 + len(extra)).to_bytes(4, "big")
            peer.say(bytes(request))
            assert peer.answer().number(pdata.STATUS) == 0
            foreign(peer, command, 0xFF00, extra)
        foreign(peer, command, 0xB000, extra, LIST)
        peer.hear()
        peer.say(RELEASE)

    def move(peer: Parrot) -> None:
        command, _ = peer.request()
        foreign(peer, command, 0xFF00, extra)
        foreign(peer, command, 0, extra)
        peer.hear()
        peer.say(RELEASE)

    with pacs(accepting(find), accepting(get), accepting(move)) as port:
        assert len(ask.find_study(at(profile, port), "1.2")) == 1
        done = ask.retrieve(at(profile, port, "get"), Want("1.2", sop_classes=(CT,)), lambda: True)
        assert (done.status, done.failed) == (0xB000, tuple(UIDS[:2]))
        assert ask.retrieve(at(profile, port), Want("1.2"), lambda: True).status == 0
    assert shelf.objects == objects()


def test_a_find_names_a_character_set_only_where_it_needs_one(ask: Scu, profile: Profile) -> None:
    asked: list[bytes] = []

    def go(peer: Parrot) -> None:
        for row in (STUDY[0], SERIES[0], images("1.2.1")[0]):
            command, data = peer.request()
            asked.append(data)
            peer.respond(command, 0xFF00, tags.write_identifier(row))
            peer.respond(command, 0)
        peer.hear()

    with pacs(accepting(go)) as port:
        ask.find_study(at(profile, port), "1.2")
    assert [data.count(b"\x08\0\x05\0") for data in asked] == [0, 0, 0]
    assert scu._keys("STUDY", (), "检查").count(b"\x08\0\x05\0\x0a\0\0\0ISO_IR 192") == 1


@pytest.mark.parametrize("by_series", [False, True])
def test_instances_without_legal_uids_are_counted(ask: Scu, profile: Profile, by_series: bool) -> None:
    bad = [{"SOPInstanceUID": "1.2.x"}, {}, {"SOPInstanceUID": "1." * 40}]
    rows = [{**one, "SeriesInstanceUID": "1.2.1"} for one in bad]
    found: dict[tuple[str, str], list[dict[str, str]] | int]
    found = {("IMAGE", ""): [*images("1.2.1"), *rows, {"SOPInstanceUID": "1.2.5"}]}
    if by_series:
        found = {("IMAGE", ""): 0xA900, ("IMAGE", "1.2.1"): [*images("1.2.1"), *bad]}
    with pacs(answers({("STUDY", ""): STUDY, ("SERIES", ""): SERIES, **found})) as port:
        rows_found = ask.find_study(at(profile, port), "1.2")
    assert (len(rows_found), rows_found.nameless) == (1, 3 if by_series else 4)


def test_an_answer_that_cannot_be_read_costs_no_other(ask: Scu, profile: Profile) -> None:
    def go(peer: Parrot) -> None:
        for row in (STUDY[0], SERIES[0], images("1.2.1")[0]):
            command, _ = peer.request()
            if row is not STUDY[0]:
                peer.respond(command, 0xFF00, b"\1\2\3")
            peer.respond(command, 0xFF00, tags.write_identifier(row))
            peer.respond(command, 0)
        peer.hear()

    with pacs(accepting(go)) as port:
        found = ask.find_study(at(profile, port), "1.2")
    assert ([row["SOPInstanceUID"] for row in found], found.nameless) == (["1.2.1.9"], 1)
    assert found[0]["Modality"] == "CT"


def test_when_no_instance_has_a_legal_uid_that_is_counted_too(ask: Scu, profile: Profile) -> None:
    with pacs(answers({("STUDY", ""): STUDY, ("SERIES", ""): SERIES, ("IMAGE", ""): [{"SOPInstanceUID": "x"}] * 5})) as port:
        found = ask.find_study(at(profile, port), "1.2")
    assert (list(found), found.nameless) == ([], 5)


def test_a_get_tells_which_objects_we_refused_and_why(ask: Scu, profile: Profile, shelf: Shelf) -> None:
    statuses: list[int] = []
    shelf.full = True
    with pacs(sending(objects(), statuses, 0xB000)) as port:
        done = ask.retrieve(at(profile, port, "get"), Want("1.2", sop_classes=(CT,)), lambda: True)
    assert done.refused == dict.fromkeys(objects(), "online store is not available")


PRIVATE = "1.3.12.2.1107.5.9.1"


@pytest.mark.parametrize("listed", [False, True])
def test_a_get_takes_private_classes_when_the_profile_names_them(
        ask: Scu, profile: Profile, shelf: Shelf, listed: bool) -> None:
    proposed: list[str] = []
    statuses: list[int] = []

    def go(peer: Parrot) -> None:
        proposed.extend(abstract for _, abstract, _ in peer.proposed)
        command, _ = peer.request()
        peer.say(store_request(peer.context(CT), PRIVATE, "1.2.9.7", b"x" * 100))   # whatever its context
        statuses.append(peer.answer().number(pdata.STATUS))
        peer.respond(command, 0)
        peer.hear()
        peer.say(RELEASE)

    with pacs(accepting(go)) as port:
        hospital = at(profile, port, "get")
        if listed:
            hospital = hospital.model_copy(update={"sop_classes": (PRIVATE,)})
        done = ask.retrieve(hospital, Want("1.2", sop_classes=(CT, PRIVATE)), lambda: True)
    assert (PRIVATE in proposed) is listed
    assert statuses == [0 if listed else 0x0122]
    assert list(done.refused) == ([] if listed else ["1.2.9.7"])
    assert list(shelf.objects) == (["1.2.9.7"] if listed else [])


def test_a_get_of_nothing_but_classes_that_are_not_taken_says_so(ask: Scu, profile: Profile) -> None:
    with pytest.raises(Unavailable, match="SOP class is not taken here"):
        ask.retrieve(at(profile, free_port(), "get"), Want("1.2", sop_classes=(PRIVATE,)), lambda: True)


def test_nothing_but_requests_crosses_a_query_association(ask: Scu, profile: Profile) -> None:
    def push(peer: Parrot) -> None:
        peer.request()
        peer.say(store_request(1, CT, "1.2.9", b"x"))
        assert peer.hear()[0] == 7

    with pacs(accepting(push)) as port, pytest.raises(Unavailable, match="an object nobody asked for"):
        ask.find_study(at(profile, port), "1.2")


def test_waiting_leaves_no_thread_and_no_socket(ask: Scu, profile: Profile) -> None:
    us = psutil.Process()
    before = us.num_fds(), threading.active_count()
    with pacs(*[answering(0)] * 3, silent, half) as port:
        for _ in range(3):
            ask.echo(at(profile, port))
        for _ in range(2):
            with pytest.raises(Unavailable):
                ask.echo(at(profile, port))
    assert (us.num_fds(), threading.active_count()) == before
