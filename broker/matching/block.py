"""Blocking keys: two records that `decide` could call the same person share at least one."""

import hashlib

from broker.matching.normalise import is_placeholder, name_keys, own_numbers, telling_date
from broker.model.people import Demographics

_DIGITS = 24        # of the digest of a name: with a birth date before it, what the column of keys holds


def block_keys(person: Demographics) -> frozenset[tuple[str, str]]:
    """Return (kind, value) pairs: each name with the birth date, resident numbers. None for a person under a placeholder name.

    By the date alone everybody born on a day would be compared with everybody else born on it.
    """
    if any(is_placeholder(name) for name in person.names):
        return frozenset()
    numbers = {("number", number) for number in own_numbers(person)}
    birth = telling_date(person)
    names = {("name", birth + _digest(name)) for name in name_keys(person)} if birth else set()
    return frozenset(numbers | names)


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=_DIGITS // 2).hexdigest()
