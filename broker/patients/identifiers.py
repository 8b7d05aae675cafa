"""Patient ids as messages give them, and whom they belong to by the region's profile (ITI TF-2 Appendix E)."""

from collections.abc import Sequence
from dataclasses import dataclass

from broker.config.profile import Domain, Feeder, Profile, Region
from broker.model.errors import Hl7Code, Problem, Rejected
from broker.model.ids import PatientId

_LONGEST = 250
_SHOWN = 64     # characters of what a message said that a refusal repeats
_NAMELESS = "a sender without a name"
_TOLD = 3       # different causes that one refusal tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """How a source is known: by MSH-3 and MSH-4, by the OIDs of its device, of which any will do, or (FHIR) by its address and

    the fingerprint of the certificate it shows, empty where it shows none.
    """

    application: str = ""
    facility: str = ""
    device_oids: tuple[str, ...] = ()
    address: str = ""
    certificate: str = ""

    def __str__(self) -> str:
        if self.address:
            return f"FHIR|{self.certificate or self.address}"
        return self.device_oids[0] if self.device_oids else f"{self.facility}|{self.application}"

    @property
    def title(self) -> str:
        """Return how a refusal names this source."""
        parts = (self.address,) if self.address else self.device_oids[:_TOLD] or (self.application, self.facility)
        return (" or " if self.device_oids else " at ").join(brief(part) for part in parts if part) or _NAMELESS

    def is_feeder(self, feeder: Feeder) -> bool:
        """Say whether the profile's row means this source; what the row leaves empty is not compared."""
        if self.address:
            return feeder.is_at(self.address, self.certificate)
        if self.device_oids:
            return bool(feeder.device_oid) and feeder.device_oid in self.device_oids
        named = feeder.application or feeder.facility
        return bool(named) and feeder.application in ("", self.application) and feeder.facility in ("", self.facility)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenId:
    """An id with its authority as one place of a message gives it; `at` and `at_authority` are that place in the wire's form.

    `namespace` and `oid` are the parts of the authority that were given; `other` is an authority id that is no OID, such as a
    URI, which a domain may have as an alias. A domain that is asked for is a `GivenId` without a value. `at_whole` is the place
    of id and authority together.
    """

    value: str
    namespace: str = ""
    oid: str = ""
    other: str = ""
    at: str
    at_authority: str
    at_whole: str = ""

    @property
    def authority(self) -> str:
        """Return how a refusal names the authority: the parts that were given, no longer than people need."""
        return " ".join(brief(part) for part in (self.namespace, self.oid or self.other) if part)

    @property
    def title(self) -> str:
        """Return how a refusal names the id and its authority."""
        authority = f" of {self.authority}" if self.names_authority else ""
        return f"id {brief(self.value)}{authority}" if self.value else f"an id{authority}"

    @property
    def names_authority(self) -> bool:
        """Say whether any part of the authority was given."""
        return bool(self.namespace or self.oid or self.other)


