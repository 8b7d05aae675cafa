"""SOAP 1.2 faults (SOAP 1.2 part 1, section 5.4): for envelope problems only, application errors travel in replies."""

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from broker.edge.soap.compat import Fault
from broker.model.errors import BrokerError, TooLarge, Unavailable
from broker.wire.xml import SOAP, WSA

OK = "200 OK"
SERVER_ERROR = "500 Internal Server Error"
BAD_REQUEST = "400 Bad Request"
TIMEOUT = "408 Request Timeout"
TOO_LARGE = "413 Content Too Large"
UNSUPPORTED = "415 Unsupported Media Type"
UNAVAILABLE = "503 Service Unavailable"

# Who is to blame decides (SOAP 1.2 part 2, 7.5.2.2); HTTP's own words are used where HTTP failed.
_STATUSES = {"Sender": BAD_REQUEST}

Name = tuple[str, str]


class SoapFault(Fault):
    """A fault on its way to the caller. `code` is Sender, Receiver, MustUnderstand, VersionMismatch or DataEncodingUnknown.

    `subcodes` are (namespace, local name), outermost first; `status` is that of the code where none is given; `header` is
    a ready header block; `retry_after` in seconds.
    """

    def __init__(
        self, code: str, reason: str, *, subcodes: Sequence[Name] = (), status: str = "", header: str = "",
        retry_after: int = 0,
    ) -> None:
        super().__init__("Client" if code == "Sender" else "Server", reason)
        self.code, self.reason, self.subcodes = code, reason, tuple(subcodes)
        self.status, self.header, self.retry_after = status or _STATUSES.get(code, SERVER_ERROR), header, retry_after

    @property
    def action(self) -> str:
        """The fault's wsa:Action (WS-Addressing SOAP binding 6): addressing faults have their own."""
        return f"{WSA}/fault" if any(namespace == WSA for namespace, _ in self.subcodes) else f"{WSA}/soap/fault"

    def body(self) -> bytes:
        """Return the Fault element; the prefix `s` is bound by the envelope."""
        inner = ""
        for namespace, local in reversed(self.subcodes):
            inner = f"<s:Subcode><s:Value xmlns:q={quoteattr(namespace)}>q:{local}</s:Value>{inner}</s:Subcode>"
        return (
            f"<s:Fault><s:Code><s:Value>s:{self.code}</s:Value>{inner}</s:Code>"
            f'<s:Reason><s:Text xml:lang="en">{escape(self.reason)}</s:Text></s:Reason></s:Fault>').encode()


def version_mismatch(reason: str) -> SoapFault:
    """Return the fault for another envelope; it names the one we speak (SOAP 1.2 part 1, 5.4.7)."""
    header = f'<s:Upgrade><s:SupportedEnvelope qname="e:Envelope" xmlns:e="{SOAP}"/></s:Upgrade>'
    return SoapFault("VersionMismatch", reason, header=header)


def not_understood(namespace: str, local: str) -> SoapFault:
    """Return the fault for a mandatory header we do not know, with its name (SOAP 1.2 part 1, 5.4.8)."""
    name = f'"q:{local}" xmlns:q={quoteattr(namespace)}' if namespace else f'"{local}"'
    header = f"<s:NotUnderstood qname={name}/>"
    return SoapFault("MustUnderstand", f"header {local} is not understood", header=header)


def of(error: BrokerError) -> SoapFault:
    """Return the fault for an error found before there was a transaction to answer it."""
    if isinstance(error, TooLarge):
        return SoapFault("Sender", str(error), status=TOO_LARGE)
    if isinstance(error, Unavailable):
        return SoapFault("Receiver", str(error), status=UNAVAILABLE, retry_after=error.retry_after)
    return SoapFault("Sender", str(error))
