"""Who calls, and what an audit record needs to know of one call."""

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from broker.model.ids import PatientId


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate a peer has shown, verified: its subject as in `CN=modality,O=Hospital`, the names it is valid for as in
    `DNS:ct1.hospital` (subjectAltName), and the SHA-256 of its DER form in hexadecimal digits, by which one is known.
    """

    subject: str
    names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def of(cls, der: bytes, fields: Mapping[str, Any]) -> Self:
        """Make it of what `SSLSocket.getpeercert` returns in its two forms."""
        subject = ",".join(
            f"{_SHORT.get(key, key)}={value}" for part in reversed(fields.get("subject", ())) for key, value in part)
        names = tuple(f"{kind}:{value}" for kind, value in fields.get("subjectAltName", ()))
        return cls(subject, names, hashlib.sha256(der).hexdigest())


# Attribute types of RFC 4514 section 3.
_SHORT = {"commonName": "CN", "localityName": "L", "stateOrProvinceName": "ST", "organizationName": "O",
          "organizationalUnitName": "OU", "countryName": "C", "streetAddress": "STREET", "domainComponent": "DC", "userId": "UID"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The peer of one call. `node` is what it calls itself (AE title, MSH-4|MSH-3, reply address); all empty = anonymous.

    `certificate` is what it has shown over TLS; None on a plain port, or where it showed none.
    """

    node: str = ""
    address: str = ""
    user: str = ""
    role: str = ""
    purpose: str = ""
    local_node: str = ""
    certificate: Certificate | None = None


ANONYMOUS = Caller()


def ip_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a caller's address, one of IPv4 as such however the socket tells it; None for what is no address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@dataclass(slots=True, kw_only=True)
class AuditFacts:
    """What a handler learns about its subject while it works; the audit record is written from it, also after a failure.

    `query` is the request as bytes (ITI-18, ITI-9, ITI-45 …) and `query_id` its id; `message_id` is MSH-10 or the V3 id.
    `documents` are (repository uid, document uid); `studies` map a Study Instance UID to its SOP Instance UIDs.
    `action` overrides the row's audit action (C create, R read, U update, D delete, E execute), `actions` does so for
    one patient (a merge deletes one and updates the other).
    """

    patients: list[PatientId] = field(default_factory=list)
    submission_set: str = ""
    documents: list[tuple[str, str]] = field(default_factory=list)
    studies: dict[str, list[str]] = field(default_factory=dict)
    query: bytes = b""
    query_id: str = ""
    message_id: str = ""
    action: str = ""
    actions: dict[PatientId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a transaction, as its handler sees it."""

    caller: Caller
    facts: AuditFacts
