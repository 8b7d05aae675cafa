"""What speaks against two records being one person, for people to read."""

from broker.matching.normalise import dates_agree, own_numbers
from broker.model.people import Demographics

_KNOWN = frozenset("MF")


def contradictions(one: Demographics, other: Demographics) -> tuple[str, ...]:
    """Return what contradicts: `sex`, `birth date`, `resident number`; nothing where nothing does. What is missing never does."""
    numbers = own_numbers(one), own_numbers(other)
    found = {
        "sex": one.sex in _KNOWN and other.sex in _KNOWN and one.sex != other.sex,
        "birth date": not dates_agree(one.birth_date, other.birth_date),
        "resident number": all(numbers) and not numbers[0] & numbers[1],
    }
    return tuple(name for name, contradicts in found.items() if contradicts)
