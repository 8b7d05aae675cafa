"""Presentation contexts: every storage SOP class, retired ones too, and what we propose as a requestor."""

from collections.abc import Sequence

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, register_uid
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass

VERIFICATION = "1.2.840.10008.1.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"

# Retired storage classes (PS3.6 annex A); archives still hold and send their objects.
RETIRED = {
    "1.2.840.10008.5.1.1.27": "StoredPrintStorage",
    "1.2.840.10008.5.1.1.29": "HardcopyGrayscaleImageStorage",
    "1.2.840.10008.5.1.1.30": "HardcopyColorImageStorage",
    "1.2.840.10008.5.1.4.1.1.3": "UltrasoundMultiFrameImageStorageRetired",
    "1.2.840.10008.5.1.4.1.1.5": "NuclearMedicineImageStorageRetired",
    "1.2.840.10008.5.1.4.1.1.6": "UltrasoundImageStorageRetired",
    "1.2.840.10008.5.1.4.1.1.8": "StandaloneOverlayStorage",
    "1.2.840.10008.5.1.4.1.1.9": "StandaloneCurveStorage",
    "1.2.840.10008.5.1.4.1.1.9.1": "WaveformStorageTrial",
    "1.2.840.10008.5.1.4.1.1.10": "StandaloneModalityLUTStorage",
    "1.2.840.10008.5.1.4.1.1.11": "StandaloneVOILUTStorage",
    "1.2.840.10008.5.1.4.1.1.12.3": "XRayAngiographicBiPlaneImageStorage",
    "1.2.840.10008.5.1.4.1.1.77.1": "VLImageStorageTrial",
    "1.2.840.10008.5.1.4.1.1.77.2": "VLMultiFrameImageStorageTrial",
    "1.2.840.10008.5.1.4.1.1.88.1": "TextSRStorageTrial",
    "1.2.840.10008.5.1.4.1.1.88.2": "AudioSRStorageTrial",
    "1.2.840.10008.5.1.4.1.1.88.3": "DetailSRStorageTrial",
    "1.2.840.10008.5.1.4.1.1.88.4": "ComprehensiveSRStorageTrial",
    "1.2.840.10008.5.1.4.1.1.129": "StandalonePETCurveStorage",
    "1.2.840.10008.5.1.4.34.1": "RTBeamsDeliveryInstructionStorageTrial",
}
for _uid, _keyword in RETIRED.items():  # else pynetdicom aborts when such an object comes
    register_uid(_uid, _keyword, StorageServiceClass)

STORAGE = (*(str(context.abstract_syntax) for context in AllStoragePresentationContexts), *RETIRED)
RECEIVED = frozenset((*STORAGE, VERIFICATION))

# What one class is proposed with: each on its own, so that the peer sends every object as it keeps it. The first is what
# a peer takes that looks at the class alone (dcmqrscp).
_SYNTAXES = (
    EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101",
    "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.103", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
)
_ROOM = 127     # PS3.8 9.3.2.2: ids are odd, 1..255; one is for the C-GET itself
# When the PACS does not say which classes it will send: the commonest first.
_COMMON = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2",
    "1.2.840.10008.5.1.4.1.1.20", "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.4.1",
)


# When one context offers several: what loses nothing first, and keeps the VRs; then the order of the standard.
_ACCEPTED = [EXPLICIT, *(syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax != EXPLICIT)]


def supported() -> list[PresentationContext]:
    """Give what the listener accepts: verification, and every storage class in every transfer syntax."""
    return [build_context(VERIFICATION), *(build_context(uid, _ACCEPTED) for uid in STORAGE)]


def plain(sop_class: str) -> list[PresentationContext]:
    """Give one context in Implicit VR Little Endian, which every peer has (PS3.5 10.1)."""
    return [build_context(sop_class, IMPLICIT)]


def wanted(sop_classes: Sequence[str]) -> list[PresentationContext]:
    """Give the storage contexts to propose with a C-GET of objects of these classes (empty = unknown)."""
    classes = list(dict.fromkeys(sop_classes)) or list(dict.fromkeys((*_COMMON, *STORAGE)))[:_ROOM // 2]
    if len(classes) * len(_SYNTAXES) <= _ROOM:
        return [build_context(uid, syntax) for uid in classes for syntax in _SYNTAXES]
    if 2 * len(classes) <= _ROOM:
        return [build_context(uid, syntaxes) for uid in classes for syntaxes in ([EXPLICIT, IMPLICIT], list(_SYNTAXES[2:]))]
    return [build_context(uid, [EXPLICIT, IMPLICIT, *_SYNTAXES[2:]]) for uid in classes[:_ROOM]]
