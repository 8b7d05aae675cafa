"""Presentation contexts: what a sender may propose, every storage class and retired ones too, and what a C-GET proposes."""

from collections.abc import Iterable, Sequence

from pydicom import uid as uids
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts

from broker.config.profile import Hospital
from broker.edge.dimse import association
from broker.edge.dimse.association import Answered, Context
from broker.model.ids import is_uid
from broker.model.syntaxes import EXPLICIT, IMPLICIT, RECEIVED_SYNTAXES

VERIFICATION = "1.2.840.10008.1.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"

# Retired storage classes (PS3.6 annex A), which pynetdicom has no names for; archives still hold and send their objects.
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

STORAGE = (*(str(context.abstract_syntax) for context in AllStoragePresentationContexts), *RETIRED)
_STORAGE = frozenset(STORAGE)
# C-ECHO has no data set: any of these
_VERIFIED = (IMPLICIT, EXPLICIT, str(uids.DeflatedExplicitVRLittleEndian), str(uids.ExplicitVRBigEndian))

# What a C-GET proposes each class with, the likeliest first: those at the front get a context of their own as long as there
# is room, so that the peer sends such objects as it keeps them. The very first is what a peer takes that looks at the class
# alone (dcmqrscp).
_LIKELY = tuple(map(str, (
    EXPLICIT, IMPLICIT, uids.JPEGLosslessSV1, uids.JPEGBaseline8Bit, uids.JPEG2000Lossless, uids.JPEG2000, uids.RLELossless,
    uids.JPEGLSLossless, uids.JPEGLSNearLossless, uids.JPEGExtended12Bit, uids.JPEGLossless, uids.MPEG4HP41, uids.MPEG4HP41BD,
    uids.MPEG2MPML, uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL, uids.HTJ2K,
)))
# What hardly any object has: retired processes, encapsulations, streams. dcmtk 3.6.7 is silent for ever when one context
# offers more than 50 syntaxes, so these are kept apart from the others.
_ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"      # pydicom has no name for it
_RARE = (*(uid for uid in RECEIVED_SYNTAXES if UID(uid).is_retired), _ENCAPSULATED_UNCOMPRESSED, *map(str, (
    uids.SMPTEST211020UncompressedProgressiveActiveVideo, uids.SMPTEST211020UncompressedInterlacedActiveVideo,
    uids.SMPTEST211030PCMDigitalAudio)))
_USUAL = (*_LIKELY, *(uid for uid in RECEIVED_SYNTAXES if uid not in _LIKELY and uid not in _RARE))
_ROOM = 127     # PS3.8 9.3.2.2: ids are odd, 1..255; one is for the C-GET itself
# When the PACS does not say which classes it will send: the commonest first.
_COMMON = tuple(map(str, (
    uids.CTImageStorage, uids.MRImageStorage, uids.ComputedRadiographyImageStorage,
    uids.DigitalXRayImageStorageForPresentation, uids.DigitalMammographyXRayImageStorageForPresentation,
    uids.UltrasoundImageStorage, uids.UltrasoundMultiFrameImageStorage, uids.SecondaryCaptureImageStorage,
    uids.XRayAngiographicImageStorage, uids.XRayRadiofluoroscopicImageStorage, uids.NuclearMedicineImageStorage,
    uids.PositronEmissionTomographyImageStorage, uids.EnhancedCTImageStorage, uids.EnhancedMRImageStorage,
)))
_RANK = {syntax: place for place, syntax in enumerate(RECEIVED_SYNTAXES)}

Proposal = tuple[str, tuple[str, ...]]      # a SOP class and the transfer syntaxes of one context for it


def taken(hospital: Hospital) -> frozenset[str]:
    """Return the storage classes that are taken from a hospital, by C-STORE, C-MOVE and C-GET alike."""
    return _STORAGE.union(hospital.sop_classes)


def answer(proposed: Context, classes: frozenset[str]) -> Answered:
    """Return what becomes of a context that a sender proposes: any storage class of `classes` in any syntax, verification.

    An even id, or 0, is against PS3.8 9.3.2.2 but harmless; stgcmtscu of dcm4che proposes 1 and 2, dcmtk and Orthanc take
    them. A context without an abstract syntax is none.
    """
    refused = next(filter(is_uid, proposed.syntaxes), IMPLICIT)     # it is there, without a meaning (PS3.8 9.3.3.2)
    if proposed.abstract not in classes and proposed.abstract != VERIFICATION:
        result = association.NO_ABSTRACT_SYNTAX if proposed.abstract else association.NO_REASON
        return Answered(proposed.number, result, refused)
    known: Iterable[str] = _VERIFIED if proposed.abstract == VERIFICATION else _RANK
    offered = [syntax for syntax in proposed.syntaxes if syntax in known]
    if not offered:
        return Answered(proposed.number, association.NO_TRANSFER_SYNTAX, refused)
    return Answered(proposed.number, association.TAKEN, min(offered, key=_RANK.__getitem__))


def plain(sop_class: str) -> list[Proposal]:
    """Return one context in Implicit VR Little Endian, which every peer has (PS3.5 10.1)."""
    return [(sop_class, (IMPLICIT,))]


def wanted(sop_classes: Sequence[str], hospital: Hospital, attempt: int = 0) -> list[Proposal]:
    """Return the storage contexts to propose with a C-GET of objects of these classes (empty = unknown).

    Of unknown ones the likeliest are proposed, at a further attempt the others.

    Each class gets the transfer syntaxes that are received. Each syntax has a context of its own while the room lasts;
    else the likeliest have, and the others share. Classes that are not taken from the hospital are left out.
    """
    here, known = taken(hospital), list(dict.fromkeys((*hospital.sop_classes, *_COMMON, *STORAGE)))
    guessed = known[_ROOM // 2:] if attempt else known[:_ROOM // 2]
    classes = [uid for uid in dict.fromkeys(sop_classes or guessed) if uid in here][:_ROOM]
    groups = _groups(_ROOM // max(len(classes), 1))
    return [(uid, group) for uid in classes for group in groups]


def _groups(count: int) -> list[tuple[str, ...]]:
    """Return all transfer syntaxes in at most `count` groups; when there may be but one, without the rare ones."""
    if count >= len(RECEIVED_SYNTAXES):
        return [(syntax,) for syntax in (*_USUAL, *_RARE)]
    if count == 1:
        return [_USUAL]
    if count == 2:      # what is not compressed becomes the other without loss of pictures
        return [(*_USUAL[:2], *_RARE), _USUAL[2:]]
    alone: list[tuple[str, ...]] = [(syntax,) for syntax in _USUAL[:count - 2]]
    rest = _USUAL[count - 2:]
    return [*alone, *([rest] if rest else []), _RARE]
