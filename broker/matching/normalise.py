"""What of a name, a birth date and an identity number is compared.

Names keep their script: one written in characters and one in letters are never compared with each other. Simplified
and traditional characters count as different.
"""

import re
import unicodedata

from broker.model.people import Demographics, PersonName

_HAN = re.compile("[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_DROPPED = re.compile(r"[\s·•・‧∙⋅'’`,.()-]+")
_PLACEHOLDER = re.compile(
    r"无名.*|無名.*|未知.*|不详|不詳|.*之子|.*之女|.*[婴嬰]|.*[婴嬰][儿兒].*|新生[儿兒].*|.*[测測][试試].*"
    r"|test\d*|test(patient|person|name)\d*|.*\btest\d*\b.*|baby|baby\b.*|baby(boy|girl|of).*|newborn.*"
    r"|unknown|anonymous|noname|wumingshi|john doe|jane doe")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def name_key(name: PersonName) -> str:
    """Return what is compared of a name: width, case, blanks, dots and hyphens do not count. Empty when nothing is left."""
    text = _DROPPED.sub("", fold(name.family + name.given + name.middle))
    return text and f"{'han' if _HAN.search(text) else 'letters'}:{text}"


def name_keys(person: Demographics) -> frozenset[str]:
    """Return the keys of all repetitions of the name."""
    return frozenset(key for name in person.names if (key := name_key(name)))


def is_placeholder(name: PersonName) -> bool:
    """Say whether the name stands for a name nobody knows yet: 无名氏, a newborn under its mother's name, TEST, …"""
    parts = fold(f"{name.family} {name.given} {name.middle}")
    joined = _DROPPED.sub("", parts)
    return any(_PLACEHOLDER.fullmatch(text) for text in (joined, " ".join(parts.split())))


def fold(text: str) -> str:
    """Return text without differences of width and case."""
    return unicodedata.normalize("NFKC", text).casefold()


def dates_agree(one: str, other: str) -> bool:
    """Say whether two birth dates can be one: compared as far as both are given; nothing contradicts nothing."""
    common = min(len(one), len(other))
    return one[:common] == other[:common]


def telling_date(person: Demographics) -> str:
    """Return the birth date when it can tell people apart: a whole one; 1 January is what is entered for an unknown day."""
    return "" if person.birth_date.endswith("0101") or len(person.birth_date) != 8 else person.birth_date


def resident_number(text: str) -> str:
    """Return a resident identity number (GB 11643) in its form of 18 characters, or nothing when it is not a valid one.

    The older form of 15 digits is completed by century and check character.
    """
    number = _DROPPED.sub("", fold(text)).upper()
    if re.fullmatch(r"[0-9]{15}", number):
        number = f"{number[:6]}19{number[6:]}"
        number += _check(number)
    if not re.fullmatch(r"[0-9]{17}[0-9X]", number):
        return ""
    return number if number[17] == _check(number) else ""


def _check(number: str) -> str:
    """Return the check character of the first 17 digits (ISO 7064 MOD 11-2)."""
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(number, _WEIGHTS, strict=False)) % 11]


def own_numbers(person: Demographics) -> frozenset[str]:
    """Return the person's valid resident numbers that agree with birth date and sex: not a mother's at her newborn.

    A birth date that is given to the month or year agrees as far as it goes; one that is not given proves nothing.
    """
    numbers = (resident_number(value) for _, value in person.other_ids)
    return frozenset(number for number in numbers if number and _agrees(number, person))


def _agrees(number: str, person: Demographics) -> bool:
    sex = "M" if int(number[16]) % 2 else "F"
    born = bool(person.birth_date) and dates_agree(number[6:14], person.birth_date)
    return born and person.sex in (sex, "", "U", "O", "A", "N")
