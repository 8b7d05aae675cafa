"""The HL7 V3 messages of the Patient Demographics Query (ITI TF-2 3.47): query, answer, continuation and cancellation."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar
from xml.sax.saxutils import quoteattr as q

from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName
from broker.wire.birth_date import read_birth_date
from broker.wire.hl7v2_message import LONGEST
from broker.wire.hl7v3 import (
    ACK,
    Ii,
    Transmission,
    Wrapper,
    attribute,
    is_null,
    problems_of,
    read_ack,
    read_address,
    read_ii,
    read_name,
    read_person,
    read_wrapper,
    value_of,
    write_acknowledgement,
    write_address,
    write_control_act,
    write_id,
    write_message,
    write_person,
    write_reply,
    write_subject,
)
from broker.wire.xml import HL7, Element, in_default_namespace, local_name

QUERY, ANSWER, CONTINUE, CANCEL = "PRPA_IN201305UV02", "PRPA_IN201306UV02", "QUQI_IN000003UV01", "QUQI_IN000003UV01_Cancel"
FUZZY = "SRCH"          # the use of a name that may be one like it
_TRIGGERS = {QUERY: "PRPA_TE201305UV02", ANSWER: "PRPA_TE201306UV02", CONTINUE: "PRPA_TE000003UV01", CANCEL: "PRPA_TE000003UV01"}
_N = {"h": HL7}
_QUERY = "h:controlActProcess/h:queryByParameter"
_CONTINUATION = "h:controlActProcess/h:queryContinuation"
_LIST = "controlActProcess/queryByParameter/parameterList"
_MOST = 100             # parameters of one kind, and values of one parameter
_SEXES: Mapping[str, tuple[str, ...]] = {"M": ("M",), "F": ("F",), "UN": ("A", "O")}
_CANDIDATE = "h:controlActProcess/h:subject/h:registrationEvent/h:subject1/h:patient"
_INT = re.compile(r"-?[0-9]{1,9}")
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SEMANTICS = {          # of each parameter, in the order of the schema
    "livingSubjectAdministrativeGender": "LivingSubject.administrativeGender",
    "livingSubjectBirthTime": "LivingSubject.birthTime",
    "livingSubjectId": "LivingSubject.id", "livingSubjectName": "LivingSubject.name",
    "mothersMaidenName": "Person.MothersMaidenName", "otherIDsScopingOrganization": "OtherIDs.scopingOrganization.id",
    "patientAddress": "Patient.addr", "patientTelecom": "Patient.telecom"}
_Read = TypeVar("_Read")


class Born(NamedTuple):
    """Birth dates that are asked for, from the first to the last, YYYYMMDD or shorter; empty = no end."""

    low: str
    high: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PdqParameters:
    """What is asked for: for each parameter its alternatives. Of names `use` says whether one like it will do (`FUZZY`)."""

    sexes: tuple[tuple[str, ...], ...]
    births: tuple[tuple[Born, ...], ...]
    ids: tuple[tuple[Ii, ...], ...]
    names: tuple[tuple[PersonName, ...], ...]
    mothers: tuple[tuple[PersonName, ...], ...]
    domains: tuple[Ii, ...]
    addresses: tuple[tuple[Address, ...], ...]
    phones: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PdqQuery:
    """A query: its id, patients per answer (None = all), the least confidence, what is asked for, and where that stands."""

    wrapper: Wrapper
    query_id: Ii
    quantity: int | None
    least: int
    parameters: PdqParameters
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """More of a query, or its end: from which result on (1 = the first; None = behind the last page), and how many."""

    wrapper: Wrapper
    query_id: Ii
    is_end: bool
    start: int | None
    quantity: int | None
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A patient of an answer: ids with their namespaces, wanted domains in which it has none, demographics, confidence."""

    ids: tuple[tuple[PatientId, str], ...]
    without: tuple[str, ...]
    person: Demographics
    confidence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """A page: its patients, how many there are in all and behind it, a warning for people, and the query as it was sent."""

    patients: tuple[Candidate, ...] = ()
    total: int = 0
    remaining: int = 0
    warning: str = ""
    query: bytes = b""


# -- reading

def as_sent(message: Element) -> tuple[Ii, bytes]:
    """Return the queryId of a query or continuation, and its queryByParameter or queryContinuation as bytes."""
    found = next((one for path in (_QUERY, _CONTINUATION) if (one := message.find(path, _N)) is not None), None)
    return (Ii(), b"") if found is None else (read_ii(found.find("h:queryId", _N)), in_default_namespace(found))


