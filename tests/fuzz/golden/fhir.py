"""Golden FHIR resources."""

from typing import Any

from broker.model.ids import PatientId
from broker.wire import fhir
from broker.wire.fhir_outcome import outcome
from broker.wire.fhir_patient import write_patient
from tests.fuzz.golden.origin import HAND, OURS, PERSON, Files

_IDS = [PatientId("2.999.1.1", "X1"), PatientId("2.999.2.1", "A-1")]
_HAND = """<?xml version="1.0"?>
<!-- as a source sends it -->
<Patient xmlns="http://hl7.org/fhir" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://hl7.org/fhir x">
  <id value="p1"/><text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml"><b>区</b></div></text>
  <contained><Organization><name value="x"/></Organization></contained>
  <identifier id="i"><type><coding><system value="http://terminology.hl7.org/CodeSystem/v2-0203"/><code value="NI"/></coding>
    </type><value value="110101199003078888"/></identifier>
  <identifier><system value="urn:oid:2.999.2.1"/><value value="A-2"/></identifier>
  <active value="false"/><name><text value="欧阳静"/>
    <given value="静"><extension url="http://x.example"><valueBoolean value="true"/></extension></given></name>
  <birthDate><extension url="http://x.example/unknown"><valueCode value="unknown"/></extension></birthDate>
  <multipleBirthInteger value="2"/><photo><size value="3"/></photo>
  <link><other><identifier><system value="urn:oid:2.999.2.1"/><value value="A-1"/></identifier></other>
    <type value="replaced-by"/></link>
</Patient>
"""


def _resources() -> Files:
    patient = write_patient("X1", _IDS, PERSON)
    parameters: dict[str, Any] = {"resourceType": "Parameters", "parameter": [
        {"name": "resource", "resource": patient}, {"name": "count", "valueInteger": 3},
        {"name": "onlyCertainMatches", "valueBoolean": True}]}
    return {
        "patient.json": (OURS, fhir.write(patient, fhir.JSON)), "patient.xml": (OURS, fhir.write(patient, fhir.XML)),
        "parameters.json": (OURS, fhir.write(parameters, fhir.JSON)), "parameters.xml": (OURS, fhir.write(parameters, fhir.XML)),
        "outcome.json": (OURS, fhir.write(outcome("invalid", "区 <&>"), fhir.JSON)),
        "patient-hand.xml": (HAND, _HAND.encode()),
    }


FOLDERS = {"fhir": _resources}
