"""Whatever is fed and decided: documents are shown under their source patient's person, and who is told knows the persons."""

import contextlib
import datetime as dt
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from broker.config.profile import Consumer, Profile
from broker.db import Database, sql
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.people import Demographics, PersonName
from broker.model.ports import Unit
from broker.patients.desk import Desk, Wish
from broker.patients.settle import Followers
from broker.patients.store import tables
from broker.registry import store
from broker.registry.actor import Registry
from broker.registry.patient_events import RegistryEvents
from broker.wire import ebxml_stored
from tests.helpers.patients import CLINIC, HOSPA, HOSPB, WEI, XAD, Bench, ids_of, region
from tests.helpers.registry import bundle, document, folder, link, register

EVERYTHING = Consumer(key="everything", transaction="ITI-10", host="a.example", port=2575)
ONE = Consumer(key="one", transaction="ITI-10", host="b.example", port=2575, domains=(HOSPA,))
ARCHIVE = Consumer(key="archive", transaction="ITI-64", host="c.example", port=2575)
INTEREST = {"everything": {XAD, HOSPA, HOSPB, CLINIC}, "one": {HOSPA}}
Steps = list[tuple[str, int, int, str]]
FACES = ["张伟", "ZHANG WEI", "张伟|ZHANG WEI", "李雷"]
KINDS = ["feed", "feed", "both", "document", "folder", "A40", "A47", "merge", "unmerge", "unmerge", "link", "unlink", "split",
         "undo link", "undo unlink", "undo split", "merge and back", "link and back"]
BACK = {"merge and back": ("merge", "unmerge"), "link and back": ("link", "undo link")}
STEPS = st.lists(st.tuples(
    st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3), st.sampled_from(FACES)), min_size=12, max_size=24)


@dataclass
class Elsewhere:
    """A registry that is not ours: its ids of the affinity domain, and under which it keeps the document of each local id."""

    active: set[str] = field(default_factory=set)
    documents: dict[PatientId, str] = field(default_factory=dict)

    def hear(self, transaction: str, body: Mapping[str, Any]) -> None:
        """Take a message in; none may name an id that is not active, or move what lies elsewhere."""
        if transaction == "ITI-64":
            assert {body["id"], body["before"]} <= self.active
            for local in (PatientId(*body[name]) for name in ("local", "retired") if name in body):
                if local in self.documents:
                    self.documents[local] = body["id"]
        elif body["event"] == "A04":
            assert body["id"] not in self.active
            self.active.add(body["id"])
        else:
            assert {body["id"], body["retired"]} <= self.active
            self.active.remove(body["retired"])
            self.documents |= {local: body["id"] for local, home in self.documents.items() if home == body["retired"]}


