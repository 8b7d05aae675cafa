"""Character sets of HL7 v2 messages: MSH-18 as it is spelt in the field (HL7 table 0211 and its neighbours), to Python's codecs.

Only codecs whose first 128 characters are ASCII are listed: a message is framed, and cut into segments, as bytes.
"""

import codecs
import re
from functools import lru_cache

from broker.model.errors import Hl7Code, Rejected

UTF8 = "utf-8"
_ASCII = frozenset(("", "ASCII", "USASCII", "ISOIR6", "ISO646", "ISO646US", "ANSIX341968", "ANSIX341986"))
_GB = ("GB18030", "GB180302000", "GB180302005", "GB180302022", "GBK", "GB2312", "GB231280", "GB23121980", "CP936", "MS936",
       "WINDOWS936", "936", "EUCCN", "CNGB", "XGBK")
_CODECS = {
    **{f"8859{n}": f"iso8859-{n}" for n in (*range(1, 12), *range(13, 17))},
    **{f"LATIN{n}": f"iso8859-{n}" for n in range(1, 5)},
    **{f"{maker}125{n}": f"cp125{n}" for maker in ("CP", "WINDOWS", "MS") for n in range(9)},
    **dict.fromkeys((*_ASCII, "UNICODE", "UNICODEUTF8", "UTF8", "CP65001"), UTF8),
    **dict.fromkeys(_GB, "gb18030"),
    **dict.fromkeys(("BIG5", "CP950", "MS950", "WINDOWS950"), "cp950"),
    "BIG5HKSCS": "big5hkscs",
    **dict.fromkeys(("KSX1001", "KSC5601", "EUCKR", "CP949", "MS949", "WINDOWS949"), "cp949"),
}
_KNOWN = "ASCII, 8859/1 to 8859/16, GB 18030-2000, GBK, GB2312, BIG-5, KS X 1001, UNICODE UTF-8"
_SHOWN = 40         # characters of MSH-18 that a refusal repeats
_MARKS = (codecs.BOM_UTF8, b"\x84\x31\x95\x33")     # the byte order mark in UTF-8 and in GB 18030
# "MSH" (or FHS, BHS) with NULs around its letters; four bytes a character first, their marks begin like those of two.
_WIDE = (
    (re.compile(rb"\xff\xfe\0\0|[MFB]\0\0\0[SH]\0\0\0"), "utf-32-le"),
    (re.compile(rb"\0\0\xfe\xff|\0\0\0[MFB]\0\0\0[SH]"), "utf-32-be"),
    (re.compile(rb"\xff\xfe|[MFB]\0[SH]\0"), "utf-16-le"),
    (re.compile(rb"\xfe\xff|\0[MFB]\0[SH]"), "utf-16-be"),
)


def codec(name: str) -> str:
    """Return Python's name of the codec that MSH-18 means. Raise `Rejected` (103) for one that is not supported."""
    found = known_codec(name)
    if found is None:
        given = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        raise Rejected(Hl7Code.TABLE_VALUE, f"the character set '{given}' is not supported; known are {_KNOWN}", "MSH^1^18")
    return found


@lru_cache(64)
def known_codec(name: str) -> str | None:
    """Return what `codec` does, or None; blanks, dashes, case and a year behind a colon make no difference."""
    plain = re.sub(r"[^0-9A-Z]", "", name.partition(":")[0].upper())
    return _CODECS.get(re.sub("^ISO(IEC)?(?=8859)", "", plain))


def declared(field: str, repetition: str) -> str:
    """Return the one character set of a message whose MSH-18 has these repetitions; empty when it names none.

    ASCII stands beside another set as the one that it holds. Raise `Rejected` (103) for two that differ.
    """
    names = [name for part in field.split(repetition) if (name := part.strip()) and name != '""']
    kept = [name for name in names if _plain_ascii(name) is False] or names
    if len({known_codec(name) or name for name in kept}) > 1:
        raise Rejected(Hl7Code.TABLE_VALUE, "more than one character set in a message is not supported", "MSH^1^18")
    return kept[0] if kept else ""


def _plain_ascii(name: str) -> bool:
    return re.sub(r"[^0-9A-Z]", "", name.upper()) in _ASCII


def without_mark(body: bytes) -> bytes:
    """Return the bytes behind a byte order mark of UTF-8 or GB 18030."""
    for mark in _MARKS:
        body = body.removeprefix(mark)
    return body


def wide(body: bytes) -> str:
    """Return the codec of a message of two or four bytes a character, which no HL7 v2 message may have; else nothing."""
    if body[:3] == b"MSH":
        return ""
    begun = body.lstrip(b" \t\r\n")
    return next((name for pattern, name in _WIDE if pattern.match(begun)), "")


def is_doubtful(body: bytes, used: str) -> bool:
    """Say whether bytes read by another codec are valid UTF-8 as well: text of another set hardly ever is."""
    if used == UTF8 or body.isascii():
        return False
    try:
        body.decode(UTF8)
    except UnicodeDecodeError:
        return False
    return True
