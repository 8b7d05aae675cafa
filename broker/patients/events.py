"""What happens to the ids of people, one dataclass per kind: the log of it is the truth, everything else follows from it.

The form in which an event is stored (`kind` and `body`) never changes: a log of ten years is read by the same lines. What a kind
has to say one day that it does not say today comes as a further key, or as a further kind.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, Self

from broker.model.ids import PatientId
from broker.model.people import Address, Demographics, PersonName


class Event(Protocol):
    """One thing that happened to `patient`."""

    kind: ClassVar[str]

    @property
    def patient(self) -> PatientId:
        """The id it is told of."""
        ...

    def body(self) -> dict[str, Any]:
        """Return what is stored of it beside kind and patient."""
        ...


@dataclass(frozen=True, slots=True)
class Fed:
    """A source said who `patient` is; `trigger` is what it sent (add, update, merge, change).

    `said_at` is when the source knew it (seconds since the epoch), where it says so.
    """

    kind: ClassVar[str] = "fed"
    patient: PatientId
    person: Demographics
    trigger: str
    said_at: float | None = None

    def body(self) -> dict[str, Any]:
        """Return the demographics, the trigger, and when it was said."""
        said = {} if self.said_at is None else {"said_at": self.said_at}
        return {"event": self.trigger, "demographics": asdict(self.person), **said}

    @classmethod
    def read(cls, patient: PatientId, body: Mapping[str, Any]) -> Self:
        """Read the stored form."""
        return cls(patient, person_of(body["demographics"]), body["event"], body.get("said_at"))


@dataclass(frozen=True, slots=True)
class Late(Fed):
    """What a source said came after something newer that it said: it changes nothing."""

    kind: ClassVar[str] = "late"


@dataclass(frozen=True, slots=True)
class _Tied:
    patient: PatientId
    to: tuple[PatientId, ...]

    def body(self) -> dict[str, Any]:
        """Return the other ids."""
        return {"to": _pairs(self.to)}

    @classmethod
    def read(cls, patient: PatientId, body: Mapping[str, Any]) -> Self:
        """Read the stored form."""
        return cls(patient, tuple(PatientId(domain, value) for domain, value in body["to"]))


@dataclass(frozen=True, slots=True)
class Linked(_Tied):
    """Comparison links `patient` to these from now on, and to no others."""

    kind: ClassVar[str] = "linked"


@dataclass(frozen=True, slots=True)
class Stated(_Tied):
    """`patient` is linked explicitly to these from now on, and to no others: a source named both ids in one feed."""

    kind: ClassVar[str] = "stated"


@dataclass(frozen=True, slots=True)
class _Replaced:
    patient: PatientId
    survivor: PatientId

    def body(self) -> dict[str, Any]:
        """Return the value of the surviving id."""
        return {"survivor": self.survivor.value}

    @classmethod
    def read(cls, patient: PatientId, body: Mapping[str, Any]) -> Self:
        """Read the stored form."""
        return cls(patient, PatientId(patient.domain, body["survivor"]))


@dataclass(frozen=True, slots=True)
class Merged(_Replaced):
    """`patient` is retired in favour of `survivor`, an id of the same domain; its explicit links and decisions move on."""

    kind: ClassVar[str] = "merged"
    reason: str = ""

    def body(self) -> dict[str, Any]:
        """Return the value of the surviving id, and why where somebody said."""
        return {"survivor": self.survivor.value, **({"reason": self.reason} if self.reason else {})}

    @classmethod
    def read(cls, patient: PatientId, body: Mapping[str, Any]) -> Self:
        """Read the stored form."""
        return cls(patient, PatientId(patient.domain, body["survivor"]), body.get("reason", ""))


@dataclass(frozen=True, slots=True)
class Decided:
    """Somebody said for good whether `patient` and `other` are one person; `OPEN` takes that back. Feeds do not change it."""

    kind: ClassVar[str] = "decided"
    SAME: ClassVar[str] = "same"
    APART: ClassVar[str] = "apart"
    OPEN: ClassVar[str] = ""
    patient: PatientId
    other: PatientId
    verdict: str
    reason: str = ""

    def body(self) -> dict[str, Any]:
        """Return the other id, the verdict and why."""
        return {"other": [self.other.domain, self.other.value], "verdict": self.verdict, "reason": self.reason}

    @classmethod
    def read(cls, patient: PatientId, body: Mapping[str, Any]) -> Self:
        """Read the stored form."""
        return cls(patient, PatientId(*body["other"]), body["verdict"], body["reason"])


@dataclass(frozen=True, slots=True)
class Unmerged:
    """`patient` is no longer retired in favour of `survivor`: it was a mistake.

    `back` are the explicit links and `verdicts` the decisions that it has again; `left` and `dropped` are the ids to which the
    one it lives on in loses an explicit link or a decision that were not its own. `home` is that one, at the end of the merges.
    """

    kind: ClassVar[str] = "unmerged"
    patient: PatientId
    survivor: PatientId
    home: PatientId
    reason: str = ""
    back: tuple[PatientId, ...] = ()
    left: tuple[PatientId, ...] = ()
    verdicts: tuple[tuple[PatientId, str], ...] = ()
    dropped: tuple[PatientId, ...] = ()

    def body(self) -> dict[str, Any]:
        """Return everything but the id itself."""
        return {
            "survivor": self.survivor.value, "home": self.home.value, "reason": self.reason, "back": _pairs(self.back),
            "left": _pairs(self.left), "dropped": _pairs(self.dropped),
            "verdicts": [[other.domain, other.value, verdict] for other, verdict in self.verdicts]}

    @classmethod
    def read(cls, patient: PatientId, body: Mapping[str, Any]) -> Self:
        """Read the stored form."""
        survivor, home = (PatientId(patient.domain, body[key]) for key in ("survivor", "home"))
        back, left, dropped = (tuple(PatientId(*one) for one in body[key]) for key in ("back", "left", "dropped"))
        verdicts = tuple((PatientId(domain, value), verdict) for domain, value, verdict in body["verdicts"])
        return cls(patient, survivor, home, body["reason"], back, left, verdicts, dropped)


@dataclass(frozen=True, slots=True)
class Revived(_Replaced):
    """`patient`, an id of the affinity domain that lived on as `survivor`, is a person's own id again."""

    kind: ClassVar[str] = "revived"


