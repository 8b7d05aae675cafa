"""Decides whether two records are one person by exact rules: no score, no guess.

A false link shows one patient's pictures under another, a missing one only hides some. So: a placeholder name, a missing
part or a contradiction never links.
"""

from enum import StrEnum

from broker.matching.contradictions import contradictions
from broker.matching.normalise import is_placeholder, name_keys, own_numbers, telling_date
from broker.model.people import Demographics

_KNOWN = frozenset("MF")


class Verdict(StrEnum):
    """What the rules say; DIFFERENT holds against any link, UNKNOWN is no evidence."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


def same_person(a: Demographics, b: Demographics) -> Verdict:
    """Compare two records; the order does not matter.

    SAME by number: an equal valid resident number of their own and birth dates that agree. SAME by name: an equal name,
    whole birth date and sex. Where both have names in characters, these decide and equal letters do not: many names share a
    spelling. DIFFERENT: sex (F, M), birth date or resident number contradict. Birth dates of unequal precision are compared
    as far as both go.
    """
    if contradictions(a, b):
        return Verdict.DIFFERENT
    if any(is_placeholder(name) for person in (a, b) for name in person.names):
        return Verdict.UNKNOWN
    if own_numbers(a) & own_numbers(b):
        return Verdict.SAME
    together = telling_date(a) and telling_date(a) == telling_date(b) and a.sex in _KNOWN and a.sex == b.sex
    return Verdict.SAME if together and _names_agree(a, b) else Verdict.UNKNOWN


def disagree(a: Demographics, b: Demographics) -> bool:
    """Say whether two records speak against being one person: they contradict each other, or bear other names."""
    return bool(contradictions(a, b)) or bool(name_keys(a) and name_keys(b) and not _names_agree(a, b))


def _names_agree(a: Demographics, b: Demographics) -> bool:
    ours, theirs = name_keys(a), name_keys(b)
    both = [[key for key in keys if key.startswith("han:")] for keys in (ours, theirs)]
    return bool(set(both[0]) & set(both[1])) if all(both) else bool(ours & theirs)
