"""Writes the DICOM audit message of one call from its row and its facts (DICOM PS3.15 A.5, ITI TF-2 3.20)."""

import base64
import functools
import re
from datetime import UTC, datetime

from broker.model.caller import AuditFacts, Caller
from broker.model.ids import PatientId
from broker.model.transaction import AuditEvent, Outcome, TransactionRow

SUBMISSION_SET = "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"
_SPECIAL = re.compile('[&<>"\n\r\t]')
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
# What a message's id is called (ITI TF-2 3.8.5.1 and its like; BALP for FHIR); in HL7 V3 it is an II.
_MESSAGE_IDS = {**dict.fromkeys(("ITI-8", "ITI-9", "ITI-10", "ITI-21", "ITI-64"), "MSH-10"), "ITI-104": "X-Request-Id"}
_ROLES = {"source": ("110153", "Source Role ID"), "destination": ("110152", "Destination Role ID")}


def write_messages(  # noqa: PLR0913 - one argument per part of the message
    row: TransactionRow, caller: Caller, facts: AuditFacts, outcome: Outcome, *, description: str = "", source_id: str, site: str,
    when: datetime | None = None,
) -> list[str]:
    """Return the audit messages of one call as XML text without line ends: one per patient, at least one.

    `description` says why it failed; it never holds patient data.
    """
    patients: list[PatientId | None] = [*dict.fromkeys(facts.patients)]
    return [
        _message(row.audit, row.code, caller, facts, patient, outcome, description, source_id, site, when or datetime.now(UTC))
        for patient in patients or [None]
    ]


def _message(  # noqa: PLR0913, PLR0917 - one argument per part of the message
    event: AuditEvent, code: str, caller: Caller, facts: AuditFacts, patient: PatientId | None, outcome: Outcome,
    description: str, source_id: str, site: str, when: datetime,
) -> str:
    action = (facts.actions.get(patient) if facts.actions and patient else None) or facts.action or event.action
    before, kind, people = _frame(event, action, outcome, caller, site, source_id)
    told = f"<EventOutcomeDescription>{_text(description)}</EventOutcomeDescription>" if description else ""
    stamp = when.isoformat(timespec="milliseconds")
    return f"{before}{stamp}{kind}{told}{people}{_objects(event, code, facts, patient)}</AuditMessage>"


@functools.lru_cache(maxsize=1024)  # the same peers make the same calls again and again
def _frame(
    event: AuditEvent, action: str, outcome: Outcome, caller: Caller, site: str, source_id: str,
) -> tuple[str, str, str]:
    """Return what comes before the time, behind it up to a description, and behind that up to the objects."""
    kind = _coded("EventTypeCode", event.type_code, event.type_system, event.type_text) if event.type_code else ""
    return (
        f'<AuditMessage><EventIdentification EventActionCode="{action}" EventDateTime="',
        f'" EventOutcomeIndicator="{outcome}">{_coded("EventID", event.event_code, "DCM", event.event_text)}{kind}',
        f"</EventIdentification>{_participants(event, caller)}"
        f"<AuditSourceIdentification AuditEnterpriseSiteID={q(site)} AuditSourceID={q(source_id)}>"
        '<AuditSourceTypeCode csd-code="4"/></AuditSourceIdentification>')


def _participants(event: AuditEvent, caller: Caller) -> str:
    peer, ours = ("destination", "source") if event.source_is_local else ("source", "destination")
    human = f'<ActiveParticipant UserID={q(caller.user)} UserIsRequestor="true"/>' if caller.user else ""
    node = caller.node or caller.address or "unknown"
    return (
        _participant(node, peer, requestor=not caller.user and not event.requestor_is_local, address=caller.address,
                     shown=caller.certificate.subject if caller.certificate else "") + human
        + _participant(caller.local_node or "broker", ours, requestor=event.requestor_is_local))


def _participant(user: str, role: str, *, requestor: bool, address: str = "", shown: str = "") -> str:
    """Return a participant by what it calls itself, and as AlternativeUserID by the subject of the certificate it has shown."""
    other = f" AlternativeUserID={q(shown)}" if shown else ""
    access = f' NetworkAccessPointID={q(address)} NetworkAccessPointTypeCode="2"' if address else ""
    code, text = _ROLES[role]
    return (
        f'<ActiveParticipant UserID={q(user)}{other} UserIsRequestor="{str(requestor).lower()}"{access}>'
        f"{_coded('RoleIDCode', code, 'DCM', text)}</ActiveParticipant>"
    )


def _objects(event: AuditEvent, code: str, facts: AuditFacts, patient: PatientId | None) -> str:
    found: list[str] = []
    if patient is not None:
        detail = _detail(_MESSAGE_IDS.get(code, "II"), facts.message_id) if facts.message_id else ""
        found.append(_object(str(patient), "1", "1", ("2", "RFC-3881", "Patient Number"), detail))
    if facts.submission_set:
        kind = (SUBMISSION_SET, "IHE XDS Metadata", "submission set classificationNode")
        found.append(_object(facts.submission_set, "2", "20", kind))
    if facts.query:
        body = f"<ParticipantObjectQuery>{base64.b64encode(facts.query).decode()}</ParticipantObjectQuery>"
        kind = (event.type_code or code, event.type_system, event.type_text or code)
        found.append(_object(facts.query_id or code, "2", "24", kind, body + _ENCODING))
    found += [
        _object(document, "2", "3", ("9", "RFC-3881", "Report Number"), _detail("Repository Unique Id", repository))
        for repository, document in facts.documents
    ]
    found += [
        _object(study, "2", "3", ("110180", "DCM", "Study Instance UID"),
                "".join(_detail("ihe:DocumentUniqueId", sop) for sop in instances))
        for study, instances in facts.studies.items()
    ]
    return "".join(found)


def _object(key: str, kind: str, role: str, id_type: tuple[str, str, str], inner: str = "") -> str:
    return (
        f'<ParticipantObjectIdentification ParticipantObjectID={q(key)} ParticipantObjectTypeCode="{kind}"'
        f' ParticipantObjectTypeCodeRole="{role}">{_coded("ParticipantObjectIDTypeCode", *id_type)}{inner}'
        "</ParticipantObjectIdentification>"
    )


@functools.lru_cache(maxsize=1024)  # the values are those of the rows
def _coded(element: str, code: str, system: str, text: str) -> str:
    return f"<{element} csd-code={q(code)} codeSystemName={q(system)} originalText={q(text)}/>"


def _detail(kind: str, value: str) -> str:
    return f'<ParticipantObjectDetail type="{kind}" value="{base64.b64encode(value.encode()).decode()}"/>'


_ENCODING = _detail("QueryEncoding", "UTF-8")


def q(value: str) -> str:
    """Return a value as an attribute's, quoted."""
    return f'"{value.translate(_ESCAPES)}"' if _SPECIAL.search(value) else f'"{value}"'


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;")
