"""HL7 V3 messages of the PIX profile: feeds (ITI TF-2 3.44), PIX query (ITI TF-2 3.45), acknowledgements (ITI TF-2 Appendix O).

The readers take the SOAP Body child, the writers give it as bytes in the default namespace: receivers exist that
fail on prefixes. What the schema does not force but IHE needs is checked here. Locations in errors are XPaths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple
from xml.sax.saxutils import escape
from xml.sax.saxutils import quoteattr as q

from broker.model.errors import BrokerError, Hl7Code, Problem, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire.birth_date import read_birth_date
from broker.wire.xml import HL7, Element, in_default_namespace, local_name

ADD, REVISE, MERGE, QUERY = (f"PRPA_IN2013{n}UV02" for n in ("01", "02", "04", "09"))
ANSWER, ACK = "PRPA_IN201310UV02", "MCCI_IN000002UV01"
ADMINISTRATIVE, INTERACTIONS = "2.16.840.1.113883.5.1100", "2.16.840.1.113883.1.6"
ERRORS = "2.16.840.1.113883.12.357"
INTERNAL = "INTERR"
_MAX_REPETITIONS = 1_000           # repetitions of one element
_MAX_DEVICE_IDS = 16   # by which a sender is known; all of them come back in the answer
_DELETED = '""'         # HL7 v2's null, which converters bring along
_N = {"h": HL7}
_EVENT = "h:controlActProcess/h:subject/h:registrationEvent"
_PATIENT = f"{_EVENT}/h:subject1/h:patient"
_PERSON = f"{_PATIENT}/h:patientPerson"
_RETIRED = f"{_EVENT}/h:replacementOf/h:priorRegistration/h:subject1/h:priorRegisteredRole/h:id"
_QUERY = "h:controlActProcess/h:queryByParameter"
_PARAMETERS = f"{_QUERY}/h:parameterList"
_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
_SEX = {"M": "M", "F": "F", "UN": "A"}
_SEX_CODES = {"M": "M", "F": "F", "A": "UN"}


@dataclass(frozen=True, slots=True)
class Ii:
    """An instance identifier and the place where the message holds it."""

    root: str = ""
    extension: str = ""
    location: str = ""

    def __str__(self) -> str:
        return ".".join(part for part in (self.root, self.extension) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """The transmission wrapper: interaction id, message id, the ids of the sending device in their order."""

    interaction: str
    message_id: Ii
    senders: tuple[Ii, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A feed: ids of the patient role, ids the person has elsewhere, retired ids, demographics by attribute."""

    wrapper: Wrapper
    ids: tuple[Ii, ...]
    other_ids: tuple[Ii, ...]
    retired: tuple[Ii, ...]
    person: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixQuery:
    """A PIX query: its id, the id to translate, the wanted domains (root only; none = all), the parameters as bytes."""

    wrapper: Wrapper
    query_id: Ii
    patient: Ii
    domains: tuple[Ii, ...]
    parameters: bytes


def read_wrapper(message: Element) -> Wrapper:
    """Return the wrapper; what is missing is empty, so that any message can be acknowledged."""
    return Wrapper(
        interaction=local_name(message),
        message_id=read_ii(message.find("h:id", _N)),
        senders=tuple(ii for element in islice(message.iterfind("h:sender/h:device/h:id", _N), _MAX_DEVICE_IDS)
                      if (ii := read_ii(element)).root),
    )


def read_registration(message: Element) -> Registration:
    """Read a 201301, 201302 or 201304. Raise `Rejected` for a birth date or sex that is none."""
    person = message.find(_PERSON, _N)
    return Registration(
        wrapper=read_wrapper(message),
        ids=_iis(message, f"{_PATIENT}/h:id"),
        other_ids=_iis(message, f"{_PERSON}/h:asOtherIDs/h:id"),
        retired=_iis(message, _RETIRED),
        person={} if person is None else read_person(message, person),
    )


