"""Accepts associations: a stranger is refused by what its first bytes say, a hospital gets a thread as soon as it has a place."""

import contextlib
import socket
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from broker.config.profile import Profile
from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import association, contexts
from broker.edge.dimse.acceptor import AcceptedAssociation
from broker.edge.dimse.association import Answered, Context, Implementation
from broker.edge.dimse.pdata import ProtocolError
from broker.edge.dimse.pending import Pending, PendingConnections, Refusal
from broker.edge.dimse.places import Place, Places
from broker.edge.dimse.session import Session
from broker.edge.door import tls
from broker.edge.door.waiting import Tls
from broker.model.ids import is_uid

_HANDSHAKE = 5.0        # seconds to ask for an association once connected
_CRAWL = 4              # times `min_rate`: what is slower for `io_timeout` makes room for another of its own hospital
_BACKLOG = 1024
_PIECE, _PIECES = 65536, 16     # bytes at once, and how often: of what a refused peer sent behind its request
_STANDARD = "1.2.840.10008."
_TOLD = 1000            # private classes that are logged, of all hospitals

log = structlog.get_logger("broker.dimse")


@dataclass(frozen=True, slots=True)
class Service:
    """What a server serves, and as whom."""

    settings: ServerSettings
    profile: Profile
    implementation: Implementation
    open_session: Callable[[str, Pending, frozenset[str]], Session]     # calling AE title, who it is, classes that are taken
    port: Tls | None
    stopping: threading.Event


class Server:
    """Listens from the moment it is made; `serve` answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        self._hospitals = {
            title: hospital for hospital in service.profile.hospitals for title in (hospital.ae_title, *hospital.aliases)}
        share = settings.max_associations // max(len(service.profile.hospitals), 1)
        self._places = Places(settings.max_associations, share, _CRAWL * settings.min_rate, settings.io_timeout)
        self._socket = socket.create_server(
            (settings.host, settings.dicom_port), family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=_BACKLOG, reuse_port=settings.receivers > 1)
        self._told: set[tuple[str, str]] = set()
        self.port: int = self._socket.getsockname()[1]
        self._pending = PendingConnections(
            self._socket, settings.waiting_connections, min(_HANDSHAKE, settings.io_timeout), self._judge, self._enter,
            service.port)

    @property
    def associations(self) -> int:
        """How many associations there are."""
        return len(self._places)

    def serve(self, stop: threading.Event, tick: float = 0.1) -> None:
        """Accept until `stop` is set, then close the port."""
        try:
            while not stop.is_set():
                self._pending.step(tick)
        finally:
            self._pending.close()
            self._socket.close()

    def _judge(self, head: bytes) -> Refusal | None:
        """Say who is not let in; `head` is the fixed part of its request."""
        said = association.read_head(head)
        if not said.version & 1:
            return Refusal(association.NO_VERSION, "protocol version")
        if said.called != self._service.settings.ae_title:
            return Refusal(association.CALLED_UNKNOWN, f"called AE title {said.called!a} is not ours")
        if said.calling not in self._hospitals:
            return Refusal(association.CALLING_UNKNOWN, f"calling AE title {said.calling!a} belongs to no hospital")
        return None

    def _enter(self, peer: Pending) -> Refusal | None:
        """Begin the association of one that asked for it whole, where there is room."""
        calling = association.read_head(peer.request).calling
        hospital = self._hospitals[calling]
        place = self._places.take(hospital, peer.address)
        if place is None:
            return Refusal(association.NO_ROOM, f"hospital {hospital.key} has no place left")
        thread = threading.Thread(
            target=self._run, args=(peer, place, calling), name=f"association-{hospital.key}", daemon=True)
        try:
            thread.start()
        except RuntimeError:    # the system gives no more threads
            self._places.leave(place)
            return Refusal(association.NO_ROOM, "no thread can be started")
        return None

    def _run(self, peer: Pending, place: Place, calling: str) -> None:
        """Serve one association, from its request to its end. For a thread of its own."""
        sock = peer.sock
        try:
            self._associate(peer, place, calling)
        except ProtocolError as error:
            self._end(sock, place, str(error), association.INVALID)
        except OSError as error:
            log.info("peer is gone", hospital=place.hospital.key, reason=error.strerror or type(error).__name__)
        except Exception as error:   # noqa: BLE001 - the thread's edge: a bug ends this one only, the peer hears of it
            frame = traceback.extract_tb(error.__traceback__)[-1]   # never the text: it may hold what the peer sent
            self._end(sock, place, f"{type(error).__name__} in {frame.filename}:{frame.lineno}", association.UNSPECIFIED)
        finally:
            sock.close()
            self._places.leave(place)

    def _tell_private(self, hospital: str, refused: Iterable[str]) -> None:
        """Log once which private classes a hospital would send if its profile named them: their objects never come here."""
        for sop_class in refused:
            if is_uid(sop_class) and not sop_class.startswith(_STANDARD) and (hospital, sop_class) not in self._told:
                if len(self._told) >= _TOLD:
                    return
                self._told.add((hospital, sop_class))
                log.warning("private class not taken", hospital=hospital, sop_class=sop_class, setting="sop_classes")

    def _end(self, sock: socket.socket, place: Place, reason: str, answer: bytes) -> None:
        """Refuse a request that was let in; its place is free at once."""
        self._places.leave(place)
        log.warning("association refused", hospital=place.hospital.key, address=place.address, reason=reason)
        _refuse(sock, answer)

    def _associate(self, peer: Pending, place: Place, calling: str) -> None:
        service, sock, request = self._service, peer.sock, bytes(peer.request)
        sock.settimeout(service.settings.io_timeout)
        asked = association.read_request(request)
        if asked.application != association.APPLICATION_CONTEXT:
            self._end(sock, place, "its application context is not that of DICOM", association.NO_APPLICATION)
            return
        classes = contexts.taken(place.hospital)
        answered = _answers(asked.contexts, classes)
        self._tell_private(place.hospital.key, {context.abstract for context in asked.contexts} - classes)
        session = service.open_session(calling, peer, classes)
        syntaxes = {context.number: context.syntax for context in answered if context.result == association.TAKEN}
        place.served = served = AcceptedAssociation(
            sock, syntaxes, asked.length, session, service.settings, service.stopping, place)
        try:
            sock.sendall(association.write_accept(request, answered, service.implementation))
            served.run()
        finally:
            session.end()


def _answers(proposed: Iterable[Context], classes: frozenset[str]) -> list[Answered]:
    """Answer each context once: of several with one id the first counts."""
    first: dict[int, Context] = {}
    for context in proposed:
        first.setdefault(context.number, context)
    return [contexts.answer(context, classes) for context in first.values()]


def _refuse(sock: socket.socket, pdu: bytes) -> None:
    """Say no. What came behind the request is read first: a close over unread bytes makes the kernel drop our answer."""
    with contextlib.suppress(OSError):      # BlockingIOError: there is nothing more
        sock.sendall(pdu)
        tls.finish(sock)
        for _ in range(_PIECES):
            if not sock.recv(_PIECE):
                return
