"""Where XDS keeps each metadata attribute in ebRIM (ITI TF-3 4.2.3.2, 4.2.3.3, 4.2.3.4): one row per kind of object."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

PATIENT_ID, UNIQUE_ID, SOURCE_ID = "patientId", "uniqueId", "sourceId"
CODING_SCHEME = "codingScheme"
SUBMISSION_SET_STATUS = "SubmissionSetStatus"
REFERENCE_ID_LIST = "urn:ihe:iti:xds:2013:referenceIdList"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One kind of object.

    `label` is the classificationNode that marks it, `author` and `codes` are classification schemes, `identifiers`
    identification schemes, `single` and `many` map a dataclass field to the slot that holds it.
    """

    name: str
    label: str = ""
    author: str = ""
    codes: Mapping[str, str] = field(default_factory=dict)
    identifiers: Mapping[str, str] = field(default_factory=dict)
    single: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def slot_names(self) -> frozenset[str]:
        """Return the names of all slots the standard defines here."""
        return frozenset((*self.single.values(), *self.many.values()))

    @functools.cached_property
    def schemes(self) -> frozenset[str]:
        """Return the classification schemes of an object of this kind: those of its codes, and that of its authors."""
        return frozenset((*self.codes.values(), self.author)) - {""}

    @functools.cached_property
    def identification_schemes(self) -> frozenset[str]:
        """Return the schemes of the identifiers of an object of this kind."""
        return frozenset(self.identifiers.values())

    def code_name(self, scheme: str) -> str:
        """Return the name of the coded attribute that has this classification scheme."""
        return next(name for name, found in self.codes.items() if found == scheme)


ENTRY = Shape(
    name="XDSDocumentEntry",
    author="urn:uuid:93606bcf-9494-43ec-9b4e-a7748d1a838d",
    codes={
        "classCode": "urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a",
        "confidentialityCode": "urn:uuid:f4f85eac-e6cb-4883-b524-f2705394840f",
        "eventCodeList": "urn:uuid:2c6b8cb7-8b2a-4051-b291-b1ae6a575ef4",
        "formatCode": "urn:uuid:a09d5840-386c-46f2-b5ad-9c3699a4309d",
        "healthcareFacilityTypeCode": "urn:uuid:f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1",
        "practiceSettingCode": "urn:uuid:cccf5598-8b07-4b77-a05e-ae952c785ead",
        "typeCode": "urn:uuid:f0306f51-975f-434e-a61c-c59651d33983",
    },
    identifiers={
        PATIENT_ID: "urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427",
        UNIQUE_ID: "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab",
    },
    single={
        "creation_time": "creationTime",
        "service_start_time": "serviceStartTime",
        "service_stop_time": "serviceStopTime",
        "hash": "hash",
        "size": "size",
        "language_code": "languageCode",
        "repository_unique_id": "repositoryUniqueId",
        "source_patient_id": "sourcePatientId",
        "legal_authenticator": "legalAuthenticator",
        "uri": "URI",
    },
    many={"source_patient_info": "sourcePatientInfo", "reference_id_list": REFERENCE_ID_LIST},
)

SUBMISSION_SET = Shape(
    name="XDSSubmissionSet",
    label="urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd",
    author="urn:uuid:a7058bb9-b4e4-4307-ba5b-e3f0ab85e12d",
    codes={"contentTypeCode": "urn:uuid:aa543740-bdda-424e-8c96-df4873be8500"},
    identifiers={
        PATIENT_ID: "urn:uuid:6b5aea1a-874d-4603-a4bc-96a0a7b38446",
        SOURCE_ID: "urn:uuid:554ac39e-e3fe-47fe-b233-965d2a147832",
        UNIQUE_ID: "urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8",
    },
    single={"submission_time": "submissionTime"},
    many={"intended_recipients": "intendedRecipient"},
)

FOLDER = Shape(
    name="XDSFolder",
    label="urn:uuid:d9d542f3-6cc4-48b6-8870-ea235fbc94c2",
    codes={"codeList": "urn:uuid:1ba97051-7806-41a8-a48b-8fce7af683c5"},
    identifiers={
        PATIENT_ID: "urn:uuid:f64ffdf0-4b97-4e06-b79f-a52b38ec2f8a",
        UNIQUE_ID: "urn:uuid:75df8f67-9973-4fbe-a900-df66cefecc5a",
    },
    single={"last_update_time": "lastUpdateTime"},
)

ASSOCIATION = Shape(
    name="Association",
    codes={"documentation": "urn:uuid:abd807a3-4432-4053-87b4-fd82c643d1f3"},
    single={"submission_set_status": SUBMISSION_SET_STATUS},
)

PACKAGES = {shape.label: shape for shape in (SUBMISSION_SET, FOLDER)}

AUTHOR_SLOTS = {"institutions": "authorInstitution", "roles": "authorRole", "specialties": "authorSpecialty",
                "telecoms": "authorTelecommunication"}
AUTHOR_PERSON = "authorPerson"
