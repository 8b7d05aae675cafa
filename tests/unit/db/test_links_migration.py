"""Links that version 0.1.0 froze in merges."""

from pathlib import Path

import sqlalchemy as sa

from broker.db import Database, schema, sql
from broker.patients.projection import AUTOMATIC
from broker.patients.store import tables


def test_a_link_that_a_merge_froze_is_open_to_comparison_again(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'broker.db'}")
    schema.upgrade(database, "0004")
    with database.write() as unit:
        people: list[dict[str, object]] = [
            {"id": number, "domain": "2.999.2.1", "value": f"A{number}", "state": "active", "demographics": {},
             "message_id": "", "created_at": 0.0, "updated_at": 0.0} for number in (1, 2, 3)]
        sql(unit).execute(sa.insert(tables.identity), people)
        sql(unit).execute(sa.insert(tables.link), [
            {"a_id": 1, "b_id": 2, "kind": "explicit", "at": 0.0}, {"a_id": 2, "b_id": 3, "kind": "automatic", "at": 0.0}])
    schema.upgrade(database)
    with database.read() as unit:
        assert set(sql(unit).execute(sa.select(tables.link.c.kind)).scalars()) == {AUTOMATIC}
    database.close()
