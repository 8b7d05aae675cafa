"""However a multipart message is cut into pieces, it reads the same; whatever bytes come, the reader ends well."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.files.sources import Octets
from broker.model.errors import BrokerError
from broker.wire.mime import MtomBody, Multipart, content_type_parameters
from broker.wire.soap import Part

# Pieces that look like line ends, delimiters and their beginnings, joined in any way.
LOOKS_ALIKE = (b"\r", b"\n", b"\r\n", b"--", b"-", b"--B", b"\r\n--B", b"\r\n--", b"B", b"\0", b"x", b" ")
TRICKY = st.lists(st.sampled_from(LOOKS_ALIKE), max_size=20)
STRUCTURE = st.sampled_from([b"--B\r\n", b"A: b\r\n", b"\r\n\r\n", b"\r\n--B--"])
CONTENT = st.one_of(st.binary(max_size=300), TRICKY.map(b"".join))


def cut(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The data in pieces whose lengths are `cuts` over and over; empty pieces are dropped by the caller's contract."""
    at = n = 0
    while at < len(data):
        length = cuts[n % len(cuts)]
        yield data[at:at + length]
        at, n = at + length, n + 1


def message(contents: list[bytes]) -> bytes:
    return b"".join(b"--B\r\nContent-ID: <%d>\r\n\r\n%s\r\n" % (n, data) for n, data in enumerate(contents)) + b"--B--\r\n"


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(CONTENT, min_size=1, max_size=4), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_any_chunking_gives_one_answer(contents: list[bytes], cuts: list[int]) -> None:
    contents = [data for data in contents if b"\r\n--B" not in b"\r\n" + data]
    got = [(headers["content-id"], b"".join(body)) for headers, body in Multipart(cut(message(contents), cuts), "B")]
    assert got == [(f"<{n}>", data) for n, data in enumerate(contents)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(CONTENT, max_size=4), st.lists(st.integers(1, 400), min_size=1, max_size=3))
def test_what_we_send_is_what_is_read(contents: list[bytes], cuts: list[int]) -> None:
    body = MtomBody(b"<x/>", [
        Part(content_id=str(n), media_type="application/dicom", source=Octets(data)) for n, data in enumerate(contents)])
    data = b"".join(body)
    assert len(data) == body.length
    boundary = content_type_parameters(body.content_type)[1]["boundary"]
    assert [b"".join(chunks) for _, chunks in Multipart(cut(data, cuts), boundary)] == [b"<x/>", *contents]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(CONTENT, min_size=1, max_size=3), st.integers(0, 10_000))
def test_a_message_cut_anywhere_is_refused(contents: list[bytes], at: int) -> None:
    contents = [data for data in contents if b"\r\n--B" not in b"\r\n" + data]
    whole = message(contents)
    end = at % (len(whole) - 2)  # up to the last hyphen; the line end behind it is not needed
    try:
        for _, body in Multipart(cut(whole[:end], [7]), "B"):
            b"".join(body)
    except BrokerError:
        return
    raise AssertionError("a cut message was taken for whole")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.one_of(CONTENT, STRUCTURE), max_size=20).map(b"".join), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_bytes_end_well_and_alike(data: bytes, cuts: list[int]) -> None:
    def outcome(pieces: Iterator[bytes]) -> object:
        parts: list[tuple[dict[str, str], bytes]] = []
        try:
            for headers, body in Multipart(pieces, "B"):
                parts.append((headers, b"".join(body)))
        except BrokerError:
            return "refused"
        return parts
    assert outcome(cut(data, cuts)) == outcome(iter([data]))
