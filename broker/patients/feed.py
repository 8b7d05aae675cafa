"""What a patient identity feed asks for, whatever its wire (ITI-8, ITI-44)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from broker.model.people import Demographics
from broker.patients.identifiers import Authorities, GivenId, Sender


class Kind(StrEnum):
    """What happened at the source."""

    ADD = "add"
    UPDATE = "update"
    MERGE = "merge"
    CHANGE = "change"       # of an id: the person is known under another one from now on

    @property
    def retires(self) -> bool:
        """Whether it retires an id in favour of another."""
        return self in {Kind.MERGE, Kind.CHANGE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Identity of a message and the answer it gets when it is carried out; the same message again gets the same answer."""

    control_id: str
    digest: str
    reply: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where an error is located in the wire's form: the patient ids, the retired id and its authority."""

    ids: str
    retired: str
    retired_authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A feed. `given_ids` are the ids given for the patient, `retired` those that are to be retired, in the message's order.

    `said` is when the source knew it, in the form of HL7 v2, empty where it does not say.
    `changes` holds attributes of `Demographics`; what is not in it stays. `hints` are ids in other domains and `national`
    a national number; None means that the feed says nothing about them.
    """

    kind: Kind
    sender: Sender
    message_id: str
    given_ids: tuple[GivenId, ...]
    places: Places
    said: str = ""
    retired: tuple[GivenId, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    hints: tuple[GivenId, ...] | None = None
    national: str | None = None
    receipt: Receipt | None = None

    @property
    def named(self) -> tuple[GivenId, ...]:
        """Every id that the feed gives for the patient, in whatever place."""
        return (*self.given_ids, *(self.hints or ()))

    def person(self, old: Demographics, key: GivenId, authorities: Authorities) -> Demographics:
        """Return the demographics after this feed; `key` is the id the feed is about, the other ones are hints."""
        others = [*(self.hints or ()), *(given_id for given_id in self.given_ids if given_id is not key)]
        hints = None if self.hints is None and not others else [authorities.other_id(other) for other in others if other.value]
        return replace(old, **self.changes, other_ids=_other_ids(old.other_ids, hints, self.national))


def _other_ids(
    old: Sequence[tuple[str, str]], hints: Sequence[tuple[str, str]] | None, national: str | None,
) -> tuple[tuple[str, str], ...]:
    known = [pair for pair in old if pair[0]] if hints is None else [*hints]
    numbers = [pair for pair in old if not pair[0]] if national is None else [("", national)] if national else []
    return tuple(dict.fromkeys((*known, *numbers)))

