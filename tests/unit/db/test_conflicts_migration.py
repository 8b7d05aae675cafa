"""What an older broker kept aside becomes cases, and its studies stay what they were."""

from pathlib import Path

import sqlalchemy as sa

import broker.app.whole  # noqa: F401 - it declares every table
from broker.db import Database, schema

STUDY = "INSERT INTO study VALUES (:i, :h, '1.2', 'online', 'complete', '2.9', 'P', '20240101', '', '{}', 1, 1, 0, 0, 0)"
BELOW = (
    "INSERT INTO series VALUES (:i, '1.2.1', 'CT', '', '')",
    "INSERT INTO instance VALUES (:i, '1.2.1.1', '1.2.1', 'x', 'y', 'a/1', 1, 'ab', 0)",
    "INSERT INTO publication VALUES (:i, 'published', '2.9', 'P', '1', 'u', 'd', 0, 0, '', NULL, NULL)",
    "INSERT INTO conflict VALUES (:i, :h, '1.2', '1.2.1.1', '.conflict/' || :h, 'ab', 5)",
)


def test_what_was_kept_aside_becomes_cases(tmp_path: Path) -> None:
    store = Database(f"sqlite:///{tmp_path / 'broker.db'}")
    schema.upgrade(store, "0004")
    with store.write() as unit:
        for number, hospital in ((1, "a"), (2, "b")):
            for statement in (STUDY, *BELOW):
                values = {"i": number, "h": hospital} if ":h" in statement else {"i": number}
                unit.connection.execute(sa.text(statement), values)
    schema.upgrade(store)
    with store.read() as unit:
        def rows(query: str) -> list[tuple[object, ...]]:
            return [tuple(row) for row in unit.connection.execute(sa.text(query))]

        assert rows("SELECT id, hospital, part FROM study ORDER BY id") == [(1, "a", 0), (2, "b", 0)]
        assert rows("SELECT study_id, sop_uid FROM instance ORDER BY 1") == [(1, "1.2.1.1"), (2, "1.2.1.1")]
        cases = rows("SELECT study_id, kind, state, patient_value, first_at FROM conflict_case ORDER BY 1")
        assert cases == [(1, "bytes", "open", "P", 5.0), (2, "bytes", "open", "P", 5.0)]
        asides = rows("SELECT c.hospital, k.study_id, c.role FROM conflict c JOIN conflict_case k ON k.id = c.case_id ORDER BY 1")
        assert asides == [("a", 1, "came"), ("b", 2, "came")]
        # the second hospital of a study gets a Retrieve Location UID of its own
        assert rows("SELECT study_id, state, digest FROM publication ORDER BY 1") == [(1, "published", "d"), (2, "due", "")]
        assert rows("PRAGMA foreign_key_check") == []
    store.close()
