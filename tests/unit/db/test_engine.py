import contextlib
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from broker.app.whole import App
from broker.db import Database, Prepared, metadata, schema, sql, unanswered
from broker.db.errors import DRIVER_ERRORS
from broker.model.errors import Unavailable
from tests.helpers.postgresql import Postgres


def test_the_history_makes_exactly_the_tables_the_stores_declare(database: Database) -> None:
    assert App.__module__ == "broker.app.whole"  # the import of which imports every store
    with database.read() as unit:
        context = MigrationContext.configure(sql(unit), opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_upgrade_is_repeatable_and_reaches_the_head(database: Database) -> None:
    schema.upgrade(database)
    assert schema.current(database) == schema.head()


def test_actions_run_after_the_commit_and_never_after_a_rollback(database: Database) -> None:
    done: list[str] = []
    with database.write() as unit:
        unit.after_commit(lambda: done.append("committed"))
        assert done == []
    with pytest.raises(ZeroDivisionError), database.write() as unit:
        unit.after_commit(lambda: done.append("rolled back"))
        _ = 1 / 0
    assert done == ["committed"]


def test_a_failed_unit_leaves_nothing(database: Database) -> None:
    with database.write() as unit:
        sql(unit).execute(sa.text("CREATE TABLE probe (n INTEGER)"))
    with pytest.raises(ZeroDivisionError), database.write() as unit:
        sql(unit).execute(sa.text("INSERT INTO probe VALUES (1)"))
        _ = 1 / 0
    with database.read() as unit:
        assert sql(unit).execute(sa.text("SELECT count(*) FROM probe")).scalar() == 0


@pytest.mark.peer("postgresql")
def test_a_store_all_of_whose_connections_are_taken_is_unavailable(postgres: Postgres) -> None:
    with contextlib.closing(Database(postgres.url)) as store:
        store.engine = sa.create_engine(postgres.url, pool_size=1, max_overflow=0, pool_timeout=0.01)
        with store.write(), pytest.raises(Unavailable), store.write():
            pass
        store.engine.dispose()


def test_writers_queue_instead_of_failing(database: Database) -> None:
    with database.write() as unit:
        sql(unit).execute(sa.text("CREATE TABLE counter (n INTEGER)"))
        sql(unit).execute(sa.text("INSERT INTO counter VALUES (0)"))

    def work() -> None:
        for _ in range(20):
            with database.write() as unit:
                n = sql(unit).execute(sa.text("SELECT n FROM counter")).scalar_one()
                sql(unit).execute(sa.text("UPDATE counter SET n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as unit:
        assert sql(unit).execute(sa.text("SELECT n FROM counter")).scalar() == 120


def test_an_unreachable_store_is_unavailable() -> None:
    store = Database("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(Unavailable, match="database"):
        store.ping()
    store.close()


def test_a_reading_unit_writes_nothing(database: Database) -> None:
    with pytest.raises((Unavailable, sa.exc.DBAPIError)), database.read() as unit:
        sql(unit).execute(sa.text("CREATE TABLE unwritten (n INTEGER)"))
    with database.read() as unit:
        assert "unwritten" not in sa.inspect(sql(unit)).get_table_names()


def test_prepared_statements_take_lists_of_every_length(database: Database) -> None:
    statement = Prepared(sa.select(sa.column("value", sa.String)).select_from(sa.text(
        "(SELECT 'a' AS value UNION ALL SELECT 'b' UNION ALL SELECT 'c') AS given")).where(
            sa.column("value", sa.String).in_(sa.bindparam("keys", expanding=True, type_=sa.String()))))
    for length in (0, 1, 2, 3, 5, 64, 65, 500, 1201):
        keys = ["a", "b", *map(str, range(1200))][:length]
        with database.read() as unit:
            assert sorted(statement.rows(unit, {"keys": keys})) == [("a",), ("b",)][:length]
            assert sorted(statement.rows_of(unit, "keys", keys)) == [("a",), ("b",)][:length]


def _probe(database: Database) -> sa.Table:
    table = sa.Table("probe", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    with database.write() as unit:
        table.create(sql(unit))
    return table


@pytest.mark.parametrize("count", [1, 2, 32, 33, 100])
def test_rows_of_any_number_are_inserted(database: Database, count: int) -> None:
    table = _probe(database)
    statement, returning = Prepared(sa.insert(table)), Prepared(sa.insert(table).returning(table.c.n, table.c.text))
    rows = [{"n": n, "text": f"text {n}"} for n in range(count)]
    more = [{"n": n + count, "text": "more"} for n in range(count)]
    with database.write() as unit:
        with unanswered(unit):
            statement.insert(unit, rows)
        assert sorted(returning.returned(unit, more)) == [(row["n"], "more") for row in more]
    with database.read() as unit:
        found = sql(unit).execute(sa.select(table).order_by(table.c.n)).all()
    assert [row._asdict() for row in found] == rows + more


def test_what_a_statement_raises_is_raised_at_the_end_of_its_block_at_the_latest(database: Database) -> None:
    table = _probe(database)
    statement = Prepared(sa.insert(table))
    after = []
    with pytest.raises(DRIVER_ERRORS), database.write() as unit:
        with unanswered(unit):
            statement.insert(unit, [{"n": 1, "text": "first"}])
            statement.insert(unit, [{"n": 1, "text": "again"}])
        after.append("the block ended well")
    assert not after
    with database.read() as unit:
        assert sql(unit).execute(sa.select(table)).all() == []
