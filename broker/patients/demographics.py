"""The Patient Demographics Supplier (ITI TF-1 8): which persons of the index are those that somebody describes.

A search reads a bounded number of records, whatever the size of the index. Answers name persons: their ids, and the record
that is shown of each. What is hidden (a domain of the profile) is neither shown nor searched.

The persons found are kept as a list while a page of them is left to be asked for: pages never shift. It is read anew for each
page, so that what the caller may see is judged again.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from broker.config.profile import Profile
from broker.db import Database
from broker.model.caller import AuditFacts, Caller
from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.model.ports import Unit
from broker.model.transaction import Disclosure, Keep
from broker.patients.asked import Query, score
from broker.patients.identifiers import Authorities, GivenId
from broker.patients.store import hits as lists
from broker.patients.store import records, search
from broker.patients.store.search import Candidate
from broker.patients.terms import other_id, ranges

Named = tuple[PatientId, str]
FoundBy = tuple[PatientId, ...]

MOST_PERSONS = 500          # of one answer, all its pages together
MOST_RECORDS = 2_000        # that one search looks at
KEPT_SECONDS = 15 * 60      # for how long a further page may be asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What one source last said of a person; `matched` where it answers the query."""

    patient: PatientId
    person: Demographics
    matched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A person: its ids with their namespaces, and its records, the one to show first.

    `number` is its place in the whole list. `found_by` holds, for each id that was asked, the ids by which it was found.
    """

    number: int
    affinity: PatientId
    ids: tuple[Named, ...]
    records: tuple[Known, ...]
    found_by: tuple[FoundBy, ...]
    confidence: int

    @property
    def person(self) -> Demographics:
        """What is shown of the person."""
        return self.records[0].person

    def visible(self, keep: Keep) -> "Hit | None":
        """Return what the caller may see of it; None when that is nothing, or when what it was found by may not be seen."""
        def seen(patient: PatientId) -> bool:
            return keep(Disclosure(patient=patient))

        ids = tuple(one for one in self.ids if seen(one[0]))
        known = tuple(one for one in self.records if seen(one.patient))
        told = ids and any(one.matched for one in known) and all(any(map(seen, by)) for by in self.found_by)
        return replace(self, ids=ids, records=known) if told else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is asked for: at most `quantity` (None = all) of the hits from number `start` on, `skip` left out.

    `skip` counts what the caller may see, numbers do not depend on that. `skip` None = all that was answered before.
    """

    start: int = 0
    skip: int | None = 0
    quantity: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whose list it is: who asks, as it names itself and by its certificate, and the tag or id of its query.

    Where the wire has no pointer, tag or id alone name the list, and the last one asked for under it is meant (`by_tag`).
    """

    wire: str
    node: str
    tag: str
    certificate: str = ""
    by_tag: bool = False

    @classmethod
    def of(cls, wire: str, caller: Caller, tag: str, node: str = "", *, by_tag: bool = False) -> Self:
        """Make it of a call; `node` is what the caller calls itself in its message."""
        shown = caller.certificate.fingerprint if caller.certificate else ""
        return cls(wire=wire, node=node or caller.node, tag=tag, certificate=shown, by_tag=by_tag)

    @property
    def digest(self) -> str:
        """What is kept of it."""
        parts = (self.wire, self.node, self.certificate, self.tag)
        return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Everybody found, and which page of them is answered. `complete` is false where more may be there than were looked at.

    `token` is the name of the list while further pages can be had, `echo` what the caller's wire has to repeat of the query,
    `wanted` the domains that ids were asked of.
    """

    hits: tuple[Hit, ...] = ()
    complete: bool = True
    page: Page = field(default_factory=Page)
    token: str = ""
    echo: str = ""
    wanted: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[Hit, ...]:
        """The hits of the page."""
        return self._ahead[:self.page.quantity]

    @property
    def remaining(self) -> int:
        """How many hits are behind the page."""
        return len(self._ahead) - len(self.shown)

    @property
    def next_start(self) -> int:
        """Where the next page begins."""
        return self.shown[-1].number + 1 if self.shown else self.page.start

    @property
    def _ahead(self) -> tuple[Hit, ...]:
        return tuple(hit for hit in self.hits if hit.number >= self.page.start)[self.page.skip or 0:]


def visible_hits(found: Found, keep: Keep) -> Found:
    """Return an answer as if what the caller may not see did not exist."""
    return replace(found, hits=tuple(seen for hit in found.hits if (seen := hit.visible(keep)) is not None))


