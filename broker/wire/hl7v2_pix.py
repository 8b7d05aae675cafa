"""The HL7 v2 messages of the PIX profile: patient identity feed (ITI TF-2 3.8) and PIX query (ITI TF-2 3.9)."""

from collections.abc import Callable, Sequence
from typing import Any

from broker.model.errors import BrokerError, Hl7Code, Problem, Rejected
from broker.model.ids import PatientId, is_oid
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire.birth_date import read_birth_date
from broker.wire.hl7v2 import (
    Form,
    Header,
    Message,
    Segment,
    Value,
    err_segment,
    err_segments,
    join,
    msa_segment,
    outcome,
    reply_header,
)

MOST = 100      # ids, names, addresses or telephones of one person
SEXES = frozenset("FMOUAN")
_STRUCTURES = {"A08": "ADT_A01", "A28": "ADT_A05", "A31": "ADT_A05", "A40": "ADT_A39", "A47": "ADT_A30"}


def read_person(pid: Segment) -> dict[str, Any]:
    """Return what PID says of a person, by attribute of `Demographics`; what is empty there is not in the answer.

    An empty field means no change, a field of two quotes means that the value is deleted (HL7 v2.5 2.10).
    Identifiers (PID-3, PID-19) are left out. Raise `Rejected` for a birth date or sex that is none, and for what is longer,
    or more often there, than anybody's data is.
    """
    found: dict[str, Any] = {}
    mothers = _read(pid, 6, read_name)
    if mothers is not None:
        found["mother"] = mothers[0] if mothers else None
    for key, number, read in (("names", 5, read_name), ("addresses", 11, _read_address), ("accounts", 18, _read_account)):
        values = _read(pid, number, read)
        if values is not None:
            found[key] = values
    for key, number, check in (("birth_date", 7, _birth_date), ("sex", 8, _sex)):
        text = pid.value(number).short()
        if text or pid.deleted(number):
            found[key] = check(text) if text else ""
    if "accounts" in found:
        found["accounts"] = tuple(account for account in found["accounts"] if account[1])
    phones = [values for values in (_read(pid, 13, _read_phone), _read(pid, 14, _read_phone)) if values is not None]
    if phones:
        found["phones"] = tuple(phone for values in phones for phone in values if phone)
    return found


def _read(pid: Segment, number: int, read: Callable[[Value], object]) -> tuple[object, ...] | None:
    values = few(pid, number)
    return tuple(read(value) for value in values) if values or pid.deleted(number) else None


def few(segment: Segment, number: int) -> tuple[Value, ...]:
    """Return the repetitions of a field of a person. Raise `Rejected` (102) when there are more than `MOST`."""
    values = segment.values(number)
    if len(values) > MOST:
        raise Rejected(Hl7Code.DATA_TYPE, f"more than {MOST} repetitions", values[MOST].place)
    return values


def read_name(value: Value) -> PersonName:
    """Return an XPN; the surname is the first sub-component of the family name."""
    return PersonName(
        family=value.short(1), given=value.short(2), middle=value.short(3), suffix=value.short(4), prefix=value.short(5),
        use=value.short(7))


def _read_address(value: Value) -> Address:
    return Address(
        street=value.short(1), city=value.short(3), state=value.short(4), postcode=value.short(5), country=value.short(6))


def _read_account(value: Value) -> tuple[str, str]:
    return (value.short(4, 2) if value.short(4, 3) == "ISO" else "") or value.short(4, 1), value.short(1)


def _read_phone(value: Value) -> str:
    return value.short(1) or "".join(value.short(n) for n in (5, 6, 7))


def _birth_date(text: str) -> str:
    found = read_birth_date(text)
    if found is None:
        raise Rejected(Hl7Code.DATA_TYPE, "the birth date is not a date (YYYY, YYYYMM or YYYYMMDD, a time may follow)", "PID^1^7")
    return found


def _sex(text: str) -> str:
    if text.upper() not in SEXES:
        raise Rejected(Hl7Code.TABLE_VALUE, "the sex is not in table 0001", "PID^1^8")
    return text.upper()


def write_cx(form: Form, patient: PatientId, namespace: str = "") -> str:
    """Return a CX with the full authority: `id^^^namespace&oid&ISO`."""
    authority = form.subcomponent.join((form.quote(namespace), patient.domain, "ISO"))
    return form.component.join((form.quote(patient.value), "", "", authority))


def write_adt(
    header: Header, event: str, patient: PatientId, person: Demographics, *, namespace: str = "",
    retired: PatientId | None = None,
) -> bytes:
    """Return an ITI-8 feed: `event` is A01, A04, A05, A08, A28, A31; A40 or A47 with the `retired` id of the same domain.

    Of `person.other_ids` the first one without a domain becomes PID-19, those with a domain are added to PID-3.
    """
    form = Form.of(header.charset)
    ids = [write_cx(form, patient, namespace), *(write_cx(form, PatientId(*pair)) for pair in person.other_ids if pair[0])]
    national = next((form.quote(value) for domain, value in person.other_ids if not domain), "")
    pid = [""] * 19
    pid[2], pid[18] = "~".join(ids), national
    pid[4:18] = write_person(form, person)
    segments = [
        header.segment(f"ADT^{event}^{_STRUCTURES.get(event, 'ADT_A01')}", form),
        f"EVN||{header.message_id.time}",
        "PID|" + "|".join(pid).rstrip("|"),
    ]
    if retired is not None:
        segments.append(f"MRG|{write_cx(form, retired, namespace)}")
    return join([*segments, "PV1||O"], form)


