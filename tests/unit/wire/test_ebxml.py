"""The ebXML codec on the messages of the field."""

from dataclasses import replace

import pytest

from broker.model.errors import BrokerError, Problem, Rejected, TooLarge, Unavailable, XdsCode
from broker.model.metadata import Author, Code, DocumentEntry, RegistryObjects
from broker.wire import ebxml, xml
from broker.wire.xml import LCM, RIM, RS
from tests.helpers.registry import bundle, document, folder, link, schema, submission

PREFIXED = f"""
<lcm:SubmitObjectsRequest xmlns:lcm="{LCM}" xmlns:rim="{RIM}" xmlns:other="urn:other"><rim:RegistryObjectList>
 <rim:ExtrinsicObject id="Doc1" mimeType="application/dicom" objectType="urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1">
  <rim:Slot name="creationTime"><rim:ValueList><rim:Value>
      20240506 </rim:Value></rim:ValueList></rim:Slot>
  <rim:Slot name="size"><rim:ValueList><rim:Value>many</rim:Value></rim:ValueList></rim:Slot>
  <rim:Slot name="sourcePatientInfo"><rim:ValueList><rim:Value>PID-5|王^芳</rim:Value><rim:Value>PID-8|F</rim:Value>
  </rim:ValueList></rim:Slot>
  <rim:Slot name="urn:example:ward"><rim:ValueList><rim:Value>7</rim:Value><rim:Value>8</rim:Value></rim:ValueList></rim:Slot>
  <rim:Name><rim:LocalizedString xml:lang="zh-CN" value="胸部CT"/><rim:LocalizedString value="CT chest"/></rim:Name>
  <rim:Classification id="c1" classifiedObject="Doc1" nodeRepresentation=""
    classificationScheme="urn:uuid:93606bcf-9494-43ec-9b4e-a7748d1a838d"><rim:Slot name="authorPerson"><rim:ValueList>
    <rim:Value>^李^明</rim:Value></rim:ValueList></rim:Slot></rim:Classification>
  <rim:Classification id="c2" classifiedObject="Doc1" nodeRepresentation="CT"
    classificationScheme="urn:uuid:2c6b8cb7-8b2a-4051-b291-b1ae6a575ef4"><rim:Slot name="codingScheme"><rim:ValueList>
    <rim:Value>1.2.840.10008.2.16.4</rim:Value></rim:ValueList></rim:Slot>
    <rim:Name><rim:LocalizedString value="CT"/></rim:Name></rim:Classification>
  <rim:ExternalIdentifier id="e1" registryObject="Doc1" value="W-1^^^&amp;2.999.1.1&amp;ISO"
    identificationScheme="urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427"/>
  <rim:ExternalIdentifier id="e2" registryObject="Doc1" value="2.999.5.1"
    identificationScheme="urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab"/>
 </rim:ExtrinsicObject>
 <rim:RegistryPackage id="SS1"/>
 <rim:RegistryPackage id="what"/>
 <rim:ObjectRef id="urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"/>
 <rim:Classification id="c3" classifiedObject="SS1" classificationNode="urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"/>
</rim:RegistryObjectList></lcm:SubmitObjectsRequest>
"""


def test_reads_a_foreign_submission() -> None:
    element = xml.parse(PREFIXED.encode())
    schema("lcm").assertValid(element)
    objects = ebxml.read_submission(element).objects
    assert objects.documents == (DocumentEntry(
        id="Doc1", unique_id="2.999.5.1", patient_id="W-1^^^&2.999.1.1&ISO", mime_type="application/dicom", title="胸部CT",
        creation_time="20240506", size=None, source_patient_info=("PID-5|王^芳", "PID-8|F"), authors=(Author(person="^李^明"),),
        codes={"eventCodeList": (Code("CT", "1.2.840.10008.2.16.4", "CT"),)}, extra={"urn:example:ward": ("7", "8")}),)
    assert [ss.id for ss in objects.submission_sets] == ["SS1"]         # its label stands beside it
    assert objects.folders == ()


