"""All targets."""

from tests.fuzz import targets_archive, targets_dicom, targets_fhir, targets_hl7, targets_soap
from tests.fuzz.harness import Target

TARGETS: tuple[Target, ...] = (
    *targets_soap.TARGETS, *targets_hl7.TARGETS, *targets_fhir.TARGETS, *targets_dicom.TARGETS, *targets_archive.TARGETS)
