"""The names of spyne this broker uses. Import spyne from here only.

spyne 2.14.0 is the last release and does not import on Python 3.12 and later: its bundled six has a finder without
`find_spec`, and it wants `cgi.parse_header`, a module that is gone in 3.13. The few names it misses are seeded before
its first import, and taken back where they would be seen by others.
"""

import collections.abc
import http.cookies
import importlib
import logging
import sys
import types
import urllib
import urllib.error
import urllib.parse
import urllib.request
import warnings
from email.message import Message

_MOVES = "spyne.util.six.moves"


def _parse_header(line: str) -> tuple[str, dict[str, str]]:
    message = Message()
    message["content-type"] = line
    parameters = message.get_params(failobj=[("", "")])
    return parameters[0][0], dict(parameters[1:])


def _import_spyne() -> None:
    moves = types.ModuleType(_MOVES)
    moves.__path__ = []
    for tail, module in (
        ("", moves), (".collections_abc", collections.abc), (".http_cookies", http.cookies), (".urllib", urllib),
        (".urllib.parse", urllib.parse), (".urllib.request", urllib.request), (".urllib.error", urllib.error),
    ):
        sys.modules.setdefault(_MOVES + tail, module)
    stub = types.ModuleType("cgi")
    stub.__dict__["parse_header"] = _parse_header
    real = sys.modules.get("cgi")
    sys.modules["cgi"] = stub
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that newer compilers report, the old finder
            importlib.import_module("spyne.protocol.soap")
            importlib.import_module("spyne.server")
    finally:
        if real is None:
            del sys.modules["cgi"]
        else:
            sys.modules["cgi"] = real
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "spyne.util.six"]


_import_spyne()

import spyne.const  # noqa: E402
from spyne import AnyXml, Application, Fault, MethodContext, Service, TransportContext, rpc  # noqa: E402
from spyne.interface import InterfaceDocumentsBase  # noqa: E402
from spyne.protocol.soap import Soap12  # noqa: E402
from spyne.server import ServerBase  # noqa: E402
from spyne.service import ServiceMeta  # noqa: E402

# MethodContext.close() would run gc.collect() once a second inside a request: a stall of 250 ms per million objects.
spyne.const.MIN_GC_INTERVAL = float("inf")
# spyne logs whole bad requests at ERROR; what is worth a line is logged by us, without patient data.
logging.getLogger("spyne").setLevel(logging.CRITICAL)

__all__ = [
    "AnyXml", "Application", "Fault", "InterfaceDocumentsBase", "MethodContext", "ServerBase", "Service", "ServiceMeta",
    "Soap12", "TransportContext", "rpc",
]
