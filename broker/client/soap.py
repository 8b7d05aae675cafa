"""SOAP calls: the endpoint's own WSDL tells address, operation and action; bodies are our own XML.

zeep reads the WSDL and carries plain SOAP. Its object model cannot hold ebRIM or HL7 V3 (substitution groups, open
content) and it keeps a whole MTOM answer in memory, so bodies are built by the codecs of `wire`, and MTOM travels
through httpx: parts are read from and written to files, hashed on the way, memory stays flat.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import requests
import tenacity
import zeep
from zeep.exceptions import Error as ZeepError
from zeep.transports import Transport

from broker.files.sources import CHUNK
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import new_uuid_urn
from broker.wire import envelope, mime
from broker.wire.soap import Part
from broker.wire.xml import Element, NotXml, parse

_BUSY = (502, 503, 504)
_LONGEST_WAIT = 30.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client waits for and takes. Times in seconds, sizes in bytes; `silence` covers a PACS that is asked first."""

    connect: float = 5.0
    silence: float = 900.0
    root_bytes: int = 64 << 20
    part_bytes: int = 8 << 30
    parts: int = 200_000
    attempts: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """One attachment of an answer, written to `path` byte for byte; `sha256` in hex."""

    path: Path
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MtomAnswer:
    """An MTOM answer: the Body child, and its attachments by Content-ID (without brackets)."""

    body: Element
    parts: Mapping[str, Landed]


@dataclass(frozen=True, slots=True)
class _Operation:
    address: str
    action: str


class _Cut(Unavailable):
    """The connection ended after the request was sent: whether it was carried out is not known."""