def read_pix_query(message: Element) -> PixQuery:
    """Read a 201309. Raise `Rejected` (101, 102) when it does not have exactly one patient identifier."""
    parameters = message.find(_QUERY, _N)
    patients = _iis(message, f"{_PARAMETERS}/h:patientIdentifier/h:value")
    place = location(message, f"{_PARAMETERS}/h:patientIdentifier")
    if parameters is None or not patients:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no patient identifier", place)
    if len(patients) > 1:
        raise Rejected(Hl7Code.DATA_TYPE, "more than one patient identifier", place)
    domains = _iis(message, f"{_PARAMETERS}/h:dataSource/h:value")
    return PixQuery(
        wrapper=read_wrapper(message),
        query_id=read_ii(parameters.find("h:queryId", _N)),
        patient=Ii(patients[0].root, patients[0].extension, f"{place}/value"),
        domains=tuple(
            Ii(ii.root, ii.extension, location(message, f"{_PARAMETERS}/h:dataSource[{n}]/h:value"))
            for n, ii in enumerate(domains, 1)),
        parameters=in_default_namespace(parameters),
    )


def location(message: Element, path: str) -> str:
    """Return the XPath of `path` in the message as an acknowledgement detail names it: no prefixes, from the root."""
    return f"/{local_name(message)}/{path.replace('h:', '')}"


def read_ii(element: Element | None, place: str = "") -> Ii:
    """Return an instance identifier; an empty one for an element that is not there or null."""
    if element is None or is_null(element):
        return Ii()
    return Ii(value_of(element, "root"), value_of(element, "extension"), place)


def _iis(message: Element, path: str) -> tuple[Ii, ...]:
    place = location(message, path)
    found = tuple(read_ii(element, f"{place}[{n}]") for n, element in enumerate(_some(message, message, path), 1))
    return tuple(ii for ii in found if ii.root)


def _some(message: Element, within: Element, path: str) -> list[Element]:
    """Return the elements at a path. Raise `Rejected` (102) for more of them than anybody has names, ids or addresses."""
    found = list(islice(within.iterfind(path, _N), _MAX_REPETITIONS + 1))
    if len(found) > _MAX_REPETITIONS:
        raise Rejected(Hl7Code.DATA_TYPE, "too many repetitions", f"/{local_name(message)}//{path.replace('h:', '')}")
    return found


def read_person(message: Element, person: Element) -> dict[str, Any]:
    """Return what a registration event says of its person, by attribute of `Demographics`, addresses and telephones of the role
    too.
    """
    patient = person.getparent()
    holders = [person] if patient is None else [patient, person]
    mother = [
        name for relation in _some(message, person, "h:personalRelationship")
        if attribute(relation, "h:code", "code") == "MTH"
        for name in _names(message, relation, "h:relationshipHolder1/h:name")
    ]
    return {
        "names": _names(message, person, "h:name"),
        "birth_date": _birth_date(message, attribute(person, "h:birthTime", "value")),
        "sex": _sex(message, attribute(person, "h:administrativeGenderCode", "code")),
        "mother": mother[0] if mother else None,
        "addresses": tuple(
            address for holder in holders for addr in _some(message, holder, "h:addr")
            if not is_null(addr) and (address := read_address(addr)) != Address()),
        "phones": tuple(
            phone for holder in holders for telecom in _some(message, holder, "h:telecom")
            if not is_null(telecom) and (phone := _present(value_of(telecom, "value").removeprefix("tel:")))),
    }


def is_null(element: Element) -> bool:
    """Say whether an element stands for a value that is not there: `nullFlavor` or `xsi:nil` (HL7 V3 data types, ANY)."""
    return bool(element.get("nullFlavor")) or (element.get(_NIL) or "").strip() in {"true", "1"}


def _names(message: Element, within: Element, path: str) -> tuple[PersonName, ...]:
    """Return the names that say anything."""
    found = (read_name(name) for name in _some(message, within, path) if not is_null(name))
    return tuple(name for name in found if name != PersonName(use=name.use))


