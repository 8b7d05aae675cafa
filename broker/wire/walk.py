"""The elements of `wire/tags` from a data set in disorder, element by element, without holding it.

Other readers take such objects (dcmtk's `DcmItem::read` was the measure): elements out of order, delimiters that close
nothing, what is no VR, a large element in front, values of which only the length matters. Positions only grow, so that
inflated bytes can be read too. `wire/tags.scan` is the fast way; this one reads what it gives up on.
"""

import zlib
from collections.abc import Callable

from broker.wire import tags
from broker.wire.tags import BIG, DEPTH, ITEM, ITEM_END, LITTLE, SEQUENCE_END, SHORT, UNDEFINED, WANTED, NotDicom, Order

Read = Callable[[int, int], bytes]
"""`read(offset, length)` returns bytes of a file, fewer only at its end."""

ESSENTIAL = frozenset(tags.TAGS[keyword] for keyword in (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName", "StudyDate"))

_WINDOW = 1 << 14
_ELEMENTS = 250_000     # headers that are looked at; an object of more has no order that could be found
_VALUE = 1 << 16        # bytes of a value that are kept; text of a study is far shorter
_INFLATED = 64 << 20    # bytes that are inflated in search of the last wanted element


class _End(Exception):
    """The bytes are over; the text says whether in mid-element."""


def walk(read: Read, offset: int, transfer_syntax: str) -> tuple[dict[int, bytes], str]:
    """Return what `tags.scan` returns of a data set that begins at `offset` of a file, and why there is no more of it.

    It goes on behind the last wanted element while an essential one is missing.
    """
    if transfer_syntax == tags.DEFLATED:
        read, offset = _Inflated(read, offset).read, 0
    walker = _Walker(read, offset, BIG if transfer_syntax == tags.BIG_ENDIAN else LITTLE)
    try:
        walker.data_set(explicit=transfer_syntax != tags.IMPLICIT)
    except _End as end:
        return walker.found, str(end)
    except NotDicom as error:
        return walker.found, error.problems[0].context
    return walker.found, ""


class _Walker:
    def __init__(self, read: Read, at: int, order: Order) -> None:
        self._read, self._at, self._order = read, at, order
        self._window, self._begin = b"", at
        self._left = _ELEMENTS
        self.found: dict[int, bytes] = {}

    def data_set(self, *, explicit: bool) -> None:
        """Read elements until the end, or until nothing is missing."""
        while True:
            tag, size, named = self._header(self._order, explicit=explicit)
            if tag in WANTED:
                self._keep(tag, size, named=named)
            elif tag == ITEM:
                self._item(self._order, size, 0, explicit=named)
            elif tag not in {ITEM_END, SEQUENCE_END}:
                self._value(size, 0, named=named)
            if tag > tags.LAST and self.found.keys() >= ESSENTIAL:
                return

    def _take(self, length: int) -> bytes:
        at = self._at - self._begin
        if at + length > len(self._window):
            self._window, self._begin, at = self._read(self._at, max(length, _WINDOW)), self._at, 0
            if len(self._window) < length:
                raise _End("it is cut off" if self._window else "")
        self._at += length
        return self._window[at:at + length]

    def _header(self, order: Order, *, explicit: bool) -> tuple[int, int, bool]:
        """Return tag, length of the value, and whether what is inside it is Explicit VR."""
        self._left -= 1
        if not self._left:
            raise NotDicom("the data set has too many elements")
        head = self._take(8)
        group, element, size = order.implicit.unpack(head)
        tag = group << 16 | element
        if not explicit or group == ITEM >> 16:
            return tag, size, explicit
        _, _, vr, short = order.explicit.unpack(head)
        if vr in SHORT:
            return tag, short, True
        if tags.has_long_size(vr):
            return tag, order.length.unpack(self._take(4))[0], vr != b"UN"
        hidden = order is LITTLE and not vr[1] and vr[0] and not short      # an Implicit VR element among Explicit ones
        return tag, size if hidden else short, True

    def _keep(self, tag: int, size: int, *, named: bool) -> None:
        if size == UNDEFINED or size > _VALUE:
            start, ahead = self._at, self._read(self._at, _VALUE)
            self._window, self._begin = ahead, start
            self._value(size, 0, named=named)
            value = ahead[:self._at - start]
        else:
            value = self._take(size)
        if tag == tags.PROCEDURES:
            for key, part in tags.first_code(value, self._order, explicit=named).items():
                self.found.setdefault(key, part)
        else:
            self.found.setdefault(tag, value)

    def _value(self, size: int, depth: int, *, named: bool) -> None:
        if size == UNDEFINED:
            self._sequence(self._order if named else LITTLE, depth, explicit=named)
        else:
            self._at += size

    def _sequence(self, order: Order, depth: int, *, explicit: bool) -> None:
        """Pass the items of a value of undefined length; those of pixels are fragments and have lengths."""
        if depth > DEPTH:
            raise NotDicom("sequences are nested too deeply")
        while True:
            tag, size, _ = self._header(order, explicit=explicit)
            if tag == SEQUENCE_END:
                return
            if tag == ITEM:
                self._item(order, size, depth, explicit=explicit)
            elif tag != ITEM_END:
                raise NotDicom("a sequence holds something else than items")

    def _item(self, order: Order, size: int, depth: int, *, explicit: bool) -> None:
        if size != UNDEFINED:
            self._at += size
            return
        while True:
            tag, size, named = self._header(order, explicit=explicit)
            if tag == ITEM_END:
                return
            if size == UNDEFINED:
                self._sequence(order if named else LITTLE, depth + 1, explicit=named)
            else:
                self._at += size


class _Inflated:
    """What a deflated data set holds, to be read at growing offsets."""

    def __init__(self, read: Read, offset: int) -> None:
        self._source, self._from = read, offset
        self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting = b""
        self._data, self._begin = b"", 0

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from `offset`. Raise `NotDicom` for damaged ones and behind the limit."""
        while self._begin + len(self._data) < offset + length:
            more = self._more()
            if not more:
                break
            kept = max(0, offset - self._begin)     # what lies before is never asked for again
            self._data, self._begin = self._data[kept:] + more, self._begin + min(kept, len(self._data))
            if self._begin > _INFLATED:
                raise NotDicom("too much comes before the last wanted element of a deflated data set")
        inside = offset - self._begin
        return self._data[inside:inside + length]

    def _more(self) -> bytes:
        while not self._engine.eof:
            if not self._waiting:
                self._waiting = self._source(self._from, _WINDOW)
                self._from += len(self._waiting)
            if not self._waiting:
                return b""
            try:
                data = self._engine.decompress(self._waiting, _WINDOW * 4)
            except zlib.error:
                raise NotDicom("the deflated data set is damaged") from None
            self._waiting = self._engine.unconsumed_tail
            if data:
                return data
        return b""