class World:
    """The index with our registry behind it, and what consumers know by what they were told."""

    def __init__(self, database: Database, profile: Profile, folder_: Path, run: int) -> None:
        self.bench = Bench(
            database, region(profile).model_copy(update={"consumers": (EVERYTHING, ONE, ARCHIVE)}), folder_)
        events = RegistryEvents(profile.codes.scheme_aliases)

        def moved(unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId) -> None:
            events.moved(unit, local, before, now)

        self.bench.manager.settler = self.bench.settler = replace(self.bench.settler, followers=Followers(
            arrived=lambda *_: None, merged=events.merged, moved=moved,
            parted=lambda *told: events.parted(*told).staying))
        moments = itertools.count(2e9)
        self.desk = Desk(database, self.bench.settler, lambda *_: (0, 0), lambda: next(moments))
        self.registry = Registry(database, self.bench.manager, self.bench.manager.profile)
        with database.read() as unit:
            self._heard = sql(unit).scalar(sa.select(sa.func.max(tables.notification.c.id))) or 0
        self.run, self.elsewhere = run, Elsewhere()
        self.known: dict[str, dict[PatientId, frozenset[PatientId]]] = {key: {} for key in INTEREST}

    def id(self, number: int) -> PatientId:
        return PatientId(HOSPA if number < 3 else HOSPB, f"{self.run}-{number}")

    def step(self, kind: str, one: int, other: int, face: str) -> None:
        if kind in BACK:
            self.step(BACK[kind][0], one, other, face)
            self.check()
            self.step(BACK[kind][1], other, one, face)
        elif kind in {"feed", "both"}:
            self._feed(self.id(one), self._person(face, f"{self.run}-{other}" if kind == "both" else ""))
        elif kind in {"document", "folder"}:
            self._register(self.id(one), self.id(other), kind)
        elif kind in {"A40", "A47"}:
            if max(one, other) < 3:
                self.bench.feed(kind, self.id(one).value, self._person(face), retired=self.id(other).value)
        else:
            undo, _, name = kind.rpartition(" ")
            wish = Wish(patient=self.id(one), other=self.id(other), undo=bool(undo), force=True)
            with contextlib.suppress(Rejected):
                self.desk.decide(name, wish, Call(caller=Caller(node="here"), facts=AuditFacts()))

    def _person(self, face: str, clinic: str = "") -> Demographics:
        born = dt.date(1950, 1, 1) + dt.timedelta(days=self.run)        # nobody of another run
        return replace(
            WEI, names=tuple(map(PersonName, face.split("|"))), birth_date=f"{born:%Y%m%d}",
            other_ids=((CLINIC, clinic),) if clinic else ())

    def _feed(self, patient: PatientId, person: Demographics) -> None:
        if patient.domain == HOSPA:
            self.bench.feed("A08", patient.value, person)
        else:
            self.bench.add(patient.value, person, revise=True)

    def _register(self, one: PatientId, other: PatientId, kind: str) -> None:
        """Register a document of each id, those of one person in one submission, perhaps in a folder."""
        homes = [self.bench.affinity(patient.value, patient.domain) for patient in (one, other)]
        if homes[0]:
            patient = PatientId(XAD, homes[0])
            entries = [document(f"D{n}", patient=patient, source_patient_id=str(source))
                       for n, source in enumerate((one, other)) if homes[n] == homes[0]]
            folders = [folder(patient=patient)] if kind == "folder" else []
            links = [link(one.id, entry.id) for one in folders for entry in entries]
            register(self.registry, bundle(entries, folders, links, patient=patient))

    # -- what must hold

    def check(self) -> None:
        with self.bench.database.read() as unit:
            local = [PatientId(row.domain, row.value) for row in sql(unit).execute(sa.select(tables.identity))]
            homes = {one: home.value for one in local if one.value.startswith(f"{self.run}-")
                     and (home := self.bench.manager.affinity_id(unit, one))}
            people = {home: frozenset(ids_of(self.bench.manager, unit, PatientId(XAD, home))) for home in homes.values()}
            self._check_registry(unit, homes)
            told = sql(unit).execute(sa.select(tables.notification).where(
                tables.notification.c.id > self._heard).order_by(tables.notification.c.id)).all()
        for row in told:
            self._heard = row.id
            self._hear(row.consumer, row.transaction, row.body)
        for key, domains in INTEREST.items():
            for person in people.values():
                ids = {one for one in person if one.domain in domains}
                assert {self.known[key].get(one) for one in ids} <= {frozenset(ids)}
        assert self.elsewhere.active == people.keys()
        assert self.elsewhere.documents.items() <= homes.items()
        self.elsewhere.documents = homes

    @staticmethod
    def _check_registry(unit: Unit, homes: dict[PatientId, str]) -> None:
        retired = {row.value for row in sql(unit).execute(sa.select(tables.group)) if row.state == tables.RETIRED}
        assert set(sql(unit).scalars(sa.select(store.patient_alias.c.retired))) == {str(PatientId(XAD, one)) for one in retired}
        patients = {str(one): str(PatientId(XAD, home)) for one, home in homes.items()}
        shown = {}
        for row in sql(unit).execute(sa.select(store.registry_object)):
            shown[row.uuid] = row.patient
            assert not store.retired(unit, PatientId.parse(row.patient))
            if row.kind == store.DOCUMENT:
                entry = ebxml_stored.read_entry(row.body)
                assert entry.patient_id == row.patient == patients.get(entry.source_patient_id, row.patient)
        for row in sql(unit).execute(sa.select(store.registry_association)):
            assert shown[row.source] == shown[row.target]

    def _hear(self, consumer: str, transaction: str, body: Mapping[str, Any]) -> None:
        if consumer == "archive":
            self.elsewhere.hear(transaction, body)
        else:
            ids = frozenset(PatientId(*pair) for pair in body["ids"])
            self.known[consumer] |= dict.fromkeys(ids, ids)


@pytest.fixture(scope="module")
def counter() -> Iterator[int]:
    return itertools.count()


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=30, phases=(Phase.explicit, Phase.generate),
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example([("feed", 0, 0, "张伟"), ("feed", 1, 0, "李雷"), ("feed", 3, 0, "张伟"), ("document", 0, 3, ""), ("document", 1, 1, ""),
          ("merge and back", 0, 1, ""), ("link and back", 0, 1, ""), ("A40", 1, 0, "李雷"), ("unmerge", 0, 0, "")])
def test_registry_and_consumers_follow_whatever_is_fed_and_decided(
    database: Database, profile: Profile, tmp_path: Path, counter: Iterator[int], steps: Steps,
) -> None:
    run = next(counter)
    world = World(database, profile, tmp_path / str(run), run)
    for step in steps:
        world.step(*step)
        world.check()
