"""Search terms of a record, and the ranges of them in which the answers to a query lie. Pure.

A term is a kind and a text; several parts are separated so that a text that begins with the first ones is found as a range. A
record is among the answers only when it has such a term, and is then compared as a whole (`asked.score`): terms need not tell
everything. Texts are cut to what an index can hold. What they are made of is in the database (revision 0011): other terms for
the same person need a revision.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from broker.model.people import Demographics, PersonName
from broker.patients.asked import (
    Account,
    AskedAddress,
    AskedName,
    Compare,
    Interval,
    Phone,
    Query,
    Text,
    digits,
    given_names,
    plain,
    whole_names,
)

_PART, _LAST = "\x1f", "\U0010ffff"     # between parts; behind every text
_LONGEST = 40           # characters of a part
_TAIL = 7               # digits of a telephone number
_MOST = 64              # ranges of one search: alternatives times alternatives

Term = tuple[str, str]
_Asked = TypeVar("_Asked")


@dataclass(frozen=True, slots=True)
class Range:
    """Terms of one kind from `low`, included, to `high`, not included."""

    kind: str
    low: str
    high: str


def terms(person: Demographics) -> frozenset[Term]:
    """Return the terms by which a record is found."""
    return frozenset(term for term in _terms(person) if term[1].strip(_PART))


def _terms(person: Demographics) -> Iterator[Term]:
    born = person.birth_date
    for family in {plain(name.family) for name in person.names} or {""}:
        yield "birth", born + _PART + _cut(family) if born else ""
    for name in person.names:
        yield "family", _cut(plain(name.family)) + _PART + born if name.family else ""
        for whole in whole_names(name):
            yield "whole", _cut(whole) + _PART + born if whole else ""
        for given in given_names(name):
            yield "given", _cut(plain(given)) + _PART + born
    if person.mother:
        yield "mother", _mother(person.mother)
    for address in person.addresses:
        yield "street", _cut(plain(address.street))
        yield "postcode", _cut(plain(address.postcode))
    for phone in person.phones:
        yield "phone", digits(phone)[-_TAIL:]
    for _, value in person.other_ids:
        yield "other", _cut(value)
    for _, value in person.accounts:
        yield "account", _cut(value)


def _mother(name: PersonName) -> str:
    return _cut(plain(name.family)) + _PART if name.family else ""


def _cut(text: str) -> str:
    return text[:_LONGEST]


def other_id(value: str) -> Range:
    """Return where the records are whose source named an id that is no domain's of this index."""
    return _only("other", _cut(value))


def ranges(query: Query) -> list[list[Range]]:
    """Return the ways to find every record that may answer, the most telling first; the ranges of one way are alternatives.

    None for a query that names nothing but what nearly everybody has (sex, city, state, country).
    """
    births = query.births[0] if query.births else ()
    ways: list[list[Range]] = [
        *_every(query.accounts, _account), *_every(query.phones, _phone),
        *(way for alternatives in query.names if (way := _names(alternatives, births))),
        *([[_birth(one) for one in births]] if births else ()),
        *_every(query.mothers, _asked_mother), *_every(query.addresses, _asked_address)]
    return [way for _, way in sorted(enumerate(ways), key=lambda pair: (_rank(pair[1]), pair[0]))]


_RANKS = {"account": 0, "phone": 1, "whole": 2, "street": 5, "mother": 6, "given": 8, "postcode": 9}


def _rank(way: list[Range]) -> int:
    """Return how telling a way is: those by a whole birth date before those by a name alone."""
    kind = way[0].kind
    dated = all(one.high == one.low + "~" and len(one.low.rpartition(_PART)[2]) == len("YYYYMMDD") for one in way)
    named = all(_PART in one.low for one in way)
    by_kind = {"family": 3 if dated else 7, "birth": 3 if named else 4 if dated else 10, "given": 3 if dated else 8}
    return by_kind.get(kind, _RANKS.get(kind, 10))


def _every(conditions: Iterable[tuple[_Asked, ...]], find: Callable[[_Asked], Range | None]) -> Iterator[list[Range]]:
    """Return a way for each condition of which every alternative can be found."""
    for alternatives in conditions:
        found = [one for one in map(find, alternatives) if one is not None]
        if len(found) == len(alternatives) <= _MOST:
            yield found


def _names(alternatives: tuple[AskedName, ...], births: tuple[Interval, ...]) -> list[Range]:
    found = list[Range]()
    for asked in alternatives:
        some = _name(asked, births or (Interval(),))
        if not some:
            return []
        found += some
    return found if len(found) <= _MOST else []


def _name(asked: AskedName, births: tuple[Interval, ...]) -> list[Range]:
    if asked.is_whole and not asked.middle:
        return [_dated("whole", plain(asked.family.value + asked.given.value), born) for born in births]
    kind, text = ("family", asked.family) if asked.family else ("given", asked.given or asked.middle)
    if not text:
        return []
    if text.compare is Compare.STARTS:
        on_days = kind == "family" and all(map(_is_day, births))
        return [_born_as(born, text) for born in births] if on_days else [_begins(kind, text)]
    return [_dated(kind, plain(text.value), born) for born in births]


def _dated(kind: str, text: str, born: Interval) -> Range:
    start = _cut(text) + _PART
    return Range(kind, start + born.low, start + born.beyond)


def _is_day(born: Interval) -> bool:
    return born.low == born.high and len(born.low) == len("YYYYMMDD")


def _born_as(born: Interval, family: Text) -> Range:
    """Return those born on a day whose family name begins with a text."""
    start = born.low + _PART + _cut(plain(family.value))
    return Range("birth", start, start + _LAST)


def _begins(kind: str, text: Text) -> Range:
    start = _cut(plain(text.value))
    return Range(kind, start, start + _LAST)


def _only(kind: str, text: str) -> Range:
    return Range(kind, text, text + "\x01")       # PostgreSQL knows no NUL


def _birth(born: Interval) -> Range:
    return Range("birth", born.low or "0", born.beyond)


def _account(asked: Account) -> Range:
    return _only("account", _cut(asked.value))


def _phone(asked: Phone) -> Range | None:
    number = digits(asked.number)[-_TAIL:]
    return _only("phone", number) if number else None


def _asked_mother(asked: AskedName) -> Range | None:
    return _text("mother", asked.family, _PART)


def _asked_address(asked: AskedAddress) -> Range | None:
    return _text("street", asked.street) or _text("postcode", asked.postcode)


def _text(kind: str, text: Text, end: str = "") -> Range | None:
    if not text:
        return None
    return _begins(kind, text) if text.compare is Compare.STARTS else _only(kind, _cut(plain(text.value)) + end)