@pytest.mark.parametrize("text", [
    f'<SubmitObjectsRequest xmlns="{LCM}"/>',
    f'<RegistryObjectList xmlns="{RIM}"/>',
    f'<SubmitObjectsRequest xmlns="{RIM}"><RegistryObjectList/></SubmitObjectsRequest>',
])
def test_other_elements_are_not_submissions(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        ebxml.read_submission(xml.parse(text.encode()))
    assert caught.value.problems[0].code == XdsCode.REGISTRY_METADATA_ERROR


def test_slots_are_set_in_one_document_only() -> None:
    before = submission(bundle([document("Doc1", hash="", size=None), document("Doc2", hash="", size=None)]))
    after = ebxml.with_slots(before, {"Doc2": {"hash": "ab", "size": "12", "repositoryUniqueId": "2.999.9"}})
    one, two = after.objects.documents
    assert (one.hash, one.size, one.repository_unique_id) == ("", None, "2.999.1.2")
    assert (two.hash, two.size, two.repository_unique_id) == ("ab", 12, "2.999.9")
    assert before.objects.documents[1].hash == ""
    assert replace(two, hash="", size=None, repository_unique_id="2.999.1.2") == before.objects.documents[1]
    schema("lcm").assertValid(after.element)


def test_writes_what_the_schema_allows() -> None:
    objects = bundle([document()], [folder()], [link("Fol1", "Doc1")])
    schema("lcm").assertValid(xml.parse(ebxml.submit_request(objects)))
    written = ebxml.write_objects(objects)
    assert written.startswith(b'<RegistryObjectList xmlns="urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0">')


def test_leaves_out_what_xml_cannot_carry() -> None:
    objects = RegistryObjects(documents=(document(title="CT\x00\x1b 胸"),))
    assert ebxml.read_objects(xml.parse(ebxml.write_objects(objects))).documents[0].title == "CT 胸"


def test_failure_names_errors_before_warnings() -> None:
    element = xml.parse(ebxml.registry_response(
        [Problem("XDSUnknownPatientId", 'Patient "W<1" is not known', "here")], [Problem("XDSExtraMetadataNotSaved", "urn:x")]))
    schema("rs").assertValid(element)
    said = ebxml.read_registry_response(element)
    assert said.status == ebxml.FAILURE
    assert said.problems == (Problem("XDSUnknownPatientId", 'Patient "W<1" is not known', "here"),)
    assert said.warnings == (Problem("XDSExtraMetadataNotSaved", "urn:x"),)
    errors = element.find(f"{{{RS}}}RegistryErrorList")
    assert errors is not None
    assert errors.get("highestSeverity", "").endswith(":Error")


def test_warnings_do_not_make_a_failure() -> None:
    element = xml.parse(ebxml.registry_response((), [Problem("XDSExtraMetadataNotSaved", "urn:x")]))
    schema("rs").assertValid(element)
    assert ebxml.read_registry_response(element).status == ebxml.SUCCESS
    assert ebxml.error_list((), ()) == b""
    assert ebxml.read_registry_response(xml.parse(ebxml.registry_response(status=ebxml.PARTIAL_SUCCESS))).status.startswith(
        "urn:ihe:iti:2007:")


def test_a_failed_query_has_an_empty_list_and_may_come_without() -> None:
    element = xml.parse(b"".join(ebxml.query_response((), [Problem("XDSRegistryError", "no")])))
    schema("query").assertValid(element)
    said, objects = ebxml.read_query_response(element)
    assert (said.status, objects) == (ebxml.FAILURE, RegistryObjects())
    for child in element.findall(f"{{{RIM}}}RegistryObjectList"):
        element.remove(child)
    assert ebxml.read_query_response(element) == (said, objects)


@pytest.mark.parametrize(("error", "registry", "repository"), [
    (Rejected("XDSUnknownPatientId", "x"), "XDSUnknownPatientId", "XDSUnknownPatientId"),
    (Rejected("SchemaInvalid", "x"), "XDSRegistryError", "XDSRepositoryError"),
    (Rejected("NotXml", "x"), "XDSRegistryError", "XDSRepositoryError"),
    (Unavailable("database"), "XDSRegistryBusy", "XDSRepositoryBusy"),
    (Unavailable("registry"), "XDSRegistryBusy", "XDSRegistryNotAvailable"),
    (TooLarge("server.max_request"), "XDSRegistryOutOfResources", "XDSRepositoryOutOfResources"),
])
def test_errors_as_registry_errors(error: BrokerError, registry: str, repository: str) -> None:
    assert [problem.code for problem in ebxml.problems_of(error, "registry")] == [registry]
    assert [problem.code for problem in ebxml.problems_of(error, "repository")] == [repository]


@pytest.mark.parametrize("code", ["SchemaInvalid", "NotXml"])
def test_wrong_metadata_has_its_own_code(code: str) -> None:
    error = Rejected(code, "x")
    assert [problem.code for problem in ebxml.problems_of(error, "registry", metadata=True)] == ["XDSRegistryMetadataError"]
    assert [problem.code for problem in ebxml.problems_of(error, "repository", metadata=True)] == ["XDSRepositoryMetadataError"]
