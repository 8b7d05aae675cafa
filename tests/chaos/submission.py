"""ebXML of a submission of reports, written by hand."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape, quoteattr

from tests.chaos.doors import LCM, RIM

_TYPE = "urn:oasis:names:tc:ebxml-regrep"
_CODES = {
    "urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a": ("REPORTS", "1.3.6.1.4.1.19376.1.2.6.1", "Reports"),
    "urn:uuid:f4f85eac-e6cb-4883-b524-f2705394840f": ("N", "2.16.840.1.113883.5.25", "Normal"),
    "urn:uuid:a09d5840-386c-46f2-b5ad-9c3699a4309d": (
        "urn:ihe:iti:xds:2017:mimeTypeSufficient", "1.3.6.1.4.1.19376.1.2.3", "mimeType sufficient"),
    "urn:uuid:f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1": ("22232009", "2.16.840.1.113883.6.96", "Hospital"),
    "urn:uuid:cccf5598-8b07-4b77-a05e-ae952c785ead": ("394914008", "2.16.840.1.113883.6.96", "Radiology"),
    "urn:uuid:f0306f51-975f-434e-a61c-c59651d33983": ("18748-4", "2.16.840.1.113883.6.1", "Diagnostic imaging study"),
}


def submission(set_uid: str, patient: str, documents: Mapping[str, tuple[str, bytes]]) -> str:
    """Return the lcm:SubmitObjectsRequest; `patient` is a CX, `documents` (uniqueId, bytes) by entry id."""
    numbers = itertools.count(1)
    entries = "".join(_entry(key, uid, data, patient, numbers) for key, (uid, data) in documents.items())
    members = "".join(
        f'<Association id="member-{key}" associationType="{_TYPE}:AssociationType:HasMember" sourceObject="Set" '
        f'targetObject="{key}" objectType="{_TYPE}:ObjectType:RegistryObject:Association">'
        f'{_slot("SubmissionSetStatus", "Original")}</Association>' for key in documents)
    package = (
        f'<RegistryPackage id="Set" objectType="{_TYPE}:ObjectType:RegistryObject:RegistryPackage">'
        f'{_slot("submissionTime", "20260301120000")}<Classification id="n{next(numbers)}" classifiedObject="Set" '
        'classificationNode="urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"/>'
        + _code("Set", "urn:uuid:aa543740-bdda-424e-8c96-df4873be8500", ("IMG", "2.999.1.90", "Imaging"), numbers)
        + _identifier("Set", "urn:uuid:6b5aea1a-874d-4603-a4bc-96a0a7b38446", "XDSSubmissionSet.patientId", patient, numbers)
        + _identifier("Set", "urn:uuid:554ac39e-e3fe-47fe-b233-965d2a147832", "XDSSubmissionSet.sourceId", "2.999.2", numbers)
        + _identifier("Set", "urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8", "XDSSubmissionSet.uniqueId", set_uid, numbers)
        + "</RegistryPackage>")
    return (f'<lcm:SubmitObjectsRequest xmlns:lcm="{LCM}"><RegistryObjectList xmlns="{RIM}">{entries}{package}{members}'
            "</RegistryObjectList></lcm:SubmitObjectsRequest>")


def _entry(key: str, uid: str, data: bytes, patient: str, numbers: Iterator[int]) -> str:
    digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    slots = {"creationTime": "20260301115900", "hash": digest, "size": str(len(data)), "languageCode": "zh-CN",
             "sourcePatientId": "R-1^^^&2.999.2.1&ISO"}
    return (
        f'<ExtrinsicObject id="{key}" mimeType="text/plain" objectType="urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1">'
        + "".join(_slot(name, value) for name, value in slots.items())
        + "".join(_code(key, scheme, code, numbers) for scheme, code in _CODES.items())
        + _identifier(key, "urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427", "XDSDocumentEntry.patientId", patient, numbers)
        + _identifier(key, "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab", "XDSDocumentEntry.uniqueId", uid, numbers)
        + "</ExtrinsicObject>")


def _slot(name: str, value: str) -> str:
    return f'<Slot name="{name}"><ValueList><Value>{escape(value)}</Value></ValueList></Slot>'


def _code(key: str, scheme: str, code: tuple[str, str, str], numbers: Iterator[int]) -> str:
    return (f'<Classification id="n{next(numbers)}" classifiedObject="{key}" classificationScheme="{scheme}" '
            f'nodeRepresentation="{code[0]}">{_slot("codingScheme", code[1])}<Name><LocalizedString value="{code[2]}"/></Name>'
            "</Classification>")


def _identifier(key: str, scheme: str, name: str, value: str, numbers: Iterator[int]) -> str:
    return (f'<ExternalIdentifier id="n{next(numbers)}" registryObject="{key}" identificationScheme="{scheme}" '
            f'value={quoteattr(value)}><Name><LocalizedString value="{name}"/></Name></ExternalIdentifier>')
