"""Blocking keys: two records that `decide` could call the same person share at least one."""

from broker.matching.normalise import is_placeholder, own_numbers, telling_date
from broker.model.people import Demographics


def block_keys(person: Demographics) -> frozenset[tuple[str, str]]:
    """Return (kind, value) pairs: the birth date, resident numbers. None for a person under a placeholder name."""
    if any(is_placeholder(name) for name in person.names):
        return frozenset()
    numbers = {("number", number) for number in own_numbers(person)}
    birth = telling_date(person)
    return frozenset(numbers | {("birth", birth)} if birth else numbers)
