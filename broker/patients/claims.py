"""Patient ids as messages claim them, and whom they belong to by the region's profile (ITI TF-2 Appendix E)."""

from collections.abc import Sequence
from dataclasses import dataclass

from broker.config.profile import Domain, Feeder, Profile
from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId

_LONGEST = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """How a source names itself: MSH-3 and MSH-4, or the OID of its device."""

    application: str = ""
    facility: str = ""
    device_oid: str = ""

    def __str__(self) -> str:
        return self.device_oid or f"{self.facility}|{self.application}"

    def is_feeder(self, feeder: Feeder) -> bool:
        """Say whether the profile's row means this source; what the row leaves empty is not compared."""
        if self.device_oid:
            return feeder.device_oid == self.device_oid
        named = feeder.application or feeder.facility
        return bool(named) and feeder.application in ("", self.application) and feeder.facility in ("", self.facility)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An id with its authority as one place of a message gives it; `at` and `at_authority` are that place in the wire's form.

    `namespace` and `oid` are the parts of the authority that were given; `other` is an authority id that is no OID, which
    no domain has. A wanted domain is a claim without a value.
    """

    value: str
    namespace: str = ""
    oid: str = ""
    other: str = ""
    at: str
    at_authority: str

    @property
    def names_authority(self) -> bool:
        """Say whether any part of the authority was given."""
        return bool(self.namespace or self.oid or self.other)


@dataclass(frozen=True)
class Authorities:
    """The assigning authorities of the region."""

    profile: Profile

    def domain(self, claim: Claim) -> Domain | None:
        """Give the domain all given parts name, or None when it is unknown or the parts contradict each other."""
        if not claim.oid:
            return self.profile.domain_by_namespace(claim.namespace) if claim.namespace else None
        found = self.profile.domain(claim.oid)
        return found if found and claim.namespace in ("", found.namespace) else None

    def shown(self, claim: Claim) -> Domain:
        """Give the domain a consumer may ask about. Raise `Rejected` (204) for an unknown or hidden one."""
        found = self.domain(claim)
        if found is None or found.hidden:
            raise Rejected(Hl7Code.UNKNOWN_KEY, "unknown assigning authority", claim.at_authority)
        return found

    def fed(self, claims: Sequence[Claim], sender: Sender, place: str) -> tuple[PatientId, Claim]:
        """Give the id a feed is about: the first one of a domain its sender may feed, and the claim it came from.

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
        why = "unknown assigning authority, or one this sender may not feed"
        raise Rejected(Hl7Code.UNKNOWN_KEY, why, claims[0].at_authority)

    def hint(self, claim: Claim) -> tuple[str, str]:
        """Give (OID, value) of an id of any authority; the OID is empty when the authority is unknown."""
        found = self.domain(claim)
        return (found.oid if found else claim.oid), claim.value

    def _owned(self, sender: Sender) -> list[Domain]:
        """Give the domains this source may feed; the affinity domain is nobody's but ours."""
        ours = self.profile.region.affinity_domain
        return [d for d in self.profile.domains if d.oid != ours and any(map(sender.is_feeder, d.feeders))]


def checked(oid: str, claim: Claim) -> PatientId:
    """Give the id. Raise `Rejected` (102) when it is too long or holds what cannot be shown."""
    if len(claim.value) > _LONGEST or not claim.value.isprintable():
        raise Rejected(Hl7Code.DATA_TYPE, f"a patient id has at most {_LONGEST} printable characters", claim.at)
    return PatientId(oid, claim.value)
