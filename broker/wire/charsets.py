"""Text of a data set: which bytes are which characters (PS3.5 6.1.2, PS3.3 C.12.1.1.2).

What the label says is followed, code extensions run by run. Where it cannot be true the bytes decide: text that is UTF-8
is not read as GB 18030, and what a hospital's labels really mean is known from the profile.
"""

import codecs
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.model.charsets import CharacterSets, codec_of, plain_label, trusted_codec

_ESCAPE = re.compile(rb"\x1b([\x20-\x2f]+[\x30-\x7e])")
_DELIMITER = re.compile(rb"[\\^=\t\n\f\r]")
_HALVES = re.compile(rb"[\x00-\x7f]+|[\x80-\xff]+")
_ADJOINING = re.compile(rb"[\x80-\xff]{2}")
_LONE = re.compile("[A-Za-z][\u0080-\u07ff](?![\u0080-\u07ff])|(?<![\u0080-\u07ff])[\u0080-\u07ff][A-Za-z]")
_TWO_BYTES = re.compile("[\u0080-\u07ff]")
# What XML cannot carry, or nobody sees: controls of both sets, line separators, byte order marks, surrogates, noncharacters.
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")

# PS3.3 tables C.12-3 and C.12-4: what an escape sequence designates, as G0 (left half) or G1 (right half).
_RIGHT = {
    b"-A": "latin-1", b"-B": "iso8859_2", b"-C": "iso8859_3", b"-D": "iso8859_4", b"-L": "iso8859_5", b"-G": "iso8859_6",
    b"-F": "iso8859_7", b"-H": "iso8859_8", b"-M": "iso8859_9", b"-b": "iso8859_15", b"-T": "cp874", b")I": "cp932",
    b"$)C": "cp949", b"$)A": "gb18030", b"$)B": "euc_jp", b"%G": "utf-8",
}
_LEFT = {
    b"(B": "", b"(J": "", b"(I": "cp932", b"$@": "euc_jp", b"$B": "euc_jp", b"$(B": "euc_jp", b"$(@": "euc_jp",
    b"$(D": "jis_x_0212", b"$A": "gb18030", b"$(A": "gb18030", b"$(C": "cp949",
}
_UPPER_HALF = bytes(code | 0x80 if 0x21 <= code <= 0x7E else code for code in range(256))
_JAPANESE = "iso2022_jp_2"      # the sets that are read by their escape sequences only
_PAIRED = frozenset(("gb18030", "cp932", "cp949", "cp950", "euc_jp"))   # by accident two bytes are often UTF-8 too
_MANY = 5                       # characters of two bytes that are not UTF-8 by accident: one GBK character in six is
_TERMS = 16                     # labels of one list that are looked at


@dataclass(frozen=True, slots=True)
class _Plan:
    """How text under one label is read: the codecs to try, best first, and what the label itself says.

    `first` is the codec of value 1, empty where that is ASCII; `lied` the codec of a label the profile corrects.
    """

    codecs: tuple[str, ...]
    first: str
    guessed: bool
    lied: str
    unknown: tuple[str, ...]


def unknown_labels(declared: bytes, sets: CharacterSets) -> tuple[str, ...]:
    """Return the values of a Specific Character Set that name nothing known."""
    return _plan(declared, sets).unknown


def decode(values: Mapping[int, bytes], declared: bytes, sets: CharacterSets) -> dict[int, str]:
    """Return the text of one data set by the same keys, without padding and without what XML cannot carry.

    `declared` is its Specific Character Set. Bytes that no set explains become U+FFFD.
    """
    plan = _plan(declared, sets)
    odd = {key: value.rstrip(b" \0") for key, value in values.items() if not value.isascii() or b"\x1b" in value}
    all_utf8 = plan.guessed and all(_strict(value, "utf-8") is not None for value in odd.values())
    return {
        key: _usable(_text(odd[key], plan, all_utf8=all_utf8) if key in odd else value.decode("ascii"))
        for key, value in values.items()}


def _usable(text: str) -> str:
    return (text if text.isprintable() else _UNUSABLE.sub("", text)).strip()


