"""P-DATA of an association: PDUs in through one buffer, DIMSE command sets as plain bytes (PS3.8 9.3, PS3.7 6.3).

It moves data sets from the socket to their file without ever holding one.
"""

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker.edge.door import tls

CLASS, FIELD, MESSAGE_ID, RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
DESTINATION, PRIORITY, DATA_SET, STATUS, INSTANCE = 0x0600, 0x0700, 0x0800, 0x0900, 0x1000
OFFENDING, COMMENT = 0x0901, 0x0902     # AT, LO
FAILED_LIST = 0x00080058                # Failed SOP Instance UID List, in the data set of a response
NO_DATA_SET = 0x0101

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_GET_RQ, C_FIND_RQ, C_MOVE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF
RESPONSE = 0x8000

TICK = 1.0                  # seconds of silence after which `patience` is asked
_BUFFER = 1 << 18
_COMMAND_LIMIT = 1 << 16    # bytes of a command set; real ones stay below one KB
_LAST_COMMAND = 0x0000FFFF
_BLANK_PADDED = frozenset((DESTINATION, COMMENT))
_EMPTY = 1000               # fragments and PDUs without a byte, one behind the other
_RELEASE_RQ, _RELEASE_RP = b"\5\0\0\0\0\4\0\0\0\0", b"\6\0\0\0\0\4\0\0\0\0"
_ABORT = b"\7\0\0\0\0\4\0\0\0\0"
_P_DATA, _RELEASE, _ABORTED = 4, 5, 7
_ELEMENT = struct.Struct("<HHL")
_PDV = struct.Struct(">LBB")
_PDU = struct.Struct(">BBL")


class ProtocolError(Exception):
    """The peer does something else than the upper layer or DIMSE allow here."""


class PeerGone(Exception):
    """The peer aborted or closed the connection, or is silent for too long."""


class PeerBroke(PeerGone):
    """The peer aborted or closed the connection: it may do better with another request."""


class CommandSet:
    """A command set: implicit little endian elements of group 0000, without the group length."""

    def __init__(self, elements: Mapping[int, bytes]) -> None:
        self._elements = elements

    @classmethod
    def read(cls, data: bytes) -> "CommandSet":
        """Read a complete command set. Raise `ProtocolError` when an element of it is cut short.

        Elements of other groups are passed over, but for the Failed SOP Instance UID List: Orthanc puts it here.
        """
        elements: dict[int, bytes] = {}
        for tag, value in _elements(data):
            if value is None:
                if tag <= _LAST_COMMAND:
                    raise ProtocolError("a command set is damaged")
            elif tag <= _LAST_COMMAND or tag == FAILED_LIST:
                elements.setdefault(tag, value)
        return cls(elements)

    def number(self, element: int, default: int = -1) -> int:
        """Return a US value, `default` when it is absent."""
        value = self._elements.get(element, b"")
        return int.from_bytes(value[:2], "little") if len(value) >= 2 else default

    def text(self, element: int) -> str:
        """Return a UI or AE value without padding, empty when it is absent."""
        return self._elements.get(element, b"").strip(b"\0 ").decode("latin-1")

    def tag(self, element: int) -> str:
        """Return the first tag of an AT value like (0020,000D), empty when it is absent."""
        value = self._elements.get(element, b"")
        return "({:04X},{:04X})".format(*struct.unpack_from("<HH", value)) if len(value) >= 4 else ""

    def failed(self, data: bytes = b"") -> tuple[str, ...]:
        """Return the Failed SOP Instance UID List of a response from its data set, else from here; empty when there is none."""
        listed = next((value for tag, value in _elements(data) if tag == FAILED_LIST and value), None)
        text = (listed or self._elements.get(FAILED_LIST, b"")).decode("latin-1")
        return tuple(uid for part in text.split("\\") if (uid := part.strip("\0 ")))

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows."""
        return self.number(DATA_SET, NO_DATA_SET) != NO_DATA_SET


def _elements(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Return tag and value of each Implicit VR Little Endian element, None for the value of the one that is cut short."""
    at, end = 0, len(data)
    while at < end:
        if at + 8 > end:
            yield int.from_bytes(data[at:at + 2], "little") << 16, None
            return
        group, element, size = _ELEMENT.unpack_from(data, at)
        at += 8 + size
        yield group << 16 | element, data[at - size:at] if at <= end else None


