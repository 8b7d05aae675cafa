"""One run: a region under load, so many kills, then calm, time that goes by, and the checks."""

import contextlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from broker.client.consult import Consultation
from broker.config import profile as profiles
from broker.model.ids import PatientId
from broker.model.people import Demographics, PersonName
from broker.wire import hl7v3
from tests.chaos import answered, full
from tests.chaos.asking import B_PATIENT
from tests.chaos.checks import Report
from tests.chaos.journal import Journal
from tests.chaos.killer import WORK, Killer, leftovers
from tests.chaos.link import Link
from tests.chaos.load import Load
from tests.chaos.nodes import FOLDER, Nodes
from tests.chaos.rows import opened
from tests.chaos.stored import Stored
from tests.helpers import dicom
from tests.helpers.hdfs.cluster import Cluster
from tests.helpers.hdfs.configuration import REPLICATION
from tests.helpers.region import Region

SLOTS = 16
RECEIVERS, PLACES = 2, 8
_FROM_A, _FROM_B = 4 << 20, 1 << 18     # bytes a second of an association from each hospital, under load
_CALM = 90.0            # seconds within which everything begun must end by itself
_DAYS = 2 * 86400       # how much time goes by for what waits for it: leftovers, leases, back-off

Told = Callable[[str], None]


def run(folder: Path, out: Path, *, kills: int, seed: int, tell: Told, cluster: Cluster | None = None) -> Report:
    """Run it below `folder`; the journal, the server's log and the report go to `out`.

    With a cluster the archive is there, and its servers are killed as well.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "journal.jsonl").unlink(missing_ok=True)
    report, journal = Report(), Journal(out / "journal.jsonl")
    # No day in the cache: each worker that starts evicts what was fetched, so that it is fetched again.
    changes = {"retention.toml": {"cache_days = 30": "cache_days = 0"}}
    nodes = Nodes(cluster) if cluster else None
    region = Region(folder, changes=changes, archive=_archive(cluster), server={
        "receivers": RECEIVERS, "max_associations": PLACES, "retrieve_slots": SLOTS})
    try:
        with (
            Link(region.dicom_port, _FROM_A, random.Random(f"{seed}/line a"), journal) as line,
            Link(region.dicom_port, _FROM_B, random.Random(f"{seed}/line b"), journal) as back,
            dicom.Orthanc(folder / "orthanc", "PACSB", back.port, port=region.pacs_port) as pacs, region,
        ):
            _introduce(region)
            load = Load(region, pacs, line, journal, seed)
            killer = Killer(region, journal, random.Random(f"{seed}/kills"), nodes)
            _shake(killer, load, report, kills, tell)
            line.free()
            back.free()
            tell("calm")
            report.check("everything that was begun ended by itself", 1, _settled(region.data, later=False))
            full.take_every_slot(region, journal, report, SLOTS)
            full.refuse_one_more_than_slots(region, pacs, back, journal, report, SLOTS)
            full.take_every_place(region, report, RECEIVERS * PLACES)
            region.stop()
            report.check("no process outlives its supervisor", 1, leftovers(region))
            age(region.data, nodes)
            region.start()
            tell("two days later")
            report.check("everything that waited was done later", 1, _settled(region.data, later=True))
            region.run("migrate")
            tell("asking for everything")
            answered.ask_for_everything(region, journal, report)
        if nodes:
            report.check("every block of the archive has a good replica", 1, nodes.take_out(region.data / "archive"))
        Stored(region.data, journal, report).look()
        report.check("no answer was ever wrong", sum(journal.counts.values()), journal.wrong)
        report.check("no patient is named and no bug is met in any log", 1, _log(region, journal))
    finally:
        if region.log.exists():
            shutil.copy(region.log, out / "serve.log")
        report.write(out / "report.json")
    return report


def _archive(cluster: Cluster | None) -> dict[str, Any]:
    if cluster is None:
        return {}
    cluster.mkdir(FOLDER, mode="777")
    return {"url": f"{cluster.url}{FOLDER}", "hdfs.replication": REPLICATION}


def _introduce(region: Region) -> None:
    """Register hospital B's patient."""
    person = Demographics(names=(PersonName(family="區", given="秀蘭"),), birth_date="19550101", sex="F")
    with Consultation(region.url, profiles.load(str(region.folder / "region"))) as client:
        client.feed_v3(hl7v3.write_add_patient(
            PatientId("2.999.3.1", B_PATIENT), person, sender="2.999.3.9", receiver="2.999.1.4"))


