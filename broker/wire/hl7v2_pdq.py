"""The HL7 v2 messages of the Patient Demographics Query (ITI TF-2 3.21): query, answer, continuation and cancellation."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Demographics
from broker.wire.hl7v2 import (
    Form,
    Header,
    Message,
    Segment,
    Value,
    err_segments,
    join,
    msa_segment,
    outcome,
    reply_header,
)
from broker.wire.hl7v2_pix import few, read_ack, read_person, write_cx, write_person

QUERY_NAME = "IHE PDQ Query"
_PATH = re.compile(r"@?(PID(?:\.[1-9][0-9]?){1,3})")
_QUANTITY = re.compile(r"[0-9]{1,9}")
_CX = {"": "value", ".1": "value", ".4.1": "namespace", ".4.2": "oid", ".4.3": "type"}
_XPN = {"": "family", ".1": "family", ".1.1": "family", ".2": "given", ".3": "middle"}
# What can be asked for (ITI TF-2 3.21.4.1.2.2.1 and the pediatric option), by the name it has in `Parameter`.
PATHS: Mapping[str, str] = {
    **{f"PID.3{part}": f"id.{name}" for part, name in _CX.items()},
    **{f"PID.5{part}": f"name.{name}" for part, name in _XPN.items()},
    **{f"PID.6{part}": f"mother.{name}" for part, name in _XPN.items()},
    "PID.7": "birth.date", "PID.7.1": "birth.date", "PID.8": "sex.code", "PID.8.1": "sex.code",
    "PID.11.1": "address.street", "PID.11.1.1": "address.street", "PID.11.3": "address.city", "PID.11.4": "address.state",
    "PID.11.5": "address.postcode", "PID.11.6": "address.country",
    "PID.13": "phone.number", "PID.13.1": "phone.number", "PID.13.5": "phone.country", "PID.13.6": "phone.area",
    "PID.13.7": "phone.local",
    **{f"PID.18{part}": f"account.{name}" for part, name in _CX.items()},
}
_AUTHORITIES = {"PID.3.4": "id", "PID.18.4": "account"}     # a whole authority: namespace, OID and type as sub-components
_NO_NAME = "U"          # XPN.7 of a name that nobody knows (HL7 table 0200: unspecified)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that is asked for: what it is (`PATHS`), its value, the repetition of QPD-3."""

    name: str
    value: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PdqRequest:
    """A query: its tag, what is asked for, the wanted domains (QPD-8), patients per answer (None = all), and DSC-1."""

    tag: str
    parameters: tuple[Parameter, ...]
    domains: tuple[Value, ...]
    quantity: int | None
    pointer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PdqPatient:
    """A patient of an answer: ids with their namespaces (empty where the answer gives none), demographics, confidence."""

    ids: tuple[tuple[PatientId, str], ...]
    person: Demographics
    confidence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PdqAnswer:
    """A page: its patients, how many there are in all and behind it, the pointer to the next one, and a warning for people."""

    patients: tuple[PdqPatient, ...] = ()
    total: int = 0
    remaining: int = 0
    pointer: str = ""
    warning: str = ""


def read_pdq(message: Message) -> PdqRequest:
    """Read a QBP^Q22. Raise `Rejected`: 100 or 101 for what is missing, 102 or 103 for a parameter or a quantity that is none."""
    qpd = message.need("QPD")
    tag = qpd.value(2).short()
    if not tag:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no query tag", "QPD^1^2")
    parameters = tuple(one for value in few(qpd, 3) for one in _parameters(value) if one.value)
    if not parameters:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "nothing is asked for", "QPD^1^3")
    pointer = next((segment.value(1).short() for segment in message.all("DSC")), "")
    return PdqRequest(
        tag=tag, parameters=parameters, domains=few(qpd, 8), quantity=_quantity(message.all("RCP")), pointer=pointer)


def _parameters(value: Value) -> Sequence[Parameter]:
    """Return what a repetition of QPD-3 asks for; what is wrong with it is located at the repetition (ITI TF-2 3.21.4.2.3)."""
    try:
        return _read_parameter(value)
    except Rejected as error:
        raise Rejected(error.problems[0].code, error.problems[0].context, value.place) from error


def _read_parameter(value: Value) -> Sequence[Parameter]:
    found = _PATH.fullmatch(value.short(1))
    path = found[1] if found else ""
    if path in _AUTHORITIES:
        parts = enumerate(("namespace", "oid", "type"), 1)
        return [Parameter(f"{_AUTHORITIES[path]}.{part}", value.short(2, number), value.place) for number, part in parts]
    if path not in PATHS:
        raise Rejected(Hl7Code.TABLE_VALUE, "a query cannot ask for this field")
    if value.form.subcomponent in value.component(2) or value.component(3):
        raise Rejected(Hl7Code.DATA_TYPE, "a parameter has one value")
    return [Parameter(PATHS[path], value.short(2), value.place)]


def _quantity(rcp: Sequence[Segment]) -> int | None:
    """Return how many patients one answer may hold, None where RCP does not say."""
    if not rcp or not rcp[0].value(2).text:
        return None
    amount, unit = rcp[0].get(2), rcp[0].get(2, 2)
    if not _QUANTITY.fullmatch(amount) or int(amount) == 0:
        raise Rejected(Hl7Code.DATA_TYPE, "the quantity is not a positive number", "RCP^1^2")
    if unit not in {"", "RD"}:
        raise Rejected(Hl7Code.TABLE_VALUE, "quantities are counted in records (RD)", "RCP^1^2")
    return int(amount)