def write_person(form: Form, person: Demographics) -> list[str]:
    """Return PID-5 to PID-18: names, mother's maiden name, birth date, sex, addresses, telephones, account numbers."""
    fields = [""] * 14
    fields[0] = form.repetition.join(_write_name(form, name) for name in person.names)
    fields[1] = _write_name(form, person.mother) if person.mother else ""
    fields[2], fields[3] = person.birth_date, person.sex
    fields[6] = form.repetition.join(_write_address(form, address) for address in person.addresses)
    fields[8] = form.repetition.join(form.quote(phone) for phone in person.phones)
    fields[13] = form.repetition.join(_write_account(form, *account) for account in person.accounts)
    return fields


def _write_account(form: Form, authority: str, value: str) -> str:
    if not authority:
        return form.quote(value)
    hd = form.subcomponent.join(("", authority, "ISO")) if is_oid(authority) else form.quote(authority)
    return form.component.join((form.quote(value), "", "", hd))


def _write_name(form: Form, name: PersonName) -> str:
    parts = (name.family, name.given, name.middle, name.suffix, name.prefix, "", name.use)
    return form.component.join(form.quote(part) for part in parts).rstrip(form.component)


def _write_address(form: Form, address: Address) -> str:
    parts = (address.street, "", address.city, address.state, address.postcode, address.country)
    return form.component.join(form.quote(part) for part in parts).rstrip(form.component)


def write_pix_query(header: Header, patient: PatientId, domains: Sequence[str] = (), tag: str = "") -> bytes:
    """Return an ITI-9 query for the ids of `patient` in the domains with these OIDs (none = all). The tag defaults to MSH-10."""
    form = Form.of(header.charset)
    wanted = "~".join(f"^^^&{oid}&ISO" for oid in domains)
    query_tag = form.quote(tag or header.message_id.control_id)
    return join([
        header.segment("QBP^Q23^QBP_Q21", form) + "|||ITI-9^IHE",
        f"QPD|IHE PIX Query|{query_tag}|{write_cx(form, patient)}" + (f"|{wanted}" if wanted else ""),
        "RCP|I",
    ], form)


def write_pix_reply(
    request: Message, message_id: MessageId, ids: Sequence[tuple[PatientId, str]] = (), error: BrokerError | None = None,
) -> bytes:
    """Return the RSP^K23 (ITI TF-2 3.9.4.2): `ids` are (id, namespace), those of one domain adjacent; none = NF.

    QPD is the request's, byte for byte. The one ERR names the places of all problems that have the first one's code.
    Before version 2.5 a problem is told in MSA-3 and ERR-1; IHE's answer, which is of 2.5, has no MSA-3.
    """
    form, qpd = request.form, request.need("QPD")
    code, problems = outcome(error)
    status = code if problems else "OK" if ids else "NF"
    lines: list[str | Segment] = [
        reply_header(request, "RSP^K23^RSP_K23", message_id),
        msa_segment(request, code, problems if request.version < "2.5" else ()),
    ]
    same = [problem for problem in problems if problem.code == problems[0].code]
    if same and request.version >= "2.5":
        lines.append(err_segment(form, request.version, same))
    else:
        lines += err_segments(form, request.version, same)
    lines += [form.field.join(("QAK", qpd.field(2), status)), qpd]
    if ids:
        cx = form.repetition.join(write_cx(form, patient, namespace) for patient, namespace in ids)
        name = form.repetition + form.component * 6 + "S"
        lines.append(form.field.join(("PID", "", "", cx, "", name)))
    return join(lines, form)


def read_ack(message: Message) -> None:
    """Return when the acknowledgement says AA. Raise `Rejected` with its problems, in whichever form of ERR, when it does not."""
    msa = message.need("MSA")
    if msa.get(1) == "AA":
        return
    text = msa.get(3) or f"the receiver answered {msa.get(1)}"
    problems = [problem for err in message.all("ERR") for problem in _problems(err, text)]
    raise Rejected.of(problems or [Problem(Hl7Code.INTERNAL, text)])


def _problems(err: Segment, text: str) -> list[Problem]:
    if err.get(3):
        return [Problem(err.get(3), err.get(8) or err.get(3, 2), err.field(2))]
    return [
        Problem(value.get(4) or Hl7Code.INTERNAL, text, err.form.component.join(map(value.component, (1, 2, 3))))
        for value in err.values(1)]


def read_pix_answer(message: Message) -> tuple[PatientId, ...]:
    """Return the ids of an RSP^K23, none when nothing was found. Raise `Rejected` when it is a refusal."""
    read_ack(message)
    return tuple(
        PatientId(value.get(4, 2), value.get(1))
        for pid in message.all("PID") for value in pid.values(3) if value.get(4, 2) and value.get(1)
    )
