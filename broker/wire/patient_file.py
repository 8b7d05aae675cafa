"""Files of patients, a record after the other: lines of a bounded length, and tables (CSV, RFC 4180) with a row for each id.

A cell that holds several lines says several: the first line of each column of a name is the first name, and so on.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any, BinaryIO, Final, TypeVar

from broker.model.errors import BrokerError, Hl7Code, Rejected, TooLarge
from broker.model.ids import PatientId, is_oid
from broker.model.people import Address, Demographics, PersonName
from broker.wire.birth_date import read_birth_date
from broker.wire.hl7v2_message import LONGEST
from broker.wire.hl7v2_pix import MOST, SEXES

_NAME: Final = {**{field.name: field.name for field in fields(PersonName)}, "use": "name_use"}    # attribute -> column
_ADDRESS: Final = {field.name: field.name for field in fields(Address)}
_MOTHER: Final = {"family": "mother_family", "given": "mother_given"}
COLUMNS: Final = (
    "domain", "id", *_NAME.values(), "birth_date", "sex", *_MOTHER.values(), "phone", *_ADDRESS.values(), "national_id",
    "other_ids", "accounts", "affinity_id")
_NEEDED: Final = ("id",)
_OTHER_NAMES: Final = {"namespace": "domain", "name_type": "name_use"}
_DELIMITERS: Final = ",;\t"
_DATE_MARKS: Final = re.compile("[-/.]")
_CX: Final = "^^^"      # between an id and its authority

_Part = TypeVar("_Part", PersonName, Address)
Cells = Mapping[str, str]
Named = tuple[str, str]     # authority (OID, namespace, or empty), value


@dataclass(frozen=True, slots=True)
class Line:
    """A row or line of a file: its number, its bytes as they came, and what is wrong with it as a whole, if anything.

    What is longer than the limit is not kept: it has no bytes.
    """

    number: int
    raw: bytes
    cells: Cells
    problem: BrokerError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRow:
    """What a row says. `domain` is an OID, a namespace or empty; `changes` are attributes of `Demographics`.

    None for other ids or national number means that the row says nothing about them.
    """

    domain: str
    value: str
    changes: Mapping[str, Any]
    other_ids: tuple[Named, ...] | None
    national: str | None


class _Lines:
    """The lines of a file as bytes. `taken` gathers those read since it was emptied; no more than `largest` bytes are kept."""

    def __init__(self, file: BinaryIO, largest: int, encoding: str) -> None:
        self._file, self._largest, self._encoding = file, largest, encoding
        self.taken: list[bytes] = []
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line as text. Raise `Rejected` for other bytes than the encoding has, `TooLarge`."""
        line = self._file.readline(self._largest + 1)
        if not line:
            raise StopIteration
        self._size += len(line)
        if self._size > self._largest:
            self.taken.clear()
            while line and not line.endswith(b"\n"):
                line = self._file.readline(self._largest + 1)
            raise TooLarge("server.max_message")
        self.taken.append(line)
        try:
            return line.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise Rejected(Hl7Code.DATA_TYPE, f"byte {error.start + 1} of the line is no {self._encoding}") from error

    def take(self) -> bytes:
        """Return what was read, and forget it."""
        raw, self._size = b"".join(self.taken), 0
        self.taken.clear()
        return raw


def lines(file: BinaryIO, largest: int) -> Iterator[Line]:
    """Return the lines of a file that are not blank, without their ends. Memory does not grow with the file."""
    read = _Lines(file, largest, "utf-8-sig")
    number = 0
    while True:
        number += 1
        problem: BrokerError | None = None
        try:
            text = next(read)
        except StopIteration:
            return
        except BrokerError as error:
            text, problem = "-", error
        raw = read.take()
        if text.strip():
            yield Line(number, raw, {}, problem)


class Table:
    """The rows of a table with a header. Row 1 is the header, as in a spreadsheet. Memory does not grow with the file."""

    def __init__(self, file: BinaryIO, encoding: str, largest: int) -> None:
        """Read the header. Raise `Rejected` where it is none, or names columns that are not known, twice or too few."""
        self._lines = _Lines(file, largest, encoding)
        try:
            header = next(self._lines, "").removeprefix("\ufeff")
            delimiter = max(_DELIMITERS, key=header.count)
            names = next(csv.reader([header], delimiter=delimiter), [])
        except (TooLarge, csv.Error) as error:
            raise Rejected(Hl7Code.DATA_TYPE, "the first line is no header of a table") from error
        self.header = self._lines.take()
        self.columns = [_column(name) for name in names]
        _check_header(names, self.columns)
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[Line]:
        """Return the rows that are not blank."""
        number = 1
        while True:
            number += 1
            problem: BrokerError | None = None
            cells: list[str] = []
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except BrokerError as error:
                problem = error
            except csv.Error as error:
                problem = Rejected(Hl7Code.DATA_TYPE, f"the row is no CSV: {error}")
            raw = self._lines.take()
            if problem is None and any(map(str.strip, cells)) and len(cells) != len(self.columns):
                problem = Rejected(
                    Hl7Code.DATA_TYPE, f"the row has {len(cells)} cells, and the header has {len(self.columns)} columns")
            if problem is not None or any(map(str.strip, cells)):
                yield Line(number, raw, dict(zip(self.columns, cells, strict=False)), problem)