def read_cancel(message: Message) -> str:
    """Return the tag of the query that a QCN^J01 ends. Raise `Rejected` (100, 101) without one."""
    tag = message.need("QID").value(1).short()
    if not tag:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no query tag", "QID^1^1")
    return tag


def write_pdq_reply(
    request: Message, message_id: MessageId, answer: PdqAnswer | None = None, error: BrokerError | None = None,
) -> bytes:
    """Return the RSP^K22 (ITI TF-2 3.21.4.2); nobody found = NF. QPD is the request's, byte for byte; one ERR for each problem.

    Text that is not ASCII goes out in UTF-8, and MSH-18 says so, where the request names no character set.
    """
    form, qpd = request.form, request.need("QPD")
    code, problems = outcome(error)
    page = answer or PdqAnswer()
    status = code if problems else "OK" if page.total else "NF"
    counts = [] if problems else ["", str(page.total), str(len(page.patients)), str(page.remaining)]
    lines: list[str | Segment] = [
        reply_header(request, "RSP^K22^RSP_K21", message_id),
        msa_segment(request, code, problems if request.version < "2.5" else ()),
        *err_segments(form, request.version, problems), *([_warning(form, page.warning)] if page.warning else []),
        form.field.join(("QAK", qpd.field(2), status, *counts)), qpd]
    for patient in page.patients:
        lines += [_pid(form, patient), form.field.join(("QRI", str(patient.confidence)))]
    if page.pointer:
        lines.append(form.field.join(("DSC", form.quote(page.pointer), "I")))
    return join(lines, form if form.charset else form._replace(codec="ascii"))


def _warning(form: Form, text: str) -> str:
    code = form.component.join(("0", "Message accepted", "HL70357"))
    return form.field.join(("ERR", "", "", code, "W", "", "", "", form.quote(text)))


def _pid(form: Form, patient: PdqPatient) -> str:
    ids = form.repetition.join(write_cx(form, one, namespace) for one, namespace in patient.ids)
    fields = write_person(form, patient.person)
    fields[0] = fields[0] or form.component * 6 + _NO_NAME
    return form.field.join(("PID", "", "", ids, "", *fields)).rstrip(form.field)


def write_pdq_query(
    header: Header, parameters: Sequence[tuple[str, str]], *, domains: Sequence[str] = (), tag: str = "",
    quantity: int | None = None, pointer: str = "",
) -> bytes:
    """Return an ITI-21 query: `parameters` are (path, value) as (`PID.5.1.1`, `LIN`), `domains` the OIDs of the wanted ones.

    The tag defaults to MSH-10. For a further page say the same with the `pointer` of the answer.
    """
    form = Form.of(header.charset)
    asked = "~".join(f"@{path}^{form.quote(value)}" for path, value in parameters)
    wanted = "~".join(f"^^^&{oid}&ISO" for oid in domains)
    limit = f"|{quantity}^RD" if quantity is not None else ""
    lines = [
        header.segment("QBP^Q22^QBP_Q21", form) + "|||ITI-21^IHE",
        f"QPD|{QUERY_NAME}|{form.quote(tag or header.message_id.control_id)}|{asked}" + (f"|||||{wanted}" if wanted else ""),
        f"RCP|I{limit}"]
    return join([*lines, f"DSC|{form.quote(pointer)}|I"] if pointer else lines, form)


def write_pdq_cancel(header: Header, tag: str) -> bytes:
    """Return the QCN^J01 that ends the query with this tag."""
    form = Form.of(header.charset)
    return join([header.segment("QCN^J01^QCN_J01", form), f"QID|{form.quote(tag)}|{QUERY_NAME}"], form)


def read_pdq_answer(message: Message) -> PdqAnswer:
    """Return the page of an RSP^K22. Raise `Rejected` when it is a refusal."""
    read_ack(message)
    patients = list[PdqPatient]()
    for number, segment in enumerate(message.segments):
        if segment.name == "PID":
            after = message.segments[number + 1:number + 2]
            patients.append(_patient(segment, next((one for one in after if one.name == "QRI"), None)))
    qak = message.need("QAK")
    count, remaining = (int(text) if _QUANTITY.fullmatch(text) else None for text in (qak.get(4), qak.get(6)))
    return PdqAnswer(
        patients=tuple(patients), total=len(patients) if count is None else count, remaining=remaining or 0,
        pointer=next((segment.get(1) for segment in message.all("DSC")), ""),
        warning=next((segment.get(8) for segment in message.all("ERR")), ""))


def _patient(pid: Segment, qri: Segment | None) -> PdqPatient:
    confidence = qri.get(1) if qri else ""
    ids = tuple((PatientId(value.get(4, 2), value.get(1)), value.get(4, 1)) for value in few(pid, 3))
    return PdqPatient(
        ids=ids, person=Demographics(**read_person(pid)), confidence=int(confidence) if _QUANTITY.fullmatch(confidence) else 0)
