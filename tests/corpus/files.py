"""The real files: what the installed packages hold, read by pydicom so that the broker's own reader is no judge of itself."""

import hashlib
import importlib.util
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from broker.wire.quiet_pydicom import quiet_pydicom
from broker.wire.tags import DEFLATED, part10_header
from tests.helpers.disorder import DISORDER
from tests.helpers.rawdicom import CT, SERIES, SOP, STUDY, deflate

# Packages that ship DICOM files, by the name under which they are installed and imported.
PACKAGES = {"pydicom": "pydicom", "pydicom-data": "data_store", "pynetdicom": "pynetdicom"}

_NOT_OURS = frozenset((".py", ".pyc", ".json", ".txt", ".md", ".gz", ".icc", ".dump", ".typed", ".so"))


@dataclass(frozen=True, slots=True)
class Specimen:
    """One file: `data` is its data set as C-STORE carries it; `why` says why it cannot be sent, empty when it can."""

    package: str
    path: Path
    why: str
    data: bytes = b""
    sop_class: str = ""
    sop_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    patient: str = ""
    syntax: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256 of the data set."""
        return hashlib.sha256(self.data).hexdigest()


def specimens() -> Iterator[Specimen]:
    """Return all files of all packages that are or claim to be DICOM, by package and path."""
    for package, module in PACKAGES.items():
        found = importlib.util.find_spec(module)
        places = found.submodule_search_locations if found else None
        for file in sorted(file for place in places or () for file in Path(place).rglob("*") if file.is_file()):
            if file.suffix not in _NOT_OURS and (file.suffix == ".dcm" or _prefix(file) == b"DICM"):
                yield _specimen(package, file)


def data_set(part10: bytes) -> bytes:
    """Return what follows the file meta information, by the length it claims, else by its group number (PS3.10 7.1)."""
    at = 132
    while part10[at:at + 2] == b"\2\0":
        long = part10[at + 4:at + 6] in {b"OB", b"UN"}
        size = int.from_bytes(part10[at + 8:at + 12], "little") if long else int.from_bytes(part10[at + 6:at + 8], "little")
        at += (12 if long else 8) + size
    return part10[at:]


def _prefix(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(132)[128:]


def _specimen(package: str, file: Path) -> Specimen:
    whole = file.read_bytes()
    if whole[128:132] != b"DICM":
        return Specimen(package, file, "no Part-10 file: no prefix, so no transfer syntax")
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
            uids = {name: str(dataset.get(name, "") or "") for name in (
                "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")}
    except (ValueError, TypeError, AttributeError, EOFError, OSError, NotImplementedError) as error:
        return Specimen(package, file, f"pydicom cannot read it ({type(error).__name__})")
    kind = uids["SOPClassUID"] or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    instance = uids["SOPInstanceUID"] or str(dataset.file_meta.get("MediaStorageSOPInstanceUID", ""))
    if not (kind and instance and syntax):
        what = "SOP Class UID" if not kind else "SOP Instance UID" if not instance else "transfer syntax"
        return Specimen(package, file, f"nothing to announce: no {what}")
    return Specimen(package, file, "", data_set(whole), kind, instance, uids["StudyInstanceUID"], uids["SeriesInstanceUID"],
                    uids["PatientID"].strip(), syntax)


def same_elements(sent: bytes, sent_syntax: str, got: bytes, got_syntax: str) -> bool:
    """Say whether two data sets have the same elements: what is left when they were only written otherwise."""
    try:
        with quiet_pydicom():
            return _read(sent, sent_syntax) == _read(got, got_syntax)
    except (ValueError, TypeError, AttributeError, EOFError, OSError, NotImplementedError):
        return False


def _read(data: bytes, syntax: str) -> dict[int, object]:
    if syntax == DeflatedExplicitVRLittleEndian:
        data = zlib.decompress(data, -zlib.MAX_WBITS)
    dataset = read_dataset(
        io.BytesIO(data), syntax == ImplicitVRLittleEndian, syntax != "1.2.840.10008.1.2.2")
    # Without group lengths and padding, which senders leave out, and whatever VR unknown or compressed bytes go by.
    return {element.tag: element.value for element in dataset if element.tag.element and element.tag != 0xFFFCFFFC}


def made_by_hand(folder: Path) -> Iterator[Specimen]:
    """Write the objects in disorder into `folder`, each with UIDs of its own, and give them."""
    folder.mkdir(parents=True)
    for number, (kind, (data, syntax)) in enumerate(DISORDER.items(), 10):
        bare = zlib.decompress(data, -zlib.MAX_WBITS) if syntax == DEFLATED else data
        bare = bare.replace(STUDY.encode(), STUDY[:-2].encode() + b"%02d" % number)
        study = STUDY[:-2] + f"{number:02}"
        sop = SOP.replace(STUDY, study)
        path = folder / f"{kind}.dcm"
        body = deflate(bare) if syntax == DEFLATED else bare
        path.write_bytes(part10_header(CT, sop, syntax) + body)
        yield Specimen("made by hand", path, "", body, CT, sop, study, SERIES.replace(STUDY, study), "P1", syntax)
