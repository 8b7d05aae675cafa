"""Patient of FHIR R4: what it says of a person, by attribute of `Demographics`, and a person as a Patient."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.model.errors import FhirCode, Rejected
from broker.model.ids import PatientId
from broker.model.people import Address, Demographics, PersonName
from broker.wire.birth_date import is_date

MOTHER: Final = "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName"
MOST: Final = 100               # ids, names, addresses or telephones of one person
LONGEST: Final = 250            # characters of one value of a person
OID: Final = "urn:oid:"

# FHIR's administrative-gender and name-use beside HL7 tables 0001 and 0200 (FHIR R4, concept maps to v2).
_SEXES: Final = {"male": "M", "female": "F", "other": "O", "unknown": "U"}
_GENDERS: Final = {**{sex: gender for gender, sex in _SEXES.items()}, "A": "other", "N": "other"}
_NAME_TYPES: Final = {"official": "L", "usual": "D", "maiden": "M", "nickname": "N", "anonymous": "S", "old": "A"}
_NAME_USES: Final = {**{kind: use for use, kind in _NAME_TYPES.items() if use != "old"}, "C": "official"}
_PHONES: Final = frozenset(("phone", "sms", "pager", "fax", "other", ""))
_MAIL: Final = "mailto:"
_NATIONAL: Final = "http://terminology.hl7.org/CodeSystem/v2-0203"     # of whose codes NI and NNxxx are national numbers


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier: the URI of its system, empty where there is none, its value, and its place as a FHIRPath."""

    system: str
    value: str
    place: str = ""
    is_national: bool = False

    @property
    def oid(self) -> str:
        """Return the OID of a system of the form `urn:oid:`, empty for another."""
        return self.system.removeprefix(OID) if self.system.startswith(OID) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What a Patient resource says. `active` is None where it says nothing; `replaced_by` are the ids it was merged into."""

    identifiers: tuple[Identifier, ...]
    person: Mapping[str, Any]
    active: bool | None
    replaced_by: tuple[Identifier, ...]


def read_patient(resource: Mapping[str, Any]) -> Patient:
    """Read a checked Patient. Raise `Rejected` for a birth date that is none, unknown codes, what is longer or more often there

    than anybody's data is, and for extensions that change the meaning of everything else.
    """
    for kind in ("modifierExtension", "implicitRules"):
        if kind in resource:
            raise Rejected(FhirCode.BUSINESS_RULE, f"Patient.{kind} is not understood here", f"Patient.{kind}")
    return Patient(
        identifiers=tuple(_identifiers(resource)), person=_person(resource), active=resource.get("active"),
        replaced_by=tuple(_replaced_by(resource)))


def read_identifier(value: Mapping[str, Any], place: str) -> Identifier:
    """Read an Identifier."""
    codings = value.get("type", {}).get("coding", ())
    codes = [coding.get("code", "") for coding in codings if coding.get("system") == _NATIONAL]
    is_national = any(code == "NI" or code.startswith("NN") for code in codes)
    return Identifier(value.get("system", ""), _short(value, "value", place), place, is_national)


def _some(resource: Mapping[str, Any], name: str) -> list[Any]:
    found: list[Any] = resource.get(name, [])
    if len(found) > MOST:
        raise Rejected(FhirCode.TOO_LONG, f"Patient.{name} has more than {MOST} repetitions", f"Patient.{name}")
    return found


def _identifiers(resource: Mapping[str, Any]) -> Iterable[Identifier]:
    return (read_identifier(one, f"Patient.identifier[{n}]") for n, one in enumerate(_some(resource, "identifier")))


def _replaced_by(resource: Mapping[str, Any]) -> Iterable[Identifier]:
    for number, link in enumerate(_some(resource, "link")):
        if link.get("type") == "replaced-by":
            place = f"Patient.link[{number}].other.identifier"
            identifier = link.get("other", {}).get("identifier", {})
            if not identifier.get("value"):
                raise Rejected(FhirCode.REQUIRED, "a link of type replaced-by needs the surviving identifier", place)
            yield read_identifier(identifier, place)


def _person(resource: Mapping[str, Any]) -> dict[str, Any]:
    gender, birth_date = resource.get("gender", ""), resource.get("birthDate", "").replace("-", "")
    if birth_date and not is_date(birth_date):
        raise Rejected(FhirCode.VALUE, "Patient.birthDate is no date", "Patient.birthDate")
    return {
        "names": tuple(_name(one, f"Patient.name[{n}]") for n, one in enumerate(_some(resource, "name"))),
        "birth_date": birth_date,
        "sex": sexes_of(gender, "Patient.gender")[0] if gender else "",
        "mother": next(_mothers(resource), None),
        "addresses": tuple(_address(one, f"Patient.address[{n}]") for n, one in enumerate(_some(resource, "address"))),
        "phones": tuple(filter(None, map(_phone, _some(resource, "telecom")))),
    }


def _mothers(resource: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return (PersonName(family=_short(one, "valueString", "Patient.extension"))
            for one in _some(resource, "extension") if one.get("url") == MOTHER and one.get("valueString"))


def _name(value: Mapping[str, Any], place: str) -> PersonName:
    """Return a name; one that has only a text, as a name of Chinese characters may, has it as its family."""
    given = [part for part in value.get("given", ()) if part]
    family = value.get("family") or ("" if given else value.get("text", ""))
    parts = {
        "family": family, "given": given[0] if given else "", "middle": " ".join(given[1:]),
        "prefix": _joined(value, "prefix"), "suffix": _joined(value, "suffix"), "use": _NAME_TYPES.get(value.get("use", ""), "")}
    return PersonName(**{key: _fit(part, f"{place}.{key}") for key, part in parts.items()})


def _joined(value: Mapping[str, Any], name: str) -> str:
    return " ".join(part for part in value.get(name, ()) if part)


def _address(value: Mapping[str, Any], place: str) -> Address:
    street = _joined(value, "line")
    if not any(value.get(name) for name in ("line", "city", "state", "postalCode", "country")):
        street = value.get("text", "")
    return Address(
        street=_fit(street, f"{place}.line"), city=_short(value, "city", place), state=_short(value, "state", place),
        postcode=_short(value, "postalCode", place), country=_short(value, "country", place))


def _phone(value: Mapping[str, Any]) -> str:
    """Return a telephone number as it is, a mail address as a URI of its own kind; nothing of others."""
    text, system = _short(value, "value", "Patient.telecom"), value.get("system", "")
    if system == "email":
        return f"{_MAIL}{text}" if text else ""
    return text if system in _PHONES else ""


def _short(value: Mapping[str, Any], name: str, place: str) -> str:
    return _fit(value.get(name, ""), f"{place}.{name}")


def _fit(text: str, place: str) -> str:
    if len(text) > LONGEST:
        raise Rejected(FhirCode.TOO_LONG, f"{place} has more than {LONGEST} characters", place)
    return text.strip()


def sexes_of(gender: str, place: str) -> tuple[str, ...]:
    """Return the values of table 0001 that are written as this gender. Raise `Rejected` (code-invalid) for another code."""
    if gender not in _SEXES:
        raise Rejected(FhirCode.CODE_INVALID, f"{place} is not male, female, other or unknown", place)
    return tuple(sex for sex, written in _GENDERS.items() if written == gender)


def system_of(domain: str) -> str:
    """Return the system of a domain's OID."""
    return f"{OID}{domain}"


