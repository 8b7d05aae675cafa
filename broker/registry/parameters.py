"""Parameters of stored queries: what a query takes, and values out of their coding (ITI TF-2 3.18.4.1.2.3.5).

A value is `'text'` with doubled apostrophes, a bare number, or a list `('a','b')`. Values within one Slot are ORed,
several Slots of one parameter are ANDed where the parameter allows it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from broker.model.errors import Rejected, XdsCode
from broker.model.ids import PatientId
from broker.model.metadata import APPROVED, DEPRECATED
from broker.registry.store import nfc
from broker.wire.ebxml_rim import Slots
from broker.wire.ebxml_types import is_cx, is_dtm, pad_dtm, shorten_dtm

Groups = tuple[tuple[str, ...], ...]
Values = dict[str, Groups]

_ITEM = re.compile(r"\s*(?:'(?P<text>(?:[^']|'')*)'|(?P<number>\d+))\s*", re.ASCII)
_STATUSES = (APPROVED, DEPRECATED)


class Form(Enum):
    """What the values of a parameter are."""

    TEXT = "text"
    PATIENT = "patient id"
    STATUS = "status"
    CODE = "code"
    SINCE = "first second of a time"
    UNTIL = "end of a time, not included"


_TIMES = {Form.SINCE: pad_dtm, Form.UNTIL: shorten_dtm}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter. `many`: takes a list. `repeats`: may come in several Slots, which are ANDed."""

    name: str
    form: Form = Form.TEXT
    required: bool = False
    many: bool = False
    repeats: bool = False


def read_values(parameters: Sequence[Parameter], one_of: Sequence[str], slots: Slots) -> Values:
    """Return the values of the parameters that are present, as search columns have them but for schemes (`with_schemes`).

    Unknown Slots are ignored. `one_of` names parameters of which exactly one must be there. Raise `Rejected` as
    ITI TF-2 3.18.4.1.3 says.
    """
    given = _given(slots)
    found: Values = {}
    for parameter in parameters:
        if not (parameter.required or parameter.name in given):
            continue
        groups = tuple([_group(parameter, texts) for texts in given.get(parameter.name, ())])
        if len(groups) > 1 and not parameter.repeats:
            raise Rejected(XdsCode.STORED_QUERY_PARAM_NUMBER, f"{parameter.name} is given more than once")
        if parameter.form is Form.STATUS:
            groups = tuple(tuple(text for text in group if text in _STATUSES) for group in groups)
        groups = tuple(filter(None, groups))
        if groups:
            found[parameter.name] = groups
        elif parameter.required:
            raise Rejected(XdsCode.STORED_QUERY_MISSING_PARAM, f"{parameter.name} is missing")
    if one_of:
        _check_choice(one_of, found)
    return found


def with_schemes(values: Values, codes: Iterable[str], aliases: Mapping[str, str]) -> Values:
    """Return the values with the OID of each coding scheme that the region also knows by another designator.

    `codes` names the parameters that hold codes, `aliases` maps designators to OIDs.
    """
    return values | {
        name: tuple(tuple(_with_scheme(code, aliases) for code in group) for group in values[name])
        for name in codes if name in values} if aliases else values


def _with_scheme(text: str, aliases: Mapping[str, str]) -> str:
    code, _, scheme = text.partition("^^")
    return nfc(f"{code}^^{aliases.get(scheme, scheme)}")


def _given(slots: Slots) -> dict[str, list[tuple[str, ...]]]:
    given: dict[str, list[tuple[str, ...]]] = {}
    for name, texts in slots:
        if texts:
            given.setdefault(name, []).append(texts)
    return given


def _check_choice(one_of: Sequence[str], found: Values) -> None:
    given = [name for name in one_of if name in found]
    if not given:
        raise Rejected(XdsCode.STORED_QUERY_MISSING_PARAM, f"one of {' or '.join(one_of)} is needed")
    if len(given) > 1:
        raise Rejected(XdsCode.STORED_QUERY_PARAM_NUMBER, f"only one of {' or '.join(given)} is allowed")


def _group(parameter: Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of one Slot, which may be spread over several Value elements."""
    if not parameter.many and len(texts) > 1:
        raise Rejected(XdsCode.STORED_QUERY_PARAM_NUMBER, f"{parameter.name} takes one value")
    return tuple([_meaning(parameter, item) for text in texts for item in _items(parameter, text.strip())])


def _items(parameter: Parameter, text: str) -> Iterator[str]:
    if text.startswith("(") and parameter.many and text.endswith(")"):
        end, at = len(text) - 1, 1
        while at <= end:
            match = _ITEM.match(text, at, end)
            if match is None or (match.end() < end and text[match.end()] != ","):
                raise _malformed(parameter)
            yield _unquoted(parameter, match)
            at = match.end() + 1
        return
    match = _ITEM.fullmatch(text)
    if match is None:
        raise _malformed(parameter)
    yield _unquoted(parameter, match)


def _unquoted(parameter: Parameter, match: re.Match[str]) -> str:
    """Return the text of an item. Only a time may come as a bare number."""
    text = match["text"]
    if text is None and parameter.form not in _TIMES:
        raise _malformed(parameter)
    return match["number"] if text is None else text.replace("''", "'")


def _malformed(parameter: Parameter) -> Rejected:
    wanted = "a list ('…','…')" if parameter.many else "'…'"
    return Rejected(XdsCode.REGISTRY_ERROR, f"{parameter.name} must be coded as {wanted}")


def _meaning(parameter: Parameter, text: str) -> str:
    form = parameter.form
    if form is Form.TEXT or form is Form.STATUS:
        return nfc(text)
    if form is Form.CODE:
        code, _, rest = text.partition("^")
        middle, _, scheme = rest.partition("^")
        if not code or middle or not scheme or "^" in scheme:
            raise Rejected(XdsCode.REGISTRY_ERROR, f"{parameter.name} must be coded as 'code^^scheme'")
        return nfc(text)
    if form in _TIMES:
        if not is_dtm(text):
            raise Rejected(XdsCode.REGISTRY_ERROR, f"{parameter.name} is not a time YYYY[MM[DD[hh[mm[ss]]]]]")
        return _TIMES[form](text)
    if not is_cx(text):
        raise Rejected(XdsCode.REGISTRY_ERROR, f"{parameter.name} is not of the form 'id^^^&oid&ISO'")
    return str(PatientId.parse(text))