def read_pdq(message: Element) -> PdqQuery:
    """Read a 201305. Raise `Rejected`: 101 without any parameter, 102 or 103 for one that cannot be asked for."""
    query = message.find(_QUERY, _N)
    found = None if query is None else query.find("h:parameterList", _N)
    place = f"/{QUERY}/{_LIST}"
    if query is None or found is None:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no parameterList", place)
    parameters = _parameters(found, place)
    quantity = _number(query, "h:initialQuantity", f"/{QUERY}/controlActProcess/queryByParameter/initialQuantity", least=1)
    degree = "h:matchCriterionList/h:minimumDegreeMatch/h:value"
    least = _number(query, degree, f"/{QUERY}/controlActProcess/queryByParameter/{degree.replace('h:', '')}", least=0)
    return PdqQuery(
        wrapper=read_wrapper(message), query_id=read_ii(query.find("h:queryId", _N)), quantity=quantity, least=least or 0,
        parameters=parameters, place=place)


def _parameters(found: Element, place: str) -> PdqParameters:
    by_name: dict[str, list[Element]] = {}
    for one in found.iterchildren(f"{{{HL7}}}*"):
        by_name.setdefault(local_name(one), []).append(one)
    readers = _Readers(by_name, place)
    said = PdqParameters(
        sexes=tuple(sum(one, ()) for one in readers.each("livingSubjectAdministrativeGender", _sex)),
        births=readers.each("livingSubjectBirthTime", _born),
        ids=readers.each("livingSubjectId", _id),
        names=readers.each("livingSubjectName", _name),
        mothers=readers.each("mothersMaidenName", _name),
        domains=tuple(ii for one in readers.each("otherIDsScopingOrganization", read_ii) for ii in one if ii.root),
        addresses=readers.each("patientAddress", _address),
        phones=readers.each("patientTelecom", _phone))
    readers.refuse_others()
    if not (said.sexes or said.births or said.ids or said.names or said.mothers or said.addresses or said.phones):
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "nothing is asked for", place)
    return said


class _Readers:
    """Reads parameters by their names, and remembers which."""

    def __init__(self, by_name: Mapping[str, Sequence[Element]], place: str) -> None:
        self._by_name, self._place = by_name, place
        self._read = {"id", "realmCode", "typeId", "templateId"}

    def each(self, name: str, read: Callable[[Element, str], _Read | None]) -> tuple[tuple[_Read, ...], ...]:
        """Return the values of each parameter of this name, null ones left out. Raise `Rejected` (102) for too many."""
        self._read.add(name)
        found = self._by_name.get(name, ())
        if len(found) > _MOST:
            raise Rejected(Hl7Code.DATA_TYPE, f"more than {_MOST} parameters of one kind", f"{self._place}/{name}")
        every = (tuple(self._values(one, f"{self._place}/{name}[{n}]/value", read)) for n, one in enumerate(found, 1))
        return tuple(values for values in every if values)

    def _values(self, one: Element, place: str, read: Callable[[Element, str], _Read | None]) -> Iterator[_Read]:
        values = list(islice(one.iterfind("h:value", _N), _MOST + 1))
        if len(values) > _MOST:
            raise Rejected(Hl7Code.DATA_TYPE, f"more than {_MOST} values of a parameter", place)
        for number, value in enumerate(values, 1):
            found = None if is_null(value) else read(value, place if len(values) == 1 else f"{place}[{number}]")
            if found:
                yield found

    def refuse_others(self) -> None:
        """Raise `Rejected` (103) for a parameter that says something and has no reader: its answer would hold too many."""
        for name in self._by_name.keys() - self._read:
            if self.each(name, lambda value, _place: value.attrib or len(value) or value.text):
                raise Rejected(Hl7Code.TABLE_VALUE, "a query cannot ask for this", f"{self._place}/{name}")


def _sex(value: Element, place: str) -> tuple[str, ...]:
    code = value_of(value, "code")
    if code and code not in _SEXES:
        raise Rejected(Hl7Code.TABLE_VALUE, "the code is not in AdministrativeGender", place)
    return _SEXES.get(code, ())


def _born(value: Element, place: str) -> Born | None:
    """Return an interval; a single time is as long as it is written (ITI TF-2 3.47.4.1.2)."""
    parts = value_of(value, "value"), attribute(value, "h:low", "value"), attribute(value, "h:high", "value")
    single, low, high = (read_birth_date(text) if text else "" for text in parts)
    if single is None or low is None or high is None or value.find("h:center", _N) is not None:
        raise Rejected(Hl7Code.DATA_TYPE, "the birth time is neither a date nor low and high", place)
    found = Born(single or low, single or high)
    return found if any(found) else None


