"""A patient index of many people, made by SQL in minutes: what its tables hold after each person was fed by three hospitals.

The people are seeded: the first ten thousand of a million are those of the ten thousand. All family names are equally frequent:
one of them and a birth date mean about one person on any scale. A store once made is kept in `build/bench-people` and used again
while schema and this file stay as they are.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from broker.db import Database, schema, sql
from broker.matching.block import block_keys
from broker.model.people import Demographics, PersonName
from broker.patients.events import person_of
from broker.patients.projection import AUTOMATIC
from broker.patients.store import tables
from broker.patients.terms import terms

DOMAINS = ("2.999.2.1", "2.999.3.1", "2.999.9.1")       # of the demonstration region
KEPT = Path("build/bench-people")
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FAMILIES = [chr(0x4E00 + 37 * number) for number in range(400)]
_GIVEN = [chr(0x6000 + 11 * number) for number in range(600)]
_SAMPLE = 25        # people whose rows are compared with what the program makes of them


@dataclass(frozen=True, slots=True)
class Face:
    """One of the people. The id at a hospital is that of its number."""

    number: int
    person: Demographics
    affinity: str

    def value(self, domain: str) -> str:
        """Return the id at the hospital with this domain."""
        return f"{'ABC'[DOMAINS.index(domain)]}{self.number:08d}"


def face(number: int) -> Face:
    """Return the person with this number, from 1 on, the same one each time."""
    left = int.from_bytes(hashlib.blake2b(b"%d" % number, digest_size=32).digest())

    def cast(sides: int) -> int:
        nonlocal left
        left, number = divmod(left, sides)
        return number

    name = PersonName(_FAMILIES[cast(len(_FAMILIES))], _GIVEN[cast(len(_GIVEN))] + _GIVEN[cast(len(_GIVEN))])
    birth = f"{1930 + cast(90)}{1 + cast(12):02}{2 + cast(27):02}"
    person = Demographics(names=(name,), birth_date=birth, sex="MF"[cast(2)], phones=(f"13{cast(10 ** 9):09}",))
    return Face(number, person, "".join(_LETTERS[cast(32)] for _ in range(15)))


def store(count: int) -> Path:
    """Return a SQLite file with so many people, made now or kept from before. Nobody writes to it: take a copy for that."""
    made = hashlib.sha256(Path(__file__).read_bytes() + schema.head().encode()).hexdigest()[:12]
    file = KEPT / f"{count}-{made}.db"
    if not file.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        for old in KEPT.glob(f"{count}-*"):
            old.unlink()
        work = file.with_suffix(".part")
        _make(work, count)
        work.rename(file)
    return file


def copy(count: int, target: Path) -> None:
    """Put a copy of `store` at a path: one that may be written to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(store(count), target)


def _make(file: Path, count: int) -> None:
    with contextlib.closing(Database(f"sqlite:///{file}")) as database:
        schema.upgrade(database)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-1000000;"
                                 "PRAGMA temp_store=MEMORY; PRAGMA foreign_keys=OFF;")
        connection.execute("CREATE TEMP TABLE face (n INTEGER PRIMARY KEY, family, given, birth, phone, affinity, person, key)")
        connection.executemany("INSERT INTO face VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (
            (one.number, one.person.names[0].family, one.person.names[0].given, one.person.birth_date, one.person.phones[0],
             one.affinity, json.dumps(asdict(one.person)), min(block_keys(one.person))[1])
            for one in map(face, range(1, count + 1))))
        _fill(connection, count)
        connection.commit()
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    with contextlib.closing(Database(f"sqlite:///{file}")) as database:
        _compare(database, count)
    for rest in ("-wal", "-shm"):
        file.with_name(file.name + rest).unlink(missing_ok=True)
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _fill(connection: sqlite3.Connection, count: int) -> None:
    """Make all rows from the people, each table in the order of its key: nothing is inserted between what is there."""
    at = 1_700_000_000.0
    connection.execute(
        "INSERT INTO patient_group (id, value, state, created_at) SELECT n, affinity, 'active', ? FROM face ORDER BY n", [at])
    for place, domain in enumerate(DOMAINS):
        first, value = place * count, f"printf('{'ABC'[place]}%08d', n)"
        connection.execute(
            "INSERT INTO patient_identity (id, domain, value, state, group_id, demographics, message_id, said_by, created_at,"
            f" updated_at) SELECT n + {first}, ?, {value}, 'active', n, person, 'bench', 'bench', ?, ? FROM face ORDER BY n",
            [domain, at, at])
        connection.execute(f"INSERT INTO patient_key SELECT n + {first}, 'name', key FROM face ORDER BY n")
        for other in range(place):
            connection.execute(
                f"INSERT INTO patient_link SELECT n + {other * count}, n + {first}, '{AUTOMATIC}', ? FROM face ORDER BY n", [at])
        bodies = {
            "fed": """printf('{"event": "add", "demographics": %s}', person)""",
            "grouped": """printf('{"affinity": "%s"}', affinity)"""}
        for kind, body in bodies.items():
            connection.execute(
                "INSERT INTO patient_event (at, kind, domain, value, sender, message_id, body)"
                f" SELECT ?, '{kind}', ?, {value}, 'bench', 'bench', {body} FROM face ORDER BY n", [at, domain])
    ends = f"char(31) || birth, n + k * {count} FROM face, (SELECT 0 AS k UNION SELECT 1 UNION SELECT 2)"
    for kind, text in (
            ("birth", f"birth || char(31) || family, {ends.partition(', ')[2]}"),
            ("family", f"family || {ends}"), ("given", f"given || {ends}"),
            ("phone", f"substr(phone, -7), {ends.partition(', ')[2]}"), ("whole", f"family || given || {ends}")):
        connection.execute(f"INSERT INTO patient_term SELECT '{kind}', {text} ORDER BY 2, 3")


def _compare(database: Database, count: int) -> None:
    """Compare some rows with what the program makes of the same people."""
    dice = random.Random(1)
    numbers = sorted(dice.sample(range(1, 3 * count + 1), _SAMPLE))
    with database.read() as unit:
        for number in numbers:
            person = person_of(sql(unit).execute(
                sa.select(tables.identity.c.demographics).where(tables.identity.c.id == number)).scalar_one())
            for table, wanted in ((tables.key, block_keys(person)), (tables.term, terms(person))):
                found = sql(unit).execute(sa.select(table.c.kind, table.c.value).where(table.c.identity_id == number)).all()
                assert {tuple(row) for row in found} == wanted, (table.name, number)
