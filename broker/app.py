"""Connects the parts. One `App` is one process's object graph; parts are made when first needed, never across a fork."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import structlog

from broker import coord, health
from broker.archive.online import OnlineStore
from broker.archive.sdfo import Sdfo
from broker.audit.spool import AuditLog
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.coord.base import Coord
from broker.db import Database
from broker.edge.dimse import listener, scu
from broker.edge.http import routes
from broker.edge.http.server import serve
from broker.edge.mllp.server import MllpServer
from broker.edge.outbound import Patience, RemoteRegistrar, SoapOutbound
from broker.edge.soap.application import SPOOL
from broker.edge.soap.intake import sweep
from broker.imaging import rad69_retrieve
from broker.imaging.conflicts import ASSIGN, Conflict, Conflicts, Decision
from broker.imaging.fetch import Fetch
from broker.imaging.fetch_worker import FetchWorker
from broker.imaging.migrate import Migrator
from broker.imaging.origin import Origins
from broker.imaging.publish import Publisher
from broker.imaging.rad69_retrieve import ImagingSource
from broker.imaging.receiver import Receiver
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import BrokerError, Problem, place_of
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.model.transaction import Outcome, ServedTransaction, Transaction
from broker.patients import iti8_feed, iti9_query, iti44_feed, iti45_query
from broker.patients.actor import PixManager
from broker.registry import deprecate, iti18_query, iti42_register
from broker.registry.actor import Registry
from broker.repository import iti41_provide, iti43_retrieve
from broker.repository.actor import Repository
from broker.security.gate import Gate, reason
from broker.security.rules import Open, Policy
from broker.wire.ports import Registrar

log = structlog.get_logger("broker.app")

SHARE = 0.0003     # seconds that bytes which came wait for the interpreter while the index thread has it; usual are 0.005

POLICIES: Mapping[str, Callable[[], Policy]] = {"off": Open}


class App:
    """The parts of one broker process."""

    def __init__(self, settings: Settings, profile: Profile) -> None:
        self.settings, self.profile = settings, profile

    @cached_property
    def database(self) -> Database:
        """The durable store."""
        return Database(self.settings.database_url)

    @cached_property
    def coord(self) -> Coord:
        """What processes tell each other."""
        return coord.connect(self.settings)

    @cached_property
    def audit(self) -> AuditLog:
        """The audit spool."""
        section = self.settings.audit
        return AuditLog(self.settings.audit_folder, section.source_id, section.site or self.profile.region.name)

    @cached_property
    def gate(self) -> Gate:
        """The way to every handler."""
        return Gate(POLICIES[self.settings.security.mode](), self.audit)

    @cached_property
    def online(self) -> OnlineStore:
        """Original files."""
        return OnlineStore(self.settings.online_folder, self.settings.online.fsync)

    @cached_property
    def sdfo(self) -> Sdfo:
        """The door to both tiers."""
        return Sdfo(self.online, self.settings.archive_folder)

    @cached_property
    def patients(self) -> PixManager:
        """The PIX manager."""
        return PixManager(self.database, self.profile, self.coord, self._arrived, self._merged, self._moved)

    @cached_property
    def registry(self) -> Registry:
        """The document registry."""
        most = self.settings.registry
        limits = iti18_query.Limits(objects=most.max_objects, references=most.max_references, values=most.max_values)
        return Registry(self.database, self.patients, self.profile, limits=limits)

    @cached_property
    def repository(self) -> Repository:
        """The document repository."""
        return Repository(self.database, self.settings.documents_folder, self.profile, self._registrar)

    @cached_property
    def receiver(self) -> Receiver:
        """Takes objects in."""
        return Receiver(self.database, self.online, self.profile, self.coord, self.sdfo)

    @cached_property
    def mover(self) -> scu.Scu:
        """Asks hospitals' PACS."""
        return scu.Scu(self.profile, self.settings, self.receiver, self.audit)

    @cached_property
    def fetch(self) -> Fetch:
        """Gathers pictures from wherever they are."""
        return Fetch(self.database, self.coord, self.sdfo, self.profile)

    @cached_property
    def publisher(self) -> Publisher:
        """Makes and publishes manifests."""
        submit = self.settings.repository.submit_url or self.settings.public_url + "/xds/repository"
        outbound = SoapOutbound(submit, self.audit, self.settings.public_url, self._patience)
        origins = Origins(self.database, self.profile, self.mover, self.fetch)
        return Publisher(
            self.database, self.profile, self.patients, outbound, origins, self.coord, self.settings.server.ae_title, self.sdfo,
            self.withdraw if self._is_our_registry else None)

    @cached_property
    def migrator(self) -> Migrator:
        """Packs studies."""
        return Migrator(self.database, self.sdfo, self.profile, self.coord)

    @cached_property
    def conflicts(self) -> Conflicts:
        """Settles what does not agree with its study."""
        return Conflicts(self.database, self.sdfo, self.profile, self.coord)

    def decide(self, row: Transaction, decision: Decision, user: str) -> Conflict:
        """Carry out one row of `imaging.conflicts` for a user of this machine, through the gate like every other call."""
        caller = Caller(node=socket.gethostname(), user=user, local_node=self.settings.public_url)
        found: Conflict = self.gate.inside(ServedTransaction(row, self.conflicts), decision, caller)
        return found

    def apply_corrections(self) -> None:
        """Assign the corrections of hospitals that may correct their pictures; each fails by itself."""
        for decision in self.conflicts.due():
            try:
                self.decide(ASSIGN, decision, "profile:corrections")
            except Exception as error:  # noqa: BLE001 - the edge of one correction
                self.conflicts.failed(decision)
                log.error("a correction was not applied, will be tried again", conflict=decision.conflict, reason=place_of(error))

    @cached_property
    def served(self) -> tuple[ServedTransaction, ...]:
        """Every transaction we serve, with its actor."""
        return (
            *(ServedTransaction(module.ROW, self.patients) for module in (iti8_feed, iti9_query)),
            *(ServedTransaction(module.row(self.profile.region.device_oid), self.patients)
              for module in (iti44_feed, iti45_query)),
            *(ServedTransaction(module.ROW, self.registry) for module in (iti18_query, iti42_register)),
            *(ServedTransaction(module.ROW, self.repository) for module in (iti41_provide, iti43_retrieve)),
            ServedTransaction(rad69_retrieve.ROW, ImagingSource(self.fetch, self.profile)),
        )

    @property
    def rows(self) -> tuple[Transaction, ...]:
        """Every row: what we serve on all wires."""
        return (*(served.row for served in self.served), *listener.ROWS)

    def wsgi(self) -> Any:
        """Return the web application."""
        extra = {
            "/healthz": health.healthz(self._checks(), lambda: health.living(self.settings.run_folder), tuple(ROLES)),
            "/services": health.services(self.rows, self.settings),
        }
        return routes.build(self.served, self.gate, self.settings, extra)

    def run(self, role: str, stop: threading.Event) -> None:
        """Run one role until `stop` is set (web: until SIGTERM)."""
        beat = health.Heartbeat(self.settings.run_folder, role)
        beat.start()
        try:
            ROLES[role](self, stop)
        finally:
            beat.stop()
            self.close()

    def close(self) -> None:
        """Release what this process holds open."""
        for part in ("coord", "database"):
            if part in self.__dict__:
                self.__dict__[part].close()

    def _arrived(self, unit: Unit, local: PatientId) -> None:
        self.publisher.patient_arrived(unit, local)

    def _merged(self, unit: Unit, retired: PatientId, survivor: PatientId) -> None:
        self.publisher.patient_merged(unit, retired, survivor)     # rows of publications before those of the registry
        self.registry.merged(unit, retired, survivor)

    def _moved(self, unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId) -> None:
        self.publisher.patient_moved(unit, self.registry.moved(unit, local, before, now), now)

    def withdraw(self, unit: Unit, entry_uuid: str, caller: Caller) -> None:
        """Deprecate a DocumentEntry of our registry inside `unit`, and audit it once that is durable (`ports.Withdraw`)."""
        facts = AuditFacts()
        self.registry.deprecate(unit, entry_uuid, Call(caller=caller, facts=facts))
        unit.after_commit(lambda: self.audit.record(deprecate.ROW, caller, facts, Outcome.SUCCESS))

    @property
    def _is_our_registry(self) -> bool:
        """Whether our manifests are registered here."""
        return not (self.settings.repository.submit_url or self.settings.repository.registry_url)

    @property
    def _patience(self) -> Patience:
        return Patience(**self.settings.outbound.model_dump())

    @property
    def _registrar(self) -> Registrar:
        url = self.settings.repository.registry_url
        if url:
            return RemoteRegistrar(url, self.audit, self.settings.public_url, self._patience)
        return _OwnRegistry(self.gate, ServedTransaction(iti42_register.ROW, self.registry), self.settings.public_url)

    def _checks(self) -> dict[str, Callable[[], object]]:
        settings = self.settings
        return {
            "database": self.database.ping,
            "coordination": self.coord.state,
            "online store": lambda: health.writable(settings.online_folder),
            "archive": lambda: health.writable(settings.archive_folder),
            "documents": lambda: health.writable(settings.documents_folder),
            "audit spool": lambda: "ok" if not self.audit.lost else f"{self.audit.lost} records lost",
            "mllp": lambda: health.answers((settings.server.host, settings.server.mllp_port)),
            "dicom": lambda: health.answers((settings.server.host, settings.server.dicom_port)),
        }


