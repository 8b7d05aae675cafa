"""However P-DATA is fragmented and however the bytes arrive, the same messages come out, and the same answers go back."""

import struct
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.edge.dimse import pdata
from broker.edge.dimse.c_store import StoreRequest
from broker.edge.dimse.pdata import CommandSet, ProtocolError, write_command, write_data_set
from tests.fuzz.targets_dicom import CT, converse

EXAMPLES = settings(derandomize=True, max_examples=150, deadline=None)
RELEASE = b"\5\0\0\0\0\4\0\0\0\0"
OBJECT = st.tuples(st.sampled_from((1, 3, 5)), st.integers(1, 65535), st.binary(min_size=1, max_size=3000).filter(
    lambda data: b"refuse" not in data))
SIZES = st.lists(st.integers(1, 700), min_size=1, max_size=6)
Piece = tuple[int, int, bytes]


def command(context: int, number: int) -> bytes:
    """The command set of a C-STORE request, without its PDU."""
    return write_command(context, [
        (pdata.CLASS, CT), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.MESSAGE_ID, number), (pdata.PRIORITY, 0), (pdata.DATA_SET, 1),
        (pdata.INSTANCE, f"2.25.{number}")])[12:]


def pieces(context: int, kind: int, data: bytes, sizes: Sequence[int]) -> list[Piece]:
    """Fragments of a command (kind 1) or data set (0); the last one is marked."""
    found: list[Piece] = []
    at = n = 0
    while at < len(data):
        size = sizes[n % len(sizes)]
        found.append((context, kind | 2 * (at + size >= len(data)), data[at:at + size]))
        at, n = at + size, n + 1
    return found


def pdus(found: Sequence[Piece], together: Sequence[int]) -> bytes:
    """P-DATA-TF with so many fragments in each (PS3.8 9.3.5)."""
    stream, at, n = bytearray(), 0, 0
    while at < len(found):
        count = together[n % len(together)]
        body = b"".join(
            struct.pack(">LBB", len(data) + 2, context, control) + data for context, control, data in found[at:at + count])
        stream += struct.pack(">BBL", 4, 0, len(body)) + body
        at, n = at + count, n + 1
    return bytes(stream)


@EXAMPLES
@given(st.lists(OBJECT, max_size=4), SIZES, SIZES, st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 1 << 30))
def test_any_fragments_and_any_chunking_give_the_same_objects(
    objects: list[tuple[int, int, bytes]], commands: list[int], data_sets: list[int], together: list[int], seed: int,
) -> None:
    found = [
        piece for context, number, data in objects
        for piece in (*pieces(context, 1, command(context, number), commands), *pieces(context, 0, data, data_sets))]
    said, sent = converse(pdus(found, together) + RELEASE, seed)
    assert said == [
        one for _, number, data in objects
        for one in (StoreRequest(CT, f"2.25.{number}", CT), ("stored", data))] + ["released"]
    plain = b"".join(
        pdus(pieces(context, 1, command(context, number), [1 << 16]), [1])
        + write_data_set(context, data, 0) for context, number, data in objects) + RELEASE
    assert converse(plain, 0) == (said, sent)


@EXAMPLES
@given(st.lists(OBJECT, min_size=1, max_size=2), SIZES, st.data())
def test_a_stream_cut_anywhere_gives_whole_objects_and_drops_the_rest(
    objects: list[tuple[int, int, bytes]], sizes: list[int], draw: st.DataObject,
) -> None:
    stream = pdus([
        piece for context, number, data in objects
        for piece in (*pieces(context, 1, command(context, number), sizes), *pieces(context, 0, data, sizes))], [2])
    said, _ = converse(stream[:draw.draw(st.integers(0, len(stream) - 1))], 7)
    assert said[-1] == "PeerBroke"
    stored = [one[1] for one in said if isinstance(one, tuple) and one[0] == "stored"]
    assert stored == [data for _, _, data in objects][:len(stored)]
    begun = sum(isinstance(one, StoreRequest) for one in said)
    assert said.count("dropped") == begun - len(stored)


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 65535), st.one_of(
    st.integers(0, 65535), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=64))), max_size=8,
    unique_by=lambda pair: pair[0]))
def test_a_command_is_read_as_it_was_written(elements: list[tuple[int, int | str]]) -> None:
    elements = [pair for pair in elements if pair[0]]
    found = CommandSet.read(write_command(1, elements)[12:])
    for element, value in elements:
        assert (found.number(element) if isinstance(value, int) else found.text(element)) == value


@EXAMPLES
@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_or_refused(data: bytes) -> None:
    try:
        found = CommandSet.read(data)
    except ProtocolError:
        return
    assert found.number(pdata.FIELD) >= -1
    assert isinstance(found.text(pdata.INSTANCE), str)
