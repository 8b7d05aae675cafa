import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from broker.client.status import health
from broker.model.errors import Unavailable

pytestmark = pytest.mark.outside


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        thread.join()


@pytest.mark.parametrize("status", [200, 503])
def test_each_dependency_is_named_whether_all_is_well_or_not(status: int) -> None:
    with answering(status, b'{"status": "x", "dependencies": {"database": "ok", "dicom": "Connection refused"}}') as url:
        assert health(url) == {"database": "ok", "dicom": "Connection refused"}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"dependencies": 1}'])
def test_what_is_no_broker_is_unavailable(body: bytes) -> None:
    with answering(200, body) as url, pytest.raises(Unavailable):
        health(url)
