"""What a steward, or a source, decides of two ids: merge, un-merge, link, unlink, split. Pure over the records that were loaded.

Each raises `Rejected` when it cannot be done, with `Hl7Code` codes, and leaves its log unfinished then: nothing of it is written.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from broker.matching.contradictions import contradictions
from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.patients.events import Decided, Event, Happened, Merged, Stated, Unmerged
from broker.patients.projection import EXPLICIT, Index, Record, replay
from broker.patients.resolution import LARGEST, Outcome, Resolver

STEWARD = "steward "      # before a steward's name, where events say who decided
History = Callable[[PatientId], Sequence[Happened]]
"""Returns everything that led to the person with an id, in order."""


@dataclass
class DecisionWork:
    """One decision at work on an index. `sender` and `message_id` say who decided, and by which message, if any.

    Of the `distinct` domains comparison joins no two ids.
    """

    index: Index
    affinity_domain: str
    at: float
    sender: str
    message_id: str = ""
    distinct: Collection[str] = field(kw_only=True)
    log: list[Happened] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with nothing decided."""
        self._resolver = Resolver(self.index, self.affinity_domain, self.happen, self.distinct)

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """What became of ids, in order."""
        return self._resolver.outcomes

    def happen(self, event: Event) -> None:
        """Take an event in, and keep it."""
        happened = Happened(at=self.at, sender=self.sender, message_id=self.message_id, event=event)
        self.index.apply(happened)
        self.log.append(happened)

    def link(self, one: PatientId, other: PatientId, reason: str = "", *, force: bool = False) -> None:
        """Decide that two ids are one person's, for good. `force` says so of persons who contradict each other, too."""
        records = self._two(one, other)
        groups = [self.index.members([record.group]) for record in records]
        if records[0].group != records[1].group:
            self._check(groups[0], groups[1], force=force)
        self.happen(Decided(one, other, Decided.SAME, reason))
        self._resolver.place_anew((one, other))
        if self.index.get(one).group != self.index.get(other).group:
            raise Rejected(Hl7Code.RECORD_LOCKED, f"others of the two persons were decided to be apart from {one} or {other}")

    def unlink(self, one: PatientId, other: PatientId, reason: str = "") -> None:
        """Decide that two ids are never one person's."""
        self._two(one, other)
        self.happen(Decided(one, other, Decided.APART, reason))
        self._resolver.place_anew((one, other))

    def split(self, patient: PatientId, reason: str = "") -> None:
        """Decide that an id is of another person than all the others it is together with."""
        others = [one.patient for one in self.index.members([self._active(patient).group]) if one.patient != patient]
        if not others:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{patient} is its person's only id")
        for other in others:
            self.happen(Decided(patient, other, Decided.APART, reason))
        self._resolver.place_anew((patient, *others))

    def take_back(self, one: PatientId, other: PatientId, history: History, reason: str = "") -> None:
        """Undo what was decided of two ids; those that come apart have the ids of the affinity domain they had before."""
        self._two(one, other)
        verdict = self.index.decisions(one).get(other)
        if verdict is None:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"nothing was decided of {one} and {other}")
        self.happen(Decided(one, other, Decided.OPEN, reason))
        if verdict == Decided.SAME:
            pair = {one, other}
            log = history(one)
            self._resolver.part(one, other, replay(log[:_last(log, lambda event: _links(event, pair))]))
        else:
            self._resolver.place_anew((one, other))

    def rejoin(self, patient: PatientId, reason: str = "") -> None:
        """Undo a split: what was decided to be apart from an id is so no more."""
        others = [other for other, verdict in self.index.decisions(patient).items() if verdict == Decided.APART]
        if not others:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"nothing was decided to be apart from {patient}")
        for other in others:
            self.happen(Decided(patient, other, Decided.OPEN, reason))
        self._resolver.place_anew((patient, *others))

    def merge(self, survivor: PatientId, retired: PatientId, reason: str = "", *, force: bool = False) -> None:
        """Retire an id in favour of another one of its domain, as its hospital would by A40."""
        records = self._two(survivor, retired)
        if survivor.domain != retired.domain:
            raise Rejected(Hl7Code.UNKNOWN_KEY, "a merge is of two ids of one domain")
        self._check([records[0]], [records[1]], force=force)
        self.happen(Merged(retired, survivor, reason))
        self._resolver.place_survivor(survivor, records[1])

    def unmerge(self, patient: PatientId, history: History, reason: str = "") -> None:
        """Undo a merge: the retired id has again what it had, the one it lives on in loses what was not its own.

        What feeds and decisions said since of the latter stays with it.
        """
        record = self.index.find(patient)
        if record is None or record.survivor is None:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{patient} was not merged away")
        log = history(patient)
        place = _last(log, lambda event: isinstance(event, Merged) and event.patient == patient)
        past, home = replay(log[:place]), self.index.survivor(record).patient
        self.happen(self._unmerged(record, home, past, log[place + 1:], reason))
        self._resolver.part(patient, home, past)

    def _unmerged(self, record: Record, home: PatientId, past: Index, since: Sequence[Happened], reason: str) -> Unmerged:
        patient, survivor = record.patient, record.survivor
        assert survivor is not None
        said = {other for one in since if isinstance(one.event, Stated) and one.event.patient == home for other in one.event.to}
        decided = {other for one in since if isinstance(one.event, Decided) for other in (one.event.patient, one.event.other)}
        back = self._now(past.linked(patient, EXPLICIT), {patient, home})
        kept = self._now(past.linked(survivor, EXPLICIT), set()) | said
        verdicts = [(now, verdict) for other, verdict in past.decisions(patient).items()
                    for now in self._now({other}, {patient})]
        own = self._now(past.decisions(survivor), set()) | decided
        return Unmerged(
            patient, survivor, home, reason, tuple(sorted(back)), tuple(sorted(back & self.index.linked(home, EXPLICIT) - kept)),
            tuple(sorted(verdicts)), tuple(sorted(
                other for other, verdict in verdicts
                if self.index.decisions(home).get(other) == verdict and other not in own)))

    def _now(self, patients: "set[PatientId] | dict[PatientId, str]", without: set[PatientId]) -> set[PatientId]:
        """Return as which ids these live on."""
        found = (self.index.find(patient) for patient in patients)
        return {self.index.survivor(record).patient for record in found if record} - without

    def _two(self, one: PatientId, other: PatientId) -> list[Record]:
        if one == other:
            raise Rejected(Hl7Code.DUPLICATE_KEY, "both ids are the same")
        return [self._active(patient) for patient in (one, other)]

    def _active(self, patient: PatientId) -> Record:
        record = self.index.find(patient)
        if record is None:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"no feed has named {patient}")
        if not record.active:
            survivor = self.index.survivor(record).patient
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{patient} was merged away; it lives on as {survivor}")
        return record

    def _check(self, some: Sequence[Record], others: Sequence[Record], *, force: bool) -> None:
        if len(some) + len(others) > LARGEST:
            raise Rejected(Hl7Code.RECORD_LOCKED, f"one person has at most {LARGEST} ids")
        found = [f"{what} of {one.patient} and {other.patient}" for one, other, what in contradicting(some, others)]
        if found and not force:
            raise Rejected(Hl7Code.RECORD_LOCKED, f"they contradict each other: {', '.join(found)}")


def contradicting(some: Sequence[Record], others: Sequence[Record]) -> Iterator[tuple[Record, Record, str]]:
    """Return what speaks against two groups of records being one person."""
    return ((one, other, what) for one in some for other in others for what in contradictions(one.person, other.person))


def _last(log: Sequence[Happened], wanted: Callable[[Event], bool]) -> int:
    """Return the place of the last such event; that behind the end when there is none."""
    return next((place for place in range(len(log) - 1, -1, -1) if wanted(log[place].event)), len(log))


def _links(event: Event, pair: set[PatientId]) -> bool:
    return isinstance(event, Decided) and event.verdict == Decided.SAME and {event.patient, event.other} == pair
