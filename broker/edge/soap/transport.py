"""One spyne Application behind one WSGI endpoint: HTTP methods, the run of a call, the certain end of every request."""

import contextlib
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from broker.edge.soap import faults
from broker.edge.soap.compat import Application, MethodContext, ServerBase, TransportContext
from broker.edge.soap.faults import SoapFault
from broker.edge.soap.intake import Intake, Limits
from broker.edge.soap.later import Later
from broker.edge.soap.protocol import operation_of
from broker.model.caller import Certificate
from broker.model.errors import BrokerError
from broker.model.transaction import Packaging
from broker.wire.mime import SOAP_TYPE, MtomBody
from broker.wire.rest import PEER_CERTIFICATE

log = structlog.get_logger("broker.soap")

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Broken = Callable[[Any], None]

_LARGE = 4 << 20        # bytes of an envelope; ten thousand instances of a retrieve are half of it
_large_ones = threading.BoundedSemaphore(2)


class SoapTransportContext(TransportContext):
    """What one HTTP exchange carries beside the SOAP message: the request as read, who sent it, the slot it holds."""

    def __init__(self, parent: Any, transport: Any) -> None:
        super().__init__(parent, transport, "http")
        self.intake = Intake()
        self.address = ""
        self.node = ""
        self.reply_to = ""      # where the answer goes, if not back
        self.certificate: Certificate | None = None
        self.release: Callable[[], None] | None = None

    @property
    def root(self) -> bytes:
        """The envelope's bytes."""
        return self.intake.root

    @property
    def is_mtom(self) -> bool:
        """Whether the request came as MTOM."""
        return self.intake.is_mtom


