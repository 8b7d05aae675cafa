"""The DICOM port: hospitals send their studies here, and what we fetch from an origin arrives here."""

import threading
import time

import structlog

from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.edge.dimse import c_echo, c_store
from broker.edge.dimse.association import Implementation
from broker.edge.dimse.pending import Pending
from broker.edge.dimse.server import Server, Service
from broker.edge.dimse.session import Session
from broker.edge.door.waiting import port_of
from broker.model.caller import Caller
from broker.model.ports import Received
from broker.security.gate import Gate
from broker.wire.tags import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION

ROWS = (c_echo.ROW, c_store.ROW)
LONGEST_PDU = 131072
_GRACE = 10.0       # seconds that objects under way get when we stop

log = structlog.get_logger("broker.dimse")


class Listener:
    """Listens from the moment it is made; `serve` answers. Only AE titles of the profile's hospitals are let in."""

    def __init__(self, received: Received, gate: Gate, profile: Profile, settings: Settings) -> None:
        self._received, self._gate, self._profile, self._settings = received, gate, profile, settings.server
        self._stopping = threading.Event()
        self._server = Server(Service(
            settings.server, profile, Implementation(IMPLEMENTATION_UID, IMPLEMENTATION_VERSION, LONGEST_PDU),
            self._open_session, port_of("tls.dicom", settings.tls.dicom, settings.tls.handshake), self._stopping))

    @property
    def port(self) -> int:
        """The port we listen on."""
        return self._server.port

    def serve(self, stop: threading.Event) -> None:
        """Serve until `stop` is set; then let objects under way finish for a moment."""
        log.info("listening", port=self.port, ae_title=self._settings.ae_title)
        self._server.serve(stop)
        self._stopping.set()
        until = time.monotonic() + _GRACE
        while self._server.associations and time.monotonic() < until:
            time.sleep(0.05)

    def _open_session(self, calling: str, peer: Pending, classes: frozenset[str]) -> Session:
        caller = Caller(
            node=calling, address=peer.address, local_node=self._settings.ae_title, certificate=peer.certificate)
        return Session(self._received, self._gate, self._profile, caller, self._settings.max_body, classes)
