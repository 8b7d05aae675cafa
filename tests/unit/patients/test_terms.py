"""Search terms: how a record is found, what a search reads, and what revision 0011 makes of the records that there are."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from broker.db import Database, SqlUnit, schema, sql
from broker.matching.block import block_keys
from broker.matching.normalise import own_numbers, telling_date
from broker.model.errors import Hl7Code, Rejected
from broker.model.people import Address, Demographics, PersonName
from broker.patients.asked import Account, AskedAddress, AskedName, Compare, Interval, Phone, Query, Text, score
from broker.patients.demographics import Asker, Found
from broker.patients.identifiers import GivenId
from broker.patients.store import search, tables
from broker.patients.terms import Range, ranges, terms
from tests.helpers.demographics import JING, fill
from tests.helpers.patients import Bench

ASKER = Asker(wire="test", node="VIEW", tag="t")
TEXTS = st.sampled_from(["", "张", "Zhang", "ＺＨＡＮＧ", "zhang wei", "ß", "SS", "İ", "x" * 50, "x" * 60, "㍿", "a\u0301"])
NAMES = st.builds(PersonName, family=TEXTS, given=TEXTS, middle=TEXTS)
PEOPLE = st.builds(
    Demographics, names=st.tuples(NAMES) | st.tuples(NAMES, NAMES), mother=st.none() | NAMES,
    birth_date=st.sampled_from(["", "1979", "197902", "19790214", "19800101"]),
    addresses=st.just(()) | st.tuples(st.builds(Address, street=TEXTS, city=TEXTS, postcode=TEXTS)),
    phones=st.just(()) | st.tuples(st.sampled_from(["123", "87654321", "+86 591 87654321"])),
    accounts=st.just(()) | st.tuples(st.tuples(st.just("2.999.1"), TEXTS)))
ASKED = st.builds(Text, TEXTS, st.sampled_from(Compare))
ASKED_NAMES = st.builds(AskedName, family=ASKED, given=ASKED, middle=ASKED)
INTERVALS = st.builds(Interval, st.sampled_from(["", "1979", "19790214"]), st.sampled_from(["", "1979", "19790214", "1985"]))


def some(asked: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(()) | st.tuples(st.tuples(asked)) | st.tuples(st.tuples(asked, asked))


QUERIES = st.builds(
    Query, names=some(ASKED_NAMES), mothers=some(ASKED_NAMES), births=some(INTERVALS), accounts=some(st.builds(Account, TEXTS)),
    addresses=some(st.builds(AskedAddress, street=ASKED, postcode=ASKED, city=ASKED)),
    phones=some(st.builds(Phone, st.sampled_from(["123", "87654321", "59187654321"]))))


@given(person=PEOPLE, query=QUERIES)
def test_whoever_answers_is_found_by_every_way(person: Demographics, query: Query) -> None:
    if score(query, person):
        own = terms(person)
        for way in ranges(query):
            assert any(one.kind == kind and one.low <= value < one.high for one in way for kind, value in own), way
    assert all(len(value) <= 64 and len(kind) <= 8 for kind, value in terms(person)), "what the columns hold"


def asked(family: str = "", given: str = "", compare: Compare = Compare.EQUAL) -> AskedName:
    return AskedName(family=Text(family, compare), given=Text(given, compare))


@pytest.mark.parametrize(("query", "points"), [
    (Query(names=((asked("欧阳", "静"),),)), 100), (Query(names=((asked("ouyang"),),)), 100),
    (Query(names=((asked("ouy", compare=Compare.STARTS),),)), 90), (Query(names=((asked("ouyang", compare=Compare.EXACT),),)), 0),
    (Query(names=((asked("OUYANG", compare=Compare.EXACT),),)), 100), (Query(names=((asked("李"), asked("欧阳")),)), 100),
    (Query(names=((asked("李"),), (asked("欧阳"),))), 0), (Query(sexes=(("M", "F"),)), 100), (Query(sexes=(("M",),)), 0),
    (Query(births=((Interval("1985", "1985"),),)), 100), (Query(births=((Interval("19850613"),),)), 0),
    (Query(births=((Interval("", "19850612"),),)), 100), (Query(births=((Interval("19850601", "198506"),),)), 100),
    (Query(addresses=((AskedAddress(any_part=Text("福")),),)), 0),
    (Query(addresses=((AskedAddress(any_part=Text("福", Compare.STARTS)),),)), 90),
    (Query(phones=((Phone("8765 4321"),),)), 100), (Query(phones=((Phone("4321"),),)), 0), (Query(phones=((Phone(""),),)), 0),
    (Query(accounts=((Account("ACC-7", frozenset(("X",))),),)), 0), (Query(accounts=((Account("ACC-7"),),)), 100)])
def test_points(query: Query, points: int) -> None:
    assert score(query, JING) == points


class Explaining:
    """A driver's connection that says how it would answer what it is asked."""

    def __init__(self, driver: Any, explain: str) -> None:
        self._driver, self._explain = driver, explain
        self.told: list[str] = []

    def execute(self, statement: str, parameters: Any) -> Any:
        self.told += map(str, self._driver.execute(f"{self._explain} {statement}", parameters).fetchall())
        return self._driver.execute(statement, parameters)


