"""FHIR: resources in JSON and XML, and that what is taken is the same in both."""

from pathlib import Path

from broker.model.errors import BrokerError, Rejected
from broker.wire import fhir
from broker.wire.fhir_outcome import refused
from broker.wire.fhir_patient import read_patient
from broker.wire.fhir_types import RESOURCES
from tests.fuzz.harness import Reader, Target
from tests.fuzz.targets_soap import XML_WORDS

WORDS = (
    *XML_WORDS, b'"resourceType"', b'"Patient"', b'"Parameters"', b'"identifier"', b'"name"', b'"_birthDate"', b'"link"',
    b"[" * 70, b'{"a":' * 70, b"null",
    b"NaN", b"1e999999999", b"\\ud800", b"\\u0000", b'"contained"', b'"resource"', b"-0", b"true", b'""',
    b'xmlns="http://hl7.org/fhir"', b'value="', b"<Patient>", b"<contained>", b"<div>", b"<extension url=", b"modifierExtension")


def _fhir(_scratch: Path) -> Reader:
    def read(data: bytes) -> str:
        form = fhir.XML if data.lstrip()[:1] == b"<" else fhir.JSON
        try:
            found = fhir.read(data, form, sorted(RESOURCES))
        except BrokerError as error:
            fhir.read(refused(error, form).body, form, ["OperationOutcome"])
            raise
        if found["resourceType"] != "Patient":
            return str(found["resourceType"])
        try:
            patient = read_patient(found)
        except Rejected as error:
            return error.problems[0].code
        for other in (fhir.JSON, fhir.XML):
            assert read_patient(fhir.read(fhir.write(found, other), other, ["Patient"])) == patient, f"another person in {other}"
        return "Patient"
    return read


TARGETS = (Target(name="fhir", make=_fhir, golden=("fhir",), words=WORDS, slope=2e-5),)