class Pdv(NamedTuple):
    """A fragment of a message as it lies in the buffer: valid until the next one is asked for."""

    context: int
    is_command: bool
    is_last: bool
    data: memoryview | bytes


def write_command(context: int, elements: Sequence[tuple[int, int | str]], longest: int = 0) -> bytes:
    """Return the PDUs of a command set; numbers are US, or AT for the offending element, text is UI, AE or LO (PS3.7 6.3.1)."""
    body = b"".join(_element(element, value) for element, value in elements)
    return _fragments(context, 1, _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body, longest)


def _element(element: int, value: int | str) -> bytes:
    if element == OFFENDING and isinstance(value, int):
        data = struct.pack("<HH", value >> 16, value & 0xFFFF)
    else:
        data = struct.pack("<H", value) if isinstance(value, int) else value.encode("latin-1", "replace")
    if len(data) % 2:
        data += b" " if element in _BLANK_PADDED else b"\0"
    return _ELEMENT.pack(0, element, len(data)) + data


def write_data_set(context: int, data: bytes, longest: int) -> bytes:
    """Return the PDUs of a data set for a peer that takes `longest` bytes of one PDU (0 = any number)."""
    return _fragments(context, 0, data, longest)


def _fragments(context: int, kind: int, data: bytes, longest: int) -> bytes:
    step = longest - 6 if longest > 6 else len(data) or 1
    starts = range(0, len(data), step) or range(1)
    return b"".join(_pdu(context, kind | (2 if at + step >= len(data) else 0), data[at:at + step]) for at in starts)


def _pdu(context: int, control: int, body: bytes) -> bytes:
    return _PDU.pack(_P_DATA, 0, len(body) + 6) + _PDV.pack(len(body) + 2, context, control) + body


@dataclass(frozen=True, slots=True)
class Limits:
    """`send` seconds a peer may take to accept an answer, `data_set` bytes of a data set that is not an object."""

    send: float
    data_set: int