def plan(bench: Bench, way: Sequence[Range]) -> str:
    """Return how the store answers a search by these ranges."""
    with bench.database.read() as unit:
        assert isinstance(unit, SqlUnit)
        on_postgresql = unit.dialect.name == "postgresql"
        if on_postgresql:
            unit.driver.execute("SET enable_seqscan = off")     # which it prefers on few rows
        driver = Explaining(unit.driver, "EXPLAIN" if on_postgresql else "EXPLAIN QUERY PLAN")
        search.numbers(SqlUnit(unit.connection, driver), way, 10)
        return "\n".join(driver.told)


@pytest.mark.parametrize("query", [
    Query(names=((asked("张", "伟"),),), births=((Interval("19790214", "19790214"),),)),
    Query(names=((asked("张"), asked("李")),), births=((Interval("1979", "1979"), Interval("1985", "1985")),)),
    Query(names=((asked("zh", compare=Compare.STARTS),),), births=((Interval("19790214", "19790214"),),)),
    Query(names=((asked("zh", compare=Compare.STARTS),),)), Query(births=((Interval("1979", "1979"),),))])
def test_a_search_reads_ranges_of_the_index_alone(bench: Bench, query: Query) -> None:
    fill(bench)
    told = plan(bench, ranges(query)[0])
    assert "patient_term" in told
    assert "SCAN patient_term" not in told
    assert "Seq Scan" not in told


def test_what_is_asked_is_as_much_work_however_many_are_unlike(bench: Bench) -> None:
    """A name and a birth date lead to the records that have both."""
    for day in range(1, 21):
        bench.feed("A04", f"D{day}", Demographics(names=(PersonName("王", "伟"),), birth_date=f"197003{day:02}", sex="M"))
        bench.feed("A04", f"E{day}", Demographics(names=(PersonName(f"孙{day}", "伟"),), birth_date="19700301", sex="M"))
    (way, *_) = ranges(Query(names=((asked("王"),),), births=((Interval("19700301", "19700301"),),)))
    (begins, *_) = ranges(Query(names=((asked("王", compare=Compare.STARTS),),), births=((Interval("19700301", "19700301"),),)))
    with bench.database.read() as unit:
        assert len(search.numbers(unit, way, 100)) == len(search.numbers(unit, begins, 100)) == 1


def found_ids(found: Found) -> list[set[str]]:
    return [{one.value for one, _ in hit.ids if one.domain != "2.999.1.1"} for hit in found.hits]


