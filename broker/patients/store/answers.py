"""Answers to feeds, kept so that a feed sent again gets the answer it got and is not worked off again."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker.db import sql
from broker.model.ports import Unit
from broker.patients.store.tables import message

KEPT_MESSAGES = 10_000
_TIDIED = 64        # those beyond KEPT_MESSAGES are removed so many at a time


def answered(unit: Unit, sender: str, control_id: str, digest: str) -> bytes | None:
    """Return the answer to this message of this sender, when the very same bytes were answered before."""
    where = (message.c.sender == sender) & (message.c.control_id == control_id) & (message.c.digest == digest)
    return sql(unit).execute(sa.select(message.c.reply).where(where)).scalar()


def keep(unit: Unit, sender: str, control_id: str, answer: tuple[str, bytes], at: float) -> None:
    """Keep the digest of a message and its answer in place of an older one to the same control id."""
    connection = sql(unit)
    digest, reply = answer
    insert = postgresql.insert(message) if connection.dialect.name == "postgresql" else sqlite.insert(message)
    row = {"sender": sender, "control_id": control_id, "digest": digest, "reply": reply, "at": at}
    number = connection.execute(insert.values(row).on_conflict_do_update(
        index_elements=["sender", "control_id"], set_={"digest": digest, "reply": reply, "at": at},
    ).returning(message.c.id)).scalar_one()
    if number % _TIDIED == 0:
        connection.execute(sa.delete(message).where(message.c.id <= number - KEPT_MESSAGES))
