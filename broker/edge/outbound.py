"""Transactions we begin over SOAP: a manifest to a repository (RAD-68, ITI-41), a submission to a registry (ITI-42).

Both are audited here, as the sending side (ITI TF-2 3.41.5.1, 3.42.5.1).
"""

from urllib.parse import urlsplit
from xml.sax.saxutils import quoteattr

from broker.edge.soap_call import CallOptions, SoapCall
from broker.files.sources import Octets
from broker.model.caller import Call, Caller
from broker.model.errors import Problem, Rejected, Unavailable, XdsCode
from broker.model.transaction import AuditEvent, Message, Packaging, TransactionRow, Wire
from broker.security.gate import Gate
from broker.wire.ebxml import SUCCESS, RegistryResponse, Submission, read_registry_response
from broker.wire.ports import Manifest
from broker.wire.soap import Part
from broker.wire.xml import LCM, RS, XDS, XOP, canonical

# Codes of a peer that may well accept the same submission later.
_PASSING = {
    XdsCode.REGISTRY_BUSY, XdsCode.REPOSITORY_BUSY, XdsCode.REGISTRY_NOT_AVAILABLE, XdsCode.REGISTRY_OUT_OF_RESOURCES,
    XdsCode.REPOSITORY_OUT_OF_RESOURCES,
}


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
        self._row, self._what, self._gate = row, what, gate
        self._call = SoapCall(url, what, options or CallOptions())
        self._caller = Caller(node=url, address=urlsplit(url).hostname or "", local_node=own_node)

    def send(self, body: bytes, parts: tuple[Part, ...], submission: Submission) -> tuple[Problem, ...]:
        with self._gate.outgoing(self._row, self._caller) as facts:
            submission.objects.note(facts)
            answer = self._call.exchange(body, self._row.messages[0].action, parts, self._row.packaging)
            if answer.tag != f"{{{RS}}}RegistryResponse":
                raise self._call.gone("no RegistryResponse")
            return self._judged(read_registry_response(answer))

    def _judged(self, response: RegistryResponse) -> tuple[Problem, ...]:
        if response.status == SUCCESS:
            return response.warnings
        problems = response.problems or (Problem(XdsCode.REGISTRY_ERROR, f"the {self._what} refused and said nothing why"),)
        if all(problem.code in _PASSING for problem in problems):
            raise Unavailable(self._what)
        raise Rejected.of(problems)


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
