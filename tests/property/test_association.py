"""The PDUs that open an association: what is written reads back, and no bytes of a stranger do anything but be refused."""

import contextlib
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.edge.dimse import association, contexts
from broker.edge.dimse.association import HEAD, Accept, Answered, Context, Head, Implementation
from broker.edge.dimse.pdata import ProtocolError
from broker.model.syntaxes import RECEIVED_SYNTAXES
from tests.helpers.dicom import CT
from tests.helpers.dimse import item

US = Implementation("2.25.1", "BROKER", 131072)
UIDS = st.text("0123456789.", min_size=1, max_size=64)
TITLES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=16)
CONTEXTS = st.lists(
    st.builds(Context, st.integers(0, 255), UIDS, st.lists(UIDS, max_size=4).map(tuple)), max_size=association.MAX_CONTEXTS)


@given(called=TITLES, calling=TITLES, proposed=CONTEXTS, provided=st.lists(UIDS, max_size=3))
def test_a_request_is_read_as_it_was_written(called: str, calling: str, proposed: list[Context], provided: list[str]) -> None:
    data = association.write_request(Head(1, called, calling), proposed, US, provided)
    assert association.read_head(data) == Head(1, called, calling)
    found = association.read_request(data)
    assert found.contexts == tuple(proposed)
    assert (found.application, found.length) == (association.APPLICATION_CONTEXT, 131072)


@given(answered=st.lists(st.builds(Answered, st.integers(0, 255), st.integers(0, 4), UIDS), max_size=128))
def test_an_answer_is_read_as_it_was_written(answered: list[Answered]) -> None:
    request = association.write_request(Head(1, "BROKER", "PACSA"), [], US)
    data = association.write_accept(request, answered, US)
    assert data[10:HEAD] == request[10:HEAD]
    assert int.from_bytes(data[2:6], "big") == len(data) - 6
    assert association.read_accept(data[6:]) == Accept(tuple(answered), 131072)


ANYTHING = st.one_of(UIDS, st.text(), st.just("1" * 65_000), st.sampled_from(RECEIVED_SYNTAXES))


@given(st.integers(0, 255), st.one_of(ANYTHING, st.just(CT)), st.lists(ANYTHING, max_size=4))
def test_any_context_is_answered(number: int, abstract: str, syntaxes: list[str]) -> None:
    request = association.write_request(Head(1, "BROKER", "PACSA"), [], US)
    answered = contexts.answer(Context(number, abstract, tuple(syntaxes)), frozenset({CT}))
    assert association.read_accept(association.write_accept(request, [answered], US)[6:]).contexts == (answered,)
    assert (answered.result == association.TAKEN) <= (answered.syntax in syntaxes)


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_fixed_part_are_read_or_refused(data: bytes) -> None:
    for read in (lambda: association.read_request(b"\0" * HEAD + data), lambda: association.read_accept(b"\0" * 68 + data),
                 lambda: association.read_accept(data), lambda: association.read_reject(data)):
        with contextlib.suppress(ProtocolError):
            read()


@given(st.data())
def test_a_request_that_is_damaged_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(association.write_request(
        Head(1, "BROKER", "PACSA"), [Context(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",))], US, ["1.2"]))
    for place, value in data.draw(st.lists(st.tuples(st.integers(HEAD, len(whole) - 1), st.integers(0, 255)), max_size=4)):
        whole[place] = value
    with contextlib.suppress(ProtocolError):
        association.read_request(bytes(whole[:data.draw(st.integers(HEAD, len(whole)))]))


def request(*items: bytes) -> bytes:
    return b"\1\0" + struct.pack(">L", 68 + sum(map(len, items))) + b"\0\1" + b"\0" * 66 + b"".join(items)


def context(number: int, *parts: bytes) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(parts))


ABSTRACT, SYNTAX = item(0x30, b"1.2.840.10008.1.1"), item(0x40, b"1.2.840.10008.1.2")


@pytest.mark.parametrize(("items", "proposed", "length"), [
    ([], (), 16384),
    ([context(1, ABSTRACT, SYNTAX)], (Context(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),), 16384),
    ([context(2, SYNTAX, ABSTRACT)], (Context(2, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),), 16384),
    ([context(0)], (Context(0, "", ()),), 16384),
    ([context(1, item(0x30, b""), item(0x40, b""))], (Context(1, "", ("",)),), 16384),
    ([context(1, item(0x30, b"1.2\0"), item(0x40, b" 1.3 "), item(0x66, b"?"))], (Context(1, "1.2", ("1.3",)),), 16384),
    ([context(1, item(0x30, b"\xff\0\xfe"))], (Context(1, "\xff\0\xfe", ()),), 16384),
    ([item(0x77, b"unknown"), item(0x50, item(0x99, b"?") + item(0x51, b"\0\0\1\0"))], (), 256),
    ([item(0x50, item(0x51, b"\0\0\0\0"))], (), 0),
    ([item(0x50, item(0x51, b"\1"))], (), 16384),
    ([item(0x50, b"")], (), 16384),
])
def test_odd_requests_that_can_be_read(items: list[bytes], proposed: tuple[Context, ...], length: int) -> None:
    found = association.read_request(request(*items))
    assert (found.contexts, found.length) == (proposed, length)


def test_what_hurts_costs_no_more_than_what_is_usual() -> None:
    """The largest request that is read at all, and the most contexts, against one of a modality that offers everything."""
    usual = association.write_request(
        Head(1, "BROKER", "PACSA"), [Context(2 * n + 1, "1.2.840.10008.5.1.4.1.1.2", RECEIVED_SYNTAXES) for n in range(126)], US)
    many = request(*[context(1)] * 30_000)
    worst = [
        request(*[context(1, item(0x30, b""), item(0x40, b"") * 16_000)] * 4),
        request(context(1, item(0x30, b""), item(0x40, b"") * 9000), *[context(1, item(0x40, b"") * 16_000)] * 3),
        request(*[context(1, item(0x99, b"") * 16_000)] * 4),
        request(*[item(0x99, b"")] * 64_000),
        request(*[item(0x50, item(0x99, b"") * 16_000)] * 4),
    ]
    assert all(len(one) < association.LONGEST for one in worst)

    def cost(data: bytes) -> float:
        begun = time.process_time()
        for _ in range(5):
            with contextlib.suppress(ProtocolError):
                association.read_request(data)
        return time.process_time() - begun

    assert cost(many) < cost(usual)
    assert max(map(cost, worst)) < 6 * cost(usual)


@pytest.mark.parametrize("items", [
    [b"\x20"],
    [item(0x20, b"\1\0")],
    [context(1, item(0x30, b"1.2"))[:-1]],
    [context(1, b"\x30\0\xff\xff1.2")],
    [item(0x50, b"\x51\0\0\7\0")],
    [context(1, ABSTRACT, SYNTAX)] * 129,
    [context(1)] * 30_000,
])
def test_broken_requests_are_refused(items: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        association.read_request(request(*items))
