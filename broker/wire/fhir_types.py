"""The elements of the FHIR R4 (4.0.1) types that we read or write, in the order of the specification.

JSON needs of it which elements are lists and what type a value has, XML the order as well. `name*` is a list. What is not here
is refused when it comes: to pass over it would lose something that its sender thinks is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_ELEMENT: Final = "extension*:Extension "
_BACKBONE: Final = "extension*:Extension modifierExtension*:Extension "
_RESOURCE: Final = "id:id meta:Meta implicitRules:uri language:code "
_DOMAIN: Final = _RESOURCE + "text:Narrative contained*:Resource extension*:Extension modifierExtension*:Extension "
_VALUES: Final = " ".join(f"value{kind[0].upper()}{kind[1:]}:{kind}" for kind in (
    "base64Binary", "boolean", "canonical", "code", "date", "dateTime", "decimal", "id", "instant", "integer", "markdown", "oid",
    "positiveInt", "string", "time", "unsignedInt", "uri", "url", "uuid", "Address", "Attachment", "CodeableConcept", "Coding",
    "ContactPoint", "HumanName", "Identifier", "Money", "Period", "Quantity", "Range", "Ratio", "Reference"))

_DEFINITIONS: Final = {
    "Element": _ELEMENT,
    "Extension": "extension*:Extension " + _VALUES,
    "Meta": _ELEMENT + "versionId:id lastUpdated:instant source:uri profile*:canonical security*:Coding tag*:Coding",
    "Narrative": _ELEMENT + "status:code div:xhtml",
    "Identifier": _ELEMENT + "use:code type:CodeableConcept system:uri value:string period:Period assigner:Reference",
    "Reference": _ELEMENT + "reference:string type:uri identifier:Identifier display:string",
    "CodeableConcept": _ELEMENT + "coding*:Coding text:string",
    "Coding": _ELEMENT + "system:uri version:string code:code display:string userSelected:boolean",
    "Period": _ELEMENT + "start:dateTime end:dateTime",
    "Quantity": _ELEMENT + "value:decimal comparator:code unit:string system:uri code:code",
    "Range": _ELEMENT + "low:Quantity high:Quantity",
    "Ratio": _ELEMENT + "numerator:Quantity denominator:Quantity",
    "Money": _ELEMENT + "value:decimal currency:code",
    "HumanName": _ELEMENT + "use:code text:string family:string given*:string prefix*:string suffix*:string period:Period",
    "Address": _ELEMENT + "use:code type:code text:string line*:string city:string district:string state:string"
                          " postalCode:string country:string period:Period",
    "ContactPoint": _ELEMENT + "system:code value:string use:code rank:positiveInt period:Period",
    "Attachment": _ELEMENT + "contentType:code language:code data:base64Binary url:url size:unsignedInt hash:base64Binary"
                             " title:string creation:dateTime",
    "Patient": _DOMAIN + "identifier*:Identifier active:boolean name*:HumanName telecom*:ContactPoint gender:code birthDate:date"
                         " deceasedBoolean:boolean deceasedDateTime:dateTime address*:Address maritalStatus:CodeableConcept"
                         " multipleBirthBoolean:boolean multipleBirthInteger:integer photo*:Attachment contact*:Patient.contact"
                         " communication*:Patient.communication generalPractitioner*:Reference managingOrganization:Reference"
                         " link*:Patient.link",
    "Patient.contact": _BACKBONE + "relationship*:CodeableConcept name:HumanName telecom*:ContactPoint address:Address"
                                   " gender:code organization:Reference period:Period",
    "Patient.communication": _BACKBONE + "language:CodeableConcept preferred:boolean",
    "Patient.link": _BACKBONE + "other:Reference type:code",
    "Parameters": _RESOURCE + "parameter*:Parameters.parameter",
    "Parameters.parameter": _BACKBONE + "name:string " + _VALUES + " resource:Resource part*:Parameters.parameter",
    "Bundle": _RESOURCE + "identifier:Identifier type:code timestamp:instant total:unsignedInt link*:Bundle.link"
                          " entry*:Bundle.entry",
    "Bundle.link": _BACKBONE + "relation:string url:uri",
    "Bundle.entry": _BACKBONE + "link*:Bundle.link fullUrl:uri resource:Resource search:Bundle.entry.search",
    "Bundle.entry.search": _BACKBONE + "mode:code score:decimal",
    "OperationOutcome": _DOMAIN + "issue*:OperationOutcome.issue",
    "OperationOutcome.issue": _BACKBONE + "severity:code code:code details:CodeableConcept diagnostics:string location*:string"
                                          " expression*:string",
    "CapabilityStatement": _DOMAIN + "url:uri version:string name:string title:string status:code date:dateTime publisher:string"
                                     " description:markdown kind:code instantiates*:canonical"
                                     " software:CapabilityStatement.software implementation:CapabilityStatement.implementation"
                                     " fhirVersion:code format*:code rest*:CapabilityStatement.rest",
    "CapabilityStatement.software": _BACKBONE + "name:string version:string",
    "CapabilityStatement.implementation": _BACKBONE + "description:string url:url",
    "CapabilityStatement.rest": _BACKBONE + "mode:code documentation:markdown resource*:CapabilityStatement.rest.resource",
    "CapabilityStatement.rest.resource": _BACKBONE
        + "type:code supportedProfile*:canonical documentation:markdown"
          " interaction*:CapabilityStatement.rest.resource.interaction conditionalUpdate:boolean"
          " searchParam*:CapabilityStatement.rest.resource.searchParam"
          " operation*:CapabilityStatement.rest.resource.operation",
    "CapabilityStatement.rest.resource.interaction": _BACKBONE + "code:code documentation:markdown",
    "CapabilityStatement.rest.resource.searchParam": _BACKBONE + "name:string definition:canonical type:code"
                                                                 " documentation:markdown",
    "CapabilityStatement.rest.resource.operation": _BACKBONE + "name:string definition:canonical documentation:markdown",
}

ELEMENT: Final = "Element"      # what a primitive may have beside its value
RESOURCE: Final = "Resource"    # the type of an element that holds a resource of whatever type
XHTML: Final = "xhtml"


@dataclass(frozen=True, slots=True)
class Field:
    """An element of a type. A type in lower case is primitive."""

    name: str
    kind: str
    is_list: bool

    @property
    def is_primitive(self) -> bool:
        """Whether its value is one text, number or truth value."""
        return self.kind[0].islower()


def _fields(definition: str) -> Mapping[str, Field]:
    found = {}
    for part in definition.split():
        name, _, kind = part.partition(":")
        bare = name.removesuffix("*")
        found[bare] = Field(bare, kind, bare != name)
    return MappingProxyType(found)


TYPES: Final[Mapping[str, Mapping[str, Field]]] = {name: _fields(text) for name, text in _DEFINITIONS.items()}

# Resources that a message of ours is one of; what stands inside another resource may be of any type.
RESOURCES: Final = frozenset(("Patient", "Parameters", "Bundle", "OperationOutcome", "CapabilityStatement"))