class UpperLayer:
    """The socket of an established association.

    `patience(seconds)` is called after each second of silence with its length so far, and with 0 when bytes came; it
    raises to give up. `heard(seconds, bytes)` is told how long was waited for how many bytes, and may raise too.
    """

    def __init__(
        self, sock: socket.socket, limits: Limits, patience: Callable[[float], None],
        heard: Callable[[float, int], None] | None = None,
    ) -> None:
        self._sock, self.limits, self._patience, self._heard = sock, limits, patience, heard
        self._read = self._read_records if isinstance(sock, ssl.SSLSocket) else self._read_socket
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._inside = False

    @property
    def inside(self) -> bool:
        """Whether a PDU has begun and is not complete."""
        return self._inside or self._start < self._end

    def begin(self) -> None:
        """Set the socket's options. Raise OSError when it is dead already.

        On a plain socket the kernel keeps the time: a timeout of Python's costs a poll() before each call, and knows no
        MSG_WAITALL. With TLS it is Python's: it polls only when OpenSSL has nothing, and without one would never say so.
        """
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(TICK)
            return
        self._sock.settimeout(None)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(TICK))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(self.limits.send))

    def pdvs(self) -> Iterator[Pdv]:
        """Return the fragments as they come; end when the peer asks for release. Raise `PeerGone`, `ProtocolError`."""
        empty = 0
        while True:
            self._inside = False
            kind, _, size = _PDU.unpack(self._exactly(6))
            self._inside = True
            if kind == _RELEASE:
                return
            if kind != _P_DATA:
                raise PeerBroke("association aborted") if kind == _ABORTED else ProtocolError(f"PDU of type {kind}")
            if not size:
                empty = _one_more(empty)
            while size:
                if size < _PDV.size:
                    raise ProtocolError("a fragment is cut short")
                length, context, control = _PDV.unpack(self._exactly(6))
                left = length - 2
                size -= length + 4
                if left < 0 or size < 0:
                    raise ProtocolError("fragment lengths do not fit")
                is_command, is_last = bool(control & 1), bool(control & 2)
                empty = 0 if left else _one_more(empty)
                if not left:
                    yield Pdv(context, is_command, is_last, b"")
                while left:
                    data = self._some(left)
                    left -= len(data)
                    yield Pdv(context, is_command, is_last and not left, data)

    def send(self, data: bytes) -> None:
        """Send whole PDUs. Raise OSError when the peer does not take them in time."""
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.settimeout(self.limits.send)
                self._sock.sendall(data)
                self._sock.settimeout(TICK)
            else:
                self._sock.sendall(data)
        except (BlockingIOError, TimeoutError):
            raise TimeoutError("what was sent was not taken in time") from None
        self.acknowledge_now()

    def acknowledge_now(self) -> None:
        """Have the kernel acknowledge at once, unless more came already: a peer with Nagle on waits 40 ms for it otherwise."""
        if self._start == self._end:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def wake(self) -> None:
        """End the wait of the thread that reads: it finds the connection closed. For another thread."""
        tls.cut(self._sock, socket.SHUT_RD)

    def released(self) -> None:
        """Answer the peer's release and let it close first."""
        with contextlib.suppress(OSError):
            self.send(_RELEASE_RP)
            self._linger()

    def release(self) -> None:
        """Ask for release and wait a moment for the answer."""
        with contextlib.suppress(OSError):
            self.send(_RELEASE_RQ)
            self._linger(10)

    def abort(self) -> None:
        """Tell the peer that it is over (A-ABORT)."""
        with contextlib.suppress(OSError):
            self.send(_ABORT)

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            tls.finish(self._sock)
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _linger(self, enough: int = 1 << 16) -> None:
        until, got = time.monotonic() + 2 * TICK, 0
        while got < enough and (left := until - time.monotonic()) > 0:
            self._sock.settimeout(left)
            data = self._sock.recv(4096)
            if not data:
                return
            got += len(data)

    def _exactly(self, count: int) -> memoryview:
        while self._end - self._start < count:
            self._fill()
        self._start += count
        return self._view[self._start - count:self._start]

    def _some(self, most: int) -> memoryview:
        if self._start == self._end:
            self._fill(most)
        count = min(most, self._end - self._start)
        self._start += count
        return self._view[self._start - count:self._start]

    def _fill(self, due: int = 0) -> None:
        """Read what is there; where so many bytes are `due`, these, in one piece when they come within a second."""
        if self._start == self._end:
            self._start = self._end = 0
        elif _BUFFER - self._end < 64:
            rest = bytes(self._view[self._start:self._end])
            self._start, self._end = 0, len(rest)
            self._view[:len(rest)] = rest
        silent, since = 0.0, time.monotonic()
        while True:
            try:
                count = self._read(due)
            except (BlockingIOError, TimeoutError):
                silent += TICK
                self._patience(silent)
                continue
            except OSError as error:
                raise PeerBroke(error.strerror or type(error).__name__) from error
            if not count:
                raise PeerBroke("connection closed")
            if self._heard is not None:
                self._heard(time.monotonic() - since, count)
            self._end += count
            self._patience(0.0)
            return


    def _read_socket(self, due: int) -> int:
        return self._sock.recv_into(self._view[self._end:], min(due, _BUFFER), socket.MSG_WAITALL if due else 0)

    def _read_records(self, due: int) -> int:
        """Read as `_read_socket` does. OpenSSL gives a record at once, of 16 KB at most: they are put together here."""
        until = time.monotonic() + TICK
        count = self._sock.recv_into(self._view[self._end:])
        most = min(due, _BUFFER)
        while 0 < count < most and time.monotonic() < until:
            try:
                more = self._sock.recv_into(self._view[self._end + count:most])
            except TimeoutError:
                break
            if not more:
                break
            count += more
        return count


def _one_more(empty: int) -> int:
    """Count what holds no byte: each costs a turn, and a peer that sends nothing else would never end."""
    if empty >= _EMPTY:
        raise ProtocolError("nothing but empty fragments")
    return empty + 1


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def add_fragment(command: bytearray, piece: Pdv) -> CommandSet | None:
    """Add a command fragment; return the command set when it is complete. Raise `ProtocolError` when it grows too long."""
    command += piece.data
    if len(command) > _COMMAND_LIMIT:
        raise ProtocolError("a command set is too long")
    if not piece.is_last:
        return None
    found = CommandSet.read(bytes(command))
    command.clear()
    return found