def _id(value: Element, place: str) -> Ii | None:
    found = read_ii(value, place)
    if not found.root and not found.extension:
        return None
    if not found.root or not found.extension:
        raise Rejected(Hl7Code.DATA_TYPE, "an id is asked for with root and extension", place)
    return _short(found, place, found.extension)


def _name(value: Element, place: str) -> PersonName | None:
    found = read_name(value)
    parts = found.family, found.given, found.middle
    return _short(found, place, *parts) if any(parts) else None


def _address(value: Element, place: str) -> Address | None:
    found = read_address(value)
    if found == Address():
        return None
    return _short(found, place, found.street, found.city, found.state, found.postcode, found.country)


def _phone(value: Element, place: str) -> str:
    found = value_of(value, "value").removeprefix("tel:")
    return _short(found, place, found)


def _short(found: _Read, place: str, *texts: str) -> _Read:
    if any(len(text) > LONGEST for text in texts):
        raise Rejected(Hl7Code.DATA_TYPE, f"a value has more than {LONGEST} characters", place)
    return found


def _number(within: Element, path: str, place: str, *, least: int) -> int | None:
    """Return an INT, None where it is not there. Raise `Rejected` (102) for what is no number, or less than `least`."""
    text = attribute(within, path, "value")
    if not text:
        return None
    if not _INT.fullmatch(text) or int(text) < least:
        raise Rejected(Hl7Code.DATA_TYPE, f"it is not a number from {least} on", place)
    return int(text)


def is_end(message: Element) -> bool:
    """Say whether a message ends a query, under whichever name."""
    return attribute(message, f"{_CONTINUATION}/h:statusCode", "code") == "aborted" or local_name(message) == CANCEL


def read_continuation(message: Element) -> Continuation:
    """Read a QUQI_IN000003UV01 of either name: what it asks is said by its statusCode (ITI TF-2 3.47.4.3).

    Raise `Rejected`: 101 without a queryId, 102 for a number that is none.
    """
    root = f"/{local_name(message)}/controlActProcess/queryContinuation"
    found = message.find(_CONTINUATION, _N)
    query_id = Ii() if found is None else read_ii(found.find("h:queryId", _N))
    if found is None or not query_id.root:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no queryId", f"{root}/queryId")
    ends = is_end(message)
    start, quantity = (_number(found, f"h:{name}", f"{root}/{name}", least=0 if ends else 1)
                       for name in ("startResultNumber", "continuationQuantity"))
    return Continuation(
        wrapper=read_wrapper(message), query_id=query_id, is_end=ends, start=start, quantity=quantity, place=f"{root}/queryId")


# -- answering

def write_candidates(
    request: Element, message_id: MessageId, page: Candidates | None = None, *, manager: str, error: BrokerError | None = None,
) -> bytes:
    """Return the 201306 (ITI TF-2 3.47.4.2); nobody found = NF. `manager` is the device OID of the one who answers.

    Unknown ids, domains and queries answer AE, a request that could not be used QE; both are `aborted`.
    """
    told = page or Candidates()
    asked_id, sent = as_sent(request)
    echo = told.query if request.find(_QUERY, _N) is None else sent
    query_id = write_id("queryId", asked_id)
    status, response = "deliveredResponse", "OK" if told.total else "NF"
    if error is not None:
        status, response = "aborted", "AE" if all(p.code == Hl7Code.UNKNOWN_KEY for p in problems_of(error)) else "QE"
    counts = (("Total", told.total), ("Current", len(told.patients)), ("Remaining", told.remaining))
    quantities = "".join(f'<result{name}Quantity value="{count}"/>' for name, count in counts)
    subjects = "".join(write_subject(_candidate(one), manager) for one in told.patients)
    acknowledgement = write_acknowledgement(request, "AA" if error is None else "AE", error, warning=told.warning)
    return write_reply(
        request, ANSWER, message_id, manager, acknowledgement, write_control_act(_TRIGGERS[ANSWER], (
            f'{subjects}<queryAck>{query_id}<statusCode code="{status}"/><queryResponseCode code="{response}"/>{quantities}'
            f"</queryAck>{echo.decode()}")))


def _candidate(one: Candidate) -> str:
    """Return a patient role: all ids, none of them twice, and the confidence, without which the schema knows no answer."""
    ids = "".join(
        f"<id root={q(i.domain)} extension={q(i.value)} assigningAuthorityName={q(namespace)}/>" for i, namespace in one.ids)
    phones = "".join(f"<telecom value={q('tel:' + phone)}/>" for phone in one.person.phones)
    person = write_person(Demographics(
        names=one.person.names, birth_date=one.person.birth_date, sex=one.person.sex, mother=one.person.mother), one.without)
    return (
        f'{ids}{"".join(map(write_address, one.person.addresses))}{phones}<statusCode code="active"/>{person}'
        '<subjectOf1 typeCode="SBJ"><queryMatchObservation classCode="OBS" moodCode="EVN"><code code="IHE_PDQ"/>'
        f'<value xmlns:xsi="{_XSI}" xsi:type="INT" value="{one.confidence}"/></queryMatchObservation></subjectOf1>')


