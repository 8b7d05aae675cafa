"""The protocols in which actors and edges meet; `app` connects them. No actor imports another.

Protocols that carry a type of a higher floor stand beside it: `config.ports`, `wire.ports`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from broker.model.caller import Caller
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import StoredObject


class Unit(Protocol):
    """A unit of work: one transaction of the durable store. Stores turn it into a connection; nobody else looks inside."""

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the unit is durable; never when it rolled back."""
        ...


class PatientDirectory(Protocol):
    """Who is who, as the registry and the imaging actors need it."""

    def affinity_id(self, unit: Unit, local: PatientId) -> PatientId | None:
        """Return the active affinity-domain id of the person with this local id, or None while no feed named it."""
        ...

    def is_active(self, unit: Unit, patient: PatientId) -> bool:
        """Say whether this affinity-domain id is known and not merged away."""
        ...


class PatientArrived(Protocol):
    """Told inside the feed's unit of work that a local id now has an affinity-domain id: waiting publications go on."""

    def __call__(self, unit: Unit, local: PatientId) -> None: ...


class PatientMerged(Protocol):
    """Told inside the merge's unit of work that the affinity-domain id `retired` lives on as `survivor`."""

    def __call__(self, unit: Unit, retired: PatientId, survivor: PatientId) -> None: ...


class PatientMoved(Protocol):
    """Told inside the feed's unit of work that these local ids are another person's: what `before` has of them is `now`'s."""

    def __call__(self, unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId) -> None: ...


class PatientParted(Protocol):
    """Told inside the unit of work that `now`, which lived on as `before`, is a person's own id again, with these local ids.

    `kept` are the local ids of the person who has `before`.
    """

    def __call__(
        self, unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId, kept: Collection[PatientId],
    ) -> Sequence[str]:
        """Give back what was kept for it, and what was registered for its local ids since.

        Return the entryUUIDs of documents registered since that stay with `before` although their source patient is of neither.
        """
        ...


class Withdraw(Protocol):
    """Takes a published DocumentEntry back, where a replacement is not allowed: it was published under a wrong patient."""

    def __call__(self, unit: Unit, entry_uuid: str, caller: Caller) -> None:
        """Deprecate the entry, and what is attached to it, inside `unit`; audited once that is durable. Twice is as once.

        Raise `Rejected` (UnresolvedReferenceException) when our registry has no such entry.
        """
        ...


@dataclass(frozen=True, slots=True)
class Want:
    """What a fetch asks of a PACS: a study, narrowed to series and instances when they are given.

    `sop_classes` is not asked for: it says which classes will come, where that is known. `attempt` counts how often the
    PACS was asked for these before and did not send them.
    """

    study_uid: str
    series_uids: tuple[str, ...] = ()
    sop_uids: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = field(default=(), compare=False)
    attempt: int = field(default=0, compare=False)


class StudyRows(list[dict[str, str]]):
    """What a PACS lists of a study: one dict of decoded text by DICOM keyword per instance.

    `nameless` counts the answers that are left out because they name no legal SOP Instance or Series Instance UID.
    """

    def __init__(self, rows: Iterable[dict[str, str]] = (), nameless: int = 0) -> None:
        super().__init__(rows)
        self.nameless = nameless


@dataclass(frozen=True, slots=True)
class Retrieved:
    """How a retrieve ended as the PACS tells it; what really came is counted by the caller.

    `status` is the final DIMSE status, `words` its meaning. `failed` are the SOP
    Instance UIDs that it could not send (Failed SOP Instance UID List); many PACS leave that out. `refused` is what we
    refused ourselves, reason by SOP Instance UID: known after a C-GET only, a C-MOVE's objects reach another process.
    """

    status: int = 0
    words: str = ""
    failed: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


class RetrieveFailed(Unavailable):
    """A retrieve whose final status is a failure, or that the PACS broke off; `retrieved` is what it said of it."""

    def __init__(self, what: str, retrieved: Retrieved) -> None:
        super().__init__(what)
        self.retrieved = retrieved


class ObjectWriter(Protocol):
    """One incoming object, between its first byte and its answer."""

    @property
    def stored(self) -> StoredObject | None:
        """The object once `commit` returned, else None; its `sha256` is empty until `index`."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the encoded data set."""
        ...

    def commit(self) -> int:
        """Make the object durable (fsync, rename); return the C-STORE status (PS3.4 B.2.3)."""
        ...

    def index(self) -> None:
        """Hand a durable object to the index. Called once the sender has its answer: what can wait is done here."""
        ...

    def abort(self) -> None:
        """Drop what was written; nothing is left behind."""
        ...


class Received(Protocol):
    """The receiver as the DICOM listener sees it."""

    def open(self, caller: Caller, sop_class: str, sop_uid: str, transfer_syntax: str) -> ObjectWriter:
        """Begin an object. Raise `Rejected` for UIDs that are not UIDs, `Unavailable` when the store cannot take it."""
        ...