def note_persons(found: Found, facts: AuditFacts) -> None:
    """Tell the audit whom an answer shows, each person by its first id."""
    facts.patients += [hit.ids[0][0] for hit in found.shown]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A person of a list as it is kept: its number in the database, and how it was found."""

    group: int
    confidence: int
    matched: frozenset[PatientId]
    found_by: tuple[FoundBy, ...]

    def body(self) -> list[Any]:
        """Return what is stored of it."""
        return [self.group, self.confidence, _pairs(self.matched), [_pairs(by) for by in self.found_by]]

    @classmethod
    def read(cls, body: Sequence[Any]) -> Self:
        """Read the stored form."""
        group, confidence, matched, found_by = body
        return cls(group, confidence, frozenset(_ids(matched)), tuple(_ids(by) for by in found_by))


def _pairs(ids: Iterable[PatientId]) -> list[list[str]]:
    return [[one.domain, one.value] for one in sorted(ids)]


def _ids(pairs: Iterable[Sequence[str]]) -> FoundBy:
    return tuple(PatientId(domain, value) for domain, value in pairs)


class DemographicsSupplier:
    """Answers demographics queries of all wires. Safe to share between threads."""

    def __init__(self, database: Database, profile: Profile, clock: Callable[[], float] = time.time) -> None:
        self.region, self.authorities = profile.region, Authorities(profile)
        self._database, self._clock = database, clock
        self._affinity = profile.region.affinity_domain
        self._hidden = frozenset(domain.oid for domain in profile.domains if domain.hidden)
        self._order = {domain.oid: number for number, domain in enumerate(profile.domains)}
        self._names = {domain.oid: domain.namespace for domain in profile.domains if not domain.hidden}

    def subjects(self, query: Query) -> tuple[PatientId, ...]:
        """Return the ids of known domains that a query asks for."""
        asked = ((self.authorities.domain(one), one) for alternatives in query.ids for one in alternatives)
        return tuple(PatientId(domain.oid, one.value) for domain, one in asked if domain is not None)

    def search(self, query: Query, asker: Asker, quantity: int | None = None, echo: str = "") -> Found:
        """Return the first page of everybody who answers a query, the surest first, then those known longest.

        `echo` comes with every page.

        Raise `Rejected`: 204 for an id whose authority contradicts itself or is no namespace of the region, and for unknown
        wanted domains (all of them); 101 when what is asked is not telling enough to search by.
        """
        wanted = self.authorities.wanted(query.wanted, asker.node)
        with self._database.read() as unit:
            listed, complete = self._listed(unit, query, asker.node)
            persons = self._hits(unit, listed, wanted)
        token = ""
        if quantity is not None and len(persons) > quantity:
            token = self._keep(asker, quantity, {
                "complete": complete, "wanted": [*wanted], "quantity": quantity, "echo": echo,
                "listed": [listed[hit.number].body() for hit in persons]})
            persons = [replace(hit, number=number) for number, hit in enumerate(persons)]
        return Found(hits=tuple(persons), complete=complete, page=Page(quantity=quantity), token=token, echo=echo,
                     wanted=tuple(wanted))

    def go_on(self, asker: Asker, token: str, page: Page) -> Found | None:
        """Return a further page of the list that this asker was given under a token; None when it has none, or no longer.

        Its quantity is that of the first page where none is given.
        """
        with self._database.read() as unit:
            kept = lists.find(unit, asker.digest, token, self._clock())
            if kept is None:
                return None
            body = kept.body
            persons = self._hits(unit, [_Listed.read(one) for one in body["listed"]], dict.fromkeys(body["wanted"]))
        quantity = page.quantity or body["quantity"]
        page = replace(page, skip=kept.given if page.skip is None else page.skip, quantity=quantity)
        if asker.by_tag:
            with self._database.write() as unit:
                lists.note_given(unit, asker.digest, token, (page.skip or 0) + quantity)
        return Found(hits=tuple(persons), complete=body["complete"], page=page, token=token, echo=body["echo"],
                     wanted=tuple(body["wanted"]))

    def cancel(self, asker: Asker) -> None:
        """Forget what is kept for this asker; there may be nothing."""
        with self._database.write() as unit:
            lists.forget(unit, asker.digest)

    def _keep(self, asker: Asker, quantity: int, body: Mapping[str, Any]) -> str:
        token, now = "" if asker.by_tag else secrets.token_urlsafe(12), self._clock()
        with self._database.write() as unit:
            kept = lists.Kept(body=body, given=quantity)
            lists.keep(unit, asker.digest, token, kept, at=now, expires_at=now + KEPT_SECONDS)
        return token

    # -- finding

    def _listed(self, unit: Unit, query: Query, asker: str) -> tuple[list[_Listed], bool]:
        """Return whom a query finds, in order, and whether that is everybody."""
        found_by: dict[int, list[FoundBy]] = {}
        if query.ids:
            found_by = self._by_ids(unit, query, asker)
            candidates, complete = [*search.members(unit, found_by)], True
        else:
            candidates, complete = self._candidates(unit, query)
        best: dict[int, int] = {}
        matched: dict[int, set[PatientId]] = {}
        for one in candidates:
            points = 0 if one.patient.domain in self._hidden else score(query, one.person)
            if points >= max(query.least, 1):
                best[one.group] = max(points, best.get(one.group, 0))
                matched.setdefault(one.group, set()).add(one.patient)
        order = sorted(best, key=lambda group: (-best[group], group))
        listed = [_Listed(one, best[one], frozenset(matched[one]), tuple(found_by.get(one, ()))) for one in order]
        return listed[:MOST_PERSONS], complete and len(listed) <= MOST_PERSONS

    def _candidates(self, unit: Unit, query: Query) -> tuple[list[Candidate], bool]:
        """Return the records to look at: those of the first way that leads to few enough, else some of the most telling way."""
        ways = ranges(query)
        if not ways:
            raise Rejected(
                Hl7Code.REQUIRED_FIELD_MISSING, "too little to search by: give an id, a name, a birth date, a telephone number,"
                " an account number, a street, a postcode or the mother's family name", query.place)
        first: list[int] = []
        for way in ways:
            numbers = search.numbers(unit, way, MOST_RECORDS + 1)
            if len(numbers) <= MOST_RECORDS:
                return [*search.records(unit, numbers)], True
            first = first or numbers
        return [*search.records(unit, sorted(first)[:MOST_RECORDS])], False

    def _by_ids(self, unit: Unit, query: Query, asker: str) -> dict[int, list[FoundBy]]:
        """Return the persons who have one of the alternatives of every condition, and by which ids they were found."""
        found: dict[int, list[FoundBy]] = {}
        for number, alternatives in enumerate(query.ids):
            some: dict[int, list[PatientId]] = {}
            for given_id in alternatives:
                for group, patient in self._by_id(unit, given_id, asker):
                    some.setdefault(group, []).append(patient)
            found = {group: [*found.get(group, ()), tuple(by)] for group, by in some.items() if number == 0 or group in found}
        return found

    def _by_id(self, unit: Unit, given_id: GivenId, asker: str) -> Iterable[tuple[int, PatientId]]:
        """Yield the persons with an id: one that a source fed, one merged into it, or one that a source named beside its own."""
        domain = self.authorities.for_search(given_id, asker)
        for oid in [domain.oid] if domain else [] if given_id.names_authority else self._names:
            yield from self._fed(unit, PatientId(oid, given_id.value))
        wanted = domain.oid if domain else given_id.oid
        numbers = search.numbers(unit, [other_id(given_id.value)], MOST_RECORDS)
        for one in search.records(unit, numbers):
            oids = {oid for oid, value in one.person.other_ids if value == given_id.value} - self._hidden
            if one.patient.domain not in self._hidden and (wanted in oids if wanted else oids):
                yield one.group, one.patient

    def _fed(self, unit: Unit, patient: PatientId) -> Iterable[tuple[int, PatientId]]:
        if patient.domain == self._affinity:
            group = records.find_group(unit, patient.value)
            if group is not None:
                group = records.group_survivor(unit, group)
                yield group.id, PatientId(self._affinity, group.value)
            return
        found = records.find(unit, patient)
        if found is not None:
            found = records.survivor(unit, found)
            if found.group is not None:
                yield found.group, found.patient

    # -- answering

    def _hits(self, unit: Unit, listed: Sequence[_Listed], wanted: Mapping[str, object]) -> list[Hit]:
        """Return the persons of a list as they are now: with what has become of those joined meanwhile, without ids retired."""
        people: dict[int, list[Candidate]] = {}
        for one in search.members(unit, (one.group for one in listed)):
            people.setdefault(one.group, []).append(one)
        for gone in [one.group for one in listed if one.group not in people]:
            heir = records.group_survivor(unit, records.get_group(unit, gone)).id
            if heir not in people:
                people[gone] = [*search.members(unit, [heir])]
        every = (self._hit(number, one, people.get(one.group, []), wanted) for number, one in enumerate(listed))
        return [hit for hit in every if hit is not None]

    def _hit(
        self, number: int, listed: _Listed, members: Sequence[Candidate], wanted: Mapping[str, object],
    ) -> Hit | None:
        """Return a person, or None without any record or id that may be shown in the wanted domains."""
        shown = [one for one in members if one.patient.domain not in self._hidden]
        if not shown:
            return None
        affinity = PatientId(self._affinity, shown[0].affinity)
        ids = sorted((affinity, *(one.patient for one in shown)), key=lambda one: (self._order.get(one.domain, 0), one))
        named = tuple((one, self._names[one.domain]) for one in ids if one.domain in self._names
                      and (not wanted or one.domain in wanted))
        places = {oid: place for place, oid in enumerate(wanted)}

        matched = listed.matched & {one.patient for one in shown} or {one.patient for one in shown}

        def rank(one: Candidate) -> tuple[int, bool, bool, float]:
            """The record of the domain wanted first, else one with a name, one that answers, the one said last."""
            return places.get(one.patient.domain, len(places)), not one.person.names, one.patient not in matched, -one.at

        known = tuple(Known(patient=one.patient, person=one.person, matched=one.patient in matched)
                      for one in sorted(shown, key=rank))
        return Hit(number=number, affinity=affinity, ids=named, records=known, found_by=listed.found_by,
                   confidence=listed.confidence) if named else None
