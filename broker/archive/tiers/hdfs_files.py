"""Files of an HDFS: written once by a thread that is ahead of nobody, read by ranges."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from hdfs_native import Client, FileReader, WriteOptions

from broker.archive.tiers import hdfs_errors
from broker.archive.tiers.hdfs_calls import Call, Channel, Hung
from broker.archive.tiers.hdfs_errors import Trouble
from broker.archive.tiers.hdfs_link import Failed, Link, Patience

_AHEAD = 4 << 20        # bytes on their way between a caller and the thread that reads or writes for it
_AT_ONCE = 1 << 20      # bytes: up to here one call is cheaper than a stream
_SMALL = 128 << 10      # bytes: smaller pieces are gathered before they are written

_SHORT = Trouble("fewer bytes came than the file has")
_GONE = Trouble("the file was taken from its writer")
_LENGTH = Trouble("the file has not the length that was written")


class RawFile(Protocol):
    """A file being written, as hdfs-native's library has it."""

    def write(self, buf: bytes) -> int:
        """Write all of it."""
        ...

    def close(self) -> None:
        """Return when the NameNode has the file whole."""
        ...


def create(client: Client, path: str, options: WriteOptions) -> RawFile:
    """Return a new file that is closed only by whoever asks for it.

    hdfs-native's own `FileWriter` is closed when its memory is tidied, in whatever thread that happens, with whatever lock
    it holds: a call that may hang, for a file that was given up.
    """
    file = client.create(path, options)
    vars(file)["close"] = _left_alone
    raw: RawFile = file.inner
    return raw


def _left_alone() -> None:
    """In place of `FileWriter.close`."""


class Writer:
    """A file being written. The time its caller waits for the cluster, from the first byte to the end, has a deadline."""

    def __init__(self, link: Link, path: str, begin: Callable[[Client], RawFile], size: int) -> None:
        self._link, self._path = link, path
        self._patience = link.deadlines.write + size / link.deadlines.rate     # seconds left to wait
        self._written, self._small = 0, bytearray()
        self._file = link.ask(begin)
        self._channel = Channel(_AHEAD)
        try:
            self._call: Call[None] = link.begin(lambda _: self._pump())
        except Failed as failed:
            raise hdfs_errors.unavailable(failed.trouble) from None

    def write(self, data: bytes, /) -> None:
        """Take all of `data`."""
        self._written += len(data)
        if len(data) < _SMALL:
            self._small += data
            if len(self._small) >= _AT_ONCE:
                self._flush()
        else:
            self._flush()
            self._put(data)

    def close(self) -> None:
        """Return when the cluster has every byte, and the length it says is that of what was written."""
        self._flush()
        self._channel.full()
        self._wait()
        try:
            length = self._link.ask(lambda client: client.get_file_info(self._path)).length
        except FileNotFoundError as error:
            raise hdfs_errors.unavailable(_GONE) from error
        if length != self._written:
            raise hdfs_errors.unavailable(_LENGTH)

    def abort(self) -> None:
        """Drop what was written, as far as the cluster can be reached."""
        self._channel.over()
        self._link.calls.leave(self._call)
        with contextlib.suppress(Failed, FileNotFoundError):
            self._link.once(self._link.deadlines.metadata, lambda client: client.delete(self._path))

    def _flush(self) -> None:
        if self._small:
            data, self._small = bytes(self._small), bytearray()
            self._put(data)

    def _put(self, data: bytes) -> None:
        begun = time.monotonic()
        try:
            taken = self._channel.put(data, self._patience)
        except Hung:
            self._channel.over()
            self._link.leave(self._call)
            raise hdfs_errors.unavailable(hdfs_errors.HUNG) from None
        self._patience -= time.monotonic() - begun
        if not taken:
            self._wait()
            raise hdfs_errors.unavailable(_GONE)

    def _wait(self) -> None:
        """Return when the writing thread has ended well."""
        try:
            self._link.result(self._call, self._patience)
        except (FileNotFoundError, FileExistsError) as error:      # somebody removed it, or writes it
            raise hdfs_errors.unavailable(_GONE) from error
        except Failed as failed:
            self._channel.over()
            raise hdfs_errors.unavailable(failed.trouble) from failed

    def _pump(self) -> None:
        """Write what comes, and close the file when all has come: in a thread of its own."""
        try:
            while pieces := self._channel.take():
                for piece in pieces:
                    self._file.write(piece)
            if not self._channel.is_over:
                self._file.close()
        finally:
            self._channel.over()


class Reader:
    """Range reads of a closed file, by several threads at once. Opened anew, unseen, when DataNodes or NameNodes change."""

    def __init__(self, link: Link, path: str) -> None:
        self._link, self._path = link, path
        self._file: FileReader | None = link.look(lambda client: client.read(path))
        self.size = len(self._file)

    @property
    def is_open(self) -> bool:
        """Whether the last read of it went well: where its blocks were is where they are."""
        return self._file is not None

    def pread(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer only at the end of the file."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        attempts = _Attempts(self._link.deadlines.read + length / self._link.deadlines.rate)
        while True:
            try:
                data = self._link.once(attempts.left, lambda client: self._opened(client).read_range(offset, length))
                if len(data) == length:
                    return data
                failed = Failed(_SHORT)
            except Failed as error:
                failed = error
            self._file = None
            attempts.again(failed.trouble)

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """Return the bytes there in pieces as they come, read a little ahead; fewer only at the end of the file."""
        end = min(offset + length, self.size)
        if end - offset <= _AT_ONCE:
            if data := self.pread(offset, end - offset):
                yield data
            return
        attempts, came = _Attempts(self._link.deadlines.read), 0.0
        while offset < end:
            try:
                for piece in self._pieces(offset, end - offset):
                    offset += len(piece)
                    yield piece
                    came = time.monotonic()
                failed = Failed(_SHORT)
            except Failed as error:
                failed = error
            if offset < end:
                self._file = None
                if came:        # patience begins with each byte
                    attempts, came = _Attempts(self._link.deadlines.read + came - time.monotonic()), 0.0
                attempts.again(failed.trouble)

    def _opened(self, client: Client) -> FileReader:
        file = self._file
        if file is None:
            file = client.read(self._path)
            if len(file) != self.size:
                raise OSError(_SHORT.reason)
            self._file = file
        return file

    def _pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Return the bytes of one stream, fewer when the cluster gives no more. Raise FileNotFoundError or `Failed`."""
        channel = Channel(_AHEAD)
        call = self._link.begin(lambda client: self._pump(client, offset, length, channel))
        try:
            while pieces := channel.take(self._link.deadlines.read):
                yield from pieces
        except Hung:
            self._link.leave(call)
            raise Failed(hdfs_errors.HUNG) from None
        finally:
            channel.over()
        self._link.result(call, self._link.deadlines.read)

    def _pump(self, client: Client, offset: int, length: int, channel: Channel) -> None:
        """Hand over the bytes of one stream: in a thread of its own."""
        try:
            for piece in self._opened(client).read_range_stream(offset, length):
                if not channel.put(piece):
                    return
            channel.full()
        except BaseException:
            channel.over()
            raise


class _Attempts:
    """The attempts of one read: a second one at once with what the NameNode says now, more while the trouble is passing."""

    def __init__(self, seconds: float) -> None:
        self._patience, self._again = Patience(seconds), False

    @property
    def left(self) -> float:
        """Seconds."""
        return self._patience.left

    def again(self, trouble: Trouble) -> None:
        """Return when it is time for another attempt. Raise `Unavailable` when there is none."""
        if self._again or trouble is hdfs_errors.HUNG:
            self._patience.again(trouble)
        self._again = True
