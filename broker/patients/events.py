"""What happens to the ids of people, one dataclass per kind: the log of it is the truth, everything else follows from it.

The form in which an event is stored (`kind` and `body`) never changes: a log of ten years is read by the same lines. What a kind
has to say one day that it does not say today comes as a further key, or as a further kind.
"""

from collections.abc import Callable, Mapping
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
        return {"to": [[other.domain, other.value] for other in self.to]}

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
    """`patient` is retired in favour of `survivor`, an id of the same domain; its explicit links move on."""

    kind: ClassVar[str] = "merged"


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
    one.kind: one.read for one in (Fed, Late, Linked, Stated, Merged, Grouped, Joined)}


def read(kind: str, patient: PatientId, body: Mapping[str, Any]) -> Event:
    """Return a stored event. Raise `KeyError` for a kind that this version does not know."""
    return _READERS[kind](patient, body)


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
