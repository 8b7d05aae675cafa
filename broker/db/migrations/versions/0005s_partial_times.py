"""Times of registered objects as they were submitted: a day is a day and not its first second."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from broker.wire.ebxml_rim import first, read_slots
from broker.wire.xml import parse

revision = "0005s"
down_revision = "0005p"

_BATCH = 500
_COLUMNS = {
    "registry_entry": {
        "creation_time": "creationTime", "service_start_time": "serviceStartTime", "service_stop_time": "serviceStopTime"},
    "registry_submission": {"submission_time": "submissionTime"},
}


def upgrade() -> None:
    """Take the padding off again, where the stored object says that a time was shorter."""
    for name, slots in _COLUMNS.items():
        table = sa.table(name, sa.column("object_id"), *map(sa.column, slots))
        for key, body in _padded(table, slots):
            short = _times(body, slots)
            if short:
                op.execute(table.update().where(table.c.object_id == key).values(short))


def _padded(table: sa.TableClause, slots: dict[str, str]) -> Iterator[tuple[int, bytes]]:
    """Yield the objects of which a time ends in the digits that it is padded with."""
    objects = sa.table("registry_object", sa.column("id"), sa.column("body"))
    ends = sa.or_(*(table.c[column].like("%0") | table.c[column].like("%1") for column in slots))
    last = 0
    while True:
        rows = op.get_bind().execute(
            sa.select(table.c.object_id, objects.c.body).join_from(table, objects, objects.c.id == table.c.object_id)
            .where(ends, table.c.object_id > last).order_by(table.c.object_id).limit(_BATCH)).all()
        if not rows:
            return
        last = rows[-1][0]
        yield from ((row[0], row[1]) for row in rows)


def _times(body: bytes, slots: dict[str, str]) -> dict[str, Any]:
    """Return the columns whose time has less than 14 digits."""
    said = read_slots(parse(body))
    times = {column: first(said, slot) for column, slot in slots.items()}
    return {column: time for column, time in times.items() if 0 < len(time) < len("YYYYMMDDhhmmss")}
