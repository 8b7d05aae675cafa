"""The parameters of ITI-78 (IHE PDQm 2:3.78.4.1.2) as a demographics query."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final

from broker.model.errors import FhirCode, Rejected
from broker.patients.asked import AskedAddress, AskedName, Compare, Interval, Phone, Query, Text
from broker.patients.fhir import given_id, logical_id, plain, token, values
from broker.patients.identifiers import GivenId
from broker.patients.terms import ranges
from broker.wire.birth_date import is_date
from broker.wire.fhir_patient import Identifier, sexes_of

WANTED: Final = "targetSystem"      # the place of a wanted domain in a refusal
_MOST: Final = 100                  # conditions of one search, and alternatives of one condition
_DATE: Final = re.compile(r"(eq|ge|le|gt|lt|sa|eb)?([0-9]{4}(?:-[0-9]{2}){0,2})(?:T[0-9:.Z+-]*)?")

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is asked; `nobody`: it cannot be met. `respected` are the parameters that counted, as they came."""

    query: Query
    nobody: bool = False
    respected: Pairs = ()


def read_search(pairs: Pairs, affinity_domain: str, *, strict: bool) -> Search:
    """Return what parameters ask. One that is not known is passed over (PDQm 2:3.78.4.1.2.1), or with `strict` refused.

    Raise `Rejected` (invalid, value, code-invalid, too-long) for a value or modifier that is none, and for too many of them.
    """
    found = _Conditions(affinity_domain)
    respected = []
    for name, text in pairs:
        bare, _, modifier = name.partition(":")
        if text and bare in _READERS:
            found.add(bare, modifier, text)
            respected.append((name, text))
        elif strict and not name.startswith("_"):
            raise Rejected(FhirCode.INVALID, f"the parameter {name[:64]} is not known", name[:64])
        if len(respected) > _MOST:
            raise Rejected(FhirCode.TOO_LONG, f"more than {_MOST} conditions")
    return Search(query=found.query, nobody=found.nobody, respected=tuple(respected))


class _Conditions:
    """Conditions as they are added."""

    def __init__(self, affinity_domain: str) -> None:
        self.affinity_domain = affinity_domain
        self.nobody = False
        self.wanted: list[GivenId] = []
        self._found: dict[str, list[tuple[Any, ...]]] = {}

    def add(self, name: str, modifier: str, text: str) -> None:
        """Add a parameter that is known."""
        alternatives = values(text)
        if len(alternatives) > _MOST:
            raise Rejected(FhirCode.TOO_LONG, f"more than {_MOST} alternatives", name)
        if modifier and (modifier != "exact" or name not in _TEXTS):
            raise Rejected(FhirCode.INVALID, f"the modifier :{modifier[:32]} of {name} is not taken", name)
        _READERS[name](self, alternatives, Compare.EXACT if modifier else Compare.STARTS)

    def put(self, field: str, alternatives: Iterable[Any]) -> None:
        """Add a condition."""
        self._found.setdefault(field, []).append(tuple(alternatives))

    @property
    def query(self) -> Query:
        """All conditions together."""
        births = _merged(self._found.pop("births", []))
        conditions: dict[str, Any] = {field: tuple(some) for field, some in self._found.items()}
        query = Query(births=births, wanted=tuple(self.wanted), place="", **conditions)
        return query if query.ids or ranges(query) else _searchable(query)


def _searchable(query: Query) -> Query:
    """Return a query in which an address of whatever part is looked for where it can be: in the street and in the postcode."""
    def parts(alternatives: tuple[AskedAddress, ...]) -> Iterable[AskedAddress]:
        for one in alternatives:
            yield from (AskedAddress(street=one.any_part), AskedAddress(postcode=one.any_part)) if one.any_part else (one,)
    return replace(query, addresses=tuple(tuple(parts(one)) for one in query.addresses))


def _merged(births: list[tuple[Interval, ...]]) -> tuple[tuple[Interval, ...], ...]:
    """Return the conditions with those of one alternative as a single interval, which tells more to search by than each."""
    single = [one[0] for one in births if len(one) == 1]
    if len(single) < 2:
        return tuple(births)
    ends = [one for one in single if one.high]
    both = Interval(max(one.low for one in single), min(ends, key=lambda one: one.beyond).high if ends else "")
    return (both,), *(one for one in births if len(one) != 1)