def _shake(killer: Killer, load: Load, report: Report, kills: int, tell: Told) -> None:
    """Load and kills."""
    journal = killer.journal
    started = time.monotonic()
    load.start()
    try:
        for number in range(1, kills + 1):
            time.sleep(killer.dice.uniform(0.2, 2.5))
            tell(f"{number} of {kills}: {killer.kill()}")
    finally:
        load.stop()
    report.count("seconds under load", int(time.monotonic() - started))
    for kind, times, note in killer.rows():
        report.count(f"kills of {kind}", times, note)
    for work in sorted({work for works in WORK.values() for work in works}):
        report.count(f"kills in mid-{work}", killer.caught[work])
    for what, times in sorted(journal.counts.items()):
        report.count(what, times)
    report.count("documents acknowledged", len(journal.documents))
    report.count("objects acknowledged", len(journal.pictures), f"{len(journal.studies())} studies")
    report.count("objects under a taken UID acknowledged", len(journal.aside))
    report.count("patients acknowledged", len(journal.patients))
    report.count("studies of hospital B published", len(journal.origin))
    report.check("who was killed came back", kills, killer.lost)


def _settled(data: Path, *, later: bool) -> list[str]:
    """Wait until nothing is under way; return what still is. `later`: what waits for its time counts too."""
    until = time.monotonic() + _CALM
    while (busy := list(_under_way(data, later=later))) and time.monotonic() < until:
        time.sleep(0.5)
    return busy


def _under_way(data: Path, *, later: bool) -> Iterator[str]:
    with opened(data) as connection:
        for row in connection.execute("SELECT id, state FROM fetch_job WHERE state IN ('queued', 'running')"):
            yield f"fetch {row['id']} is {row['state']}"
        for row in connection.execute("SELECT study_uid, tier, state FROM study WHERE state != 'complete'"):
            if later or row["tier"] != "origin":
                yield f"study {row['study_uid']} is {row['state']}"
        for row in connection.execute("SELECT study_id, reason FROM publication WHERE state = 'due'") if later else ():
            yield f"publication {row['study_id']} is due {row['reason']}"
        known = connection.execute("SELECT count(*) FROM instance").fetchone()[0]
    # not by glob, which fails when a folder goes away under it
    files = sum(len(names) for hospital in (data / "online").glob("[a-z]*") for *_, names in os.walk(hospital))
    if files != known:
        yield f"{files} online files, {known} rows"


def age(data: Path, nodes: Nodes | None = None) -> None:
    """Let two days go by for what a stopped broker has: leftovers grow old, leases and back-offs end."""
    then = time.time() - _DAYS
    for name in (".incoming", ".spool", ".tmp", "roles"):
        for folder in data.rglob(name):
            for file in folder.iterdir():
                os.utime(file, (then, then))
    for file in (*(data / "archive").glob("[0-9a-f][0-9a-f]/*"), *(data / "online").rglob("*")):
        os.utime(file, (then, then))
    if nodes:
        nodes.make_older(then)
    with contextlib.closing(sqlite3.connect(data / "broker.db")) as connection, connection:
        connection.execute("UPDATE document SET at = at - ? WHERE state = 'pending'", (_DAYS,))
        connection.execute("UPDATE publication SET next_at = next_at - ?", (_DAYS,))
        connection.execute("UPDATE setback SET next_at = next_at - ?", (_DAYS,))


def _log(region: Region, journal: Journal) -> list[str]:
    said = region.logs()
    wrong = [line for line in said.splitlines() if "Traceback" in line or '"event": "bug"' in line]
    return wrong + [value for value in (*journal.patients, B_PATIENT, "混沌") if value in said]
