"""Transactions we begin over SOAP: a manifest to a repository (RAD-68, ITI-41), a submission to a registry (ITI-42).

Both are audited here, as the sending side (ITI TF-2 3.41.5.1, 3.42.5.1).
"""

import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit
from xml.sax.saxutils import quoteattr

import httpx
import structlog
import tenacity

from broker.config.settings import OutboundSection
from broker.files.sources import Octets
from broker.model.caller import Call, Caller
from broker.model.errors import Problem, Rejected, TooLarge, Unavailable, XdsCode
from broker.model.ids import new_uuid_urn
from broker.model.transaction import AuditEvent, Message, Packaging, TransactionRow, Wire
from broker.security.gate import Gate
from broker.security.tls import client_context
from broker.wire import envelope
from broker.wire.ebxml import SUCCESS, RegistryResponse, Submission, read_registry_response
from broker.wire.mime import SOAP_TYPE, BadMultipart, MtomBody, Multipart, content_id, content_type_parameters, limited
from broker.wire.ports import Manifest
from broker.wire.soap import Part
from broker.wire.xml import LCM, RS, XDS, XOP, canonical

log = structlog.get_logger("broker.outbound")

# Codes of a peer that may well accept the same submission later.
_PASSING = {
    XdsCode.REGISTRY_BUSY, XdsCode.REPOSITORY_BUSY, XdsCode.REGISTRY_NOT_AVAILABLE, XdsCode.REGISTRY_OUT_OF_RESOURCES,
    XdsCode.REPOSITORY_OUT_OF_RESOURCES,
}
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


class SoapOutbound:
    """Sends manifests to the Document Repository at `submit_url`. `own_node` names us in the audit trail."""

    def __init__(self, submit_url: str, gate: Gate, own_node: str, options: CallOptions | None = None) -> None:
        self._peer = _Peer(RAD_68, "repository", submit_url, gate, own_node, options)

    def provide_and_register(self, manifest: Manifest) -> None:
        """Send RAD-68 and return when the repository answered Success.

        Raise `Rejected` with the repository's codes, `Unavailable` when it is away, busy or answers nonsense.
        """
        entry = manifest.submission.objects.documents[0]
        part = Part(content_id="manifest@broker", media_type=entry.mime_type, source=Octets(manifest.document))
        body = b"".join((
            f'<xds:ProvideAndRegisterDocumentSetRequest xmlns:xds="{XDS}">'.encode(), canonical(manifest.submission.element),
            f'<xds:Document id={quoteattr(entry.id)}><xop:Include xmlns:xop="{XOP}" href="cid:{part.content_id}"/></xds:Document>'
            "</xds:ProvideAndRegisterDocumentSetRequest>".encode()))
        self._peer.send(body, (part,), manifest.submission)


class RemoteRegistrar:
    """Registers at the Document Registry at `registry_url`. `own_node` names us in the audit trail."""

    def __init__(self, registry_url: str, gate: Gate, own_node: str, options: CallOptions | None = None) -> None:
        self._peer = _Peer(ITI_42, "registry", registry_url, gate, own_node, options)

    def register(self, submission: Submission, call: Call) -> tuple[Problem, ...]:  # noqa: ARG002 - the port's signature
        """Send ITI-42 and return the registry's warnings.

        Raise `Rejected` with its codes, `Unavailable` ("registry") when it is away, busy or answers nonsense: then
        nobody knows what it stored, and the same submission may be sent again.
        """
        return self._peer.send(canonical(submission.element), (), submission)


