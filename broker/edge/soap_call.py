"""SOAP calls that we begin: one envelope, plain or with its attachments as MTOM, to one endpoint."""

import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import httpx
import structlog
import tenacity

from broker.config.settings import OutboundSection
from broker.model.errors import Rejected, TooLarge, Unavailable
from broker.model.ids import new_uuid_urn
from broker.model.transaction import Packaging
from broker.security.tls import client_context
from broker.wire import envelope
from broker.wire.mime import SOAP_TYPE, BadMultipart, MtomBody, Multipart, content_id, content_type_parameters, limited
from broker.wire.soap import Part
from broker.wire.xml import Element

log = structlog.get_logger("broker.outbound")

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How long a peer may take, in seconds, how much it may answer, in bytes, and how it is called over https."""

    connect: float = 5.0
    silence: float = 60.0
    max_answer: int = 16 << 20
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    @classmethod
    def of(cls, settings: OutboundSection) -> Self:
        """Return what the settings say. Raise `ConfigError` where a certificate cannot be used."""
        return cls(connect=settings.connect, silence=settings.silence, max_answer=settings.max_answer,
                   tls=client_context(settings))


@dataclass(frozen=True)
class SoapCall:
    """One endpoint. `what` is how an error calls the peer."""

    url: str
    what: str
    options: CallOptions = field(default_factory=CallOptions)

    def exchange(
        self, body: bytes, action: str, parts: tuple[Part, ...] = (), packaging: Packaging = Packaging.SIMPLE,
    ) -> Element:
        """Return the child of the answer's Body. Raise `Fault` for a fault of ours, `Unavailable` for any of the peer."""
        root = envelope.write_request(body, action=action, to=self.url, message_id=new_uuid_urn())
        content: Iterable[bytes] = (root,)
        headers = {"Content-Type": f"{SOAP_TYPE}; charset=UTF-8", "Content-Length": str(len(root)), "Accept-Encoding": "identity"}
        if packaging is Packaging.MTOM:
            message = MtomBody(root, parts)
            content = message
            headers |= {"Content-Type": message.content_type, "Content-Length": str(message.length)}
        try:
            return self._read(self._post(content, headers))
        except httpx.HTTPError as error:
            raise self.gone(type(error).__name__) from error

    def gone(self, why: str) -> Unavailable:
        """Return the error of a peer that gave no useful answer; why is logged."""
        log.warning("no useful answer", peer=self.what, reason=why)
        return Unavailable(self.what)

    def _post(self, content: Iterable[bytes], headers: dict[str, str]) -> bytes:
        """Return the answer's envelope. Only a refused connection is tried again: after that nobody knows what was done."""
        timeout = httpx.Timeout(self.options.silence, connect=self.options.connect)
        refused = tenacity.retry_if_exception_type(httpx.ConnectError)
        attempts = tenacity.Retrying(
            retry=refused, stop=tenacity.stop_after_attempt(_ATTEMPTS), wait=tenacity.wait_exponential(0.1), reraise=True)
        with httpx.Client(trust_env=False, verify=self.options.tls, timeout=timeout) as client:
            return attempts(self._attempt, client, content, headers)

    def _attempt(self, client: httpx.Client, content: Iterable[bytes], headers: dict[str, str]) -> bytes:
        with client.stream("POST", self.url, content=_pieces(content), headers=headers) as reply:
            kind, parameters = content_type_parameters(reply.headers.get("content-type", ""))
            if reply.headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise self.gone("a content coding that was not asked for")
            chunks = limited(reply.iter_raw(), self.options.max_answer, "outbound.max_answer")
            try:
                if kind == SOAP_TYPE and reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return b"".join(chunks)
                if kind == "multipart/related":
                    return _root(chunks, parameters)
            except (BadMultipart, TooLarge) as error:
                raise self.gone(str(error)) from error
            raise self.gone(f"HTTP {reply.status_code}")

    def _read(self, data: bytes) -> Element:
        try:
            return envelope.read_answer(data).body
        except envelope.Fault as fault:
            if fault.problems[0].code == "Receiver":
                raise self.gone("a fault") from fault
            raise
        except Rejected as error:
            raise self.gone("no SOAP answer") from error


def _pieces(content: Iterable[bytes]) -> Iterator[bytes]:
    yield from content


def _root(chunks: Iterable[bytes], parameters: Mapping[str, str]) -> bytes:
    start = content_id(parameters.get("start", ""))
    found = b""
    for headers, body in Multipart(chunks, parameters.get("boundary", "")):
        if not found and (not start or content_id(headers.get("content-id", "")) == start):
            found = b"".join(body)
    return found
