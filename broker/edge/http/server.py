"""Serves the web application on gunicorn: its processes and settings; how connections are served is in `worker`."""

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from broker.config.settings import Settings
from broker.edge.door.waiting import port_of
from broker.edge.http.routes import Application
from broker.edge.http.worker import worker_for
from broker.files.modes import PRIVATE, UMASK, make_folder

_GRACE = 15  # seconds; the supervisor waits 20
_SILENT_WORKER = 60
_BACKLOG = 1024


def serve(app_factory: Callable[[], Application], settings: Settings) -> None:
    """Serve until SIGTERM, then let running requests finish; ends with SystemExit, as gunicorn does.

    `app_factory` is called once in each worker process, after its fork. Call from the main thread.
    """
    make_folder(settings.run_folder, PRIVATE)
    _Server(app_factory, settings).run()


class _Log(Logger):
    """gunicorn's own log: what it says of itself goes the way of all libraries' lines, of requests it says nothing."""

    def setup(self, cfg: Any) -> None:
        self.cfg, self._access_log_enabled = cfg, False
        for own in (self.error_log, self.access_log):
            own.handlers.clear()
            own.propagate = True
            own.setLevel(logging.WARNING)


class _Server(BaseApplication):
    def __init__(self, app_factory: Callable[[], Application], settings: Settings) -> None:
        self._factory, self._settings = app_factory, settings
        super().__init__()

    def load_config(self) -> None:
        server, tls = self._settings.server, self._settings.tls
        port = port_of("tls.http", tls.http, tls.handshake)
        # No header may say where a request came from or which path it is for: what stands before us is nobody we know.
        for name in ("forwarded_allow_ips", "forwarder_headers", "proxy_allow_ips"):
            self.cfg.set(name, "")
        for name, value in {
            "secure_scheme_headers": {}, "header_map": "drop", "umask": UMASK,
            "bind": f"{_bracketed(server.host)}:{server.http_port}",
            "workers": server.web_workers, "worker_class": worker_for(server, port), "backlog": _BACKLOG,
            "worker_connections": server.waiting_connections + server.threads + server.uploads,
            "threads": server.threads, "keepalive": max(1, int(server.idle_timeout)),
            "timeout": _SILENT_WORKER, "graceful_timeout": _GRACE,
            "worker_tmp_dir": str(self._settings.run_folder), "preload_app": False, "reuse_port": False, "accesslog": None,
            "logger_class": _Log, "control_socket_disable": True, "post_fork": _following(*os.pipe()),
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Application:
        return self._factory()


def _following(reader: int, writer: int) -> Callable[[Any, Any], None]:
    """Return the hook that ends a worker as soon as its master is gone, however it went.

    gunicorn's own worker would notice, but keep the address while it lets requests finish: a new master could not listen.
    """
    def follow() -> None:
        os.read(reader, 1)
        os._exit(1)

    def post_fork(_arbiter: Any, _worker: Any) -> None:
        os.close(writer)
        threading.Thread(target=follow, name="master", daemon=True).start()
    return post_fork


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
