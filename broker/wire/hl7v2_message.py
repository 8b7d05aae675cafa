r"""A decoded HL7 v2 message: segments, fields, repetitions, components, as they are read (HL7 v2.5 chapter 2).

A value of two quotes is HL7's null (2.10): `Value.get` returns it as empty, `Segment.deleted` tells it apart. Repetitions
without any value do not count.

Of the escapes `\F\ \S\ \T\ \R\ \E\`, `\H\`, `\N\` and `\Xhh..\` (bytes of the message's character set) are resolved.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from broker.model.errors import Hl7Code, Rejected
from broker.wire import hl7v2_charset as charsets

NULL = '""'
LONGEST = 250               # characters of one value of a person (XPN, XAD, XTN, CX: HL7 v2.5 2.A)
NOBODY = ("", "")
UTF8 = "UNICODE UTF-8"
_MAX_REPETITIONS = 1_000
_SPLIT = 32                 # fields of a segment that are split at once
_VERSION = re.compile(r"2\.[0-9](\.[0-9])?")


class Form(NamedTuple):
    """How a message is written: MSH-1, the four characters of MSH-2, MSH-18 as declared, and the codec it means."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    charset: str = UTF8
    codec: str = "utf-8"

    @classmethod
    def of(cls, charset: str) -> "Form":
        """Return the usual delimiters with this MSH-18."""
        return cls(charset=charset, codec=charsets.codec(charset))

    def quote(self, text: str) -> str:
        """Write `text` so that no delimiter, CR or LF is left in it."""
        e, codes = self.escape, {self.field: "F", self.component: "S", self.subcomponent: "T", self.repetition: "R",
                                 self.escape: "E", "\r": "X0D", "\n": "X0A"}
        return "".join(f"{e}{codes[c]}{e}" if c in codes else c for c in text)

    def unquote(self, text: str) -> str:
        """Resolve the escapes in `text`; an unknown one, or one that hides a control character, stays as it is."""
        if self.escape not in text:
            return text
        return _escapes(self.escape).sub(lambda match: self._resolve(match.group(1), match.group()), text)

    def _resolve(self, code: str, whole: str) -> str:
        plain = {"F": self.field, "S": self.component, "T": self.subcomponent, "R": self.repetition, "E": self.escape,
                 "H": "", "N": ""}.get(code)
        if plain is not None:
            return plain
        if code[:1] != "X":
            return whole
        try:
            text = bytes.fromhex(code[1:]).decode(self.codec)
        except ValueError:
            return whole
        return text if text.isprintable() else whole


@lru_cache(8)
def _escapes(mark: str) -> "re.Pattern[str]":
    return re.compile(f"{re.escape(mark)}([^{re.escape(mark)}]+){re.escape(mark)}")


