"""The PIX manager: takes patient identity feeds, answers which ids belong to one person (ITI TF-1 5)."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from broker.config.profile import Profile
from broker.coord.base import Coord
from broker.db import Database, Lock, lock
from broker.matching.block import block_keys
from broker.model.caller import Call
from broker.model.errors import Hl7Code, Problem, Rejected
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.model.ports import PatientArrived, PatientMerged, Unit
from broker.patients import store
from broker.patients.claims import Authorities, Claim, checked
from broker.patients.feed import Feed, Kind
from broker.patients.links import Linker
from broker.patients.store import Event, Identity

Named = tuple[PatientId, str]


class PixManager:
    """One cross-reference of patient ids; safe to share between threads. Implements `PatientDirectory`."""

    def __init__(
        self, database: Database, profile: Profile, coord: Coord, arrived: PatientArrived, merged: PatientMerged,
    ) -> None:
        self.profile = profile
        self._database, self._coord = database, coord
        self._affinity = profile.region.affinity_domain
        self._authorities = Authorities(profile)
        self._linker = Linker(self._affinity, arrived, merged)

    # -- feeds

    def feed(self, feed: Feed, call: Call) -> bytes:
        """Carry out a feed durably; give the answer of its receipt, or the one it got when it came before.

        Raise `Rejected` (101, 102, 204, 205) and leave nothing changed.
        """
        call.facts.message_id, call.facts.action = feed.message_id, "C" if feed.kind is Kind.ADD else "U"
        patient, key = self._authorities.fed(feed.claims, feed.sender, feed.places.ids)
        call.facts.patients.append(patient)
        retired = self._retired(feed, patient) if feed.kind is Kind.MERGE else None
        if retired is not None:
            call.facts.patients.append(retired)
            call.facts.actions[retired] = "D"
        with self._database.write() as unit:
            lock(unit, Lock.PATIENT_INDEX)      # one feed at a time decides who is who
            again = self._answered(unit, feed)
            if again is not None:
                return again
            if retired is None:
                self._fed(unit, feed, patient, key)
            else:
                self._merge(unit, feed, patient, key, retired)
            unit.after_commit(lambda: self._coord.publish("patients", {}))
            return self._kept(unit, feed)

    def _answered(self, unit: Unit, feed: Feed) -> bytes | None:
        receipt = feed.receipt
        return store.answered(unit, str(feed.sender), receipt.control_id, receipt.digest) if receipt else None

    def _kept(self, unit: Unit, feed: Feed) -> bytes:
        receipt = feed.receipt
        if receipt is None:
            return b""
        store.keep_answer(unit, str(feed.sender), receipt.control_id, receipt.digest, receipt.reply)
        return receipt.reply

    def _fed(self, unit: Unit, feed: Feed, patient: PatientId, key: Claim) -> None:
        known = store.find(unit, patient)
        if known is not None and not known.active:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{key.title} was merged away", key.at)
        self._linker.place(unit, self._save(unit, feed, patient, key, known))

    def _save(self, unit: Unit, feed: Feed, patient: PatientId, key: Claim, known: Identity | None) -> Identity:
        person = feed.person(known.person if known else Demographics(), key, self._authorities)
        self._tell(unit, feed, "fed", patient, {"event": feed.kind, "demographics": asdict(person)})
        return store.save(unit, patient, person, block_keys(person), feed.message_id)

    def _retired(self, feed: Feed, patient: PatientId) -> PatientId:
        """Give the id a merge retires: another one of the same domain."""
        claims = [claim for claim in feed.retired if claim.value]
        if not claims:
            raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no retired patient id", feed.places.retired)
        if len(claims) > 1:
            raise Rejected(Hl7Code.DATA_TYPE, "one merge retires one id", claims[1].at_whole)
        claim = claims[0]
        lenient = self.profile.region.unknown_authority == "sender" and not claim.names_authority
        found = self._authorities.domain(claim)
        if not lenient and (found is None or found.oid != patient.domain):
            cause = self._authorities.unknown(claim) or f"{claim.title} is of another domain than the surviving id"
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{feed.sender.title}: {cause}", feed.places.retired_authority)
        retired = checked(patient.domain, claim)
        if retired == patient:
            raise Rejected(Hl7Code.DUPLICATE_KEY, "both ids are the same", feed.places.retired)
        return retired

    def _merge(self, unit: Unit, feed: Feed, patient: PatientId, key: Claim, retired_id: PatientId) -> None:
        """ITI TF-2 3.8.4.2: demographics in a merge are not an update; they serve only for an id never seen before."""
        survivor, retired = store.find(unit, patient), store.find(unit, retired_id)
        if retired is not None and not retired.active:
            if survivor is not None and self._leads_to(unit, retired, survivor):
                return
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{feed.retired[0].title} was merged into another id", feed.places.retired)
        if survivor is not None and not survivor.active:
            if retired is not None and store.survivor(unit, survivor).id == retired.id:
                raise Rejected(Hl7Code.DUPLICATE_KEY, "the merge would close a circle", feed.places.retired)
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"the surviving {key.title} was merged away", key.at)
        if survivor is None:
            survivor = self._first_seen(unit, feed, patient, key, retired)
        if retired is None:
            retired = store.save(unit, retired_id, Demographics(), (), feed.message_id)
        self._tell(unit, feed, "merged", retired_id, {"survivor": patient.value})
        self._linker.merge(unit, retired, survivor)

    def _first_seen(self, unit: Unit, feed: Feed, patient: PatientId, key: Claim, retired: Identity | None) -> Identity:
        if retired is None:
            survivor = self._save(unit, feed, patient, key, None)
            self._linker.place(unit, survivor)
            return store.get(unit, survivor.id)
        person = retired.person
        self._tell(unit, feed, "fed", patient, {"event": feed.kind, "demographics": asdict(person)})
        return store.save(unit, patient, person, block_keys(person), feed.message_id)

    @staticmethod
    def _leads_to(unit: Unit, retired: Identity, survivor: Identity) -> bool:
        while retired.survivor is not None:
            retired = store.get(unit, retired.survivor)
            if retired.id == survivor.id:
                return True
        return False

    @staticmethod
    def _tell(unit: Unit, feed: Feed, kind: str, patient: PatientId, body: dict[str, object]) -> None:
        store.tell(unit, Event(
            at=time.time(), kind=kind, patient=patient, sender=str(feed.sender), message_id=feed.message_id, body=body))

    # -- queries

    def query(self, claim: Claim, wanted: Sequence[Claim], call: Call) -> tuple[Named, ...]:
        """Give the other ids of the person with this id, each with its namespace, in the wanted domains (none = all).

        The ids of one domain are adjacent. For a retired id the answer is its survivor's, without both. Raise `Rejected`
        (204) for an unknown authority, an unknown id, unknown wanted domains, in this order (ITI TF-2 3.9.4.2.2.6).
        """
        domain = self._authorities.shown(claim, call.caller.node)
        patient = PatientId(domain.oid, claim.value)
        call.facts.patients.append(patient)
        with self._database.read() as unit:
            ids = self._ids(unit, patient)
        if not ids:
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"unknown patient id: no feed named {claim.title}", claim.at)
        domains = self._wanted(wanted, call.caller.node)
        names = {d.oid: d.namespace for d in self.profile.domains if not d.hidden and (not domains or d.oid in domains)}
        return tuple((other, names[other.domain]) for other in ids[1:] if other.domain in names)

    def _wanted(self, claims: Sequence[Claim], asker: str) -> set[str]:
        found, problems = set(), list[Problem]()
        for claim in claims:
            try:
                found.add(self._authorities.shown(claim, asker).oid)
            except Rejected as error:
                problems += error.problems
        if problems:
            raise Rejected.of(problems)
        return found

    def _ids(self, unit: Unit, patient: PatientId) -> list[PatientId]:
        """Give the id asked for and then the others of the person; nothing when it was never seen."""
        own = {patient}
        if patient.domain == self._affinity:
            group = store.find_group(unit, patient.value)
            if group is None:
                return []
            group = store.group_survivor(unit, group)
            own.add(PatientId(self._affinity, group.value))
        else:
            found = store.find(unit, patient)
            if found is None:
                return []
            found = store.survivor(unit, found)
            own.add(found.patient)
            if found.group is None:
                return [patient]
            group = store.get_group(unit, found.group)
        everyone = {PatientId(self._affinity, group.value), *(m.patient for m in store.members(unit, [group.id]))}
        order = {domain.oid: number for number, domain in enumerate(self.profile.domains)}
        return [patient, *sorted(everyone - own, key=lambda i: (order.get(i.domain, len(order)), i))]

    def affinity_id(self, unit: Unit, local: PatientId) -> PatientId | None:
        """Give the active affinity-domain id of the person with this id, or None while no feed named it.

        A retired id is followed to its survivor: older pictures carry it.
        """
        if local.domain == self._affinity:
            group = store.find_group(unit, local.value)
            return PatientId(self._affinity, store.group_survivor(unit, group).value) if group else None
        found = store.find(unit, local)
        number = store.survivor(unit, found).group if found else None
        return PatientId(self._affinity, store.get_group(unit, number).value) if number is not None else None

    def is_active(self, unit: Unit, patient: PatientId) -> bool:
        """Say whether this affinity-domain id is known and not merged away."""
        group = store.find_group(unit, patient.value) if patient.domain == self._affinity else None
        return group is not None and group.active

    def who(self, unit: Unit, patient: PatientId) -> list[PatientId]:
        """Give every active id of the person with this id, the affinity-domain id among them; nothing when unknown."""
        affinity = self.affinity_id(unit, patient)
        return self._ids(unit, affinity) if affinity else []

    def demographics(self, unit: Unit, patient: PatientId) -> Demographics | None:
        """Give what the source of this local id last said, or None when it was never seen."""
        found = store.find(unit, patient)
        return found.person if found else None

    def timeline(self, unit: Unit, patient: PatientId) -> list[Event]:
        """Give what happened to this id (local or of the affinity domain), in order."""
        return store.events(unit, patient)

    def check_receiver(self, application: str, facility: str) -> None:
        """Return when a v2 message is meant for us or names nobody. Raise `Rejected` (204) otherwise."""
        region = self.profile.region
        for given, ours, place in ((application, region.application, "MSH^1^5"), (facility, region.facility, "MSH^1^6")):
            if given not in ("", ours):
                raise Rejected(
                    Hl7Code.UNKNOWN_KEY, f"the message is meant for {given[:64]!r}, and this is {ours!r}", place)
