"""Mutations that know what our formats are made of: lengths, delimiters, markup, numbers, characters of several bytes."""

import random
import re
import struct
from collections.abc import Callable, Sequence

_NUMBERS = (0, 1, 2, 7, 8, 127, 128, 254, 255, 256, 4095, 32767, 32768, 65534, 65535, 65536, (1 << 24) - 1, (1 << 31) - 1,
            1 << 31, (1 << 32) - 16, (1 << 32) - 2, (1 << 32) - 1)
_TEXT_NUMBERS = (b"0", b"-1", b"00", b"1e9", b"2147483648", b"9223372036854775808", b"9" * 20, b"9" * 5000, b"0x10", b"1.5")
_DIGITS = re.compile(rb"[0-9]+")
_TAG = re.compile(rb"<[^<>]{1,400}>")
_QUOTED = re.compile(rb"\"[^\"]{0,200}\"|'[^']{0,200}'")

# Bytes that mean something to one of the readers; GB 18030, Big5 and Shift JIS hide delimiters in their second bytes.
COMMON = (
    b"\0", b"\xff", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"--", b"|", b"^", b"~", b"\\", b"&", b"'", b'"', b"<", b">", b";", b":",
    b"\x0b", b"\x1c\r", b"\x1b$)C", "葉區瑋錦誠".encode("gb18030"), "葉區瑋錦誠".encode(), "功許蓋".encode("cp950"),
    "ソ表".encode("shift_jis"), "\U00020bb7".encode("gb18030"), b"\x81", b"\xed\xa0\x80", b"\xef\xbf\xbe", b"\xef\xbb\xbf",
    b"\xff\xfe", b"&#0;", b"&#x1F600;",
)


class Mutator:
    """Makes new inputs out of known ones; the same `source` of chance gives the same inputs."""

    def __init__(self, source: random.Random, words: Sequence[bytes], longest: int) -> None:
        self._source, self._words, self._longest = source, (*COMMON, *words), longest
        self._ways: tuple[Callable[[bytearray, Sequence[bytes]], None], ...] = (
            self._flip, self._flip, self._byte, self._delete, self._delete, self._duplicate, self._insert, self._word,
            self._word, self._word, self._over, self._truncate, self._splice, self._graft, self._length, self._length,
            self._number, self._number, self._repeat, self._swap, self._markup, self._markup, self._value)

    def mutate(self, corpus: Sequence[bytes]) -> bytes:
        """Return a child of one of the inputs, at most `longest` bytes."""
        data = bytearray(self._source.choice(corpus))
        for _ in range(self._source.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            self._source.choice(self._ways)(data, corpus)
        return bytes(data[:self._longest])

    def _at(self, data: bytearray) -> int:
        return self._source.randrange(len(data) + 1)

    def _range(self, data: bytearray, most: int = 200) -> tuple[int, int]:
        start = self._at(data)
        return start, min(len(data), start + self._source.choice((1, 2, 4, 8, self._source.randrange(1, most))))

    def _flip(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        if data:
            data[self._source.randrange(len(data))] ^= 1 << self._source.randrange(8)

    def _byte(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        if data:
            data[self._source.randrange(len(data))] = self._source.choice((0, 1, 32, 127, 128, 255, self._source.randrange(256)))

    def _delete(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        start, end = self._range(data)
        del data[start:end]

    def _duplicate(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        start, end = self._range(data)
        data[start:start] = data[start:end]

    def _insert(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        at = self._at(data)
        data[at:at] = self._source.randbytes(self._source.choice((1, 2, 4, 16)))

    def _word(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        at = self._at(data)
        data[at:at] = self._source.choice(self._words)

    def _over(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        at, word = self._at(data), self._source.choice(self._words)
        data[at:at + len(word)] = word

    def _truncate(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        del data[self._at(data):]

    def _splice(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        other = bytearray(self._source.choice(corpus))
        data[self._at(data):] = other[self._at(other):]

    def _graft(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        other = bytearray(self._source.choice(corpus))
        start, end = self._range(other)
        at = self._at(data)
        data[at:at] = other[start:end]

    def _length(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        """Overwrite, or change a little, what may be a binary number."""
        form = self._source.choice(("<H", ">H", "<L", ">L", ">L", ">Q"))
        size = struct.calcsize(form)
        if len(data) < size:
            return
        at = self._source.randrange(len(data) - size + 1)
        top = 1 << 8 * size
        near = int(struct.unpack_from(form, data, at)[0]) + self._source.choice((-256, -8, -2, -1, 1, 2, 4, 8, 256))
        struct.pack_into(form, data, at, self._source.choice((near, near, self._source.choice(_NUMBERS), len(data))) % top)

    def _number(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        self._replace(data, _DIGITS, _TEXT_NUMBERS)

    def _value(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        """Replace what stands between quotes."""
        self._replace(data, _QUOTED, [b'"' + word + b'"' for word in (b"", *self._words)])

    def _replace(self, data: bytearray, wanted: re.Pattern[bytes], by: Sequence[bytes]) -> None:
        found = wanted.search(data, self._at(data)) or wanted.search(data)
        if found:
            data[found.start():found.end()] = self._source.choice(by)

    def _repeat(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        """Write a piece many times over."""
        start, end = self._range(data, 40)
        if end > start and len(data) < self._longest:
            times = self._source.choice((2, 10, 100, 1000, 10_000))
            data[start:start] = bytes(data[start:end]) * min(times, (self._longest - len(data)) // (end - start))

    def _swap(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        start, end = self._range(data)
        piece = data[start:end]
        del data[start:end]
        at = self._at(data)
        data[at:at] = piece

    def _markup(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        """Drop, double, rename or nest a tag, and what follows it up to another one."""
        tags = list(_TAG.finditer(data))
        if len(tags) < 2:
            return
        first = self._source.randrange(len(tags) - 1)
        start = tags[first].start()
        end = tags[min(len(tags) - 1, first + self._source.choice((0, 1, 1, 3, 9)))].end()
        piece = bytes(data[start:end])
        way = self._source.randrange(4)
        if way == 0:
            del data[start:end]
        elif way == 1:
            data[start:start] = piece
        elif way == 2:
            at = tags[self._source.randrange(len(tags))].end()
            data[at:at] = piece
        else:
            other = tags[self._source.randrange(len(tags))]
            data[start:tags[first].end()] = other.group()