# -- values


def _text(field: str, make: Callable[[Text], Any]) -> "_Reader":
    def read(conditions: _Conditions, alternatives: list[str], compare: Compare) -> None:
        conditions.put(field, (make(Text(plain(one), compare)) for one in alternatives))
    return read


def _id(conditions: _Conditions, alternatives: list[str], _compare: Compare) -> None:
    conditions.put("ids", (logical_id(conditions.affinity_domain, plain(one), "_id") for one in alternatives))


def _identifier(conditions: _Conditions, alternatives: list[str], _compare: Compare) -> None:
    """An identifier without a value is a wanted domain; without a system it is of whatever domain."""
    found = [token(one, "identifier") if "|" in one else Identifier("", plain(one), "identifier") for one in alternatives]
    domains = [one for one in found if one.system and not one.value]
    if domains and len(domains) < len(found):
        raise Rejected(FhirCode.VALUE, "ids and wanted domains (system|) stand in identifiers of their own", "identifier")
    conditions.wanted += (replace(given_id(one), at=WANTED, at_authority=WANTED) for one in domains)
    if not domains:
        conditions.put("ids", (given_id(one) for one in found if one.value))


def _active(conditions: _Conditions, alternatives: list[str], _compare: Compare) -> None:
    """Who is found is active."""
    conditions.nobody |= "true" not in map(_code, alternatives)


def _gender(conditions: _Conditions, alternatives: list[str], _compare: Compare) -> None:
    conditions.put("sexes", (sex for one in alternatives for sex in sexes_of(_code(one), "gender")))


def _telecom(conditions: _Conditions, alternatives: list[str], _compare: Compare) -> None:
    conditions.put("phones", (Phone(_code(one)) for one in alternatives))


def _code(text: str) -> str:
    """Return the code of a token, whatever system is said."""
    return plain(text.rpartition("|")[2])


def _birthdate(conditions: _Conditions, alternatives: list[str], _compare: Compare) -> None:
    conditions.put("births", map(_interval, alternatives))


def _interval(text: str) -> Interval:
    found = _DATE.fullmatch(text)
    day = found[2].replace("-", "") if found else ""
    if found is None or not is_date(day):
        raise Rejected(
            FhirCode.VALUE, "birthdate must be YYYY, YYYY-MM or YYYY-MM-DD behind eq, ge, le, gt, lt or nothing", "birthdate")
    return _INTERVALS[found[1] or "eq"](day)


def _before(day: str) -> Interval:
    first = date.fromisoformat(day + "00000101"[len(day):])
    return Interval("", f"{first - timedelta(days=1):%Y%m%d}") if first > date.min else Interval("", "0")


def _after(day: str) -> Interval:
    return Interval(day + "~")      # behind everything that begins with the date


_INTERVALS: Final[Mapping[str, Callable[[str], Interval]]] = {
    "eq": lambda day: Interval(day, day), "ge": Interval, "le": lambda day: Interval("", day), "gt": _after, "sa": _after,
    "lt": _before, "eb": _before}

_Reader = Callable[[_Conditions, list[str], Compare], None]
_TEXTS: Final[Mapping[str, _Reader]] = {
    "family": _text("names", lambda text: AskedName(family=text)),
    "given": _text("names", lambda text: AskedName(given=text)),
    "address": _text("addresses", lambda text: AskedAddress(any_part=text)),
    "address-city": _text("addresses", lambda text: AskedAddress(city=text)),
    "address-state": _text("addresses", lambda text: AskedAddress(state=text)),
    "address-postalcode": _text("addresses", lambda text: AskedAddress(postcode=text)),
    "address-country": _text("addresses", lambda text: AskedAddress(country=text)),
    "mothersMaidenName": _text("mothers", lambda text: AskedName(family=text)),
}
_READERS: Final[Mapping[str, _Reader]] = {
    **_TEXTS, "_id": _id, "identifier": _identifier, "active": _active, "gender": _gender, "telecom": _telecom,
    "birthdate": _birthdate}

# What the CapabilityStatement says of them.
DECLARED: Final = [
    {"name": name, "type": kind} for name, kind in (
        ("_id", "token"), ("active", "token"), ("identifier", "token"), ("telecom", "token"), ("gender", "token"),
        ("birthdate", "date"), *((name, "string") for name in _TEXTS))]