class _Peer:
    """One transaction towards one endpoint: send, read the RegistryResponse, audit."""

    def __init__(
        self, row: TransactionRow, what: str, url: str, gate: Gate, own_node: str, options: CallOptions | None,
    ) -> None:
        self._row, self._what, self._url, self._gate = row, what, url, gate
        self._options = options or CallOptions()
        self._caller = Caller(node=url, address=urlsplit(url).hostname or "", local_node=own_node)

    def send(self, body: bytes, parts: tuple[Part, ...], submission: Submission) -> tuple[Problem, ...]:
        with self._gate.outgoing(self._row, self._caller) as facts:
            submission.objects.note(facts)
            return self._judged(self._exchange(body, parts))

    def _exchange(self, body: bytes, parts: tuple[Part, ...]) -> RegistryResponse:
        action = self._row.messages[0].action
        root = envelope.write_request(body, action=action, to=self._url, message_id=new_uuid_urn())
        content: Iterable[bytes] = (root,)
        headers = {"Content-Type": f"{SOAP_TYPE}; charset=UTF-8", "Content-Length": str(len(root)), "Accept-Encoding": "identity"}
        if self._row.packaging is Packaging.MTOM:
            message = MtomBody(root, parts)
            content = message
            headers |= {"Content-Type": message.content_type, "Content-Length": str(message.length)}
        try:
            return self._read(self._post(content, headers))
        except httpx.HTTPError as error:
            raise self._gone(type(error).__name__) from error

    def _post(self, content: Iterable[bytes], headers: dict[str, str]) -> bytes:
        """Return the answer's envelope. Only a refused connection is tried again: after that nobody knows what was done."""
        timeout = httpx.Timeout(self._options.silence, connect=self._options.connect)
        refused = tenacity.retry_if_exception_type(httpx.ConnectError)
        attempts = tenacity.Retrying(
            retry=refused, stop=tenacity.stop_after_attempt(_ATTEMPTS), wait=tenacity.wait_exponential(0.1), reraise=True)
        with httpx.Client(trust_env=False, verify=self._options.tls, timeout=timeout) as client:
            return attempts(self._attempt, client, content, headers)

    def _attempt(self, client: httpx.Client, content: Iterable[bytes], headers: dict[str, str]) -> bytes:
        with client.stream("POST", self._url, content=_pieces(content), headers=headers) as reply:
            kind, parameters = content_type_parameters(reply.headers.get("content-type", ""))
            if reply.headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise self._gone("a content coding that was not asked for")
            chunks = limited(reply.iter_raw(), self._options.max_answer, "outbound.max_answer")
            try:
                if kind == SOAP_TYPE and reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return b"".join(chunks)
                if kind == "multipart/related":
                    return _root(chunks, parameters)
            except (BadMultipart, TooLarge) as error:
                raise self._gone(str(error)) from error
            raise self._gone(f"HTTP {reply.status_code}")

    def _read(self, data: bytes) -> RegistryResponse:
        try:
            answer = envelope.read_answer(data)
        except envelope.Fault as fault:
            if fault.problems[0].code == "Receiver":
                raise self._gone("a fault") from fault
            raise
        except Rejected as error:
            raise self._gone("no SOAP answer") from error
        if answer.body.tag != f"{{{RS}}}RegistryResponse":
            raise self._gone("no RegistryResponse")
        return read_registry_response(answer.body)

    def _judged(self, response: RegistryResponse) -> tuple[Problem, ...]:
        if response.status == SUCCESS:
            return response.warnings
        problems = response.problems or (Problem(XdsCode.REGISTRY_ERROR, f"the {self._what} refused and said nothing why"),)
        if all(problem.code in _PASSING for problem in problems):
            raise Unavailable(self._what)
        raise Rejected.of(problems)

    def _gone(self, why: str) -> Unavailable:
        log.warning("no useful answer", peer=self._what, reason=why)
        return Unavailable(self._what)


def _pieces(content: Iterable[bytes]) -> Iterator[bytes]:
    yield from content


def _root(chunks: Iterable[bytes], parameters: Mapping[str, str]) -> bytes:
    start = content_id(parameters.get("start", ""))
    found = b""
    for headers, body in Multipart(chunks, parameters.get("boundary", "")):
        if not found and (not start or content_id(headers.get("content-id", "")) == start):
            found = b"".join(body)
    return found


def _row(code: str, name: str, message: Message, packaging: Packaging) -> TransactionRow:
    event = AuditEvent(
        event_code="110106", event_text="Export", action="R", type_code=code, type_text=name,
        source_is_local=True, requestor_is_local=True)
    return TransactionRow(code=code, name=name, wire=Wire.SOAP, messages=(message,), audit=event, packaging=packaging)


RAD_68 = _row(
    "RAD-68", "Provide and Register Imaging Document Set",
    Message(
        name=f"{{{XDS}}}ProvideAndRegisterDocumentSetRequest", action="urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b",
        reply_action="urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-bResponse"),
    Packaging.MTOM)

ITI_42 = _row(
    "ITI-42", "Register Document Set-b",
    Message(
        name=f"{{{LCM}}}SubmitObjectsRequest", action="urn:ihe:iti:2007:RegisterDocumentSet-b",
        reply_action="urn:ihe:iti:2007:RegisterDocumentSet-bResponse"),
    Packaging.SIMPLE)
