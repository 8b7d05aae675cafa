"""Serves an association whose socket was taken: C-STORE and C-ECHO until release, at the speed of the disk."""

import socket
import threading
import time
import traceback

import structlog
from pynetdicom.association import Association

from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import pdata
from broker.edge.dimse.messages import Message, Messages, response
from broker.edge.dimse.pdata import Limits, Link, PeerGone, ProtocolError
from broker.edge.dimse.session import Session
from broker.edge.dimse.takeover import over
from broker.edge.pace import Pace
from broker.model.errors import BrokerError

log = structlog.get_logger("broker.dimse")


class GivenUp(Exception):
    """We end the association: the peer was silent for too long, or we stop."""


class Served:
    """One taken association."""

    def __init__(
        self, association: Association, sock: socket.socket, session: Session, settings: ServerSettings,
        stopping: threading.Event,
    ) -> None:
        self._association = association
        self._session, self._settings, self._stopping = session, settings, stopping
        self._pace = Pace(settings.min_rate, settings.io_timeout)
        self._last, self._evicted = time.monotonic(), False
        limits = Limits(send=settings.io_timeout, data_set=settings.max_message)
        self._link = Link(sock, limits, self._patience, self._heard)
        syntaxes = {
            context.context_id: str(context.transfer_syntax[0])
            for context in association.accepted_contexts if context.context_id is not None}
        self._messages = Messages(self._link, syntaxes, session.receive, session.done)

    @property
    def _busy(self) -> bool:
        return self._link.inside or self._messages.busy

    @property
    def idle(self) -> float:
        """Seconds without anything to do; 0 in the middle of a message, and when it is being closed anyway."""
        return 0.0 if self._busy or self._evicted else time.monotonic() - self._last

    @property
    def evicted(self) -> bool:
        """Whether it was told to make room."""
        return self._evicted

    def evict(self) -> None:
        """Have it end soon; for another thread."""
        self._evicted = True
        self._link.wake()

    def run(self) -> None:
        """Serve until the association is over, however it ends; the socket is closed on return."""
        released = False
        try:
            self._link.begin()
            for message in self._messages.incoming():
                self._answer(message)
            self._link.released()
            released = True
        except (PeerGone, OSError) as error:
            log.info("peer is gone", reason="another association needs the place" if self._evicted else str(error))
            if self._evicted:
                self._link.abort()
        except (ProtocolError, GivenUp, BrokerError) as error:
            log.warning("association aborted", reason=str(error))
            self._link.abort()
        except Exception as error:  # noqa: BLE001 - the association's edge: a bug ends this one only, the peer hears of it
            place = traceback.extract_tb(error.__traceback__)[-1]   # never the text: it may hold a patient's data
            log.error("association failed", error=type(error).__name__, file=place.filename, line=place.lineno)
            self._link.abort()
        finally:
            self._link.close()
            over(self._association, released=released)

    def _answer(self, message: Message) -> None:
        field = message.command.number(pdata.FIELD)
        if field == pdata.C_ECHO_RQ:
            self._link.send(response(message.context, message.command, self._session.echo()))
        elif field != pdata.C_CANCEL_RQ:    # nothing of ours can be cancelled
            raise ProtocolError(f"operation 0x{field & 0xFFFF:04X} was not negotiated")

    def _heard(self, waited: float, count: int) -> None:
        self._last = time.monotonic()
        if not self._busy:
            self._pace.begin()
            return
        try:
            self._pace.heard(waited, count)
        except TimeoutError as error:
            raise GivenUp(str(error)) from error

    def _patience(self, silent: float) -> None:
        busy = self._busy
        if silent >= (self._settings.io_timeout if busy else self._settings.idle_timeout):
            raise GivenUp(f"silent for {silent:.0f} seconds")
        if self._stopping.is_set() and not busy:
            raise GivenUp("the broker stops")
