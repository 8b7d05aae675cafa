"""Builds a SOAP endpoint from rows: one spyne Application, its operations generated from `row.messages`."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from broker.config.settings import Settings
from broker.edge.door.shares import Slots, peer_of
from broker.edge.soap import faults, schema
from broker.edge.soap.compat import AnyXml, Application, Service, ServiceMeta, rpc
from broker.edge.soap.faults import SoapFault
from broker.edge.soap.intake import Limits
from broker.edge.soap.later import Later
from broker.edge.soap.protocol import BrokerSoap12, Operation, operation_of
from broker.edge.soap.spool import SPOOL, sweep
from broker.edge.soap.transport import SoapTransport, StartResponse, internal_error
from broker.edge.soap.wsdl import documents
from broker.files.modes import make_folder
from broker.model.caller import AuditFacts, Caller
from broker.model.errors import BrokerError, TooLarge, Unavailable
from broker.model.transaction import Packaging
from broker.security.gate import Gate
from broker.wire.soap import SoapReply, SoapRequest, SoapTransaction


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the endpoints of a process have together: the retrieves it runs at once, and what posts answers."""

    slots: Slots
    later: Later


class SoapApplication:
    """The WSGI application of one endpoint.

    `rows` are its SOAP rows with their actors, `wsdl` the document served at ?wsdl (empty: none).
    """

    def __init__(
        self, rows: Sequence[SoapTransaction], gate: Gate, settings: Settings, wsdl: bytes, shared: Shared,
    ) -> None:
        self._gate, self._slots = gate, shared.slots
        server = settings.server
        self._local_node = settings.public_url + rows[0].row.endpoint
        operations = [
            Operation(served, message) for served in (validated(one, server.max_listed) for one in rows)
            for message in served.row.messages]
        spool = settings.documents_folder / SPOOL if any(one.row.packaging is Packaging.MTOM for one in rows) else None
        if spool is not None:
            make_folder(spool)
            sweep(spool)
        application = Application(
            [_service(operations, self._perform)], tns=f"urn:broker{rows[0].row.endpoint}", out_protocol=BrokerSoap12(),
            in_protocol=BrokerSoap12(plain_retrieve=server.plain_retrieve, allows=shared.later.allows),
            documents_container=documents(wsdl))
        self._transport = SoapTransport(
            application, Limits(server.max_request, server.max_body, server.max_parts), spool, self._broken, shared.later)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self._transport(environ, start_response)

    def _perform(self, context: Any, body: Any) -> SoapReply:
        operation = operation_of(context.descriptor)
        served, exchange = operation.served, context.transport
        if served.row.takes_slot:
            exchange.release = self._slots.take(peer_of(exchange.address))
            if exchange.release is None:
                served = _without_slot(served)
        if exchange.intake.full is not None:
            served = _failing(served, exchange.intake.full)
        request = SoapRequest(body=body, message=operation.message, attachments=exchange.intake.attachments)
        try:
            return self._gate.perform(served, request, self._caller(context))
        except SoapFault:
            raise
        except Exception as error:  # noqa: BLE001 - the edge's dispatch: a bug is answered and logged once, here
            raise internal_error(error, served.row.code) from None

    def _caller(self, context: Any) -> Caller:
        return Caller(
            node=context.transport.node, address=context.transport.address, local_node=self._local_node,
            certificate=context.transport.certificate)

    def _broken(self, context: Any) -> None:
        self._gate.broken(operation_of(context.descriptor).served.row, self._caller(context))


def _service(operations: Sequence[Operation], perform: Callable[[Any, Any], SoapReply]) -> type[Service]:
    """Return a spyne service with one method per operation; each descriptor carries its operation in `udd`."""
    def method(name: str, operation: Operation) -> Any:
        def run(context: Any, body: Any) -> SoapReply:
            return perform(context, body)
        run.__name__ = name
        return rpc(
            AnyXml, _returns=AnyXml, _body_style="bare", _in_message_name=name, _out_message_name=f"{name}Answer",
            _udd={"operation": operation})(run)

    names = [f"operation{n}" for n in range(len(operations))]
    return ServiceMeta("Endpoint", (Service,), {
        name: method(name, operation) for name, operation in zip(names, operations, strict=True)})


def validated(served: SoapTransaction, most: int) -> SoapTransaction:
    """Return the row with two checks as the first steps of its reading, so that a refusal is audited like any other:

    that it lists no more than `most` of what it lists, and that it agrees with its schema.
    """
    row = served.row
    if not row.schema:
        return served
    schema.load(row.schema)  # a schema that does not load stops the start, not the first request

    def read(raw: SoapRequest, facts: AuditFacts) -> Any:
        if row.listed and next(itertools.islice(raw.body.iter(*row.listed), most, None), None) is not None:
            raise TooLarge(f"server.max_listed = {most} in one request")
        schema.check(row.schema, raw.body)
        return row.read(raw, facts)
    return dataclasses.replace(served, row=dataclasses.replace(row, read=read))


def _without_slot(served: SoapTransaction) -> SoapTransaction:
    """Return the row as it runs when all slots are taken: audited, and answered as HTTP 503."""
    return dataclasses.replace(served, row=dataclasses.replace(served.row, read=_no_slot, refuse=_busy))


def _failing(served: SoapTransaction, error: BrokerError) -> SoapTransaction:
    """Return the row as it runs when its request could not be taken in: refused and audited like any other."""
    def read(_raw: SoapRequest, _facts: AuditFacts) -> NoReturn:
        raise error
    return dataclasses.replace(served, row=dataclasses.replace(served.row, read=read))


def _no_slot(_raw: SoapRequest, _facts: AuditFacts) -> NoReturn:
    raise Unavailable("a retrieve slot")


def _busy(_raw: SoapRequest, error: BrokerError) -> NoReturn:
    raise faults.of(error)
