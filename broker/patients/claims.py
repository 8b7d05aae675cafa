"""Patient ids as messages claim them, and whom they belong to by the region's profile (ITI TF-2 Appendix E)."""

from collections.abc import Sequence
from dataclasses import dataclass

from broker.config.profile import Domain, Feeder, Profile
from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId

_LONGEST = 250
_SHOWN = 64     # characters of what a message said that a refusal repeats
_NAMELESS = "a sender without a name"
_TOLD = 3       # different causes that one refusal tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """How a source names itself: MSH-3 and MSH-4, or the OIDs of its device; it is known by any of these."""

    application: str = ""
    facility: str = ""
    device_oids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.device_oids[0] if self.device_oids else f"{self.facility}|{self.application}"

    @property
    def title(self) -> str:
        """Return how a refusal names this source."""
        parts = self.device_oids[:_TOLD] or (self.application, self.facility)
        return (" or " if self.device_oids else " at ").join(brief(part) for part in parts if part) or _NAMELESS

    def is_feeder(self, feeder: Feeder) -> bool:
        """Say whether the profile's row means this source; what the row leaves empty is not compared."""
        if self.device_oids:
            return feeder.device_oid in self.device_oids
        named = feeder.application or feeder.facility
        return bool(named) and feeder.application in ("", self.application) and feeder.facility in ("", self.facility)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An id with its authority as one place of a message gives it; `at` and `at_authority` are that place in the wire's form.

    `namespace` and `oid` are the parts of the authority that were given; `other` is an authority id that is no OID, which
    no domain has. A wanted domain is a claim without a value. `at_whole` is the place of id and authority together.
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

    def domain(self, claim: Claim) -> Domain | None:
        """Return the domain all given parts name, or None when it is unknown or the parts contradict each other."""
        if not claim.oid:
            return self.profile.domain_by_namespace(claim.namespace) if claim.namespace else None
        found = self.profile.domain(claim.oid)
        return found if found and claim.namespace in ("", found.namespace) else None

    def shown(self, claim: Claim, asker: str) -> Domain:
        """Return the domain a consumer may ask about; `asker` is how it names itself. Raise `Rejected` (204) for another."""
        found = self.domain(claim)
        if found is None or found.hidden:
            name = " at ".join(brief(part) for part in reversed(asker.split("|", 1)) if part) or _NAMELESS
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{name}: {self._unknown(claim)}", claim.at_authority)
        return found

    def fed(self, claims: Sequence[Claim], sender: Sender, place: str) -> tuple[PatientId, Claim]:
        """Return the id a feed is about: the first one of a domain its sender may feed, and the claim it came from.

        An id without an authority takes the sender's domain where the region's `unknown_authority` is `sender`.
        Raise `Rejected`: 101 at `place` when no id is given, 204 when none is the sender's to feed.
        """
        if not any(claim.value for claim in claims):
            raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no patient id", place)
        owned = self._owned(sender)
        lenient = self.profile.region.unknown_authority == "sender" and bool(owned)
        for claim in claims:
            found = self.domain(claim)
            if found in owned and found is not None and claim.value:
                return checked(found.oid, claim), claim
        for claim in claims:
            if lenient and claim.value and not claim.names_authority:
                return checked(owned[0].oid, claim), claim
        first = next(claim for claim in claims if claim.value)
        raise Rejected(Hl7Code.UNKNOWN_KEY, self.not_fed(claims, sender), first.at_authority)

    def not_fed(self, claims: Sequence[Claim], sender: Sender) -> str:
        """Return for people why none of the ids is this sender's to feed: what was given, by whom, and the cause."""
        if not self._owned(sender):
            return f"{sender.title}: unknown sender, it may feed no domain"
        causes = dict.fromkeys(
            self.unknown(claim) or f"may not feed the domain of {claim.title}" for claim in claims if claim.value)
        return f"{sender.title}: {'; '.join([*causes][:_TOLD])}"

    def unknown(self, claim: Claim) -> str:
        """Return for people why the authority of a claim is no domain of the region; nothing when it is one."""
        return self._unknown(claim) if self.domain(claim) is None else ""

    def _unknown(self, claim: Claim) -> str:
        if not claim.names_authority:
            return f"no assigning authority, {claim.title}"
        if claim.oid and claim.namespace and (
                self.profile.domain(claim.oid) or self.profile.domain_by_namespace(claim.namespace)):
            return f"namespace and OID contradict each other, {claim.title}"
        kind = "OID" if claim.oid else "namespace" if claim.namespace else "authority id (no OID)"
        return f"unknown {kind}, {claim.title}"

    def beside(self, claims: Sequence[Claim], sender: Sender, domain: str) -> list[tuple[PatientId, Claim]]:
        """Return the ids of other domains than `domain` that the sender may feed too, the first of each, and their claims.

        Raise `Rejected` (102) for one that cannot be kept.
        """
        others = {owned.oid for owned in self._owned(sender)} - {domain}
        named: dict[str, Claim] = {}
        for claim in claims if others else ():
            found = self.domain(claim)
            if claim.value and found is not None and found.oid in others:
                named.setdefault(found.oid, claim)
        return [(checked(oid, claim), claim) for oid, claim in named.items()]

    def hint(self, claim: Claim) -> tuple[str, str]:
        """Return (OID, value) of an id of any authority; the OID is empty when the authority is unknown."""
        found = self.domain(claim)
        return (found.oid if found else claim.oid), claim.value

    def _owned(self, sender: Sender) -> list[Domain]:
        """Return the domains this source may feed; the affinity domain is nobody's but ours."""
        ours = self.profile.region.affinity_domain
        return [d for d in self.profile.domains if d.oid != ours and any(map(sender.is_feeder, d.feeders))]


def brief(text: str) -> str:
    """Return a value of a message as a refusal repeats it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def checked(oid: str, claim: Claim) -> PatientId:
    """Return the id. Raise `Rejected` (102) when it is too long or holds what cannot be shown."""
    if len(claim.value) > _LONGEST or not claim.value.isprintable():
        raise Rejected(Hl7Code.DATA_TYPE, f"a patient id has at most {_LONGEST} printable characters", claim.at)
    return PatientId(oid, claim.value)
