"""The PIX manager: takes patient identity feeds, answers which ids belong to one person (ITI TF-1 5)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from broker.config.profile import Domain
from broker.db import Database, Lock, lock
from broker.model.caller import Call
from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.model.ports import Unit
from broker.model.transaction import Disclosure, Keep
from broker.patients.decisions import DecisionWork
from broker.patients.feed import Feed, Kind, Receipt
from broker.patients.feeds import FeedWork, Pair
from broker.patients.identifiers import Authorities, GivenId, Sender, check_receiver, checked
from broker.patients.settle import Settler
from broker.patients.store import answers, log, records
from broker.patients.store.neighbourhood import Neighbourhood
from broker.patients.tie import Tie

Named = tuple[PatientId, str]


def visible_ids(ids: tuple[Named, ...], keep: Keep) -> tuple[Named, ...]:
    """Return the ids of an answer that the caller may see; the others look as if the person did not have them."""
    return tuple(one for one in ids if keep(Disclosure(patient=one[0])))


class PixManager:
    """One cross-reference of patient ids; safe to share between threads. Implements `PatientDirectory`."""

    def __init__(self, database: Database, settler: Settler, clock: Callable[[], float] = time.time) -> None:
        self.profile = settler.profile
        self._database, self.settler, self._clock = database, settler, clock
        self._affinity = self.profile.region.affinity_domain
        self._authorities = Authorities(self.profile)

    # -- feeds

    def feed(self, feed: Feed, call: Call) -> bytes:
        """Carry out a feed durably; return the answer of its receipt, or the one it got when it came before.

        Raise `Rejected` (101, 102, 204, 205) and leave nothing changed.
        """
        call.facts.message_id, call.facts.action = feed.message_id, "C" if feed.kind is Kind.ADD else "U"
        own = self._own(feed)
        call.facts.patients.append(own[0][0])
        pairs = self._pairs(feed, own) if feed.kind.retires else []
        call.facts.patients[:] = [pair.survivor for pair in pairs] or [patient for patient, _ in own]
        for pair in pairs:
            call.facts.patients.append(pair.retired)
            call.facts.actions[pair.retired] = "D"
        with self._database.write() as unit:
            lock(unit, Lock.PATIENT_INDEX)      # one feed at a time decides who is who
            again = self._answered(unit, feed.sender, feed.receipt)
            if again is not None:
                return again
            at = self._clock()
            ids = (*(patient for patient, _ in own), *(pair.retired for pair in pairs))
            index = Neighbourhood(unit, ids)
            work = FeedWork(feed, index, self._authorities, self._affinity, at)
            if feed.kind.retires:
                work.merge(pairs)
            else:
                work.feed(own)
            self.settler.settle(unit, index, work, at)
            return self._kept(unit, feed.sender, feed.receipt, at)

    def tie(self, tie: Tie, receipt: Receipt, call: Call) -> bytes:
        """Carry out durably what a source says of two ids; return the answer of its receipt, or the one it got before.

        Raise `Rejected` (101, 204, 205, 206) and leave nothing changed.
        """
        call.facts.message_id = receipt.control_id
        pair = tie.named(self._authorities)
        ids = [patient for patient, _ in pair]
        call.facts.patients += ids
        with self._database.write() as unit:
            lock(unit, Lock.PATIENT_INDEX)
            again = self._answered(unit, tie.sender, receipt)
            if again is not None:
                return again
            index = Neighbourhood(unit, ids)
            distinct = self.profile.distinct_domains
            work = DecisionWork(index, self._affinity, self._clock(), str(tie.sender), receipt.control_id, distinct=distinct)
            tie.carry_out(work, pair, partial(log.decided_by, unit))
            self.settler.settle(unit, index, work, work.at)
            return self._kept(unit, tie.sender, receipt, work.at)

    def tied(self, tie: Tie) -> tuple[PatientId, ...]:
        """Return the ids that `tie` is about; none when it refuses what they are."""
        try:
            return tuple(patient for patient, _ in tie.named(self._authorities))
        except Rejected:
            return ()

    def subjects(self, feed: Feed) -> tuple[PatientId, ...]:
        """Return every id that `feed` writes: those it feeds, or those it merges; none when it refuses what the ids are."""
        try:
            own = self._own(feed)
            pairs = self._pairs(feed, own) if feed.kind.retires else []
        except Rejected:
            return ()
        return tuple(patient for pair in pairs for patient in (pair.survivor, pair.retired)) or tuple(p for p, _ in own)

    def _own(self, feed: Feed) -> list[tuple[PatientId, GivenId]]:
        """Return the ids that are the sender's to feed: the one the feed is about, then those of its further domains."""
        patient, key = self._authorities.for_feed(feed.given_ids, feed.sender, feed.places.ids)
        return [(patient, key), *self._authorities.beside(feed.named, feed.sender, patient.domain)]

    def _answered(self, unit: Unit, sender: Sender, receipt: Receipt | None) -> bytes | None:
        return answers.answered(unit, str(sender), receipt.control_id, receipt.digest) if receipt else None

    def _kept(self, unit: Unit, sender: Sender, receipt: Receipt | None, at: float) -> bytes:
        if receipt is None:
            return b""
        answers.keep(unit, str(sender), receipt.control_id, (receipt.digest, receipt.reply), at)
        return receipt.reply

    def _pairs(self, feed: Feed, own: Sequence[tuple[PatientId, GivenId]]) -> list[Pair]:
        """Return what is to be merged: a pair for each domain of the sender in which the message names both.

        Ids of other domains, and empty repetitions, are passed over. Raise `Rejected`: 101 without any retired id, 204 when
        none is of a survivor's domain, 102 for two of one domain, 205 for an id that would be merged with itself.
        """
        named = [given_id for given_id in feed.retired if given_id.value]
        if not named:
            raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no retired patient id", feed.places.retired)
        survivors = {patient.domain: (patient, key) for patient, key in own}
        pairs: dict[str, Pair] = {}
        for given_id in named:
            domain = self._retired_domain(given_id, own[0][0])
            if domain not in survivors:
                continue
            pair = Pair(*survivors[domain], checked(domain, given_id), given_id)
            if pairs.setdefault(domain, pair).retired != pair.retired:
                raise Rejected(Hl7Code.DATA_TYPE, "a merge retires one id of a domain", given_id.at_whole)
        if not pairs:
            cause = self._authorities.unknown(named[0]) or f"{named[0].title} is of another domain than the surviving id"
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{feed.sender.title}: {cause}", feed.places.retired_authority)
        if any(pair.survivor == pair.retired for pair in pairs.values()):
            raise Rejected(Hl7Code.DUPLICATE_KEY, "both ids are the same", feed.places.retired)
        return list(pairs.values())

    def _retired_domain(self, given_id: GivenId, patient: PatientId) -> str:
        if self.profile.region.unknown_authority == "sender" and not given_id.names_authority:
            return patient.domain
        found = self._authorities.domain(given_id)
        return found.oid if found else ""

    # -- queries

    def domain_of(self, given_id: GivenId) -> Domain | None:
        """Return the domain that a message means, hidden or not, None when it is none of the region's."""
        return self._authorities.domain(given_id)

    def as_addition(self, feed: Feed) -> Feed:
        """Return an update of a wire that does not tell additions from updates: as an addition where its id is not known."""
        subjects = self.subjects(feed) if feed.kind is Kind.UPDATE else ()
        return replace(feed, kind=Kind.ADD) if subjects and not self.knows(subjects[0]) else feed

    def knows(self, patient: PatientId) -> bool:
        """Say whether a local id was ever fed, or merged away."""
        with self._database.read() as unit:
            return records.find(unit, patient) is not None

    def person_id(self, patient: PatientId) -> PatientId | None:
        """Return the active affinity-domain id of the person with this id, None while no feed named it."""
        with self._database.read() as unit:
            return self.affinity_id(unit, patient)

    def subject(self, given_id: GivenId) -> tuple[PatientId, ...]:
        """Return the id that `query` translates; none when it refuses its authority."""
        try:
            return (self._asked(given_id, ""),)
        except Rejected:
            return ()

    def _asked(self, given_id: GivenId, asker: str) -> PatientId:
        return PatientId(self._authorities.for_query(given_id, asker).oid, given_id.value)

    def query(self, given_id: GivenId, wanted: Sequence[GivenId], call: Call) -> tuple[Named, ...]:
        """Return the other ids of the person with this id, each with its namespace, in the wanted domains (none = all).

        The ids of one domain are adjacent. For a retired id the answer is its survivor's, without both. Raise `Rejected`
        (204) for an unknown authority, an unknown id, unknown wanted domains, in this order (ITI TF-2 3.9.4.2.2.6).
        """
        patient = self._asked(given_id, call.caller.node)
        call.facts.patients.append(patient)
        with self._database.read() as unit:
            ids = self._ids(unit, patient)
        if not ids:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"unknown patient id: no feed named {given_id.title}", given_id.at)
        domains = self._authorities.wanted(wanted, call.caller.node)
        names = {d.oid: d.namespace for d in self.profile.domains if not d.hidden and (not domains or d.oid in domains)}
        return tuple((other, names[other.domain]) for other in ids[1:] if other.domain in names)

    def _ids(self, unit: Unit, patient: PatientId) -> list[PatientId]:
        """Return the id asked for and then the others of the person; nothing when it was never seen."""
        own = {patient}
        if patient.domain == self._affinity:
            group = records.find_group(unit, patient.value)
            if group is None:
                return []
            group = records.group_survivor(unit, group)
            own.add(PatientId(self._affinity, group.value))
            affinity, local = group.value, [member.patient for member in records.members(unit, [group.id])]
        else:
            affinity, local = records.together(unit, patient)
        if not affinity:
            found = records.find(unit, patient)
            if found is None:
                return []
            survivor = records.survivor(unit, found).patient
            own.add(survivor)
            affinity, local = records.together(unit, survivor)
        order = {domain.oid: number for number, domain in enumerate(self.profile.domains)}
        others = {PatientId(self._affinity, affinity), *local} - own if affinity else set()
        return [patient, *sorted(others, key=lambda one: (order.get(one.domain, len(order)), one))]

    def affinity_id(self, unit: Unit, local: PatientId) -> PatientId | None:
        """Return the active affinity-domain id of the person with this id, or None while no feed named it.

        A retired id is followed to its survivor: older pictures carry it.
        """
        if local.domain == self._affinity:
            group = records.find_group(unit, local.value)
            return PatientId(self._affinity, records.group_survivor(unit, group).value) if group else None
        value, _ = records.together(unit, local)
        if not value and (found := records.find(unit, local)) is not None:
            value, _ = records.together(unit, records.survivor(unit, found).patient)
        return PatientId(self._affinity, value) if value else None

    def is_active(self, unit: Unit, patient: PatientId) -> bool:
        """Say whether this affinity-domain id is known and not merged away."""
        group = records.find_group(unit, patient.value) if patient.domain == self._affinity else None
        return group is not None and group.active

    def demographics(self, unit: Unit, patient: PatientId) -> Demographics | None:
        """Return what the source of this local id last said, or None when it was never seen."""
        found = records.find(unit, patient)
        return found.person if found else None

    def check_receiver(self, application: str, facility: str) -> None:
        """Return when a v2 message is meant for us or names nobody. Raise `Rejected` (204) otherwise."""
        check_receiver(self.profile.region, application, facility)