class SoapContext(MethodContext):
    """A call, without spyne's check of every attribute that is set and without its events: both cost as much as a query."""

    TransportContext = SoapTransportContext
    __setattr__ = object.__setattr__

    def fire_event(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing: spyne's events are disabled; audit and access are the gate's work on every wire."""

    def close(self) -> None:
        """End the call. Its parts let go of each other: request and answer are freed now, not when garbage is collected."""
        self.is_closed = True
        self.transport.parent = self.event.parent = None


class SoapTransport(ServerBase):
    """A WSGI application. `broken(context)` is told when a successful answer was not taken whole.

    `spool` is the folder of incoming attachments, None where no transaction takes any; `later` posts answers.
    """

    transport = "http://schemas.xmlsoap.org/soap/http"

    def __init__(self, app: Application, limits: Limits, spool: Path | None, broken: Broken, later: Later) -> None:
        super().__init__(app)
        self._limits, self._spool, self.broken, self._later = limits, spool, broken, later
        self._wsdl: bytes = self.doc.wsdl11.get_interface_document()

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        method = environ["REQUEST_METHOD"]
        if method == "GET" and self._wsdl and environ.get("QUERY_STRING", "").lower() in {"wsdl", "singlewsdl"}:
            return _plain(start_response, "200 OK", "text/xml; charset=utf-8", self._wsdl)
        if method != "POST":
            return _plain(start_response, "405 Method Not Allowed", "text/plain", b"POST a SOAP 1.2 request\n", ("Allow", "POST"))
        context = SoapContext(self, MethodContext.SERVER)
        context.transport.address = environ.get("REMOTE_ADDR", "")
        context.transport.certificate = environ.get(PEER_CERTIFICATE)
        try:
            try:
                context, refused = self._run(context, environ)
            except Exception as error:  # noqa: BLE001 - the edge's dispatch: a bug of ours is answered and logged once, here
                context.out_error, refused = internal_error(error, "none"), True
                self.get_out_string(context)
            return self._answer(context, start_response, refused=refused)
        except BaseException:
            _Answer(self, context, ()).close()
            raise

    def get_out_object(self, ctx: Any) -> None:
        """Call the operation. spyne's own way there is as long as a small query: styles, wrappers, several kinds of errors."""
        try:
            ctx.out_object = [ctx.function(ctx, ctx.in_object)]
        except SoapFault as fault:
            ctx.out_error = fault

    def _run(self, context: Any, environ: Mapping[str, Any]) -> tuple[Any, bool]:
        """Return the finished context, and whether the request was refused before its body was read."""
        try:
            context.transport.intake.read(environ, self._limits, self._spool)
        except (SoapFault, BrokerError) as error:
            context.out_error = error if isinstance(error, SoapFault) else faults.of(error)
            self.get_out_string(context)
            return context, True
        with _turn(len(context.transport.intake.root)):
            context = self.generate_contexts(context)[0]
            if context.in_error is None:
                self.get_in_object(context)
                self.get_out_object(context)
            self.get_out_string(context)
        return context, False

    def _answer(self, context: Any, start_response: StartResponse, *, refused: bool) -> Iterable[bytes]:
        root, fault = context.out_string[0], context.out_error
        headers = [("Content-Type", f"{SOAP_TYPE}; charset=utf-8"), ("Content-Length", str(len(root)))]
        body: Iterable[bytes] = (root,)
        if fault is not None:
            log.info("fault", code=fault.code, status=fault.status, subcodes=[local for _, local in fault.subcodes])
            if fault.retry_after:
                headers.append(("Retry-After", str(fault.retry_after)))
        elif operation_of(context.descriptor).served.row.packaging is Packaging.MTOM:
            mtom = MtomBody(root, context.out_object[0].parts)
            headers = [("Content-Type", mtom.content_type), ("Content-Length", str(mtom.length)), ("MIME-Version", "1.0")]
            body = mtom
        if refused:
            headers.append(("Connection", "close"))  # what is left of the body was not read
        if context.transport.reply_to:
            return self._answer_later(context, start_response, root)
        answer = _Answer(self, context, body)
        start_response(faults.OK if fault is None else fault.status, headers)
        return answer

    def _answer_later(self, context: Any, start_response: StartResponse, root: bytes) -> Iterable[bytes]:
        """Say that the answer comes by itself; where too many wait, it is given here and now."""
        sent = self._later.send(context.transport.reply_to, root)
        body = b"" if sent else root
        answer = _Answer(self, context, (body,))
        start_response("202 Accepted" if sent else faults.OK, [
            ("Content-Type", f"{SOAP_TYPE}; charset=utf-8"), ("Content-Length", str(len(body)))])
        return answer


class _Answer:
    """A body with one certain end: slot given back, spool files dropped, context closed, a cut answer told."""

    def __init__(self, server: SoapTransport, context: Any, body: Iterable[bytes]) -> None:
        self._server, self._context, self._body = server, context, body
        self._whole = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body
        self._whole = True

    def set_aside(self) -> None:
        """Return the slot back: the rest is sent without a thread of its own."""
        exchange = self._context.transport
        release, exchange.release = exchange.release, None
        if release is not None:
            release()

    def close(self) -> None:
        exchange, context = self._context.transport, self._context
        self.set_aside()
        for spooled in exchange.intake.attachments.values():
            with contextlib.suppress(FileNotFoundError):  # renamed by the one who keeps it
                os.unlink(spooled.path)
        if not self._whole and context.out_error is None and context.descriptor is not None:
            self._server.broken(context)
        context.close()


def internal_error(error: Exception, transaction: str) -> SoapFault:
    """Log a bug: its kind and where it happened, no values, since they may be a patient's. Return the fault to answer."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    cause = error.__cause__ or error.__context__
    log.error(
        "bug", transaction=transaction, error=type(error).__name__, cause=type(cause).__name__ if cause else "", frames=frames)
    return SoapFault("Receiver", "internal error")


def _turn(size: int) -> contextlib.AbstractContextManager[object]:
    """Return what an envelope of this size waits for: as a tree it takes up to ten times its bytes."""
    return _large_ones if size > _LARGE else contextlib.nullcontext()


def _plain(start_response: StartResponse, status: str, kind: str, body: bytes, *more: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *more])
    return (body,)
