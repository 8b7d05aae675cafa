"""State machines of rows: a table of allowed transitions that every change of a state goes through.

The UPDATE itself carries the states an event may come in, so that a row that another transaction has moved on meanwhile is left
alone. `docs/architecture.md` is drawn from the tables.
"""

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from broker.db.unit import sql
from broker.model.ports import Unit

NEW, GONE = "", "(gone)"       # before a row is there, and after


class Transition(NamedTuple):
    """What an event makes of a row in state `source`."""

    source: str
    event: str
    target: str


class Machine:
    """The states of one table's rows, in the column `state`."""

    def __init__(self, name: str, state: sa.Column[str], transitions: Iterable[tuple[str, str, str]]) -> None:
        self.name, self._state = name, state
        self.transitions = tuple(Transition(*one) for one in transitions)

    @property
    def states(self) -> list[str]:
        """All states a row can have, as they come in the table."""
        named = dict.fromkeys(state for one in self.transitions for state in (one.source, one.target))
        return [state for state in named if state not in (NEW, GONE)]

    @property
    def events(self) -> list[str]:
        """All events, as they come in the table."""
        return list(dict.fromkeys(one.event for one in self.transitions))

    def first(self, event: str) -> str:
        """Return the state a row begins in."""
        return self._target(event, [one for one in self.transitions if one.event == event and one.source == NEW])

    def move(self, unit: Unit, event: str, *where: sa.ColumnElement[bool], to: str = "", **values: object) -> int:
        """Set the state that `event` leads to, and `values`, of the rows for which all conditions hold; return how many.

        Rows in states in which the event must not come are left alone. Say `to` where the table allows several. Raise
        ValueError for an event or a target that the table does not know.
        """
        known = [one for one in self.transitions if one.event == event and one.source != NEW and to in ("", one.target)]
        target = self._target(event, known)
        allowed = self._state.in_([one.source for one in known])
        return sql(unit).execute(
            sa.update(self._state.table).where(*where, allowed).values({self._state.name: target, **values})).rowcount

    def remove(self, unit: Unit, event: str, *where: sa.ColumnElement[bool]) -> int:
        """Delete the rows for which all conditions hold and that `event` may end; return how many."""
        ending = [one.source for one in self.transitions if one.event == event and one.target == GONE]
        if not ending:
            raise ValueError(f"{self.name}: {event!r} ends nothing")
        return sql(unit).execute(sa.delete(self._state.table).where(*where, self._state.in_(ending))).rowcount

    def _target(self, event: str, known: list[Transition]) -> str:
        targets = {one.target for one in known}
        if len(targets) != 1:
            raise ValueError(f"{self.name}: {event!r} leads to {sorted(targets) or 'nothing'}")
        return targets.pop()
