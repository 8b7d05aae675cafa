"""The web role: all SOAP and FHIR endpoints, /healthz, /services."""

import threading
from collections.abc import Callable

from broker.app.whole import App
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.edge.dimse import listener
from broker.edge.http.routes import Application, build
from broker.edge.http.server import serve
from broker.run.heartbeat import living
from broker.run.roles import ROLES
from broker.security.rules import open_writes
from broker.web import health, rest
from broker.web.fhir import FhirDoor
from broker.web.steward import StewardDoor


def run(settings: Settings, profile: Profile, _stop: threading.Event) -> None:
    """Serve until SIGTERM."""
    serve(lambda: application(App(settings, profile)), settings)


def application(app: App) -> Application:
    """Return everything that is served by HTTP."""
    rows = [*(served.row for served in app.served), *listener.ROWS]
    return build(app.served, app.gate, app.settings, {
        "/healthz": health.healthz(
            checks(app), lambda: living(app.settings.run_folder), ROLES, [*filter(None, [open_writes(app.settings)])]),
        "/services": health.services(rows, app.settings),
    }, rest.build(app.served, app.gate, app.settings, [
        FhirDoor(app.served, app.settings.public_url), StewardDoor(app.settings.public_url)]))


def checks(app: App) -> dict[str, Callable[[], object]]:
    """Return what /healthz looks at."""
    settings = app.settings
    return {
        "database": app.database.ping,
        "coordination": app.coord.state,
        "online store": lambda: health.writable(settings.online_folder),
        "archive": lambda: app.sdfo.store.health() or "ok",
        "documents": lambda: health.writable(settings.documents_folder),
        "audit spool": lambda: "ok" if not app.audit.lost else f"{app.audit.lost} records lost",
        "mllp": lambda: health.answers((settings.server.host, settings.server.mllp_port)),
        "dicom": lambda: health.answers((settings.server.host, settings.server.dicom_port)),
    }
