import random
import socket
import struct
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary  # the dictionary of the standard is private there

from broker.config.profile import Hospital, Profile
from broker.edge.dimse import contexts, pdata, statuses
from broker.edge.dimse.c_store import IncomingObject
from broker.edge.dimse.messages import Messages, response
from broker.edge.dimse.pdata import CommandSet, Limits, Pdv, PeerGone, ProtocolError, UpperLayer
from broker.model.errors import BrokerError, DimseCode, Rejected, TooLarge, Unavailable
from broker.model.syntaxes import EXPLICIT, IMPLICIT, RECEIVED_SYNTAXES
from tests.helpers.dimse import fragments, pdus, store_request

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def ends() -> Iterator[tuple[UpperLayer, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    upper = UpperLayer(ours, Limits(1.0, 1000), lambda _silent: None)
    upper.begin()
    yield upper, theirs
    upper.close()
    theirs.close()


@pytest.fixture
def hospital(profile: Profile) -> Hospital:
    found = profile.hospital("a")
    assert found is not None
    return found


def test_a_command_set_reads_back() -> None:
    pdu = pdata.write_command(5, [(pdata.CLASS, CT), (pdata.FIELD, 1), (pdata.DESTINATION, "BROKER1"), (pdata.DATA_SET, 1)])
    assert pdu[:12] == struct.pack(">BBLLBB", 4, 0, len(pdu) - 6, len(pdu) - 10, 5, 3)
    command = CommandSet.read(pdu[12:])
    assert (command.text(pdata.CLASS), command.number(pdata.FIELD), command.text(pdata.DESTINATION)) == (CT, 1, "BROKER1")
    assert command.has_data_set
    assert command.number(pdata.STATUS) == -1
    assert command.text(pdata.INSTANCE) == ""
    assert struct.unpack_from("<HHLL", pdu, 12) == (0, 0, 4, len(pdu) - 24)


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\1\xff\xff\0\0", b"\0" * 7])
def test_a_damaged_command_set_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        CommandSet.read(data)


def test_a_response_repeats_what_it_answers() -> None:
    request = CommandSet.read(pdata.write_command(1, [
        (pdata.CLASS, CT), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.MESSAGE_ID, 77), (pdata.INSTANCE, "1.2.\xe9")])[12:])
    answer = CommandSet.read(response(1, request, 0xA900)[12:])
    assert (answer.number(pdata.FIELD), answer.number(pdata.RESPONDED_TO)) == (pdata.C_STORE_RSP, 77)
    assert (answer.number(pdata.STATUS), answer.text(pdata.CLASS), answer.text(pdata.INSTANCE)) == (0xA900, CT, "1.2.\xe9")
    assert not answer.has_data_set


@pytest.mark.parametrize(("size", "longest"), [(0, 100), (94, 100), (95, 100), (1000, 100), (1000, 0), (1000, 16384)])
def test_a_data_set_fits_the_peers_pdus(size: int, longest: int) -> None:
    data, found, at = bytes(random.Random(1).randbytes(size)), b"", 0
    written = pdata.write_data_set(3, data, longest)
    lasts = []
    while at < len(written):
        kind, _, length = struct.unpack_from(">BBL", written, at)
        assert kind == 4
        assert not longest or length <= longest
        _, context, control = struct.unpack_from(">LBB", written, at + 6)
        assert context == 3
        lasts.append(control)
        found += written[at + 12:at + 6 + length]
        at += 6 + length
    assert found == data
    assert lasts == [0] * (len(lasts) - 1) + [2]


@pytest.mark.outside
@given(st.binary(max_size=3000), st.integers(0, 2**32))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_any_fragments_give_the_same_bytes(data: bytes, seed: int) -> None:
    dice = random.Random(seed)
    sent = pdus(fragments(1, 0, data, dice), dice) + b"\5\0\0\0\0\4\0\0\0\0"
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    upper = UpperLayer(ours, Limits(1.0, 1000), lambda _silent: None)
    with theirs:
        theirs.sendall(sent)
        found, lasts = b"", []
        for piece in upper.pdvs():
            found += piece.data
            lasts.append(piece.is_last)
        upper.close()
    assert found == data
    assert lasts.count(True) == 1
    assert lasts[-1]


@pytest.mark.outside
def test_a_message_larger_than_the_buffer_arrives_whole(ends: tuple[UpperLayer, socket.socket]) -> None:
    upper, theirs = ends
    data = random.Random(5).randbytes(700_000)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_000_000)
    chunks = [struct.pack(">LBB", 65_002, 1, 0) + data[at:at + 65_000] for at in range(0, 650_000, 65_000)]
    chunks.append(struct.pack(">LBB", 50_002, 1, 2) + data[650_000:])
    theirs.setblocking(False)
    rest = memoryview(b"".join(struct.pack(">BBL", 4, 0, len(chunk)) + chunk for chunk in chunks) + b"\5\0\0\0\0\4\0\0\0\0")
    found = b""
    pieces = upper.pdvs()
    while True:
        if rest:
            rest = rest[theirs.send(rest[:50_000]):]
        piece = next(pieces, None)
        if piece is None:
            break
        found += piece.data
    assert found == data