@dataclass(frozen=True)
class _OwnRegistry:
    """ITI-42 inside one process, through the gate like every other call; our repository is the caller."""

    gate: Gate
    served: ServedTransaction
    url: str

    def register(self, submission: Any, call: Call) -> tuple[Problem, ...]:
        caller = replace(call.caller, node=self.url + iti41_provide.ROW.endpoint, local_node=self.url + self.served.row.endpoint)
        warnings: tuple[Problem, ...] = self.gate.inside(self.served, submission, caller)
        return warnings


def _web(app: App, _stop: threading.Event) -> None:
    serve(lambda: App(app.settings, app.profile).wsgi(), app.settings)


def _receiver(app: App, stop: threading.Event) -> None:
    sys.setswitchinterval(SHARE)
    app.receiver.start()
    app.receiver.adopt_behind()
    try:
        listener.Listener(app.receiver, app.gate, app.profile, app.settings).serve(stop)
    finally:
        app.receiver.stop()


def _mllp(app: App, stop: threading.Event) -> None:
    rows = [served for served in app.served if served.row.endpoint == "mllp"]
    region = app.profile.region
    MllpServer(rows, app.gate, app.settings, (region.application, region.facility)).serve(stop)


def _fetch(app: App, stop: threading.Event) -> None:
    sys.setswitchinterval(SHARE)
    app.receiver.start()
    app.receiver.adopt_behind()
    try:
        FetchWorker(app.database, app.coord, app.mover, app.profile).run(stop)
    finally:
        app.receiver.stop()


