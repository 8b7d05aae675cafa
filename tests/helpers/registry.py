"""What registry tests share: a patient directory, ready-made submissions, and calls through the transaction rows."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from lxml import etree

from broker.config.data import data
from broker.db import Database, sql
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.ids import PatientId
from broker.model.metadata import (
    HAS_MEMBER,
    Association,
    Author,
    Code,
    DocumentEntry,
    Folder,
    RegistryObjects,
    SubmissionSet,
)
from broker.model.ports import Unit
from broker.registry import iti18_query, store
from broker.registry.actor import Registry
from broker.registry.queries import QUERIES
from broker.wire import ebxml, xml
from broker.wire.ebxml_query import write_query_request
from broker.wire.ebxml_rim import tag
from broker.wire.soap import SoapReply, SoapRequest

WANG = PatientId("2.999.1.1", "W-1")
LIN = PatientId("2.999.1.1", "L-2")
UUIDS = {query.name: query.uuid for query in QUERIES.values()}

_numbers = itertools.count(1)
_IMAGES = Code("IMAGES", "1.3.6.1.4.1.19376.1.2.6.1", "Images")
CODES: Mapping[str, tuple[Code, ...]] = {
    "classCode": (_IMAGES,),
    "typeCode": (Code("18748-4", "2.16.840.1.113883.6.1", "Diagnostic imaging study"),),
    "formatCode": (Code("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1", "KOS"),),
    "confidentialityCode": (Code("N", "2.16.840.1.113883.5.25", "Normal"),),
    "healthcareFacilityTypeCode": (Code("22232009", "2.16.840.1.113883.6.96", "Hospital"),),
    "practiceSettingCode": (Code("394914008", "2.16.840.1.113883.6.96", "Radiology"),),
    "eventCodeList": (Code("CT", "1.2.840.10008.2.16.4", "Computed Tomography"),),
}


class Directory:
    """A patient directory that knows the ids it was given."""

    def __init__(self, *active: PatientId) -> None:
        self.active = set(active or (WANG, LIN))

    def affinity_id(self, unit: Unit, local: PatientId) -> PatientId | None:
        return local if local in self.active else None

    def is_active(self, unit: Unit, patient: PatientId) -> bool:
        return patient in self.active


def number() -> int:
    """Return a number not used before in this run, for uniqueIds."""
    return next(_numbers)


def document(key: str = "Doc1", patient: PatientId = WANG, **changes: Any) -> DocumentEntry:
    """Return a complete DocumentEntry with a fresh uniqueId."""
    values: dict[str, Any] = {
        "id": key, "unique_id": f"2.999.5.{number()}", "patient_id": str(patient), "mime_type": "application/dicom",
        "title": "胸部CT", "creation_time": "20240506013005", "service_start_time": "20240506011500", "language_code": "zh-CN",
        "hash": "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12", "size": 2842, "repository_unique_id": "2.999.1.2",
        "source_patient_id": "H-778^^^&2.999.2.1&ISO", "source_patient_info": ("PID-5|王^芳", "PID-8|F"), "codes": CODES,
        "authors": (Author(person="^李^明", institutions=("第一人民医院",)),)}
    return DocumentEntry(**{**values, **changes})


def submission_set(patient: PatientId = WANG, **changes: Any) -> SubmissionSet:
    """Return a complete SubmissionSet with a fresh uniqueId."""
    values: dict[str, Any] = {
        "id": "SS1", "unique_id": f"2.999.6.{number()}", "source_id": "2.999.2", "patient_id": str(patient),
        "submission_time": "20240506013010", "content_type": Code("IMG", "2.999.1.90", "Imaging")}
    return SubmissionSet(**{**values, **changes})


def folder(key: str = "Fol1", patient: PatientId = WANG, **changes: Any) -> Folder:
    """Return a complete Folder with a fresh uniqueId."""
    values: dict[str, Any] = {
        "id": key, "unique_id": f"2.999.7.{number()}", "patient_id": str(patient), "title": "肺结节随访",
        "codes": (Code("FU", "2.999.1.91", "Follow-up"),)}
    return Folder(**{**values, **changes})


def link(source: str, target: str, kind: str = HAS_MEMBER, key: str = "", status: str = "") -> Association:
    """Return an association."""
    return Association(id=key or f"as{number()}", type=kind, source=source, target=target, submission_set_status=status)


def bundle(
    documents: Sequence[DocumentEntry] = (), folders: Sequence[Folder] = (), links: Sequence[Association] = (),
    patient: PatientId = WANG, **changes: Any,
) -> RegistryObjects:
    """Return a submission of these, each a member of a new SubmissionSet; FolderContent among `links` is made a member, too."""
    own = submission_set(patient, **changes)
    placed = [item for item in links if item.type == HAS_MEMBER and item.source != own.id]
    members = [
        *(link(own.id, item.id, status="Original") for item in documents),
        *(link(own.id, key) for key in (*(item.id for item in folders), *(item.id for item in placed))),
    ]
    return RegistryObjects(
        submission_sets=(own,), documents=tuple(documents), folders=tuple(folders), associations=(*members, *links))


def submission(objects: RegistryObjects) -> ebxml.Submission:
    """Return the objects as a submission that came over the wire."""
    return ebxml.read_submission(xml.parse(ebxml.submit_request(objects)))


def register(registry: Registry, objects: RegistryObjects) -> AuditFacts:
    """Register; return what the audit record would know."""
    facts = AuditFacts()
    registry.register(submission(objects), Call(caller=ANONYMOUS, facts=facts))
    return facts


def one_document(registry: Registry, patient: PatientId = WANG, **changes: Any) -> DocumentEntry:
    """Register one document and give it as the registry now has it."""
    entry = document(patient=patient, **changes)
    register(registry, bundle([entry], patient=patient))
    return next(found for found in registered(registry, unique_id=entry.unique_id) if found.title == entry.title)


def registered(registry: Registry, unique_id: str) -> tuple[DocumentEntry, ...]:
    """Return the DocumentEntries with this uniqueId."""
    return ask(registry, "GetDocuments", {"$XDSDocumentEntryUniqueId": [unique_id]}).documents


def rows(database: Database) -> int:
    """Return the number of registered objects and of their side rows."""
    tables: Iterable[sa.Table] = (
        store.registry_object, store.registry_entry, store.registry_submission, store.registry_folder,
        store.registry_association, store.registry_code, store.registry_author, store.registry_reference)
    with database.read() as unit:
        return sum(sql(unit).scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables)


def schema(name: str) -> etree.XMLSchema:
    """Return one of the schemas we serve."""
    return etree.XMLSchema(file=str(data("wsdl") / "schema" / f"{name}.xsd"))


def request(name: str, parameters: Mapping[str, str | Sequence[str]], return_type: str = "LeafClass") -> SoapRequest:
    """Return the request of the stored query called `name`."""
    body = xml.parse(write_query_request(UUIDS.get(name, name), parameters, return_type))
    return SoapRequest(body=body, message=iti18_query.ROW.messages[0])


def answer(registry: Registry, raw: SoapRequest, facts: AuditFacts | None = None) -> xml.Element:
    """Return the schema-valid answer to a query; errors are raised, not rendered."""
    row = iti18_query.ROW
    known = AuditFacts() if facts is None else facts
    asked = row.read(raw, known)
    result = row.handle(registry, asked, Call(caller=ANONYMOUS, facts=known))
    row.disclosed(result, known)
    element = element_of(row.write(asked, result))
    schema("query").assertValid(element)
    return element


def element_of(reply: SoapReply) -> xml.Element:
    """Return a reply as the XML the peer will see."""
    return xml.parse(b"".join(reply.fragments))


def ask(registry: Registry, name: str, parameters: Mapping[str, str | Sequence[str]]) -> RegistryObjects:
    """Return the objects a LeafClass query answers."""
    return ebxml.read_query_response(answer(registry, request(name, parameters)))[1]


def object_refs(element: xml.Element) -> tuple[str, ...]:
    """Return the entryUUIDs that an ObjectRef answer lists."""
    return tuple(ref.get("id", "") for ref in element.iterfind(f"{tag('RegistryObjectList')}/{tag('ObjectRef')}"))


def refs(registry: Registry, name: str, parameters: Mapping[str, str | Sequence[str]]) -> tuple[str, ...]:
    """Return the ids an ObjectRef query answers."""
    return object_refs(answer(registry, request(name, parameters, "ObjectRef")))


def unique_ids(objects: RegistryObjects) -> list[str]:
    """Return the uniqueIds of an answer's documents."""
    return [entry.unique_id for entry in objects.documents]


def with_codes(attribute: str, *codes: tuple[str, str]) -> Mapping[str, tuple[Code, ...]]:
    """Return the usual codes with this attribute replaced."""
    return {**CODES, attribute: tuple(Code(code, scheme, code) for code, scheme in codes)}


def renamed(objects: RegistryObjects, **changes: Any) -> RegistryObjects:
    """Return the objects with the first document changed."""
    first, *others = objects.documents
    return replace(objects, documents=(replace(first, **changes), *others))
