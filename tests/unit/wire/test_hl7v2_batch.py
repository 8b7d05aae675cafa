"""Files of messages, as systems write them and as editors leave them."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import TooLarge
from broker.wire.hl7v2_batch import messages

ONE, TWO = b"MSH|^~\\&|A\rPID|||1\r", "MSH|^~\\&|B\rPID|||2||张\r".encode("gb18030")
LARGEST = 1000


def read(data: bytes, largest: int = LARGEST) -> list[bytes]:
    return [one if isinstance(one, bytes) else str(one).encode() for one in messages(io.BytesIO(data), largest)]


@pytest.mark.parametrize("data", [
    ONE + TWO,
    b"FHS|^~\\&\rBHS|^~\\&\r" + ONE + TWO + b"BTS|2\rFTS|1\r",
    b"BHS|^~\\&\r" + ONE + b"BTS|1\rBHS|^~\\&\r" + TWO + b"BTS|1",
    (ONE + TWO).replace(b"\r", b"\n"), (ONE + TWO).replace(b"\r", b"\r\n"), ONE + b"\r\r\n" + TWO[:-1],
    b"\x0b" + ONE + b"\x1c\r\x0b" + TWO + b"\x1c\r",
    b"sent by the HIS on Monday\r\n" + ONE + TWO,
])
def test_the_messages_of_a_file_are_found_whatever_is_around_them(data: bytes) -> None:
    assert read(data) == [ONE, TWO]


@pytest.mark.parametrize("data", [b"", b"\r\n", b"FHS|^~\\&\rFTS|0\r", b"id;name\r\n1;Wei\r\n", b"BTS|1\rPID|||1\r"])
def test_a_file_without_messages_gives_none(data: bytes) -> None:
    assert read(data) == []


@pytest.mark.parametrize("long", [b"PID|||" + b"9" * 2 * LARGEST + b"\r", b"NTE|1\r" * LARGEST, b"PID|||" + b"9" * 1_000_000])
def test_one_that_is_too_large_is_named_and_stops_no_other(long: bytes) -> None:
    found = list(messages(io.BytesIO(ONE + b"MSH|^~\\&|C\r" + long + b"\r" + TWO), LARGEST))
    assert [found[0], found[2]] == [ONE, TWO]
    assert isinstance(found[1], TooLarge)
    assert "server.max_message" in str(found[1])


PIECES = st.sampled_from([
    b"MSH", b"FHS", b"BTS", b"PID", b"\r", b"\n", b"\x0b", b"\x1c", b"|", b"^~\\&", b"x" * 90, "张".encode()])


@given(st.lists(PIECES, max_size=60))
def test_whatever_a_file_holds_messages_are_whole_segments_in_their_order(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    found = list(messages(io.BytesIO(data), 100))
    for one in found:
        assert isinstance(one, TooLarge) or (one[:3] == b"MSH" and one[-1:] == b"\r" and len(one) <= 100)
    segments = [line for one in found if isinstance(one, bytes) for line in one.split(b"\r") if line]
    everything = iter(filter(None, re.split(b"[\r\n\x0b\x1c]+", data)))
    assert all(segment in everything for segment in segments)
    assert len(found) == sum(line[:3] == b"MSH" for line in re.split(b"[\r\n\x0b\x1c]+", data))
