"""The DICOM port: hospitals send their studies here, and what we fetch from an origin arrives here."""

import sys
import threading
import time

import structlog
from pynetdicom import AE, evt
from pynetdicom.association import Association

from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.edge.dimse import c_echo, c_store, contexts, server
from broker.edge.dimse.server import Acceptor, Handler, Server, Service
from broker.edge.dimse.session import Session
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

    def __init__(self, received: Received, gate: Gate, profile: Profile, settings: Settings, *, pump: bool = True) -> None:
        self._received, self._gate, self._profile, self._settings = received, gate, profile, settings.server
        ae = AE(ae_title=self._settings.ae_title)
        ae.implementation_class_uid, ae.implementation_version_name = IMPLEMENTATION_UID, IMPLEMENTATION_VERSION
        ae.require_called_aet = True
        ae.require_calling_aet = [title for hospital in profile.hospitals for title in (hospital.ae_title, *hospital.aliases)]
        ae.maximum_associations = sys.maxsize       # our server counts them itself
        ae.maximum_pdu_size = LONGEST_PDU
        ae.acse_timeout = self._settings.io_timeout
        ae.dimse_timeout = self._settings.io_timeout
        ae.network_timeout = self._settings.idle_timeout
        self._stopping = threading.Event()
        service = Service(self._settings, self._open_session, contexts.RECEIVED if pump else None, self._stopping)
        self._server = ae.make_server(
            (self._settings.host, self._settings.dicom_port), contexts=contexts.supported(), server_class=Server,
            request_handler=Handler, service=service,
            evt_handlers=[(evt.EVT_C_STORE, server.store), (evt.EVT_C_ECHO, server.echo)])

    @property
    def port(self) -> int:
        """The port we listen on."""
        port: int = self._server.server_address[1]
        return port

    def serve(self, stop: threading.Event) -> None:
        """Serve until `stop` is set; then let objects under way finish for a moment."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="dicom-accept")
        thread.start()
        log.info("listening", port=self.port, ae_title=self._settings.ae_title)
        while not stop.wait(1.0):
            if not thread.is_alive():
                raise RuntimeError("the accept loop has ended")     # the supervisor starts this role again
        self._stopping.set()
        self._server.shutdown()
        thread.join()
        until = time.monotonic() + _GRACE
        while (still := self._server.active_associations) and time.monotonic() < until:
            for association in still:
                if isinstance(association, Acceptor) and not association.is_taken:
                    association.abort(block=False)
            time.sleep(0.05)

    def _open_session(self, association: Association) -> Session:
        peer = association.requestor
        assert peer.address_info is not None
        caller = Caller(
            node=peer.ae_title, address=peer.address_info.address, local_node=self._settings.ae_title)
        return Session(self._received, self._gate, self._profile, caller, self._settings.max_body)