def attribute(element: Element, path: str, name: str) -> str:
    """Return an attribute of the element at a path, empty where the element is not there or null."""
    found = element.find(path, _N)
    return "" if found is None or is_null(found) else value_of(found, name)


def value_of(element: Element, name: str) -> str:
    """Return an attribute without blanks around it; empty for HL7 v2's null."""
    return _present((element.get(name) or "").strip())


def _present(text: str) -> str:
    return "" if text == _DELETED else text


def _birth_date(message: Element, text: str) -> str:
    found = read_birth_date(text) if text else ""
    if found is None:
        raise Rejected(Hl7Code.DATA_TYPE, "the birth time is not a date", location(message, f"{_PERSON}/birthTime"))
    return found


def _sex(message: Element, code: str) -> str:
    if code and code not in _SEX:
        place = location(message, f"{_PERSON}/administrativeGenderCode")
        raise Rejected(Hl7Code.TABLE_VALUE, "the code is not in AdministrativeGender", place)
    return _SEX.get(code, "")


def read_name(name: Element) -> PersonName:
    """Return a name; one without parts is a family name."""
    given = _parts(name, "given")
    family = " ".join(_parts(name, "family"))
    if not family and not given:
        family = _text(name)
    return PersonName(
        family=family, given=given[0] if given else "", middle=" ".join(given[1:]),
        suffix=" ".join(_parts(name, "suffix")), prefix=" ".join(_parts(name, "prefix")), use=name.get("use") or "")


def read_address(addr: Element) -> Address:
    """Return an address."""
    street, city, state, postcode, country = (
        " ".join(_parts(addr, part)) for part in ("streetAddressLine", "city", "state", "postalCode", "country"))
    return Address(street, city, state, postcode, country)


def _parts(element: Element, name: str) -> list[str]:
    return [text for part in element.iterfind(f"h:{name}", _N) if not is_null(part) and (text := _text(part))]


def _text(element: Element) -> str:
    return _present(" ".join("".join(str(part) for part in element.itertext()).split()))


def write_ack(request: Element, message_id: MessageId, error: BrokerError | None = None, *, manager: str) -> bytes:
    """Return the accept acknowledgement of a feed: CA, CE for the sender's fault, CR where it was not processed.

    `manager` is the device OID of the one who answers, whomever the request was addressed to.
    """
    code = "CA" if error is None else "CE" if isinstance(error, Rejected) else "CR"
    return write_reply(request, ACK, message_id, manager, write_acknowledgement(request, code, error))


def write_pix_answer(
    request: Element, message_id: MessageId, ids: Sequence[tuple[PatientId, str]] = (), *, manager: str,
    error: BrokerError | None = None,
) -> bytes:
    """Return the 201310 (ITI TF-2 3.45.4.2): `ids` are (id, namespace); none = NF. `manager` is its device OID.

    Unknown ids and domains answer AE, a request that could not be used QE; both are `aborted`.
    """
    found = request.find(_QUERY, _N)
    parameters = b"" if found is None else in_default_namespace(found)
    query_id = write_id("queryId", read_ii(None if found is None else found.find("h:queryId", _N)))
    if error is None:
        status, response = "deliveredResponse", "OK" if ids else "NF"
    else:
        status, response = "aborted", "AE" if all(p.code == Hl7Code.UNKNOWN_KEY for p in problems_of(error)) else "QE"
    patient = "".join(
        f"<id root={q(i.domain)} extension={q(i.value)} assigningAuthorityName={q(namespace)}/>" for i, namespace in ids)
    subject = write_subject(
        f'{patient}<statusCode code="active"/><patientPerson classCode="PSN" determinerCode="INSTANCE">'
        '<name nullFlavor="NA"/></patientPerson>', manager) if ids else ""
    return write_reply(
        request, ANSWER, message_id, manager, write_acknowledgement(request, "AA" if error is None else "AE", error),
        write_control_act(_trigger(ANSWER), f'{subject}<queryAck>{query_id}<statusCode code="{status}"/>'
                             f'<queryResponseCode code="{response}"/></queryAck>{parameters.decode()}'))