def test_an_id_of_whatever_domain_and_one_that_a_source_named_beside_its_own(bench: Bench) -> None:
    fill(bench)

    def by(value: str, oid: str = "") -> list[set[str]]:
        given_id = GivenId(value=value, oid=oid, at="p", at_authority="p")
        return found_ids(bench.supplier.search(Query(ids=((given_id,),)), ASKER))

    assert by("C1") == [{"A1", "B1", "B2", "C1"}]
    assert by("350102198506120047") == [{"A4"}]
    assert by("350102198506120047", "2.999.77") == []
    assert by(bench.affinity("A2")) == [{"A2"}]
    assert by("never") == []


def test_the_surest_come_first(bench: Bench) -> None:
    fill(bench)
    query = Query(names=((asked("张", compare=Compare.STARTS), asked("李")),))
    found = bench.supplier.search(query, ASKER)
    assert [hit.confidence for hit in found.hits] == [100, 100]
    query = Query(names=((asked("ZHA", compare=Compare.STARTS), asked("李")),))
    assert found_ids(bench.supplier.search(query, ASKER)) == [{"A2"}, {"A1", "B1", "B2", "C1"}]
    few = Query(names=query.names, least=95)
    assert found_ids(bench.supplier.search(few, ASKER)) == [{"A2"}]


def test_what_is_not_telling_enough_says_what_would_be(bench: Bench) -> None:
    with pytest.raises(Rejected) as caught:
        bench.supplier.search(Query(sexes=(("F",),), addresses=((AskedAddress(city=Text("福州")),),), place="here"), ASKER)
    [problem] = caught.value.problems
    assert (problem.code, problem.location) == (Hl7Code.REQUIRED_FIELD_MISSING, "here")
    assert problem.context.startswith("too little to search by: give an id, a name")


def test_the_revision_makes_the_terms_of_the_records_that_there_are(tmp_path: Path) -> None:
    people = [
        JING, Demographics(), Demographics(names=(PersonName("ZHANG", "ＷＥＩ"), PersonName("", "x" * 60)), birth_date="1979"),
        Demographics(names=(PersonName("张 三"),), phones=("12", "no number"))]
    database = Database(f"sqlite:///{tmp_path / 'broker.db'}")
    schema.upgrade(database, "0010")
    without_accounts = [{name: value for name, value in asdict(one).items() if name != "accounts"} for one in people]
    with database.write() as unit:
        sql(unit).execute(sa.insert(tables.identity), [
            {"id": number, "domain": "2.999.2.1", "value": f"A{number}", "state": "retired" if number == 4 else "active",
             "demographics": body, "message_id": "", "created_at": 0.0, "updated_at": 0.0}
            for number, body in enumerate(without_accounts, 1)])
        sql(unit).execute(sa.insert(tables.key), [
            {"identity_id": number, "kind": kind, "value": value} for number, one in enumerate(people[:3], 1)
            for kind, value in (("birth", telling_date(one)), *(("number", found) for found in own_numbers(one))) if value])
    schema.upgrade(database)
    with database.read() as unit:
        rows = {tuple(row) for row in sql(unit).execute(sa.select(tables.term))}
        kept = tables.key.c
        keys = {tuple(row) for row in sql(unit).execute(sa.select(kept.kind, kept.value, kept.identity_id))}
    database.close()
    assert keys == {(*key, number) for number, one in enumerate(people[:3], 1) for key in block_keys(one)}
    wanted = {(*term, number) for number, one in enumerate(people[:3], 1) for term in terms(one) if term[0] != "account"}
    assert rows == wanted


def test_a_person_of_very_many_names_is_kept_and_forgotten(bench: Bench) -> None:
    many = Demographics(names=tuple(PersonName(f"名{number}", "一") for number in range(900)), birth_date="19790214", sex="M")
    assert bench.add("B1", many) == "CA"
    query = Query(names=((asked("名899"),),))
    assert found_ids(bench.supplier.search(query, ASKER)) == [{"B1"}]
    assert bench.add("B1", JING, revise=True) == "CA"
    assert bench.supplier.search(query, ASKER).hits == ()
    assert found_ids(bench.supplier.search(Query(names=((asked("欧阳"),),)), ASKER)) == [{"B1"}]
