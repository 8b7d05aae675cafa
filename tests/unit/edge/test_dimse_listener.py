import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pydicom
import pytest

from broker.archive.tiers.online import Part
from broker.config.profile import Profile
from broker.db import Database
from broker.edge.dimse import pdata
from broker.edge.dimse.listener import ROWS, Listener
from broker.model.errors import Unavailable
from broker.model.syntaxes import RECEIVED_SYNTAXES
from broker.wire import tags
from tests.helpers import dicom, dimse
from tests.helpers.dicom import CT, Broker
from tests.helpers.dimse import Parrot, store_request
from tests.helpers.waiting import PATIENCE, eventually, spoken_to

pytestmark = pytest.mark.outside

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
Start = Callable[..., Broker]


@pytest.fixture
def start(tmp_path: Path, database: Database, profile: Profile) -> Iterator[Start]:
    with ExitStack() as stack:
        def go(**server: object) -> Broker:
            settings = dicom.short_settings(**server)
            return stack.enter_context(
                dicom.broker(tmp_path, database, profile, dicom.Board(), settings=settings))

        yield go


def samples() -> list[tuple[str, str, str, bytes]]:
    """Objects in the transfer syntaxes of pydicom's samples, each with its own UID: class, instance, syntax, data set."""
    found = []
    for number, name in enumerate((
            "CT_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "image_dfl",
            "MR_small_jpeg_ls_lossless", "JPEG-lossy", "SC_rgb_rle_16bit_2frame", "JPEG2000", "rtdose_rle_1frame",
            "test-SR"), 10):
        data = (SAMPLES / f"{name}.dcm").read_bytes()
        meta = tags.read_meta(data)
        deflated = meta.transfer_syntax == tags.DEFLATED
        sop_uid = meta.sop_uid if deflated else f"{meta.sop_uid[:-2]}{number}"
        found.append((meta.sop_class, sop_uid, meta.transfer_syntax, data[meta.end:].replace(
            meta.sop_uid.encode(), sop_uid.encode())))
    return found


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_data_sets_are_kept_bit_for_bit_however_they_are_cut(start: Start, seed: int | None) -> None:
    broker = start()
    dice = random.Random(seed) if seed is not None else None
    sent = {}
    with Parrot(broker.port) as peer:
        objects = samples()
        kind, _ = peer.associate([(sop_class, syntax) for sop_class, _, syntax, _ in objects])
        assert kind == 2
        for number, (sop_class, sop_uid, _, data) in enumerate(objects):
            request = store_request(2 * number + 1, sop_class, sop_uid, data, dice=dice, message_id=number)
            if dice is None:
                peer.say(request)
            else:
                peer.say_in_bits(request, dice)
            answer = peer.answer()
            assert (answer.number(pdata.STATUS), answer.number(pdata.RESPONDED_TO)) == (0, number)
            assert answer.text(pdata.INSTANCE) == sop_uid
            sent[sop_uid] = data
        peer.release()
    kept = {path.split("/")[-1]: dicom.body(broker.online.path(path)) for path in broker.files()}
    assert kept == sent


def test_an_association_is_audited_once_for_each_study(start: Start) -> None:
    broker = start()
    with Parrot(broker.port) as peer:
        assert peer.associate([(dimse.VERIFICATION, IMPLICIT), (CT, EXPLICIT)])[0] == 2
        peer.say(pdata.write_command(1, [
            (pdata.CLASS, dimse.VERIFICATION), (pdata.FIELD, pdata.C_ECHO_RQ), (pdata.MESSAGE_ID, 3),
            (pdata.DATA_SET, pdata.NO_DATA_SET)]))
        answer = peer.answer()
        assert (answer.number(pdata.FIELD), answer.number(pdata.STATUS)) == (0x8030, 0)
        for study, number in (("1.2", 1), ("1.2", 2), ("1.3", 3)):
            peer.say(store_request(3, CT, f"{study}.9.{number}", encoded(study, f"{study}.9.{number}")))
            assert peer.answer().number(pdata.STATUS) == 0
        assert len(broker.audited()) == 3       # nothing is acknowledged that a killed process would not have audited
        peer.release()
    echo, first, second = broker.audited()
    assert 'csd-code="C-ECHO"' in echo
    for message, study in ((first, "1.2"), (second, "1.3")):
        assert 'EventActionCode="C"' in message
        assert 'csd-code="110104"' in message
        assert f'ParticipantObjectID="{study}"' in message
        assert 'ParticipantObjectID="A-1^^^&amp;2.999.2.1&amp;ISO"' in message
        assert 'UserID="PACSA" UserIsRequestor="true"' in message
    eventually(lambda: (row := broker.study("1.2")) is not None and row.objects == 2)