def write_reply(request: Element, interaction: str, message_id: MessageId, manager: str, *parts: str) -> bytes:
    """Return a message that answers a request: to whom sent it, in its processing mode."""
    processing = attribute(request, "h:processingCode", "code")
    wrapper = Transmission(manager, read_wrapper(request).senders, "NE", processing or "P")
    return write_message(interaction, message_id, wrapper, parts)


class Transmission(NamedTuple):
    """The transmission wrapper (HL7 V3 MCCI): device OIDs, who is to acknowledge, and the processing code."""

    sender: str
    receivers: Sequence[Ii]
    accept: str
    processing: str = "P"


def write_message(interaction: str, message_id: MessageId, wrapper: Transmission, parts: Iterable[str]) -> bytes:
    """Return a message: the wrapper and the parts behind it."""
    sender = Ii(wrapper.sender)
    return (
        f'<{interaction} xmlns="{HL7}" ITSVersion="XML_1.0">{write_id("id", Ii(wrapper.sender, message_id.control_id))}'
        f'<creationTime value="{message_id.time}"/><interactionId root="{INTERACTIONS}" extension="{interaction}"/>'
        f'<processingCode code={q(wrapper.processing)}/><processingModeCode code="T"/><acceptAckCode code="{wrapper.accept}"/>'
        f"{_device('receiver', 'RCV', wrapper.receivers)}{_device('sender', 'SND', [sender])}{''.join(parts)}</{interaction}>"
    ).encode()


def _device(element: str, kind: str, ids: Sequence[Ii]) -> str:
    written = "".join(write_id("id", ii) for ii in ids or [Ii()])
    return (f'<{element} typeCode="{kind}"><device classCode="DEV" determinerCode="INSTANCE">{written}</device>'
            f"</{element}>")


def write_id(element: str, ii: Ii) -> str:
    """Return an instance identifier as this element; one without a root is null."""
    if not ii.root:
        return f'<{element} nullFlavor="UNK"/>'
    return f"<{element} root={q(ii.root)}{f' extension={q(ii.extension)}' if ii.extension else ''}/>"


def write_acknowledgement(request: Element, code: str, error: BrokerError | None, *, warning: str = "") -> str:
    """Return the acknowledgement of a message, with what was wrong with it, or what is to be known of an answer."""
    details = "".join(map(_detail, problems_of(error))) if error else ""
    details += f'<acknowledgementDetail typeCode="W"><text>{escape(warning)}</text></acknowledgementDetail>' if warning else ""
    target = write_id("id", read_wrapper(request).message_id)
    return (f'<acknowledgement><typeCode code="{code}"/><targetMessage>{target}</targetMessage>{details}'
            "</acknowledgement>")


def problems_of(error: BrokerError) -> tuple[Problem, ...]:
    """Return what an error tells a sender of V3."""
    return error.problems if isinstance(error, Rejected) else (Problem(INTERNAL, str(error)),)


def _detail(problem: Problem) -> str:
    code = problem.code if problem.code.isdecimal() or problem.code == INTERNAL else Hl7Code.SCHEMA
    system = ERRORS if code.isdecimal() else ADMINISTRATIVE
    where = f"<location>{escape(problem.location)}</location>" if problem.location else ""
    return (f'<acknowledgementDetail typeCode="E"><code code="{code}" codeSystem="{system}"/>'
            f"<text>{escape(problem.context)}</text>{where}</acknowledgementDetail>")


def write_control_act(trigger: str, content: str) -> str:
    """Return the control act of a trigger event."""
    return (f'<controlActProcess classCode="CACT" moodCode="EVN"><code code="{trigger}" codeSystem="{INTERACTIONS}"/>'
            f"{content}</controlActProcess>")


def _trigger(interaction: str) -> str:
    return interaction.replace("_IN", "_TE")