class Endpoint:
    """One SOAP endpoint. The WSDL is loaded at the first call; use as a context manager or call `close`."""

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        self.url, self.limits = url, limits or Limits()
        # Only what the caller names is trusted: no proxy, no CA bundle, no netrc from the environment.
        self._plain = Transport(timeout=self.limits.connect + 30, operation_timeout=(self.limits.connect, self.limits.silence))
        self._plain.session.trust_env, self._plain.session.stream = False, True
        self._stream = httpx.Client(trust_env=False, timeout=httpx.Timeout(self.limits.silence, connect=self.limits.connect))
        self._operations: dict[str, _Operation] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections."""
        self._plain.session.close()
        self._stream.close()

    def call(self, body: bytes) -> Element:
        """Send `body` as plain SOAP and return the Body child of the answer.

        Raise `Rejected` for a fault, `Unavailable` when the peer is away or busy after a few attempts.
        """
        return self._again(lambda: self._call(body))

    def exchange(
        self, body: bytes, parts: Sequence[Part], folder: Path, progress: Callable[[int, int], None] | None = None,
        *, repeatable: bool = True,
    ) -> MtomAnswer:
        """Send `body` with `parts` as MTOM, write the answer's attachments into `folder` (which exists).

        `progress` is told (attachments begun, bytes received) while they come. `repeatable` says that the same request
        may be sent again after a cut answer. Raise as `call` does; nothing is left in `folder` then.
        """
        return self._again(lambda: self._exchange(body, parts, folder, progress), after_cut=repeatable)

    def _again(self, attempt: Callable[[], _T], *, after_cut: bool = True) -> _T:
        def worth(error: BaseException) -> bool:
            return isinstance(error, Unavailable) and (after_cut or not isinstance(error, _Cut))

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(worth), stop=tenacity.stop_after_attempt(self.limits.attempts), wait=_as_told,
            reraise=True)(attempt)

    def _call(self, body: bytes) -> Element:
        operation, message_id = self._operation(body), new_uuid_urn()
        message = envelope.write_request(body, action=operation.action, to=operation.address, message_id=message_id)
        headers = {"Content-Type": f'{mime.SOAP_TYPE}; charset=utf-8; action="{operation.action}"'}
        try:
            with self._plain.post(operation.address, message, headers) as reply:
                data = _whole(reply.iter_content(CHUNK), self.limits)
        except requests.RequestException as error:
            raise _away(operation.address, error) from error
        return _body(reply.status_code, reply.headers, data, message_id)

    def _exchange(
        self, body: bytes, parts: Sequence[Part], folder: Path, progress: Callable[[int, int], None] | None,
    ) -> MtomAnswer:
        operation, message_id = self._operation(body), new_uuid_urn()
        root = envelope.write_request(body, action=operation.action, to=operation.address, message_id=message_id)
        message = mime.MtomBody(root, parts, root_id="root@client")
        headers = {"Content-Type": message.content_type, "Content-Length": str(message.length), "Accept-Encoding": "identity"}
        landing = _Landing(folder, self.limits, progress)
        try:
            with self._stream.stream("POST", operation.address, content=iter(message), headers=headers) as reply:
                landing.take(reply.headers.get("content-type", ""), reply.iter_raw(CHUNK))
            return MtomAnswer(body=_body(reply.status_code, reply.headers, landing.root, message_id), parts=landing.parts)
        except (httpx.TransportError, mime.BadMultipart) as error:
            landing.drop()
            raise _away(operation.address, error) from error
        except BaseException:
            landing.drop()
            raise

    def _operation(self, body: bytes) -> _Operation:
        if not self._operations:
            self._operations = self._load()
        name = str(parse(body).tag)
        if name not in self._operations:
            raise Rejected("NoOperation", f"{self.url} offers no operation for {name}")
        return self._operations[name]

    def _load(self) -> dict[str, _Operation]:
        """Read the WSDL: operations by the Clark name of their request element."""
        try:
            client = zeep.Client(f"{self.url}?wsdl", transport=self._plain)
        except requests.HTTPError as error:
            _refuse(error.response.status_code, error.response.headers)
            raise Rejected("NoWsdl", f"{self.url}?wsdl answers HTTP {error.response.status_code}") from error
        except requests.RequestException as error:
            raise _away(self.url, error) from error
        except ZeepError as error:
            raise Rejected("NoWsdl", f"{self.url}?wsdl is no usable WSDL: {type(error).__name__}") from error
        return dict(_operations(client))


class _Landing:
    """What an MTOM answer brings: the root part in memory, the others as files."""

    def __init__(self, folder: Path, limits: Limits, progress: Callable[[int, int], None] | None) -> None:
        self._folder, self._limits, self._progress = folder, limits, progress
        self._files: list[Path] = []
        self._size = 0
        self.root = b""
        self.parts: dict[str, Landed] = {}

    def take(self, content_type: str, chunks: Iterator[bytes]) -> None:
        """Read the whole answer; one that is not multipart is all root."""
        kind, parameters = mime.content_type_parameters(content_type)
        if kind != "multipart/related":
            self.root = _whole(chunks, self._limits)
            return
        start = mime.content_id(parameters.get("start", ""))
        for headers, content in mime.Multipart(chunks, parameters.get("boundary", ""), self._limits.parts):
            name = mime.content_id(headers.get("content-id", ""))
            if not self.root and start in ("", name):
                self.root = _whole(content, self._limits)
            else:
                self.parts[name] = self._write(headers.get("content-type", ""), content)

    def drop(self) -> None:
        """Leave nothing behind."""
        for path in self._files:
            path.unlink(missing_ok=True)

    def _write(self, media_type: str, content: Iterator[bytes]) -> Landed:
        handle, name = tempfile.mkstemp(prefix=".part-", dir=self._folder)
        path, digest, size = Path(name), hashlib.sha256(), 0
        self._files.append(path)
        with open(handle, "wb") as file:
            for data in mime.limited(content, self._limits.part_bytes, "part_bytes"):
                digest.update(data)
                size += file.write(data)
                self._size += len(data)
                if self._progress:
                    self._progress(len(self._files), self._size)
        return Landed(path=path, media_type=media_type, size=size, sha256=digest.hexdigest())


def _operations(client: Any) -> Iterator[tuple[str, _Operation]]:
    for service in client.wsdl.services.values():
        for port in service.ports.values():
            for operation in port.binding.all().values():
                for part in operation.abstract.input_message.parts.values():
                    action = operation.abstract.wsa_action or operation.soapaction
                    yield part.element.qname.text, _Operation(port.binding_options["address"], action)


def _whole(chunks: Iterable[bytes], limits: Limits) -> bytes:
    return b"".join(mime.limited(chunks, limits.root_bytes, "root_bytes"))


def _body(status: int, headers: Mapping[str, str], data: bytes, message_id: str) -> Element:
    """Return the Body child of an answer; a status other than 200 without a fault says nothing useful."""
    _refuse(status, headers)
    try:
        answer = envelope.read_answer(data)
    except NotXml as error:
        raise Rejected(f"HTTP{status}", "the answer is not SOAP") from error
    if answer.relates_to and answer.relates_to != message_id:
        raise Rejected("RelatesTo", "the answer belongs to another request")
    return answer.body


def _refuse(status: int, headers: Mapping[str, str]) -> None:
    if status in _BUSY:
        wait = headers.get("Retry-After", "")
        raise Unavailable(f"the broker (HTTP {status})", int(wait[:6]) if wait.isdecimal() else 5)


def _away(address: str, error: Exception) -> Unavailable:
    refused = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | requests.ConnectionError)
    return (Unavailable if refused else _Cut)(f"{address} ({type(error).__name__})", 1)


def _as_told(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return min(error.retry_after, _LONGEST_WAIT) if isinstance(error, Unavailable) else 0.0