def _column(name: str) -> str:
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    return _OTHER_NAMES.get(plain, plain)


def _check_header(names: Sequence[str], columns: Sequence[str]) -> None:
    unknown = [name[:64] or "(without a name)" for name, column in zip(names, columns, strict=True) if column not in COLUMNS]
    twice = sorted({column for column in columns if columns.count(column) > 1 and column in COLUMNS})
    missing = [column for column in _NEEDED if column not in columns]
    for what, found in (("misses the column", missing), ("has unknown columns:", unknown), ("has columns twice:", twice)):
        if found:
            told = ", ".join(found[:5])
            raise Rejected(Hl7Code.DATA_TYPE, f"the header {what} {told} (known: {', '.join(COLUMNS)})")


def read_row(cells: Cells) -> PatientRow:
    """Read a row; an empty cell says nothing. Raise `Rejected` for what is no date or sex, and for what is longer, or more often

    there, than anybody's data is.
    """
    several = {column: _lines_of(column, text) for column, text in cells.items()}
    one = {column: found[0] if found else "" for column, found in several.items()}
    changes: dict[str, Any] = {}
    if names := _parts(several, PersonName, _NAME):
        changes["names"] = names
    if addresses := _parts(several, Address, _ADDRESS):
        changes["addresses"] = addresses
    for key, column, check in (("birth_date", "birth_date", _birth_date), ("sex", "sex", _sex)):
        if one.get(column):
            changes[key] = check(one[column])
    if any(one.get(column) for column in _MOTHER.values()):
        changes["mother"] = PersonName(**{key: one.get(column, "") for key, column in _MOTHER.items()})
    if phones := tuple(filter(None, several.get("phone", ()))):
        changes["phones"] = phones
    others, accounts = (tuple(_named(text) for text in several.get(column, ()) if text) for column in ("other_ids", "accounts"))
    if accounts:
        changes["accounts"] = accounts
    return PatientRow(
        domain=one.get("domain", ""), value=one.get("id", ""), changes=changes, other_ids=others or None,
        national=one.get("national_id") or None)


def _lines_of(column: str, text: str) -> list[str]:
    found = [part.strip() for part in text.split("\n")] if text.strip() else []
    if len(found) > MOST:
        raise Rejected(Hl7Code.DATA_TYPE, f"{column} has more than {MOST} lines", column)
    for part in found:
        if len(part) > LONGEST or any(char < " " for char in part):
            raise Rejected(Hl7Code.DATA_TYPE, f"{column} has more than {LONGEST} characters, or control characters", column)
    return found


def _parts(several: Mapping[str, Sequence[str]], kind: Callable[..., _Part], names: Mapping[str, str]) -> tuple[_Part, ...]:
    found = zip_longest(*(several.get(column, ()) for column in names.values()), fillvalue="")
    return tuple(kind(**dict(zip(names, parts, strict=True))) for parts in found if any(parts))


def _birth_date(text: str) -> str:
    # Spreadsheets write 1979/2/14, whatever they were given; the year comes first, so that it is clear.
    found = read_birth_date("".join(part.zfill(2) for part in _DATE_MARKS.split(text)))
    if found is None:
        raise Rejected(
            Hl7Code.DATA_TYPE, "birth_date is not a date (1979-02-14, 1979/2/14, 19790214, or its beginning)", "birth_date")
    return found


def _sex(text: str) -> str:
    if text.upper() not in SEXES:
        raise Rejected(Hl7Code.TABLE_VALUE, "sex is not in table 0001 (F, M, O, U, A, N)", "sex")
    return text.upper()


def _named(text: str) -> Named:
    """Return authority and value of `value`, `value^^^NAMESPACE` or `value^^^NAMESPACE&OID&ISO`; an OID is what counts."""
    value, _, authority = text.partition(_CX)
    namespace, _, rest = authority.partition("&")
    return rest.partition("&")[0] or namespace, value


def _cx(authority: str, value: str) -> str:
    return f"{value}{_CX}&{authority}&ISO" if is_oid(authority) else f"{value}{_CX}{authority}" if authority else value


def write_row(patient: PatientId, affinity: str, person: Demographics) -> list[str]:
    """Return the cells of an active id, by `COLUMNS`; `affinity` is the id of the person in the affinity domain."""
    numbers = [value for domain, value in person.other_ids if not domain]
    others = [_cx(domain, value) for domain, value in person.other_ids if domain] + numbers[1:]
    mother = person.mother or PersonName()
    cells = {
        "domain": patient.domain, "id": patient.value, "birth_date": person.birth_date, "sex": person.sex,
        **_columns(person.names, _NAME), **_columns(person.addresses, _ADDRESS), **_columns((mother,), _MOTHER),
        "phone": _joined(person.phones), "national_id": numbers[0] if numbers else "", "other_ids": _joined(others),
        "accounts": _joined(_cx(*account) for account in person.accounts), "affinity_id": affinity}
    return [cells[column] for column in COLUMNS]


def _columns(parts: Sequence[PersonName | Address], names: Mapping[str, str]) -> dict[str, str]:
    return {column: _joined(getattr(part, key) for part in parts) for key, column in names.items()}


def _joined(values: Any) -> str:  # noqa: ANN401
    lines = [" ".join(value.split("\n")) for value in values]
    return "\n".join(lines) if any(lines) else ""
