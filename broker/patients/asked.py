"""What a demographics query asks, whatever its wire (ITI-21, ITI-47, ITI-78), and whether a record answers it. Pure.

Everything is compared without case, width and blanks; characters are compared as they are. Conditions are AND; the
alternatives of one condition are OR. One record of a person answers all of them: what two hospitals say is not mixed. Ids are
asked of the whole person.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from broker.matching.normalise import fold
from broker.model.people import Address, Demographics, PersonName
from broker.patients.identifiers import GivenId

CERTAIN, LIKELY = 100, 90       # everything equal; something only begins with what was asked
_LOCAL_NUMBER = 7               # digits of a telephone number without any area code


class Compare(Enum):
    """How a text is compared."""

    EQUAL = "equal"
    STARTS = "starts"       # begins with what is asked
    EXACT = "exact"         # equal in every character


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is asked for; an empty one asks nothing."""

    value: str = ""
    compare: Compare = Compare.EQUAL

    def __bool__(self) -> bool:
        return bool(self.value)

    def score(self, *candidates: str) -> int:
        """Return how well the best candidate answers: `CERTAIN`, `LIKELY`, or 0 for not at all."""
        if not self or (self.compare is Compare.EXACT and self.value in candidates):
            return CERTAIN
        if self.compare is Compare.EXACT:
            return 0
        wanted, found = plain(self.value), [plain(text) for text in candidates if text]
        if wanted in found:
            return CERTAIN
        return LIKELY if self.compare is Compare.STARTS and any(text.startswith(wanted) for text in found) else 0


NOTHING = Text()


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedName:
    """A name, or a mother's maiden name. `given` is the first given name, a further one, or both."""

    family: Text = NOTHING
    given: Text = NOTHING
    middle: Text = NOTHING

    def score(self, name: PersonName) -> int:
        """Return how well a name answers."""
        parts = self.family.score(name.family), self.given.score(*given_names(name)), self.middle.score(name.middle)
        if min(parts[:2]) == 0 and self.is_whole and not self.middle:       # sources split names differently, or not at all
            return CERTAIN if plain(self.family.value + self.given.value) in whole_names(name) else 0
        return min(parts)

    @property
    def is_whole(self) -> bool:
        """Whether family and given name are asked for, both as they are."""
        return bool(self.family and self.given) and self.family.compare is self.given.compare is Compare.EQUAL


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAddress:
    """Parts of one address."""

    street: Text = NOTHING
    city: Text = NOTHING
    state: Text = NOTHING
    postcode: Text = NOTHING
    country: Text = NOTHING
    any_part: Text = NOTHING

    def score(self, address: Address) -> int:
        """Return how well an address answers."""
        parts: dict[str, str] = asdict(address)
        found: list[int] = [getattr(self, name).score(text) for name, text in parts.items()]
        return min(*found, self.any_part.score(*parts.values()))


@dataclass(frozen=True, slots=True)
class Interval:
    """Birth dates from `low` to `high`, both included, YYYYMMDD or shorter: a year as `high` is all of it. Empty = no end."""

    low: str = ""
    high: str = ""

    def score(self, born: str) -> int:
        """Return how well a birth date answers."""
        return CERTAIN if born and self.low <= born <= self.beyond else 0

    @property
    def beyond(self) -> str:
        """A text behind every date of the interval, and before every later one."""
        return self.high + "~" if self.high else "~"


@dataclass(frozen=True, slots=True)
class Account:
    """An account number; `authorities` are the names of the one authority that was asked with, empty = any."""

    value: str
    authorities: frozenset[str] = frozenset()

    def score(self, account: tuple[str, str]) -> int:
        """Return how well (authority, account number) answers."""
        named = not self.authorities or account[0] in self.authorities
        return CERTAIN if self.value and self.value == account[1] and named else 0


@dataclass(frozen=True, slots=True)
class Phone:
    """A telephone number; of two numbers the longer may have the area code that the other lacks."""

    number: str

    def score(self, phone: str) -> int:
        """Return how well a telephone number answers."""
        ours, theirs = digits(self.number), digits(phone)
        shorter, longer = sorted((ours, theirs), key=len)
        same = bool(ours) and ours == theirs
        return CERTAIN if same or (len(shorter) >= _LOCAL_NUMBER and longer.endswith(shorter)) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Conditions, each a tuple of alternatives; `wanted` are the domains to return, in their order (none = all).

    A `GivenId` without any authority is an id of whatever domain. `sexes` holds the values of table 0001, `place` is where the
    conditions stand, in the wire's form.
    """

    ids: tuple[tuple[GivenId, ...], ...] = ()
    names: tuple[tuple[AskedName, ...], ...] = ()
    births: tuple[tuple[Interval, ...], ...] = ()
    sexes: tuple[tuple[str, ...], ...] = ()
    addresses: tuple[tuple[AskedAddress, ...], ...] = ()
    phones: tuple[tuple[Phone, ...], ...] = ()
    mothers: tuple[tuple[AskedName, ...], ...] = ()
    accounts: tuple[tuple[Account, ...], ...] = ()
    wanted: tuple[GivenId, ...] = ()
    least: int = 0          # confidence below which nobody is answered
    place: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is asked."""
        return not any(getattr(self, field.name) for field in fields(self) if field.name not in {"wanted", "least", "place"})


def score(query: Query, person: Demographics) -> int:
    """Return how well a record answers all conditions but those on ids: 1 to 100, or 0 when it does not."""
    conditions: Iterable[tuple[Sequence[Sequence[Any]], Callable[[Any], int]]] = (
        (query.names, lambda asked: _best(asked.score, person.names)),
        (query.births, lambda asked: asked.score(person.birth_date)),
        (query.sexes, lambda asked: CERTAIN if asked == person.sex else 0),
        (query.addresses, lambda asked: _best(asked.score, person.addresses)),
        (query.phones, lambda asked: _best(asked.score, person.phones)),
        (query.mothers, lambda asked: _best(asked.score, [person.mother] if person.mother else [])),
        (query.accounts, lambda asked: _best(asked.score, person.accounts)),
    )
    worst = CERTAIN
    for groups, judge in conditions:
        for alternatives in groups:
            worst = min(worst, max(map(judge, alternatives), default=0))
            if worst <= 0:
                return 0
    return worst


def _best(judge: Callable[[Any], int], found: Collection[Any]) -> int:
    return max(map(judge, found), default=0)


def plain(text: str) -> str:
    """Return what is compared of a text."""
    return "".join(fold(text).split())


def digits(phone: str) -> str:
    """Return the digits of a telephone number."""
    return "".join(letter for letter in fold(phone) if letter.isdecimal())


def given_names(name: PersonName) -> tuple[str, ...]:
    """Return what may be asked for as the given name: the first one, the others, all of them."""
    both = f"{name.given} {name.middle}" if name.given and name.middle else ""
    return tuple(text for text in (name.given, name.middle, both) if text)


def whole_names(name: PersonName) -> frozenset[str]:
    """Return the name in one piece as it is compared: family name with each of `given_names`, or alone without any."""
    return frozenset(plain(name.family + given) for given in given_names(name) or ("",))
