"""pynetdicom's association server, hardened: silent clients and idle associations must not hold up the others."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer, RequestHandler

from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import pump
from broker.edge.dimse.c_store import StoreRequest
from broker.edge.dimse.lobby import Lobby
from broker.edge.dimse.session import Session
from broker.edge.dimse.takeover import greet, is_taken, over, take

_config.LOG_HANDLER_LEVEL = "none"  # its default handlers format every PDU for a log nobody reads

_HANDSHAKE = 5.0        # seconds to ask for an association once connected
_CALM = 1.0             # seconds an association must have been idle to make room for another
_HOUSEKEEPING = 1.0
_FULL = b"\3\0\0\0\0\4\0\2\3\2"    # A-ASSOCIATE-RJ: transient, by the service provider, local limit exceeded

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

    session: Session
    served: pump.Served | None = None

    @property
    def idle(self) -> float:
        """Seconds it has had nothing to do, as far as is known."""
        return self.served.idle if self.served is not None else 0.0

    @property
    def is_going(self) -> bool:
        """Whether it was told to make room for another."""
        return self.served is not None and self.served.evicted

    @property
    def is_taken(self) -> bool:
        """Whether its socket is taken from pynetdicom, or is going to be."""
        return is_taken(self, cast("Server", self._server).service.taken_classes)

    def _run_reactor(self) -> None:
        service = cast("Server", self._server).service
        self.session = service.open_session(self)
        try:
            if self.is_taken:
                self._serve(service)
            else:
                super()._run_reactor()
        finally:
            self.session.end()

    def _serve(self, service: Service) -> None:
        sock = take(self)
        if sock is None:
            over(self, released=False)
            return
        self.served = pump.Served(self, sock, self.session, service.settings, service.stopping)
        self.served.run()


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
        server = cast("Server", self.server)
        greet(acceptor, server.said.pop(self.request), lambda: acceptor.is_taken, server.service.settings.io_timeout)
        return acceptor


class Server(AssociationServer):
    """Accepts connections for a `Service`; pynetdicom sees those that ask for an association, no others."""

    request_queue_size = 1024

    def __init__(
        self, ae: Any, address: Any, ae_title: str, contexts: list[PresentationContext], *rest: Any, service: Service,
        **options: Any,
    ) -> None:
        self.service = service
        self.said: dict[socket.socket, bytes] = {}
        self._ended, self._over = threading.Event(), threading.Event()
        super().__init__(ae, address, ae_title, SharedContexts(contexts), *rest, **options)

    def server_bind(self) -> None:
        """Let several receiver processes share the port when there are several."""
        if self.service.settings.receivers > 1:
            assert self.socket is not None
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until `shutdown`."""
        settings = self.service.settings
        assert self.socket is not None
        lobby = Lobby(self.socket, settings.waiting_connections, min(_HANDSHAKE, settings.io_timeout), self._enter)
        clean = 0.0
        try:
            while not self._ended.is_set():
                lobby.step(poll_interval)
                if time.monotonic() >= clean:
                    self.service_actions()
                    clean = time.monotonic() + _HOUSEKEEPING
        finally:
            lobby.close()
            self._over.set()

    def shutdown(self) -> None:
        """Stop to accept and close the port."""
        self._ended.set()
        self._over.wait()
        self.server_close()

    def _enter(self, sock: socket.socket, address: tuple[str, int], said: bytes) -> None:
        """Negotiate with one that asked for an association, where there is room for it."""
        sock.settimeout(self.service.settings.io_timeout)
        if not self._has_room():
            log.warning("association refused", reason="limit", limit=self.service.settings.max_associations)
            with contextlib.suppress(OSError):
                sock.send(_FULL)
            self.shutdown_request(sock)
            return
        self.said[sock] = said
        try:
            self.finish_request(sock, address)
        except Exception:   # noqa: BLE001 - the accept loop: one that fails must not end the others
            self.handle_error(sock, address)
            self.said.pop(sock, None)
            self.shutdown_request(sock)

    def _has_room(self) -> bool:
        """Say whether one more association may be; where there are enough, the one that is idle longest has to go."""
        active = [one for one in cast("list[Acceptor]", self.active_associations) if not one.is_going]
        if len(active) < self.service.settings.max_associations:
            return True
        longest = max(active, key=lambda one: one.idle)
        if longest.served is None or longest.idle < _CALM:
            return False
        longest.served.evict()
        return True

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
        status = session.done(reception)
    except BaseException:
        reception.abort()
        raise
    reception.settle()
    return status


def echo(event: Event) -> int:
    """Serve a C-ECHO that pynetdicom assembled."""
    return cast("Acceptor", event.assoc).session.echo()
