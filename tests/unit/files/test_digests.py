import hashlib
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.files.digests import Digests, LateSha256


@pytest.mark.parametrize("pieces", [0, 1, 3, 40])
def test_digests_are_complete_when_the_with_is_left(pieces: int) -> None:
    data = [bytes([n]) * 300_000 for n in range(pieces)]
    one, two = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    with Digests() as digests:
        for piece in data:
            digests.update(one, piece)
            digests.update(two, piece[1:])
    assert one.digest() == hashlib.sha256(b"".join(data)).digest()
    assert two.digest() == hashlib.sha1(b"".join(piece[1:] for piece in data), usedforsecurity=False).digest()


def test_little_is_hashed_without_a_thread_and_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    with Digests() as digests:
        digests.update(hashlib.sha256(), bytes(1000))
        assert threading.active_count() == before
        digests.update(hashlib.sha256(), bytes(2 << 20))
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_an_error_in_between_ends_the_thread() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="disk"), Digests() as digests:
        digests.update(hashlib.sha256(), bytes(2 << 20))
        raise OSError("disk")
    assert threading.active_count() == before


@given(st.lists(st.integers(0, 1_500_000), max_size=6), st.integers(0, 5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_late_digest_is_that_of_all_bytes_whenever_it_is_asked_for(sizes: list[int], asked: int) -> None:
    late, whole = LateSha256(), hashlib.sha256()
    for number, size in enumerate(sizes):
        data = bytearray(number.to_bytes(1, "big") * size)
        whole.update(data)
        late.update(memoryview(data))
        data[:] = b"\xff" * size        # the bytes were copied, or hashed
        if number == asked:
            assert late.hexdigest() == whole.hexdigest()
    assert late.hexdigest() == late.hexdigest() == whole.hexdigest()