def write_subject(patient: str, custodian: str, more: str = "") -> str:
    """Return a registration event of a patient role, whose parts are given as text."""
    return (
        '<subject typeCode="SUBJ" contextConductionInd="false"><registrationEvent classCode="REG" moodCode="EVN">'
        '<id nullFlavor="NA"/><statusCode code="active"/>'
        f'<subject1 typeCode="SBJ"><patient classCode="PAT">{patient}</patient></subject1>'
        f'<custodian typeCode="CST"><assignedEntity classCode="ASSIGNED">{write_id("id", Ii(custodian))}</assignedEntity>'
        f"</custodian>{more}</registrationEvent></subject>")


def write_add_patient(
    patient: PatientId, person: Demographics, *, sender: str, receiver: str, revise: bool = False,
    message_id: MessageId | None = None,
) -> bytes:
    """Return a 201301 (or, with `revise`, a 201302): the whole of what is known of the person.

    `sender` and `receiver` are device OIDs. Of `person.other_ids` only those with a domain can be told.
    """
    interaction = REVISE if revise else ADD
    phones = "".join(f"<telecom value={q('tel:' + phone)}/>" for phone in person.phones)
    role = (f"{write_id('id', Ii(patient.domain, patient.value))}{''.join(map(write_address, person.addresses))}{phones}"
            f'<statusCode code="active"/>{write_person(person)}{_provider(patient.domain)}')
    return _feed(interaction, write_subject(role, patient.domain), sender, receiver, message_id)


def write_merge_patient(
    patient: PatientId, retired: PatientId, names: Sequence[PersonName], *, sender: str, receiver: str,
    message_id: MessageId | None = None,
) -> bytes:
    """Return a 201304: `retired` lives on as `patient`, an id of the same domain."""
    role = (f'{write_id("id", Ii(patient.domain, patient.value))}<statusCode code="active"/>'
            f"{write_person(Demographics(names=tuple(names)))}{_provider(patient.domain)}")
    replaced = ('<replacementOf typeCode="RPLC"><priorRegistration classCode="REG" moodCode="EVN"><statusCode code="obsolete"/>'
                '<subject1 typeCode="SBJ"><priorRegisteredRole classCode="PAT">'
                f"{write_id('id', Ii(retired.domain, retired.value))}</priorRegisteredRole></subject1></priorRegistration>"
                "</replacementOf>")
    return _feed(MERGE, write_subject(role, patient.domain, replaced), sender, receiver, message_id)


def write_update(
    ids: Sequence[tuple[PatientId, str]], *, sender: str, receiver: str, message_id: MessageId | None = None,
) -> bytes:
    """Return a 201302 that tells a PIX consumer which ids are one person's, each with its namespace (ITI TF-2 3.46.4.1).

    Those of the first one's domain stand in the role, the others as ids that the person has elsewhere, none twice.
    """
    first = ids[0][0].domain
    role = "".join(
        f"<id root={q(one.domain)} extension={q(one.value)} assigningAuthorityName={q(namespace)}/>"
        for one, namespace in ids if one.domain == first)
    others = Demographics(other_ids=tuple((one.domain, one.value) for one, _ in ids if one.domain != first))
    subject = write_subject(f'{role}<statusCode code="active"/>{write_person(others)}{_provider(first)}', sender)
    return _feed(REVISE, subject, sender, receiver, message_id)


def _feed(interaction: str, subject: str, sender: str, receiver: str, message_id: MessageId | None) -> bytes:
    act = write_control_act(_trigger(interaction), subject)
    return write_message(interaction, message_id or MessageId.now(), Transmission(sender, [Ii(receiver)], "AL"), [act])


def _provider(domain: str) -> str:
    return (f'<providerOrganization classCode="ORG" determinerCode="INSTANCE">{write_id("id", Ii(domain))}'
            '<contactParty classCode="CON" nullFlavor="NI"/></providerOrganization>')