def encoded(study: str = "1.2", sop: str = "1.2.9", **options: int) -> bytes:
    dataset = dicom.ct_dataset(study, f"{study}.1", sop, **options)  # type: ignore[arg-type]
    file = pydicom.filebase.DicomBytesIO()
    dataset.save_as(file, enforce_file_format=True)
    data: bytes = file.getvalue()
    return data[tags.read_meta(data).end:]


@pytest.mark.parametrize(("calling", "called", "reason"), [("STRANGER", "BROKER", 3), ("PACSA", "OTHER", 7)])
def test_only_hospitals_of_the_profile_are_let_in(start: Start, calling: str, called: str, reason: int) -> None:
    broker = start()
    with Parrot(broker.port) as peer:
        kind, body = peer.associate([(CT, EXPLICIT)], calling, called)
    assert (kind, body[1:4]) == (3, bytes((1, 1, reason)))


@pytest.mark.filterwarnings("ignore:Expected explicit VR:UserWarning")
@pytest.mark.parametrize(("sop_uid", "data", "status"), [
    ("../../evil", encoded(), 0x0117),
    ("1.2.8", encoded(), 0xA900),
    ("1.2.9", b"rubbish that is no data set", 0xC000),
])
def test_what_is_refused_leaves_no_file_and_the_association_goes_on(
        start: Start, sop_uid: str, data: bytes, status: int) -> None:
    broker = start()
    with Parrot(broker.port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, sop_uid, data))
        assert peer.answer().number(pdata.STATUS) == status
        assert broker.files() == []
        peer.say(store_request(1, CT, "1.2.9", encoded()))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()
    eventually(lambda: len(broker.files()) == 1)
    eventually(lambda: len(broker.audited()) == 2)
    assert any('EventOutcomeIndicator="4"' in message and f"{status:04X}" in message for message in broker.audited())


def test_a_peer_that_dies_in_mid_object_leaves_no_file(start: Start) -> None:
    broker = start()
    with Parrot(broker.port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, "1.2.9", encoded(size=200))[:-1000])
        eventually(lambda: broker.files() != [])
    eventually(lambda: broker.files() == [])
    eventually(lambda: dimse.threads("association-") == 0)


@pytest.mark.parametrize("say", [
    pdata.write_command(1, [(pdata.CLASS, CT), (pdata.FIELD, pdata.C_FIND_RQ), (pdata.DATA_SET, pdata.NO_DATA_SET)]),
    pdata.write_command(99, [(pdata.CLASS, CT), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.DATA_SET, 1)]),
    pdata.write_command(1, [(pdata.CLASS, CT), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.DATA_SET, pdata.NO_DATA_SET)]),
    pdata.write_data_set(1, b"a data set before its command", 0),
    pdata.write_command(1, [(pdata.FIELD, pdata.C_FIND_RQ), (pdata.DATA_SET, 1)]) + pdata.write_data_set(1, b"\0" * 5000, 0),
    b"\4\0\0\0\0\6\0\0\0\1\1\3",
    b"\x63\0\0\0\0\4abcd",            # PS3.8 9.2: PDUs that are unknown or unexpected are aborted too
    b"\1\0\0\0\0\4\0\0\0\0",
])
def test_a_peer_that_breaks_the_protocol_is_aborted(start: Start, say: bytes) -> None:
    broker = start(max_message=2000)
    with Parrot(broker.port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(say)
        assert peer.hear()[0] == 7
    assert broker.files() == []


def test_an_object_over_the_limit_is_refused(start: Start) -> None:
    broker = start(max_body=20_000)
    with Parrot(broker.port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, "1.2.9", encoded(size=200)))
        assert peer.answer().number(pdata.STATUS) == 0xA700
        assert broker.files() == []
        peer.release()


