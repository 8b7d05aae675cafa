"""Serves an association whose socket was taken: C-STORE and C-ECHO until release, at the speed of the disk."""

import threading
import traceback

import structlog
from pynetdicom.association import Association

from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import pdata
from broker.edge.dimse.messages import Message, Messages, response
from broker.edge.dimse.pdata import Limits, Link, PeerGone, ProtocolError
from broker.edge.dimse.session import Session
from broker.edge.dimse.takeover import Taken, over
from broker.model.errors import BrokerError

log = structlog.get_logger("broker.dimse")


class GivenUp(Exception):
    """We end the association: the peer was silent for too long, or we stop."""


def serve(
    association: Association, taken: Taken, session: Session, settings: ServerSettings, stopping: threading.Event,
) -> None:
    """Serve until the association is over, however it ends; the socket is closed on return."""
    released = taken.sock is not None and _Served(association, taken, session, settings, stopping).run()
    over(association, released=released)


class _Served:
    """One taken association."""

    def __init__(
        self, association: Association, taken: Taken, session: Session, settings: ServerSettings, stopping: threading.Event,
    ) -> None:
        assert taken.sock is not None
        self._session, self._settings, self._stopping = session, settings, stopping
        limits = Limits(send=settings.io_timeout, data_set=settings.max_message)
        self._link = Link(taken.sock, limits, self._patience, taken.early, over=taken.released)
        syntaxes = {
            context.context_id: str(context.transfer_syntax[0])
            for context in association.accepted_contexts if context.context_id is not None}
        self._messages = Messages(self._link, syntaxes, session.receive, session.done)

    def run(self) -> bool:
        """Serve; say whether the peer released the association properly."""
        released = False
        try:
            self._link.begin()
            for message in self._messages.incoming():
                self._answer(message)
            self._link.released()
            released = True
        except (PeerGone, OSError) as error:
            log.info("peer is gone", reason=str(error))
        except (ProtocolError, GivenUp, BrokerError) as error:
            log.warning("association aborted", reason=str(error))
            self._link.abort()
        except Exception as error:  # noqa: BLE001 - the association's edge: a bug ends this one only, the peer hears of it
            place = traceback.extract_tb(error.__traceback__)[-1]   # never the text: it may hold a patient's data
            log.error("association failed", error=type(error).__name__, file=place.filename, line=place.lineno)
            self._link.abort()
        finally:
            self._link.close()
        return released

    def _answer(self, message: Message) -> None:
        field = message.command.number(pdata.FIELD)
        if field == pdata.C_ECHO_RQ:
            self._link.send(response(message.context, message.command, self._session.echo()))
        elif field != pdata.C_CANCEL_RQ:    # nothing of ours can be cancelled
            raise ProtocolError(f"operation 0x{field & 0xFFFF:04X} was not negotiated")

    def _patience(self, silent: float) -> None:
        busy = self._messages.busy
        if silent >= (self._settings.io_timeout if busy else self._settings.idle_timeout):
            raise GivenUp(f"silent for {silent:.0f} seconds")
        if self._stopping.is_set() and not busy:
            raise GivenUp("the broker stops")
