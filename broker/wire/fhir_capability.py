"""What the FHIR endpoint says of itself: the CapabilityStatement, from the rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Generic

import broker
from broker.model.transaction import Actor, Request, Result, Transaction
from broker.wire.fhir import MEDIA_TYPES
from broker.wire.rest import RestReply, RestRequest

ENDPOINT: Final = "/fhir"
_VERSION: Final = "4.0.1"


@dataclass(frozen=True, kw_only=True)
class FhirTransaction(Transaction[Actor, RestRequest, Request, Result, RestReply], Generic[Actor, Request, Result]):
    """A transaction on a resource, with what the CapabilityStatement says of it.

    `resource` is the type; `declares` holds elements of `CapabilityStatement.rest.resource`, whose lists are joined with those
    of the other rows. `actor` is the capability statement of the IHE actor that the row is part of.
    """

    endpoint: str = ENDPOINT
    resource: str = "Patient"
    declares: Mapping[str, Any] = field(default_factory=dict)
    actor: str


def capabilities(rows: Iterable[FhirTransaction[Any, Any, Any]], base: str) -> dict[str, Any]:
    """Return the CapabilityStatement of these rows, served below the address `base`."""
    resources: dict[str, dict[str, Any]] = {}
    actors = dict[str, None]()
    for row in rows:
        actors[row.actor] = None
        resource = resources.setdefault(row.resource, {"type": row.resource})
        for name, value in row.declares.items():
            resource[name] = [*resource.get(name, ()), *value] if isinstance(value, list) else value
    return {
        "resourceType": "CapabilityStatement", "name": "Broker", "status": "active",
        "date": datetime.now(UTC).date().isoformat(), "kind": "instance", "instantiates": [*actors],
        "software": {"name": "XDS-I broker", "version": broker.__version__},
        "implementation": {"description": "Patient identities of a region", "url": base},
        "fhirVersion": _VERSION, "format": [*MEDIA_TYPES.values()],
        "rest": [{"mode": "server", "resource": [*resources.values()]}]}