def write_identifier(patient: PatientId, system: str = "") -> dict[str, str]:
    """Return an Identifier; its system is `urn:oid:` of the domain where no other is given."""
    return {"system": system or system_of(patient.domain), "value": patient.value}


def write_national(value: str) -> dict[str, Any]:
    """Return a national number as an Identifier, by its type: nobody says whose it is."""
    return {"type": {"coding": [{"system": _NATIONAL, "code": "NI"}]}, "value": value}


def write_retired(logical_id: str, survivor: str) -> dict[str, Any]:
    """Return the Patient of a person who lives on under another logical id."""
    link = {"other": {"reference": f"Patient/{survivor}"}, "type": "replaced-by"}
    return {"resourceType": "Patient", "id": logical_id, "active": False, "link": [link]}


def write_patient(
    logical_id: str, ids: Sequence[PatientId], person: Demographics, *, active: bool = True,
) -> dict[str, Any]:
    """Return a person as a Patient resource, its elements in the order of the specification."""
    found: dict[str, Any] = {
        "extension": [{"url": MOTHER, "valueString": _full(person.mother)}] if person.mother else [],
        "identifier": [write_identifier(patient) for patient in ids],
        "active": active,
        "name": [name for one in person.names if (name := _write_name(one))],
        "telecom": [_write_phone(phone) for phone in person.phones],
        "gender": _GENDERS.get(person.sex),
        "birthDate": _write_date(person.birth_date),
        "address": [address for one in person.addresses if (address := _write_address(one))],
    }
    told = {key: value for key, value in found.items() if value not in (None, "", [])}
    return {"resourceType": "Patient", "id": logical_id, **told}


def _full(name: PersonName) -> str:
    return " ".join(part for part in (name.family, name.given) if part)


def _write_name(name: PersonName) -> dict[str, Any]:
    found = {
        "use": _NAME_USES.get(name.use, ""), "family": name.family, "given": [part for part in (name.given, name.middle) if part],
        "prefix": [name.prefix] if name.prefix else [], "suffix": [name.suffix] if name.suffix else []}
    return {key: value for key, value in found.items() if value} if name.family or found["given"] else {}


def _write_phone(phone: str) -> dict[str, str]:
    if phone.startswith(_MAIL):
        return {"system": "email", "value": phone.removeprefix(_MAIL)}
    return {"system": "phone", "value": phone}


def _write_date(text: str) -> str:
    return "-".join(part for part in (text[:4], text[4:6], text[6:8]) if part)


def _write_address(address: Address) -> dict[str, Any]:
    found = {"line": [address.street] if address.street else [], "city": address.city, "state": address.state,
             "postalCode": address.postcode, "country": address.country}
    return {key: value for key, value in found.items() if value}
