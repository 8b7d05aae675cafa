"""Statements compiled once and run by the driver: what is run for every call of a busy transaction.

SQLAlchemy's execution costs several times what SQLite needs to answer; its compiled text is kept here instead. Only for
columns of text, numbers and bytes: values and rows pass through as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from broker.db.engine import SqlUnit, away
from broker.model.ports import Unit

_MANY = 64          # values of one list; longer ones are rendered for each execution
_SHAPES = 256       # texts kept of one statement: one for each dialect and combination of list lengths

Values = Mapping[str, Any]


class Prepared:
    """A SELECT or INSERT. Values are bound by name; a list or tuple is for an expanding parameter.

    Running it raises `Unavailable` when the store cannot be reached.
    """

    def __init__(self, statement: sa.Select[Any] | sa.Insert) -> None:
        self._statement = statement
        self._texts: dict[tuple[object, ...], _Text] = {}

    def rows(self, unit: Unit, values: Values) -> list[tuple[Any, ...]]:
        """Run it once; give all rows."""
        assert isinstance(unit, SqlUnit)
        flat, lengths = _flat(values)
        if max(lengths, default=0) > _MANY:
            return [tuple(row) for row in unit.connection.execute(self._statement, dict(values))]
        text = self._texts.get((unit.dialect.name, *lengths)) or self._compile(unit.dialect, values, lengths)
        try:
            found: list[tuple[Any, ...]] = unit.driver.execute(text.sql, text.bind(flat)).fetchall()
        except unit.dialect.loaded_dbapi.OperationalError as error:
            raise away(error) from error
        return found

    def run(self, unit: Unit, rows: Sequence[Values]) -> None:
        """Run it once for each row of values; all rows have the same names, and no lists."""
        assert isinstance(unit, SqlUnit)
        text = self._texts.get((unit.dialect.name,)) or self._compile(unit.dialect, rows[0], [])
        try:
            if len(rows) == 1:
                unit.driver.execute(text.sql, text.bind(dict(rows[0])))
            else:
                unit.driver.cursor().executemany(text.sql, [text.bind(dict(row)) for row in rows])
        except unit.dialect.loaded_dbapi.OperationalError as error:
            raise away(error) from error

    def _compile(self, dialect: sa.Dialect, values: Values, lengths: Sequence[int]) -> "_Text":
        if len(self._texts) >= _SHAPES:
            self._texts.clear()
        text = self._texts[dialect.name, *lengths] = _Text(self._statement, dialect, values)
        return text


class _Text:
    """The SQL of one dialect for lists of certain lengths, and how the driver wants its values."""

    def __init__(self, statement: sa.Select[Any] | sa.Insert, dialect: sa.Dialect, values: Values) -> None:
        keys = list(values) if isinstance(statement, sa.Insert) else None
        state = statement.compile(dialect=dialect, column_keys=keys).construct_expanded_state(dict(values))
        self.sql = state.statement
        given, _ = _flat(values)
        self._constants = {name: value for name, value in state.parameters.items() if name not in given}
        self._order = state.positiontup

    def bind(self, values: dict[str, Any]) -> Any:
        """Give the values, lists expanded, as the driver takes them."""
        values |= self._constants
        return tuple(map(values.__getitem__, self._order)) if self._order is not None else values


def _flat(values: Values) -> tuple[dict[str, Any], list[int]]:
    """Give the values with each list as the parameters it is expanded to, and the lengths of the lists."""
    flat: dict[str, Any] = {}
    lengths: list[int] = []
    for name, value in values.items():
        if isinstance(value, list | tuple):
            lengths.append(len(value))
            for number, one in enumerate(value, 1):
                flat[f"{name}_{number}"] = one
        else:
            flat[name] = value
    return flat, lengths