@dataclass(frozen=True)
class Authorities:
    """The assigning authorities of the region."""

    profile: Profile

    def domain(self, given_id: GivenId) -> Domain | None:
        """Return the domain all given parts name, or None when it is unknown or the parts contradict each other."""
        profile, namespace = self.profile, given_id.namespace
        if given_id.oid:
            found = profile.domain(given_id.oid) or profile.domain_by_alias(given_id.oid)
            return found if found and namespace in ("", found.namespace, *found.aliases) else None
        if namespace:
            return profile.domain_by_namespace(namespace) or profile.domain_by_alias(namespace)
        return profile.domain_by_alias(given_id.other)

    def for_query(self, given_id: GivenId, asker: str) -> Domain:
        """Return the domain a consumer may ask about; `asker` is how it names itself. Raise `Rejected` (204) for another."""
        found = self.domain(given_id)
        if found is None or found.hidden:
            name = " at ".join(brief(part) for part in reversed(asker.split("|", 1)) if part) or _NAMELESS
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{name}: {self._unknown(given_id)}", given_id.at_authority)
        return found

    def wanted(self, given_ids: Sequence[GivenId], asker: str) -> dict[str, None]:
        """Return the domains that a consumer wants ids of, in their order. Raise `Rejected` (204) with all that are unknown."""
        found, problems = dict[str, None](), list[Problem]()
        for given_id in given_ids:
            try:
                found[self.for_query(given_id, asker).oid] = None
            except Rejected as error:
                problems += error.problems
        if problems:
            raise Rejected.of(problems)
        return found

    def for_search(self, given_id: GivenId, asker: str) -> Domain | None:
        """Return the domain whose ids a consumer searches; None where it names no authority, or one whose OID is no domain's.

        Raise `Rejected` (204) for an authority that is nothing of both.
        """
        found = self.domain(given_id)
        if found is not None and not found.hidden:
            return found
        named = (self.profile.domain(given_id.oid), self.profile.domain_by_namespace(given_id.namespace))
        foreign = given_id.oid and not any(domain and not domain.hidden for domain in named)
        return None if foreign or not given_id.names_authority else self.for_query(given_id, asker)

    def for_feed(self, given_ids: Sequence[GivenId], sender: Sender, place: str) -> tuple[PatientId, GivenId]:
        """Return the id a feed is about: the first one of a domain its sender may feed, as id and as it was given.

        An id without an authority takes the sender's domain where the region's `unknown_authority` is `sender`.
        Raise `Rejected`: 101 at `place` when no id is given, 204 when none is the sender's to feed.
        """
        if not any(given_id.value for given_id in given_ids):
            raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no patient id", place)
        owned = self._owned(sender)
        lenient = self.profile.region.unknown_authority == "sender" and bool(owned)
        for given_id in given_ids:
            found = self.domain(given_id)
            if found in owned and found is not None and given_id.value:
                return checked(found.oid, given_id), given_id
        for given_id in given_ids:
            if lenient and given_id.value and not given_id.names_authority:
                return checked(owned[0].oid, given_id), given_id
        first = next(given_id for given_id in given_ids if given_id.value)
        raise Rejected(Hl7Code.UNKNOWN_KEY, self.not_fed(given_ids, sender), first.at_authority)

    def is_feeder(self, sender: Sender) -> bool:
        """Say whether a source may feed any domain."""
        return bool(self._owned(sender))

    def not_fed(self, given_ids: Sequence[GivenId], sender: Sender) -> str:
        """Return for people why none of the ids is this sender's to feed: what was given, by whom, and the cause."""
        if not self._owned(sender):
            return f"{sender.title}: unknown sender, it may feed no domain"
        causes = dict.fromkeys(
            self.unknown(given_id) or f"may not feed the domain of {given_id.title}" for given_id in given_ids if given_id.value)
        return f"{sender.title}: {'; '.join([*causes][:_TOLD])}"

    def unknown(self, given_id: GivenId) -> str:
        """Return for people why the authority of a given id is no domain of the region; nothing when it is one."""
        return self._unknown(given_id) if self.domain(given_id) is None else ""

    def _unknown(self, given_id: GivenId) -> str:
        if not given_id.names_authority:
            return f"no assigning authority, {given_id.title}"
        if given_id.oid and given_id.namespace and (
                self.profile.domain(given_id.oid) or self.profile.domain_by_namespace(given_id.namespace)):
            return f"namespace and OID contradict each other, {given_id.title}"
        kind = "OID" if given_id.oid else "namespace" if given_id.namespace else "authority id (no OID)"
        return f"unknown {kind}, {given_id.title}"

    def beside(self, given_ids: Sequence[GivenId], sender: Sender, domain: str) -> list[tuple[PatientId, GivenId]]:
        """Return the ids of other domains than `domain` that the sender may feed too, the first of each, and as they were given.

        Raise `Rejected` (102) for one that cannot be kept.
        """
        others = {owned.oid for owned in self._owned(sender)} - {domain}
        named: dict[str, GivenId] = {}
        for given_id in given_ids if others else ():
            found = self.domain(given_id)
            if given_id.value and found is not None and found.oid in others:
                named.setdefault(found.oid, given_id)
        return [(checked(oid, given_id), given_id) for oid, given_id in named.items()]

    def other_id(self, given_id: GivenId) -> tuple[str, str]:
        """Return (OID, value) of an id of any authority; the OID is empty when the authority is unknown."""
        found = self.domain(given_id)
        return (found.oid if found else given_id.oid), given_id.value

    def _owned(self, sender: Sender) -> list[Domain]:
        """Return the domains this source may feed; the affinity domain is nobody's but ours."""
        ours = self.profile.region.affinity_domain
        return [d for d in self.profile.domains if d.oid != ours and any(map(sender.is_feeder, d.feeders))]


def brief(text: str) -> str:
    """Return a value of a message as a refusal repeats it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def checked(oid: str, given_id: GivenId) -> PatientId:
    """Return the id. Raise `Rejected` (102) when it is too long or holds what cannot be shown."""
    if len(given_id.value) > _LONGEST or not given_id.value.isprintable():
        raise Rejected(Hl7Code.DATA_TYPE, f"a patient id has at most {_LONGEST} printable characters", given_id.at)
    return PatientId(oid, given_id.value)


def check_receiver(region: Region, application: str, facility: str) -> None:
    """Return when a v2 message is meant for us or names nobody. Raise `Rejected` (204) otherwise."""
    for given, ours, place in ((application, region.application, "MSH^1^5"), (facility, region.facility, "MSH^1^6")):
        if given not in ("", ours):
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"the message is meant for {given[:64]!r}, and this is {ours!r}", place)