@dataclass(frozen=True, slots=True)
class Joined(_Replaced):
    """`patient`, an id of the affinity domain, lives on as another one."""

    kind: ClassVar[str] = "joined"


@dataclass(frozen=True, slots=True)
class Grouped:
    """`patient` belongs to the person with this id of the affinity domain, which may be a new one."""

    kind: ClassVar[str] = "grouped"
    patient: PatientId
    affinity: str

    def body(self) -> dict[str, Any]:
        """Return the id of the affinity domain."""
        return {"affinity": self.affinity}

    @classmethod
    def read(cls, patient: PatientId, body: Mapping[str, Any]) -> Self:
        """Read the stored form."""
        return cls(patient, body["affinity"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event with when (seconds since the epoch), who and which message."""

    at: float
    sender: str = ""
    message_id: str = ""
    event: Event


_READERS: Mapping[str, Callable[[PatientId, Mapping[str, Any]], Event]] = {
    one.kind: one.read for one in (Fed, Late, Linked, Stated, Decided, Merged, Unmerged, Grouped, Joined, Revived)}


def read(kind: str, patient: PatientId, body: Mapping[str, Any]) -> Event:
    """Return a stored event. Raise `KeyError` for a kind that this version does not know."""
    return _READERS[kind](patient, body)


def about(event: Event) -> str | None:
    """Return the name of another id by which an event is found, too: the person it makes the id one of, or the other id."""
    match event:
        case Grouped(_, affinity):
            return affinity
        case Joined(_, survivor) | Revived(_, survivor):
            return survivor.value
        case Merged(_, survivor) | Unmerged(_, survivor):
            return name_of(survivor)
        case Decided(_, other):
            return name_of(other)
    return None


def name_of(local: PatientId) -> str:
    """Return how a local id is named there; one of the affinity domain is named by its value."""
    return f"{local.domain} {local.value}"


def named_by(name: str, affinity_domain: str) -> PatientId:
    """Return the id of this name."""
    domain, blank, value = name.partition(" ")
    return PatientId(domain, value) if blank else PatientId(affinity_domain, name)


def _pairs(patients: Iterable[PatientId]) -> list[list[str]]:
    return [[one.domain, one.value] for one in patients]


def person_of(body: Mapping[str, Any]) -> Demographics:
    """Return demographics from their stored form."""
    return Demographics(
        names=tuple(PersonName(**name) for name in body["names"]),
        birth_date=body["birth_date"],
        sex=body["sex"],
        mother=PersonName(**body["mother"]) if body["mother"] else None,
        addresses=tuple(Address(**address) for address in body["addresses"]),
        phones=tuple(body["phones"]),
        other_ids=tuple((domain, value) for domain, value in body["other_ids"]),
        accounts=tuple((domain, value) for domain, value in body.get("accounts", ())),
    )
