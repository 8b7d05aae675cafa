"""DIMSE messages on a upper: objects of C-STORE requests stream to their sink, all other messages are given out whole."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from broker.edge.dimse import pdata
from broker.edge.dimse.c_store import IncomingObject, StoreRequest
from broker.edge.dimse.pdata import CommandSet, Pdv, ProtocolError, UpperLayer
from broker.edge.dimse.statuses import Refusal
from broker.model.errors import TooLarge


class Message(NamedTuple):
    """A complete message that is no C-STORE request; `data` is its data set, empty when it has none."""

    context: int
    command: CommandSet
    data: bytes


class Messages:
    """Assembles the messages of one association.

    `syntaxes` maps the accepted presentation contexts to their transfer syntax. `receive` begins an object, `done`
    finishes it and gives the status that is answered. `longest` is the longest PDU the peer takes, 0 = any.
    """

    def __init__(
        self, upper: UpperLayer, syntaxes: Mapping[int, str], receive: Callable[[StoreRequest], IncomingObject],
        done: Callable[[IncomingObject], int], longest: int = 0,
    ) -> None:
        self._upper, self._syntaxes, self._receive, self._done = upper, syntaxes, receive, done
        self._longest = longest
        self._context = -1
        self._fragment = bytearray()
        self._data = bytearray()
        self._command: CommandSet | None = None
        self._reception: IncomingObject | None = None

    @property
    def busy(self) -> bool:
        """Whether a message has begun and is not answered."""
        return bool(self._fragment) or self._command is not None or self._reception is not None

    def incoming(self) -> Iterator[Message]:
        """Return the messages until the peer asks for release; C-STORE requests are answered here."""
        try:
            for pdv in self._upper.pdvs():
                if pdv.context != self._context:
                    self._switch(pdv.context)
                if pdv.is_command != (self._command is None):
                    raise ProtocolError("command and data set are out of order")
                complete = self._begin(pdv) if pdv.is_command else self._go_on(pdv)
                if complete is not None:
                    yield complete
        finally:
            if self._reception is not None:
                self._reception.abort()
                self._reception = None

    def _switch(self, context: int) -> None:
        """Have the next message in another context; all fragments of a message have one (PS3.8 annex E.2)."""
        if context not in self._syntaxes:
            raise ProtocolError("a presentation context that was not accepted")
        if self.busy:
            raise ProtocolError("a message changes its presentation context")
        self._context = context

    def _begin(self, pdv: Pdv) -> Message | None:
        command = pdata.add_fragment(self._fragment, pdv)
        if command is None:
            return None
        self._upper.acknowledge_now()
        is_store = command.number(pdata.FIELD) == pdata.C_STORE_RQ
        if not command.has_data_set:
            if is_store:
                raise ProtocolError("a C-STORE request without a data set")
            return Message(pdv.context, command, b"")
        self._command = command
        if is_store:
            self._reception = self._receive(StoreRequest.of(command, self._syntaxes[pdv.context]))
        return None

    def _go_on(self, pdv: Pdv) -> Message | None:
        command = self._command
        assert command is not None
        if self._reception is not None:
            self._reception.write(pdv.data)
        else:
            self._data += pdv.data
            if len(self._data) > self._upper.limits.data_set:
                raise TooLarge(f"server.max_message ({self._upper.limits.data_set} bytes)")
        if not pdv.is_last:
            return None
        self._command = None
        if self._reception is None:
            data = bytes(self._data)
            self._data.clear()
            return Message(pdv.context, command, data)
        status = self._done(self._reception)
        reception, self._reception = self._reception, None
        try:
            self._upper.send(response(pdv.context, command, status, reception.refusal, self._longest))
        finally:
            reception.index()
        return None


def response(context: int, command: CommandSet, status: int, refusal: Refusal | None = None, longest: int = 0) -> bytes:
    """Return the response to a request (PS3.7 9.3), with the reason of a refusal, in PDUs of at most `longest` bytes."""
    elements: list[tuple[int, int | str]] = [
        (pdata.CLASS, command.text(pdata.CLASS)),
        (pdata.FIELD, command.number(pdata.FIELD) | pdata.RESPONSE),
        (pdata.RESPONDED_TO, command.number(pdata.MESSAGE_ID, 0)),
        (pdata.DATA_SET, pdata.NO_DATA_SET),
        (pdata.STATUS, status),
    ]
    if refusal is not None:
        if refusal.offending is not None:
            elements.append((pdata.OFFENDING, refusal.offending))
        elements.append((pdata.COMMENT, refusal.comment))
    if sop_uid := command.text(pdata.INSTANCE):
        elements.append((pdata.INSTANCE, sop_uid))
    return pdata.write_command(context, elements, longest)
