"""What the FHIR transactions have in common: identifiers and logical ids as given ids, who calls."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from broker.model.caller import Call
from broker.model.errors import FhirCode, Rejected
from broker.model.transaction import Disclosure, Keep
from broker.patients.demographics import Found, visible_hits
from broker.patients.identifiers import GivenId, Sender
from broker.wire.fhir_patient import Identifier, Patient, system_of
from broker.wire.rest import RestRequest

PDQ_SUPPLIER: Final = "https://profiles.ihe.net/ITI/PDQm/CapabilityStatement/IHE.PDQm.PatientDemographicsSupplier"
PIX_MANAGER: Final = "https://profiles.ihe.net/ITI/PIXm/CapabilityStatement/IHE.PIXm.Manager"
MORE: Final = "more persons answer than were looked at: ask for more of the person to see them"
AUDIT_SYSTEM: Final = "urn:ihe:event-type-code"     # of transactions in the audit profiles of FHIR (BALP)
_ESCAPED: Final = re.compile(r"\\([\\|,$])")


def values(text: str) -> list[str]:
    """Return the alternatives of a search parameter (FHIR R4 search 3.1.1.4.1.1): a comma divides them, unless it is escaped."""
    return _split(text, ",")


def _split(text: str, mark: str) -> list[str]:
    """Return the parts between marks that are not escaped; the parts keep their escapes."""
    parts = re.split(rf"(?<!\\){re.escape(mark)}", text.replace(r"\\", "\0"))      # an escaped backslash escapes nothing
    return [part.replace("\0", r"\\") for part in parts]


def plain(text: str) -> str:
    r"""Return a value without its escapes `\\`, `\|`, `\,`, `\$` (FHIR R4 search 3.1.1.4.1.1)."""
    return _ESCAPED.sub(r"\1", text)


def token(text: str, place: str) -> Identifier:
    """Return an identifier of the form `system|value`. Raise `Rejected` (value) for one without the bar."""
    parts = _split(text, "|")
    if len(parts) != 2:
        raise Rejected(FhirCode.VALUE, f"{place} must have the form system|value", place)
    return Identifier(plain(parts[0]).strip(), plain(parts[1]).strip(), place)


def given_id(identifier: Identifier) -> GivenId:
    """Return an identifier as an id and its authority: the OID in its system, or the URI that is there."""
    oid, place = identifier.oid, identifier.place
    return GivenId(
        value=identifier.value, oid=oid, other="" if oid else identifier.system, at=f"{place}.value",
        at_authority=f"{place}.system", at_whole=place)


def check_retired(patient: Patient) -> None:
    """Return when a Patient is active, or is replaced by one other. Raise `Rejected` (business-rule) otherwise."""
    if (patient.active is False) != bool(patient.replaced_by):
        text = "active=false and a link of type replaced-by go together: a patient is retired by a merge only"
        raise Rejected(FhirCode.BUSINESS_RULE, text, "Patient.active")
    if len(patient.replaced_by) > 1:
        raise Rejected(FhirCode.BUSINESS_RULE, "a patient is replaced by one other", "Patient.link")


def logical_id(affinity_domain: str, value: str, place: str) -> GivenId:
    """Return the logical id of a Patient as an id: it is that of the affinity domain."""
    return given_id(Identifier(system_of(affinity_domain), value, place))


def visible_persons(found: Found, keep: Keep) -> Found:
    """Return an answer as if what the caller may not see did not exist; a person is named by the affinity-domain id."""
    seen = visible_hits(found, keep)
    return replace(seen, hits=tuple(hit for hit in seen.hits if keep(Disclosure(patient=hit.affinity))))


def sender(call: Call) -> Sender:
    """Return how the caller of a FHIR transaction is known as a source."""
    caller = call.caller
    return Sender(address=caller.address or "unknown", certificate=caller.certificate.fingerprint if caller.certificate else "")


def only(request: RestRequest, names: Sequence[str]) -> None:
    """Return when the address has no parameters but these and those of the result's form (`_format`, `_pretty` …).

    Raise `Rejected` (invalid): a condition that was passed over would let something else happen than was meant.
    """
    for name, _ in request.query:
        if name not in names and not name.startswith("_"):
            raise Rejected(FhirCode.INVALID, f"the parameter {name[:64]} is not taken here", name[:64])