def write_person(person: Demographics, without: Sequence[str] = ()) -> str:
    """Return the person of a patient role; `without` are domains in which it is said to have no id."""
    sex = _SEX_CODES.get(person.sex)
    others = "".join(
        f'<asOtherIDs classCode="ROL">{write_id("id", ii)}<scopingOrganization classCode="ORG"'
        f' determinerCode="INSTANCE">{write_id("id", Ii(domain))}</scopingOrganization></asOtherIDs>'
        for domain, ii in (*((pair[0], Ii(*pair)) for pair in person.other_ids if pair[0]), *((one, Ii()) for one in without)))
    mother = (f'<personalRelationship classCode="PRS"><code code="MTH" codeSystem="2.16.840.1.113883.5.111"/>'
              f'<relationshipHolder1 classCode="PSN" determinerCode="INSTANCE">{_write_name(person.mother)}</relationshipHolder1>'
              "</personalRelationship>") if person.mother else ""
    return "".join((
        '<patientPerson classCode="PSN" determinerCode="INSTANCE">',
        "".join(map(_write_name, person.names)) or '<name nullFlavor="NA"/>',
        f'<administrativeGenderCode code="{sex}"/>' if sex else "",
        f"<birthTime value={q(person.birth_date)}/>" if person.birth_date else "",
        others, mother, "</patientPerson>"))


def _write_name(name: PersonName) -> str:
    parts = (("prefix", name.prefix), ("family", name.family), ("given", name.given), ("given", name.middle),
             ("suffix", name.suffix))
    use = f" use={q(name.use)}" if name.use else ""
    return f"<name{use}>{_elements(parts)}</name>"


def write_address(addr: Address) -> str:
    """Return an address."""
    return "<addr>" + _elements((
        ("streetAddressLine", addr.street), ("city", addr.city), ("state", addr.state), ("postalCode", addr.postcode),
        ("country", addr.country))) + "</addr>"


def _elements(parts: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<{name}>{escape(text)}</{name}>" for name, text in parts if text)


def write_pix_query(
    patient: PatientId, domains: Sequence[str] = (), *, sender: str, receiver: str, message_id: MessageId | None = None,
) -> bytes:
    """Return a 201309 for the ids of `patient` in the domains with these OIDs (none = all)."""
    moment = message_id or MessageId.now()
    sources = "".join(
        f"<dataSource><value root={q(oid)}/><semanticsText>DataSource.id</semanticsText></dataSource>" for oid in domains)
    value = f"<value root={q(patient.domain)} extension={q(patient.value)}/>"
    query = (
        f'<queryByParameter>{write_id("queryId", Ii(sender, moment.control_id))}<statusCode code="new"/>'
        '<responsePriorityCode code="I"/>'
        f"<parameterList>{sources}<patientIdentifier>{value}<semanticsText>Patient.id</semanticsText></patientIdentifier>"
        "</parameterList></queryByParameter>")
    return write_message(QUERY, moment, Transmission(sender, [Ii(receiver)], "AL"), [write_control_act(_trigger(QUERY), query)])


def acknowledged(message: Element) -> str:
    """Return the type code of an acknowledgement (CA, CE, CR; AA, AE, AR)."""
    return attribute(message, "h:acknowledgement/h:typeCode", "code")


def read_ack(message: Element) -> None:
    """Return when the acknowledgement says CA or AA. Raise `Rejected` with its details when it does not."""
    code = acknowledged(message)
    if code in {"CA", "AA"}:
        return
    problems = [
        Problem(attribute(detail, "h:code", "code") or Hl7Code.INTERNAL, " ".join(_parts(detail, "text")),
                " ".join(_parts(detail, "location")))
        for detail in message.iterfind("h:acknowledgement/h:acknowledgementDetail", _N)
    ]
    raise Rejected.of(problems or [Problem(Hl7Code.INTERNAL, f"the receiver answered {code or 'nothing'}")])


def read_pix_answer(message: Element) -> tuple[PatientId, ...]:
    """Return the ids of a 201310, none when nothing was found. Raise `Rejected` when it is a refusal."""
    read_ack(message)
    found = (*_iis(message, f"{_PATIENT}/h:id"), *_iis(message, f"{_PERSON}/h:asOtherIDs/h:id"))
    return tuple(PatientId(ii.root, ii.extension) for ii in found if ii.extension)
