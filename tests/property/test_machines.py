"""Whatever the stores are asked to do, in whatever order: a state changes only as its machine's table allows."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.config.profile import Profile
from broker.db import Database, schema, sql
from broker.db.machine import GONE, NEW, Machine
from broker.imaging.store import containers, fetches, publications, recalls, recording, settlements, studies
from broker.imaging.store import tables as t
from broker.imaging.store.containers import Version
from broker.imaging.store.machines import FETCH_JOB, PUBLICATION, RECALL, STUDY
from broker.imaging.store.publications import Draft
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import StoredObject
from broker.model.ports import Unit
from broker.repository import store
from broker.repository.store import DOCUMENT, Document, document
from tests.helpers import dicom

Step = Callable[[Unit, Profile], object]

WHO = PatientId("2.999.2.1", "P")
SOMEBODY = PatientId("2.999.1.1", "R")


def job(unit: Unit) -> fetches.Job:
    found = fetches.state(unit, sql(unit).scalar(sa.select(sa.func.max(t.fetch_job.c.id))) or 0)
    return found or fetches.Job(0, "a", "1.2", "", "", 0.0, "")


FETCHES: dict[str, Step] = {
    "enqueue": lambda unit, _: fetches.enqueue(unit, "a", "1.2", [("1.2.1", "1.2.9")], 5.0),
    "claim": lambda unit, _: fetches.claim(unit, "one", {"a": 2}, 6.0),
    "claim of another": lambda unit, _: fetches.claim(unit, "two", {"a": 2}, 6.0),
    "finish": lambda unit, _: fetches.finish(unit, job(unit), "", 7.0),
    "fail": lambda unit, _: fetches.finish(unit, job(unit), "it is off", 7.0),
    "give back": lambda unit, _: fetches.give_back(unit, "one"),
    "reap": lambda unit, _: fetches.reap(unit, 100.0),
    "refuse": lambda unit, _: fetches.refuse(unit, job(unit), "it is off", 7.0),
    "forget": lambda unit, _: fetches.forget(unit, 100.0),
}


def row_of_study(unit: Unit) -> int:
    return sql(unit).scalar(sa.select(sa.func.min(t.study.c.id))) or 0


def list_study(unit: Unit) -> None:
    studies.ensure(unit, "a", "1.2", WHO, 1.0, tier="origin")


def save(unit: Unit, _profile: Profile) -> None:
    try:
        publications.save(unit, row_of_study(unit), Draft(b"kos", b"request"))
    except Unavailable:
        assert sql(unit).scalar(sa.select(t.publication.c.document)) is None


PUBLICATIONS: dict[str, Step] = {
    "request": lambda unit, _: publications.request(unit, row_of_study(unit), WHO, 1.0),
    "request at once": lambda unit, _: publications.request(unit, row_of_study(unit), WHO, 1.0, at_once=True),
    "request anew": lambda unit, _: publications.request_anew(unit, row_of_study(unit), WHO, 1.0),
    "claim": lambda unit, _: publications.claim(unit, row_of_study(unit), 9000.0, 9.0),
    "save": save,
    "part": lambda unit, _: publications.part(unit, row_of_study(unit), 1, 1.0, "a series"),
    "wait": lambda unit, _: publications.wait(unit, row_of_study(unit), WHO, 1.0),
    "retry": lambda unit, _: publications.retry(unit, row_of_study(unit), 1.0, "off", forget=True),
    "fail": lambda unit, _: publications.fail(unit, row_of_study(unit), "refused"),
    "publish": lambda unit, _: publications.publish(
        unit, row_of_study(unit), manifest_uid="1", entry_uuid="urn:uuid:1", digest="d", entry_patient=str(SOMEBODY)),
    "take back": lambda unit, _: publications.take_back(unit, row_of_study(unit)),
    "withdraw": lambda unit, _: publications.withdraw(unit, row_of_study(unit)),
    "strayed": lambda unit, _: publications.strayed(unit, WHO, PatientId("2.999.1.1", "S")),
    "arrived": lambda unit, _: publications.arrived(unit, WHO),
}


def send(unit: Unit, profile: Profile, job_id: int | None = None) -> None:
    number = (sql(unit).scalar(sa.select(sa.func.count()).select_from(t.instance)) or 0) + 1
    recording.record(unit, [StoredObject(
        hospital="a", study_uid="1.2", series_uid="1.2.1", sop_uid=f"1.2.1.{number}", sop_class=dicom.CT,
        transfer_syntax="1.2.840.10008.1.2.1", path=f"a/2026/01/01/1.2/1.2.1.{number}", size=1, sha256="0" * 64, job=job_id,
        tags={"StudyInstanceUID": "1.2", "PatientID": "P"})], profile, 5.0)


def switch(unit: Unit, _profile: Profile) -> None:
    found = containers.subject(unit, row_of_study(unit))
    if found is None:
        return
    containers.switch(unit, found, studies.instances(unit, found.id), containers.current(unit, found.id),
                      Version(path="c", size=1, sha256="0" * 64, images=1), 5.0)


def unpack(unit: Unit, _profile: Profile) -> None:
    study_id = row_of_study(unit)
    container = containers.current(unit, study_id)
    if container is not None:
        settlements.unpacked(unit, study_id, container, [], 5.0)


def go_back(unit: Unit, _profile: Profile) -> None:
    container = containers.current(unit, row_of_study(unit))
    if container is not None:
        containers.undo_switch(unit, row_of_study(unit), container, None)


STUDIES: dict[str, Step] = {
    "list": lambda unit, _: list_study(unit),
    "send": send,
    "fetch": lambda unit, profile: send(unit, profile, 1),
    "switch": switch,
    "unpack": unpack,
    "go back": go_back,
    "evict": lambda unit, _: containers.begin_eviction(unit, row_of_study(unit)),
    "forgotten": lambda unit, _: containers.finish_eviction(unit, row_of_study(unit), set()),
    **{event: lambda unit, _, event=event: studies.mark(unit, row_of_study(unit), event)    # type: ignore[misc]  # a default binds
       for event in ("quiet", "asked for", "begun to pack", "packed", "not packed", "dropped", "emptied", "filled again")},
    **{f"undo to {state}": lambda unit, _, state=state: studies.mark(   # type: ignore[misc]  # a default binds
        unit, row_of_study(unit), "decision undone", to=state) for state in STUDY.states},
}


def ids(unit: Unit) -> list[int]:
    return list(sql(unit).scalars(sa.select(document.c.id)))


def recalled(unit: Unit, _profile: Profile) -> None:
    """Let a packed study have another container, as `switch` does."""
    row = row_of_study(unit)
    sql(unit).execute(t.container.update().values(state="retired"))
    sql(unit).execute(t.container.insert(), {
        "study_id": row, "path": "new", "size": 1, "sha256": "0" * 64, "images": 1, "state": "current", "at": 1.0})
    recalls.packed_again(unit, row)


RECALLS: dict[str, Step] = {
    "ask": lambda unit, _: recalls.ask(unit, row_of_study(unit), recalls.ASKED, 1.0, 5.0),
    "ask for longer": lambda unit, _: recalls.ask(unit, row_of_study(unit), recalls.PINNED, 1.0, 9.0),
    "copied": lambda unit, _: recalls.copied(unit, row_of_study(unit), "new", 1, 2.0),
    "copied what was replaced": lambda unit, _: recalls.copied(unit, row_of_study(unit), "old", 1, 2.0),
    "packed again": recalled,
    "lost": lambda unit, _: recalls.lost(unit, []),
    "still there": lambda unit, _: recalls.lost(unit, ["new"]),
    "over": lambda unit, _: recalls.over(unit, row_of_study(unit)),
}


DOCUMENTS: dict[str, Step] = {
    "add": lambda unit, _: store.add(unit, Document(
        unique_id="1", sha1="0" * 40, size=1, mime_type="text/plain", path="00/0", at=1.0)),
    "confirm": lambda unit, _: store.confirm(unit, ["1"]),
    "registered": lambda unit, _: store.mark(unit, ids(unit)[:1], "registered"),
    "undecided": lambda unit, _: store.mark(unit, ids(unit), "undecided"),
    "remove": lambda unit, _: store.remove(unit, ids(unit)),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Database:
    made = Database(f"sqlite:///{tmp_path_factory.mktemp('machines')}/broker.db")
    schema.upgrade(made)
    return made


def check(
    database: Database, profile: Profile, machine: Machine, table: sa.Table, steps: dict[str, Step], names: list[str],
) -> None:
    """Do the steps in turn; after each one every row must be where the table lets it go."""
    allowed = {(one.source, one.target) for one in machine.transitions}
    key = next(iter(table.primary_key.columns))

    def states(unit: Unit) -> dict[int, str]:
        return {row[0]: row[1] for row in sql(unit).execute(sa.select(key, table.c.state))}

    class Undo(Exception):
        """Leaves nothing behind."""

    with pytest.raises(Undo), database.write() as unit:
        if machine in (PUBLICATION, RECALL):
            list_study(unit)
        before = states(unit)
        for name in names:
            unit.highest_lock = 0       # each step would be a unit of its own
            steps[name](unit, profile)
            after = states(unit)
            for row in before.keys() | after.keys():
                old, new = before.get(row, NEW), after.get(row, GONE)
                while (old, new) not in allowed and old != new:
                    middle = [target for source, target in allowed if source == old and (target, new) in allowed]
                    assert name in {"publish", "send"}, (name, old, new)    # these do two things
                    assert middle, (name, old, new)
                    old = middle[0]
            before = after
        raise Undo


def _several(steps: dict[str, Step]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(steps)), max_size=25)


_quietly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_quietly
@given(names=_several(FETCHES))
def test_fetch_jobs(shared: Database, profile: Profile, names: list[str]) -> None:
    check(shared, profile, FETCH_JOB, t.fetch_job, FETCHES, names)


@_quietly
@given(names=_several(PUBLICATIONS))
def test_publications(shared: Database, profile: Profile, names: list[str]) -> None:
    check(shared, profile, PUBLICATION, t.publication, PUBLICATIONS, names)


@_quietly
@given(names=_several(STUDIES))
def test_studies(shared: Database, profile: Profile, names: list[str]) -> None:
    check(shared, profile, STUDY, t.study, STUDIES, names)


@_quietly
@given(names=_several(RECALLS))
def test_recalls(shared: Database, profile: Profile, names: list[str]) -> None:
    check(shared, profile, RECALL, t.recall, RECALLS, names)


@_quietly
@given(names=_several(DOCUMENTS))
def test_documents(shared: Database, profile: Profile, names: list[str]) -> None:
    check(shared, profile, DOCUMENT, document, DOCUMENTS, names)


@pytest.mark.parametrize(("machine", "table", "steps", "names"), [
    (FETCH_JOB, t.fetch_job, FETCHES, ["enqueue", "claim"]),
    (PUBLICATION, t.publication, PUBLICATIONS, ["request", "publish"]),
    (DOCUMENT, document, DOCUMENTS, ["add", "undecided"]),
])
def test_a_change_past_the_table_is_seen(
        shared: Database, profile: Profile, machine: Machine, table: sa.Table, steps: dict[str, Step], names: list[str]) -> None:
    def past(unit: Unit, _profile: Profile) -> None:
        sql(unit).execute(table.update().values(state="elsewhere"))

    with pytest.raises(AssertionError):
        check(shared, profile, machine, table, {**steps, "past": past}, [*names, "past"])