@dataclass(frozen=True, slots=True)
class Value:
    """One repetition of a field and its place (ERR-2). Components and sub-components count from 1; what is absent is empty."""

    text: str
    form: Form
    place: str = ""

    def component(self, number: int) -> str:
        """Return a component as it is written, escapes and sub-components included."""
        parts = self.text.split(self.form.component, number)
        return parts[number - 1] if number <= len(parts) else ""

    def get(self, component: int = 1, subcomponent: int = 1) -> str:
        """Return a sub-component without escapes and surrounding blanks; empty for null."""
        return self._meant(self._written(component, subcomponent))

    def short(self, component: int = 1, subcomponent: int = 1) -> str:
        """Return what `get` does. Raise `Rejected` (102) when it has more than `LONGEST` characters."""
        if self.text.isalnum() and len(self.text) <= LONGEST:
            return self.text if component == subcomponent == 1 else ""
        written = self._written(component, subcomponent)
        # One character takes at most ten as it is escaped; what is longer is not worth resolving.
        text = self._meant(written) if len(written) <= 10 * LONGEST else written
        if len(text) > LONGEST:
            raise Rejected(Hl7Code.DATA_TYPE, f"a value has more than {LONGEST} characters", f"{self.place}^{component}")
        return text

    def _written(self, component: int, subcomponent: int) -> str:
        text = self.component(component)
        if subcomponent == 1:
            return text.partition(self.form.subcomponent)[0].strip()
        parts = text.split(self.form.subcomponent, subcomponent)
        return parts[subcomponent - 1].strip() if subcomponent <= len(parts) else ""

    def _meant(self, written: str) -> str:
        return "" if written == NULL else self.form.unquote(written).strip()

    @property
    def is_void(self) -> bool:
        """Say whether nothing is in it but delimiters, blanks and nulls."""
        if self.text[:1].isalnum():         # nearly always
            return False
        return not self.text.replace(NULL, "").strip(f"{self.form.component}{self.form.subcomponent} \t\n")


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its bytes as received, its decoded text. Fields count as the standard counts them, MSH too."""

    raw: bytes
    text: str
    form: Form
    _split: list[str] = field(default_factory=list, init=False, repr=False, compare=False)      # fields, once one was asked for

    @property
    def name(self) -> str:
        """PID, QPD, …"""
        return self.text[:3]

    def field(self, number: int) -> str:
        """Return a field as it is written."""
        index = number - 1 if self.name == "MSH" else number
        parts = self._split
        if index >= _SPLIT:
            parts = self.text.split(self.form.field, index + 1)
        elif not parts:
            parts += self.text.split(self.form.field, _SPLIT)       # the last one is the rest
        return parts[index] if index < len(parts) else ""

    def values(self, number: int) -> tuple[Value, ...]:
        """Return the repetitions of a field that say something, each with its place. Raise `Rejected` (102) for too many."""
        values = [*self._repetitions(number)]
        if len(values) > _MAX_REPETITIONS:
            raise Rejected(Hl7Code.DATA_TYPE, "too many repetitions", f"{self.name}^1^{number}")
        return tuple(value for value in values if not value.is_void)

    def _repetitions(self, number: int) -> Iterator[Value]:
        """Yield the repetitions of a field; the one after the last that is allowed holds all the rest."""
        text, place = self.field(number), f"{self.name}^1^{number}"
        for n, part in enumerate(text.split(self.form.repetition, _MAX_REPETITIONS) if text else (), 1):
            yield Value(part, self.form, f"{place}^{n}")

    def value(self, number: int) -> Value:
        """Return the first repetition of a field that says something; an empty one when none does."""
        place = f"{self.name}^1^{number}"
        first = Value(self.field(number).partition(self.form.repetition)[0], self.form, f"{place}^1")
        if not first.is_void:
            return first
        said = (value for value in islice(self._repetitions(number), _MAX_REPETITIONS) if not value.is_void)
        return next(said, Value("", self.form, place))

    def get(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """Return a sub-component of the first repetition that says something, without escapes; empty for null."""
        text = self.field(number)
        if not text or text.isalnum():      # nothing is in it that has a meaning
            return text if component == subcomponent == 1 else ""
        first = Value(text.partition(self.form.repetition)[0], self.form)
        return (self.value(number) if first.is_void else first).get(component, subcomponent)

    def deleted(self, number: int) -> bool:
        """Say whether a field holds null and nothing else: what was known is to be forgotten (HL7 v2.5 2.10)."""
        return NULL in self.text and NULL in self.field(number) and not self.values(number)


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded message: bytes as received, segments, how it is written, and who answers it (application, facility)."""

    raw: bytes
    segments: tuple[Segment, ...]
    form: Form
    node: tuple[str, str] = NOBODY

    @property
    def msh(self) -> Segment:
        """The header."""
        return self.segments[0]

    @property
    def name(self) -> str:
        """Message type and trigger event: `ADT^A04`."""
        return f"{self.msh.get(9)}^{self.msh.get(9, 2)}"

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.msh.get(10)

    @property
    def version(self) -> str:
        """MSH-12, or 2.5 where that is no version of HL7 v2."""
        given = self.msh.get(12)
        return given if _VERSION.fullmatch(given) else "2.5"

    @property
    def is_doubtful(self) -> bool:
        """Say whether the bytes are valid UTF-8 though MSH-18 names another set that was used."""
        return charsets.is_doubtful(self.raw, self.form.codec)

    def all(self, name: str) -> tuple[Segment, ...]:
        """Return all segments of this name."""
        return tuple(segment for segment in self.segments if segment.name == name)

    def need(self, name: str) -> Segment:
        """Return the first segment of this name. Raise `Rejected` (100) when there is none."""
        found = self.all(name)
        if not found:
            raise Rejected(Hl7Code.SEGMENT_SEQUENCE, f"segment {name} is missing", name)
        return found[0]