def test_a_full_disk_is_answered_and_later_objects_come_through(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = start()
    write, full = Part.write, [True]

    def picky(part: Part, data: bytes | memoryview) -> None:
        if full[0] and len(data) > 1000:
            part.abort()
            raise Unavailable("online store")
        write(part, data)

    monkeypatch.setattr(Part, "write", picky)
    with Parrot(broker.port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, "1.2.9", encoded(size=200)))
        assert peer.answer().number(pdata.STATUS) == 0xA700
        assert broker.files() == []
        full[0] = False
        peer.say(store_request(1, CT, "1.2.9", encoded(size=200)))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()


def test_a_bug_aborts_one_association_only(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = start()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, Parrot(broker.port) as peer:
        patch.setattr(Part, "commit", broken)
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, "1.2.9", encoded()))
        assert peer.hear()[0] == 7
    eventually(lambda: broker.files() == [])
    with Parrot(broker.port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, "1.2.9", encoded()))
        assert peer.answer().number(pdata.STATUS) == 0


def test_messages_and_release_right_behind_the_request_are_served(start: Start) -> None:
    broker = start()
    everything = (
        dimse.association(1, "PACSA", "BROKER", [(CT, EXPLICIT)])
        + store_request(1, CT, "1.2.9", encoded(size=100)) + b"\5\0\0\0\0\4\0\0\0\0")
    for _ in range(5):
        with Parrot(broker.port) as peer:
            peer.associate([(CT, EXPLICIT)])
            peer.release()
    with Parrot(broker.port) as peer:
        peer.say(everything[:everything.index(store_request(1, CT, "1.2.9", encoded(size=100))[:20])])
        time.sleep(0.005)
        peer.say(everything[-(len(everything) - len(dimse.association(1, "PACSA", "BROKER", [(CT, EXPLICIT)]))):])
        assert peer.hear()[0] == 2
        assert peer.answer().number(pdata.STATUS) == 0
        assert peer.hear()[0] == 6
    assert len(broker.files()) == 1


@pytest.mark.parametrize("io_timeout", [0.5, 2 * PATIENCE])
def test_silent_clients_do_not_hold_up_others_and_are_dropped(start: Start, io_timeout: float) -> None:
    broker = start(io_timeout=io_timeout, max_associations=5)
    silent = [socket.create_connection(("127.0.0.1", broker.port)) for _ in range(4)]
    try:
        with Parrot(broker.port) as peer:
            assert peer.associate([(dimse.VERIFICATION, IMPLICIT)])[0] == 2
            peer.release()
        eventually(lambda: dimse.threads("association-") == 0)
        for client in silent if io_timeout < PATIENCE else ():
            client.settimeout(PATIENCE)
            assert client.recv(10) in {b"", b"\7\0\0\0\0\4\0\0\0\0"}
    finally:
        for client in silent:
            client.close()


def test_a_peer_silent_for_too_long_is_aborted(start: Start) -> None:
    broker = start(io_timeout=1.0, idle_timeout=3.0)
    with Parrot(broker.port) as busy, Parrot(broker.port) as idle:
        for peer in (busy, idle):
            assert peer.associate([(CT, EXPLICIT)])[0] == 2
        busy.say(store_request(1, CT, "1.2.9", encoded())[:-10])
        assert busy.hear()[0] == 7
        assert spoken_to([idle.socket], 0) == []
        assert idle.hear()[0] == 7
    assert broker.files() == []


def test_a_retired_class_is_stored(start: Start) -> None:
    broker = start()
    retired = "1.2.840.10008.5.1.4.1.1.6"
    data = encoded().replace(CT.encode() + b"\0", retired.encode() + b"\0")
    with Parrot(broker.port) as peer:
        assert peer.associate([(retired, EXPLICIT)])[0] == 2
        peer.say(store_request(1, retired, "1.2.9", data))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()
    assert len(broker.files()) == 1


def test_objects_come_in_contexts_with_even_ids(start: Start) -> None:
    broker = start()
    data = encoded()
    with Parrot(broker.port) as peer:
        proposed = dimse.association(1, "PACSA", "BROKER", [(dimse.VERIFICATION, IMPLICIT), (CT, EXPLICIT)])
        place = proposed.index(b"\x20\0", proposed.index(b"\x20\0", 74) + 1)
        peer.say(proposed[:place + 4] + b"\2" + proposed[place + 5:])
        assert peer.hear()[0] == 2
        peer.say(store_request(2, CT, "1.2.9", data))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()
    assert [dicom.body(broker.online.path(path)) for path in broker.files()] == [data]