def _worker(app: App, stop: threading.Event) -> None:
    """Background work, each kind in a thread of its own: what takes long holds up nothing else.

    Publish at once when told, else every second; pack once a minute; clear up once an hour.
    """
    # made before threads share them
    publisher, migrator, repository, _, _ = app.publisher, app.migrator, app.repository, app.conflicts, app.gate
    wake = app.coord.subscribe("publish")
    chores = (
        ("publish", lambda: publisher.run_once(time.time()), lambda: wake.get(1.0)),
        ("correct", app.apply_corrections, lambda: stop.wait(5.0)),
        ("pack", lambda: migrator.run_due(time.time()), lambda: stop.wait(60.0)),
        ("recover documents", repository.recover, lambda: stop.wait(3600.0)),
        ("sweep", lambda: sweep(app.settings.documents_folder / SPOOL), lambda: stop.wait(3600.0)),
    )
    threads = [threading.Thread(target=_repeat, args=(*chore, stop), name=chore[0]) for chore in chores]
    try:
        for thread in threads:
            thread.start()
        stop.wait()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        wake.close()


def _repeat(name: str, work: Callable[[], object], pause: Callable[[], object], stop: threading.Event) -> None:
    while not stop.is_set():
        _attempt(name, work)
        pause()


def _attempt(name: str, work: Callable[[], object]) -> None:
    try:
        work()
    except BrokerError as error:
        log.warning("background work will be tried again", work=name, reason=reason(error))
    except Exception as error:  # noqa: BLE001 - the edge of this kind of work; a traceback could hold what pictures say
        log.error("background work failed", work=name, reason=place_of(error))


ROLES: Mapping[str, Callable[[App, threading.Event], None]] = {
    "web": _web, "receiver": _receiver, "mllp": _mllp, "fetch": _fetch, "worker": _worker,
}