@pytest.mark.outside
@pytest.mark.parametrize(("sent", "error"), [
    (struct.pack(">BBLLBB", 4, 0, 6, 1, 1, 3), ProtocolError),
    (struct.pack(">BBLLBB", 4, 0, 6, 100, 1, 3), ProtocolError),
    (struct.pack(">BBLL", 4, 0, 4, 0), ProtocolError),
    (struct.pack(">BBLLB", 4, 0, 5, 1, 1), ProtocolError),
    (b"\7\0\0\0\0\4\0\0\0\0", PeerGone),
    (b"GET / HTTP/1.0\r\n", ProtocolError),
    (b"\4\0\0", PeerGone),
    (b"", PeerGone),
])
def test_what_is_not_p_data_ends_the_association(
        ends: tuple[UpperLayer, socket.socket], sent: bytes, error: type[Exception]) -> None:
    upper, theirs = ends
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        list(upper.pdvs())


@pytest.mark.outside
def test_a_durable_object_is_indexed_when_its_answer_cannot_be_sent(
        ends: tuple[UpperLayer, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    upper, theirs = ends
    done: list[str] = []
    reception = Mock(
        spec=IncomingObject, refusal=None, index=lambda: done.append("indexed"), abort=lambda: done.append("aborted"))
    monkeypatch.setattr(upper, "send", Mock(side_effect=BrokenPipeError))
    theirs.sendall(store_request(1, CT, "1.2", b"x" * 1000))
    with pytest.raises(BrokenPipeError):
        next(Messages(upper, {1: "1.2.840.10008.1.2"}, lambda _request: reception, lambda _reception: 0).incoming())
    assert done == ["indexed"]


@pytest.mark.outside
@pytest.mark.parametrize("nothing", [
    b"\4\0\0\0\0\6\0\0\0\2\1\0", b"\4\0\0\0\0\6\0\0\0\2\1\1", b"\4\0\0\0\0\x0c" + b"\0\0\0\2\1\0" * 2, b"\4\0\0\0\0\0",
])
def test_a_peer_that_sends_nothing_for_ever_is_refused(ends: tuple[UpperLayer, socket.socket], nothing: bytes) -> None:
    upper, theirs = ends
    theirs.sendall(nothing * 3000)
    with pytest.raises(ProtocolError, match="empty"):
        for _ in upper.pdvs():
            pass


@pytest.mark.outside
def test_an_endless_command_set_is_refused() -> None:
    command = bytearray()
    with pytest.raises(ProtocolError):
        for _ in range(100):
            pdata.add_fragment(command, Pdv(1, True, False, b"\0" * 1000))


@pytest.mark.parametrize(("error", "status"), [
    (Rejected(DimseCode.DATA_SET_MISMATCH, "x"), 0xA900),
    (Rejected(DimseCode.NOT_AUTHORISED, "x"), 0x0124),
    (Rejected("NotDicom", "x"), 0xC000),
    (Unavailable("online store"), 0xA700),
    (TooLarge("server.max_body"), 0xA700),
])
def test_each_error_has_a_status(error: BrokerError, status: int) -> None:
    assert statuses.status_of(error) == status


@pytest.mark.parametrize(("error", "comment", "offending"), [
    (Rejected(DimseCode.CANNOT_UNDERSTAND, "no readable StudyInstanceUID", "StudyInstanceUID"),
     "no readable StudyInstanceUID", 0x0020000D),
    (Rejected(DimseCode.CANNOT_UNDERSTAND, "x" * 65), "x" * 61 + "...", None),
    (Rejected(DimseCode.CANNOT_UNDERSTAND, "x" * 64, "no keyword"), "x" * 64, None),
    (Rejected(DimseCode.CANNOT_UNDERSTAND, "a\\b\r\n葉\x1b"), "a?b????", None),
    (Unavailable("online store", full=True), "online store is full", None),
    (TooLarge("server.max_body (20 bytes)"), "limit exceeded: server.max_body (20 bytes)", None),
])
def test_a_refusal_fits_an_error_comment(error: BrokerError, comment: str, offending: int | None) -> None:
    found = statuses.refusal(error)
    assert (found.comment, found.offending) == (comment, offending)
    request = CommandSet.read(pdata.write_command(1, [(pdata.CLASS, CT), (pdata.FIELD, 1), (pdata.INSTANCE, "1.2")])[12:])
    sent = response(1, request, found.status, found, 40)
    parts, at = b"", 0
    while at < len(sent):
        size = int.from_bytes(sent[at + 2:at + 6], "big")
        assert size <= 40
        parts, at = parts + sent[at + 12:at + 6 + size], at + 6 + size
    answer = CommandSet.read(parts)
    assert (answer.number(pdata.STATUS), answer.text(pdata.COMMENT)) == (found.status, comment)
    assert answer.tag(pdata.OFFENDING) == ("(0020,000D)" if offending else "")


@pytest.mark.parametrize(("status", "words"), [
    (0xA801, "Move destination unknown, status 0xA801"),
    (0xC123, "Unable to Process, status 0xC123"),
    (0x9999, "Failure, status 0x9999"),
])
def test_a_peers_status_is_put_into_words(status: int, words: str) -> None:
    assert statuses.meaning(status) == words


def test_every_storage_class_of_the_standard_is_accepted(hospital: Hospital) -> None:
    apart = ("Commitment", "Directory")
    patient = {
        uid for uid, (name, kind, info, retired, _) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not info and not any(word in name for word in apart)
        and (retired or uid.startswith("1.2.840.10008.5.1.4.1.1."))
    }
    # protocols and inventories belong to no patient's study
    others = {f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("200.1", "200.3", "200.7", "201.1")}
    assert patient - others - contexts.taken(hospital) == set()


def test_every_transfer_syntax_of_data_sets_is_accepted_and_asked_for() -> None:
    # what is no encoding of a data set (PS3.10, PS3.18), or was never of DICOM
    others = {"1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2", "1.2.840.10008.1.20"}
    standard = {uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}
    assert set(RECEIVED_SYNTAXES) == standard - others
    assert len(set(RECEIVED_SYNTAXES)) == len(RECEIVED_SYNTAXES)


@pytest.mark.parametrize(("classes", "each"), [(1, 60), (2, 60), (3, 42), (7, 18), (42, 3), (63, 2), (64, 1), (100, 1), (150, 1)])
def test_a_get_proposes_every_syntax_and_no_more_contexts_than_there_are_ids(
        hospital: Hospital, classes: int, each: int) -> None:
    named = [uid for uid in contexts.STORAGE if uid != CT][:classes]
    proposed = contexts.wanted(named, hospital)
    assert len(proposed) == min(classes, 127) * each <= 127
    assert max(len(syntaxes) for _, syntaxes in proposed) <= 50     # dcmtk 3.6.7 answers no longer list
    for uid in named[:127]:
        listed = [syntax for sop_class, syntaxes in proposed if sop_class == uid for syntax in syntaxes]
        assert len(listed) == len(set(listed))
        assert set(listed) == set(RECEIVED_SYNTAXES) - ({*contexts._RARE} if each == 1 else set())


def test_a_get_gives_the_likeliest_syntaxes_a_context_of_their_own(hospital: Hospital) -> None:
    alone = [syntaxes[0] for _, syntaxes in contexts.wanted(contexts.STORAGE[:12], hospital)[:10] if len(syntaxes) == 1]
    assert alone[:4] == [EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50"]
    pair = contexts.wanted(contexts.STORAGE[:50], hospital)[:2]
    assert [syntaxes[:2] for _, syntaxes in pair] == [(EXPLICIT, IMPLICIT), ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50")]


def test_a_get_of_unknown_classes_proposes_the_common_ones_and_those_of_the_profile(hospital: Hospital) -> None:
    private = "1.3.12.2.1107.5.9.1"
    proposed = contexts.wanted([], hospital.model_copy(update={"sop_classes": (private,)}))
    assert {CT, private} <= {uid for uid, _ in proposed}
    assert len(proposed) <= 127


def test_a_get_leaves_out_classes_that_are_not_taken(hospital: Hospital) -> None:
    private = "1.3.12.2.1107.5.9.1"
    assert {uid for uid, _ in contexts.wanted([private, CT], hospital)} == {CT}
    assert contexts.wanted([private], hospital) == []
    known = hospital.model_copy(update={"sop_classes": (private,)})
    assert {uid for uid, _ in contexts.wanted([private, CT], known)} == {private, CT}
