"""Statements compiled once and run by the driver: what is run for every call of a busy transaction.

SQLAlchemy's execution costs several times what SQLite needs to answer; its compiled text is kept here instead. Only for
columns of text, numbers and bytes: values and rows pass through as they are. See docs/decisions/0031-prepared-statements.md.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from broker.db.errors import DRIVER_ERRORS, unavailable
from broker.db.unit import SqlUnit
from broker.model.ports import Unit

BATCH = 500         # values of one IN list
_ROWS = 32          # rows of one INSERT
_SHAPES = 256       # texts kept of one statement: one for each dialect and combination of list lengths

Values = Mapping[str, Any]
_Value = TypeVar("_Value", str, int)


@contextlib.contextmanager
def unanswered(unit: Unit) -> Iterator[None]:
    """Enclose INSERTs that return nothing: PostgreSQL is sent all of them before its answers are read (pipeline mode).

    Raise what any of them raised when the block ends.
    """
    assert isinstance(unit, SqlUnit)
    try:
        with unit.driver.pipeline() if unit.dialect.name == "postgresql" else contextlib.nullcontext():
            yield
    except DRIVER_ERRORS as error:
        raise unavailable(error) or error from error


def batches(values: Iterable[_Value], size: int = BATCH) -> Iterator[list[_Value]]:
    """Return the distinct values in lists that fit into one statement."""
    listed = list(dict.fromkeys(values))
    return (listed[start:start + size] for start in range(0, len(listed), size))


class Prepared:
    """A SELECT or INSERT. Values are bound by name; a list or tuple is for an expanding parameter.

    Running it raises `Unavailable` when the store cannot be reached.
    """

    def __init__(self, statement: sa.Select[Any] | sa.Insert) -> None:
        self._statement = statement
        self._texts: dict[tuple[object, ...], _Text] = {}

    def rows(self, unit: Unit, values: Values) -> list[tuple[Any, ...]]:
        """Run it once; return all rows."""
        assert isinstance(unit, SqlUnit)
        flat, lengths = _flat(values)
        text = self._texts.get((unit.dialect.name, *lengths)) or self._compile(unit.dialect, values, lengths)
        try:
            found: list[tuple[Any, ...]] = unit.driver.execute(text.sql, text.bind(flat)).fetchall()
        except DRIVER_ERRORS as error:
            raise unavailable(error) or error from error
        return found

    def rows_of(self, unit: Unit, name: str, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Run it for the distinct `keys`, a batch at a time, as the list `name`; return all rows."""
        return (row for batch in batches(keys) for row in self.rows(unit, {name: batch}))

    def insert(self, unit: Unit, rows: Sequence[Values]) -> None:
        """Insert all rows of values, many by one statement; all have the same names, and no lists."""
        for _ in self._inserted(unit, rows):
            """Nothing is returned."""

    def returned(self, unit: Unit, rows: Sequence[Values]) -> Iterator[tuple[Any, ...]]:
        """Insert all rows of values likewise; return what the statement's RETURNING says of each, in no certain order."""
        for cursor in self._inserted(unit, rows):
            try:
                yield from cursor.fetchall()
            except DRIVER_ERRORS as error:
                raise unavailable(error) or error from error

    def _inserted(self, unit: Unit, rows: Sequence[Values]) -> Iterator[Any]:
        assert isinstance(unit, SqlUnit)
        for start in range(0, len(rows), _ROWS):
            some = rows[start:start + _ROWS]
            values = {f"{name}_m{number}": value for number, row in enumerate(some) for name, value in row.items()}
            text = self._texts.get((unit.dialect.name, len(some))) or self._compile_rows(unit.dialect, some, values)
            try:
                cursor = unit.driver.execute(text.sql, text.bind(values))
            except DRIVER_ERRORS as error:
                raise unavailable(error) or error from error
            yield cursor

    def _compile_rows(self, dialect: sa.Dialect, rows: Sequence[Values], values: Values) -> "_Text":
        assert isinstance(self._statement, sa.Insert)
        text = self._texts[dialect.name, len(rows)] = _Text(
            self._statement.values([dict(row) for row in rows]), dialect, values)
        return text

    def _compile(self, dialect: sa.Dialect, values: Values, lengths: Sequence[int]) -> "_Text":
        if len(self._texts) >= _SHAPES:
            self._texts.clear()
        text = self._texts[dialect.name, *lengths] = _Text(self._statement, dialect, values)
        return text


class _Text:
    """The SQL of one dialect for lists of certain lengths, and how the driver wants its values."""

    def __init__(self, statement: sa.Select[Any] | sa.Insert, dialect: sa.Dialect, values: Values) -> None:
        padded = {name: _padded(value) if isinstance(value, list | tuple) else value for name, value in values.items()}
        state = statement.compile(dialect=dialect).construct_expanded_state(padded)
        self.sql = state.statement
        given, _ = _flat(values)
        self._constants = {name: value for name, value in state.parameters.items() if name not in given}
        self._order = state.positiontup

    def bind(self, values: dict[str, Any]) -> Any:
        """Return the values, lists expanded, as the driver takes them."""
        values |= self._constants
        return tuple(map(values.__getitem__, self._order)) if self._order is not None else values


def _flat(values: Values) -> tuple[dict[str, Any], list[int]]:
    """Return the values with each list as the parameters it is expanded to, and the lengths of the lists."""
    flat: dict[str, Any] = {}
    lengths: list[int] = []
    for name, value in values.items():
        if isinstance(value, list | tuple):
            padded = _padded(value)
            lengths.append(len(padded))
            for number, one in enumerate(padded, 1):
                flat[f"{name}_{number}"] = one
        else:
            flat[name] = value
    return flat, lengths


def _padded(listed: Sequence[Any]) -> Sequence[Any]:
    """Return a list as long as the next power of two, its last value repeated: few texts serve lists of every length."""
    missing = (1 << max(len(listed) - 1, 0).bit_length()) - len(listed)
    return [*listed, *[listed[-1]] * missing] if missing and listed else listed