@functools.lru_cache(64)
def _plan(declared: bytes, sets: CharacterSets) -> _Plan:
    meant = {plain_label(label): trusted_codec(real) for label, real in sets.meant}
    terms = [term.strip(" \0") for term in declared.decode("ascii", "replace").split("\\")[:_TERMS]]
    named = [meant.get(plain_label(term)) or codec_of(term) for term in terms]
    first = "" if named[0] in {"", "ascii"} else named[0]
    own = _unique([first, *named[1:]])
    default = trusted_codec(sets.default) or "latin-1"
    guessed = not own or own[0] == "gb18030"
    rest = ("cp932", "utf-8") if _JAPANESE in own else ("utf-8",)
    corrected = plain_label(terms[0]) in meant and first in _PAIRED
    return _Plan(
        codecs=_unique([*own, *rest, default] if own else [default, *rest]), first="" if first == _JAPANESE else first,
        guessed=guessed, lied=codec_of(terms[0]) if corrected else "",
        unknown=tuple(term for term, codec in zip(terms, named, strict=True) if not codec))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name not in {"", "ascii"}))


def _text(value: bytes, plan: _Plan, *, all_utf8: bool) -> str:
    if b"\x1b" in value:
        return _by_escapes(value, plan)
    if plan.lied and not _ADJOINING.search(value):      # no character of two bytes: the label is true for once
        return _strict(value, plan.lied) or _any(value, plan.codecs)
    if plan.guessed:
        found = _as_utf8(value, plan.codecs[0], whole=all_utf8)
        if found:
            return found
    return _any(value, plan.codecs)


def _as_utf8(value: bytes, codec: str, *, whole: bool) -> str:
    """Return the text of bytes that are UTF-8 rather than `codec`, else nothing. `whole`: so is all text of the data set.

    Characters of three bytes are no accident, unless the bytes are GB 2312 beside other text that is. Two bytes that are
    UTF-8 are a GBK character as well: they count when there are many, or when each stands alone in a word of ASCII.
    """
    text = _strict(value, "utf-8")
    if text is None or codec not in _PAIRED:
        return text or ""
    short = _TWO_BYTES.findall(text)
    if len(short) < sum(not character.isascii() for character in text):
        return text if whole or _strict(value, "gb2312") is None else ""
    return text if whole and (len(short) >= _MANY or len(_LONE.findall(text)) == len(short)) else ""


def _by_escapes(value: bytes, plan: _Plan) -> str:
    """Read each run by the sets that are in force there (PS3.5 6.1.2.5.3)."""
    left, right, done, at = "", "", [], 0
    for escape in (*_ESCAPE.finditer(value), None):
        run = value[at:escape.start() if escape else len(value)]
        done.append(_shifted(run, left, right, plan) if left else _run(run, right, plan))
        if escape:
            left, right = _LEFT.get(escape[1], left), _RIGHT.get(escape[1], right)
            at = escape.end()
    return "".join(done)


def _run(run: bytes, right: str, plan: _Plan) -> str:
    """Read a run whose left half is ASCII. A delimiter brings back the right half of value 1, where that has one."""
    if not right:
        return _any(run, plan.codecs)
    end = _DELIMITER.search(run) if plan.first and plan.first != right else None
    if not end:
        return _any(run, (right, *plan.codecs))
    return _any(run[:end.start()], (right, *plan.codecs)) + _any(run[end.start():], plan.codecs)


def _shifted(run: bytes, left: str, right: str, plan: _Plan) -> str:
    """Read a run whose left half holds characters of another set, most often of two bytes each."""
    done = []
    for half in _HALVES.findall(run):
        if half[0] >= 0x80:
            done.append(_run(half, right, plan))
        elif left == "jis_x_0212":
            raised = half.translate(_UPPER_HALF)
            done.append(_any(b"".join(b"\x8f" + raised[i:i + 2] for i in range(0, len(raised), 2)), ("euc_jp",)))
        else:
            done.append(_any(half.translate(_UPPER_HALF), (left,)))
    return "".join(done)


def _any(value: bytes, names: tuple[str, ...]) -> str:
    for name in names:
        text = _strict(value, name)
        if text is not None:
            return text
    return value.decode(names[0], "replace")


def _strict(value: bytes, codec: str) -> str | None:
    """Return the text, without a character that was cut off at the end; None when the bytes are something else."""
    try:
        return codecs.getincrementaldecoder(codec)("strict").decode(value)
    except UnicodeDecodeError:
        return None
