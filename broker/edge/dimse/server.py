"""pynetdicom's association server, hardened: a silent client or a full backlog must not hold up the others."""

import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from socketserver import TCPServer
from typing import Any, cast

import structlog
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import pump
from broker.edge.dimse.c_store import StoreRequest
from broker.edge.dimse.session import Session
from broker.edge.dimse.takeover import Collector, take

_config.LOG_HANDLER_LEVEL = "none"  # its default handlers format every PDU for a log nobody reads

log = structlog.get_logger("broker.dimse")


class SharedContexts(list[PresentationContext]):
    """Contexts that are not copied: deepcopy() of 190 classes takes 50 ms per association, negotiation changes none."""

    def __deepcopy__(self, memo: object) -> list[PresentationContext]:
        return list(self)


@dataclass(frozen=True, slots=True)
class Service:
    """What a server serves. Associations that negotiated nothing but `taken_classes` are taken over, None = none."""

    settings: ServerSettings
    open_session: Callable[[Association], Session]
    taken_classes: frozenset[str] | None
    stopping: threading.Event


class Acceptor(Association):
    """An association we accepted. Made by switching the class of pynetdicom's own."""

    collector: Collector
    session: Session

    def _run_reactor(self) -> None:
        service = cast("Server", self._server).service
        self.session = service.open_session(self)
        try:
            if self.collector.takes:
                pump.serve(self, take(self, self.collector.pieces), self.session, service.settings, service.stopping)
            else:
                super()._run_reactor()
        finally:
            self.session.end()


class Handler(RequestHandler):
    """Makes the association of one connection."""

    def handle(self) -> None:
        """Bound what pynetdicom reads, then begin."""
        self.request.settimeout(cast("Server", self.server).service.settings.io_timeout)
        super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.__class__ = Acceptor
        acceptor = cast("Acceptor", association)
        acceptor.collector = Collector(acceptor, cast("Server", self.server).service.taken_classes)
        return acceptor


class Server(ThreadedAssociationServer):
    """Accepts connections for a `Service`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, ae: Any, address: Any, ae_title: str, contexts: list[PresentationContext], *rest: Any, service: Service,
        **options: Any,
    ) -> None:
        self.service = service
        super().__init__(ae, address, ae_title, SharedContexts(contexts), *rest, **options)

    def server_bind(self) -> None:
        """Let several receiver processes share the port when there are several."""
        if self.service.settings.receivers > 1:
            assert self.socket is not None
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def shutdown(self) -> None:
        """Stop to accept and close the port. (pynetdicom's own wants a server that the AE lists, and ours is not.)"""
        TCPServer.shutdown(self)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection without Nagle's delay."""
        sock, address = super().get_request()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock, address

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's signature
        """Say that a connection failed before it was an association."""
        log.error("connection failed", reason=repr(sys.exc_info()[0]))


def store(event: Event) -> int:
    """Serve a C-STORE that pynetdicom assembled: when another service was negotiated beside storage."""
    session = cast("Acceptor", event.assoc).session
    request = cast("C_STORE", event.request)
    reception = session.receive(StoreRequest(
        str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(event.context.transfer_syntax)))
    try:
        reception.write(event.encoded_dataset(include_meta=False))
        return session.done(reception)
    except BaseException:
        reception.abort()
        raise


def echo(event: Event) -> int:
    """Serve a C-ECHO that pynetdicom assembled."""
    return cast("Acceptor", event.assoc).session.echo()
