import sqlalchemy as sa

from broker.db import Database, sql
from broker.repository import store


def test_the_migration_makes_what_the_store_expects(database: Database) -> None:
    with database.read() as unit:
        inspector = sa.inspect(sql(unit))
        found = {column["name"]: column["nullable"] for column in inspector.get_columns("document")}
        indexes = {index["name"] for index in inspector.get_indexes("document")}
    assert found == {column.name: bool(column.nullable) for column in store.document.columns}
    assert indexes == {index.name for index in store.document.indexes}