def write_end(request: Element, message_id: MessageId, *, manager: str, error: BrokerError | None = None) -> bytes:
    """Return the accept acknowledgement of an end: CA, CE for the sender's fault, CR where it was not processed."""
    code = "CA" if error is None else "CE" if isinstance(error, Rejected) else "CR"
    return write_reply(request, ACK, message_id, manager, write_acknowledgement(request, code, error))


# -- asking

def write_pdq_query(
    parameters: Sequence[tuple[str, str]], *, sender: str, receiver: str, quantity: int | None = None,
    message_id: MessageId | None = None,
) -> bytes:
    """Return a 201305: `parameters` are (name of the parameter, its value as XML), such as

    (`livingSubjectBirthTime`, `<value value="1979"/>`). `sender` and `receiver` are device OIDs; the query's id is the message's.
    """
    moment = message_id or MessageId.now()
    told = "".join(f"<{name}>{value}<semanticsText>{_SEMANTICS[name]}</semanticsText></{name}>"
                   for name, value in sorted(parameters, key=lambda pair: [*_SEMANTICS].index(pair[0])))
    limit = "" if quantity is None else f'<initialQuantity value="{quantity}"/><initialQuantityCode code="RD"/>'
    query = (f'<queryByParameter>{write_id("queryId", Ii(sender, moment.control_id))}<statusCode code="new"/>'
             f'<responseModalityCode code="R"/><responsePriorityCode code="I"/>{limit}<parameterList>{told}</parameterList>'
             "</queryByParameter>")
    wrapper = Transmission(sender, [Ii(receiver)], "AL")
    return write_message(QUERY, moment, wrapper, [write_control_act(_TRIGGERS[QUERY], query)])


def write_continuation(
    query_id: Ii, *, sender: str, receiver: str, start: int | None = None, quantity: int | None = None, end: bool = False,
) -> bytes:
    """Return a QUQI_IN000003UV01 for more results of a query from number `start` on, or, with `end`, for its end."""
    interaction = CANCEL if end else CONTINUE
    numbers = (("startResultNumber", start), ("continuationQuantity", 0 if end else quantity))
    told = "".join(f'<{name} value="{number}"/>' for name, number in numbers if number is not None)
    act = (f"<queryContinuation>{write_id('queryId', query_id)}{told}"
           f'<statusCode code="{"aborted" if end else "waitContinuedQueryResponse"}"/></queryContinuation>')
    wrapper = Transmission(sender, [Ii(receiver)], "AL")
    return write_message(interaction, MessageId.now(), wrapper, [write_control_act(_TRIGGERS[interaction], act)])


def read_candidates(message: Element) -> Candidates:
    """Return the page of a 201306. Raise `Rejected` when it is a refusal."""
    read_ack(message)
    ack = message.find("h:controlActProcess/h:queryAck", _N)
    counts = [attribute(ack, f"h:result{name}Quantity", "value") if ack is not None else "" for name in ("Total", "Remaining")]
    total, remaining = (int(text) if _INT.fullmatch(text) else None for text in counts)
    patients = tuple(_read_candidate(message, one) for one in message.iterfind(_CANDIDATE, _N))
    warning = message.findtext("h:acknowledgement/h:acknowledgementDetail/h:text", "", _N)
    return Candidates(
        patients=patients, total=len(patients) if total is None else total, remaining=remaining or 0, warning=warning)


def _read_candidate(message: Element, patient: Element) -> Candidate:
    found = [read_ii(one) for one in patient.iterfind("h:id", _N)]
    names = [value_of(one, "assigningAuthorityName") for one in patient.iterfind("h:id", _N)]
    person = patient.find("h:patientPerson", _N)
    degree = attribute(patient, "h:subjectOf1/h:queryMatchObservation/h:value", "value")
    without = patient.iterfind("h:patientPerson/h:asOtherIDs[h:id]/h:scopingOrganization/h:id", _N)
    return Candidate(
        ids=tuple((PatientId(ii.root, ii.extension), name) for ii, name in zip(found, names, strict=True)),
        without=tuple(value_of(one, "root") for one in without),
        person=Demographics() if person is None else Demographics(**read_person(message, person)),
        confidence=int(degree) if _INT.fullmatch(degree) else 0)
