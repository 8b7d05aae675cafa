"""The migration makes exactly the tables the store uses."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from broker.db import Database, metadata
from broker.registry import store


def test_the_migration_equals_the_tables(database: Database) -> None:
    ours = {table.name for table in vars(store).values() if getattr(table, "metadata", None) is metadata}
    assert len(ours) == 10
    with database.read() as unit:
        context = MigrationContext.configure(unit.connection, opts={
            "compare_type": True, "include_name": lambda name, kind, _parents: kind != "table" or name in ours})
        differences = [row for row in compare_metadata(context, metadata) if any(name in str(row) for name in ours)]
    assert differences == []
