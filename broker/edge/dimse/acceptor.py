"""Serves an association that was accepted: C-STORE and C-ECHO until release, at the speed of the disk."""

import socket
import threading
import time
import traceback
from collections.abc import Mapping

import structlog

from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import pdata
from broker.edge.dimse.messages import Message, Messages, response
from broker.edge.dimse.pdata import Limits, PeerGone, ProtocolError, UpperLayer
from broker.edge.dimse.places import Place
from broker.edge.dimse.session import Session
from broker.edge.door.rate import MinimumRate
from broker.model.errors import BrokerError

_ROOM = "another association needs the place"

log = structlog.get_logger("broker.dimse")


class GivenUp(Exception):
    """We end the association: the peer was silent for too long, or we stop."""


class AcceptedAssociation:
    """One association: its socket, what was negotiated, and its place. `length` is the longest PDU the peer takes."""

    def __init__(  # noqa: PLR0913, PLR0917 - one argument per thing that was negotiated or lent
        self, sock: socket.socket, syntaxes: Mapping[int, str], length: int, session: Session, settings: ServerSettings,
        stopping: threading.Event, place: Place,
    ) -> None:
        self._session, self._settings, self._stopping, self._place = session, settings, stopping, place
        self._rate = MinimumRate(settings.min_rate, settings.io_timeout)
        self._last = self._began = time.monotonic()
        self._came, self._length = 0, length
        limits = Limits(send=settings.io_timeout, data_set=settings.max_message)
        self._upper = UpperLayer(sock, limits, self._patience, self._heard)
        self._messages = Messages(self._upper, syntaxes, session.receive, session.done, length)

    @property
    def _busy(self) -> bool:
        return self._upper.inside or self._messages.busy

    @property
    def idle(self) -> float:
        """Seconds without anything to do; 0 in the middle of a message."""
        return 0.0 if self._busy else time.monotonic() - self._last

    @property
    def lasting(self) -> float:
        """Seconds since the message under way began; 0 between messages."""
        return time.monotonic() - self._began if self._busy else 0.0

    @property
    def came(self) -> int:
        """Bytes of the message under way that came."""
        return self._came

    def wake(self) -> None:
        """End the wait of the thread that reads: it looks whether it has to make room."""
        self._upper.wake()

    def run(self) -> None:
        """Serve until the association is over, however it ends; the socket is closed on return."""
        try:
            self._upper.begin()
            for message in self._messages.incoming():
                self._answer(message)
            self._upper.released()
        except (PeerGone, OSError) as error:
            if self._place.evicted:
                log.warning("association aborted", hospital=self._place.hospital.key, reason=_ROOM)
                self._upper.abort()
            else:
                log.info("peer is gone", hospital=self._place.hospital.key, reason=str(error))
        except (ProtocolError, GivenUp, BrokerError) as error:
            log.warning("association aborted", hospital=self._place.hospital.key, reason=str(error))
            self._upper.abort()
        except Exception as error:  # noqa: BLE001 - the association's edge: a bug ends this one only, the peer hears of it
            place = traceback.extract_tb(error.__traceback__)[-1]   # never the text: it may hold a patient's data
            log.error("association failed", error=type(error).__name__, file=place.filename, line=place.lineno)
            self._upper.abort()
        finally:
            self._upper.close()

    def _answer(self, message: Message) -> None:
        field = message.command.number(pdata.FIELD)
        if field == pdata.C_ECHO_RQ:
            self._upper.send(response(message.context, message.command, self._session.echo(), longest=self._length))
        elif field != pdata.C_CANCEL_RQ:    # nothing of ours can be cancelled
            raise ProtocolError(f"operation 0x{field & 0xFFFF:04X} was not negotiated")

    def _heard(self, waited: float, count: int) -> None:
        self._last = now = time.monotonic()
        if not self._busy:
            self._began, self._came = now, count
            self._rate.begin()
            return
        self._came += count
        try:
            self._rate.received(waited, count)
        except TimeoutError as error:
            raise GivenUp(str(error)) from error

    def _patience(self, silent: float) -> None:
        if self._place.evicted:
            raise GivenUp(_ROOM)
        busy = self._busy
        if silent >= (self._settings.io_timeout if busy else self._settings.idle_timeout):
            raise GivenUp(f"silent for {silent:.0f} seconds")
        if self._stopping.is_set() and not busy:
            raise GivenUp("the broker stops")