@pytest.mark.parametrize("syntax", sorted({*RECEIVED_SYNTAXES} - {tags.IMPLICIT, tags.BIG_ENDIAN, tags.DEFLATED}))
def test_an_object_of_any_transfer_syntax_is_kept(start: Start, syntax: str) -> None:
    broker = start()
    with Parrot(broker.port) as peer:
        assert peer.associate([(CT, syntax)])[0] == 2
        peer.say(store_request(1, CT, "1.2.9", encoded()))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()
    assert tags.read_meta(broker.online.path(broker.files()[0]).read_bytes()).transfer_syntax == syntax


PRIVATE = "1.3.12.2.1107.5.9.1"


@pytest.mark.parametrize("listed", [False, True])
def test_a_private_class_is_taken_when_the_profile_names_it(
        tmp_path: Path, database: Database, profile: Profile, listed: bool) -> None:
    named = profile.model_copy(update={"hospitals": tuple(
        one.model_copy(update={"sop_classes": (PRIVATE,)}) if listed and one.key == "a" else one for one in profile.hospitals)})
    data = encoded().replace(CT.encode() + b"\0", PRIVATE.encode().ljust(len(CT) + 1, b"\0"))
    with dicom.broker(tmp_path, database, named, dicom.Board()) as broker, Parrot(broker.port) as peer:
        kind, body = peer.associate([(PRIVATE, EXPLICIT), (CT, EXPLICIT)])
        assert (kind, body.count(b"\x21\0\0\x1b\1\0\3")) == (2, 0 if listed else 1)
        peer.say(store_request(1 if listed else 3, PRIVATE, "1.2.9", data))     # else in the context of another class
        answer = peer.answer()
        assert answer.number(pdata.STATUS) == (0 if listed else 0x0122)
        assert (PRIVATE in answer.text(pdata.COMMENT)) is not listed
        peer.release()
        assert len(broker.files()) == listed
        with Parrot(broker.port) as other:      # no other hospital's
            other.associate([(PRIVATE, EXPLICIT), (CT, EXPLICIT)], "PACSB")
            other.say(store_request(3, PRIVATE, "1.2.9", data))
            assert other.answer().number(pdata.STATUS) == 0x0122


def test_a_private_class_that_is_not_taken_is_logged_once(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    broker = start()
    for _ in range(3):
        with Parrot(broker.port) as peer:
            assert peer.associate([(PRIVATE, EXPLICIT), (CT, EXPLICIT), ("1.2.840.10008.1.20.1", IMPLICIT)])[0] == 2
            peer.release()
    eventually(lambda: dimse.threads("association-") == 0)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "private class not taken" in line]
    assert PRIVATE in line
    assert "hospital=a" in line


def test_the_port_may_be_one_of_ipv6(start: Start) -> None:
    broker = start(host="::1")
    with Parrot(connection=socket.create_connection(("::1", broker.port), 10)) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.release()


def test_stopping_lets_the_object_under_way_finish(start: Start) -> None:
    broker = start()
    with Parrot(broker.port) as peer, Parrot(broker.port) as idle:
        for one in (peer, idle):
            assert one.associate([(CT, EXPLICIT)])[0] == 2
        request = store_request(1, CT, "1.2.9", encoded())
        peer.say(request[:-10])
        eventually(lambda: broker.files() != [])
        broker.stop.set()
        assert idle.hear()[0] == 7
        peer.say(request[-10:])
        assert peer.answer().number(pdata.STATUS) == 0
        assert peer.hear()[0] == 7
    assert [path.split("/")[-1] for path in broker.files()] == ["1.2.9"]
    with pytest.raises(ConnectionRefusedError):
        Parrot(broker.port)


def test_a_taken_port_is_an_error_at_the_start(start: Start, profile: Profile) -> None:
    broker = start()
    with pytest.raises(OSError, match="in use"):
        Listener(broker.receiver, broker.gate, profile, dicom.short_settings(dicom_port=broker.port))


def test_the_rows_are_complete() -> None:
    assert [(row.code, row.endpoint, row.audit.event_code) for row in ROWS] == [
        ("C-ECHO", "dicom", "110100"), ("C-STORE", "dicom", "110104")]
