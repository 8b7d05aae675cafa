"""Studies for the demonstration, the tests and a first look: generated volumes and relabelled sample images.

Generated slices say SYNTHETIC in their Series Description and Manufacturer. Acquired images are sample files that
installed packages carry (pydicom's own test files, pydicom-data when it is installed); nothing is downloaded.
"""

import hashlib
import importlib.util
import math
import random
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from operator import add
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from broker.config.profile import Profile
from broker.model.ids import PatientId, new_oid
from broker.model.people import Demographics, PersonName

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"

# The family names hold 0x7E and 0x5E as second bytes in GB 18030, the given name 0x7C: HL7 v2 delimiters.
PERSON = Demographics(
    names=(PersonName("葉", "曉東", use="L"), PersonName("Ye", "XiaoDong", use="A")),
    birth_date="19790214", sex="F", mother=PersonName("區", "秀蘭", use="L"), phones=("+86-591-8765-4321",))
PATIENT_A, PATIENT_B = "A-20417", "B-88031"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """What a study shall be: `slices` generated images of `pixels` x `pixels` in 16 bit, and sample files by name."""

    hospital: str
    patient: PatientId
    person: Demographics = PERSON
    description: str = "CT chest"
    modality: str = "CT"
    day: date
    slices: int
    pixels: int = 256
    samples: tuple[str, ...] = ()
    accession: str = ""
    institution: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFile:
    """One written object. `data_sha256` covers the data set without preamble and file meta, `pixel_sha256` Pixel Data."""

    path: Path
    sop_uid: str
    series_uid: str
    size: int
    data_sha256: str
    pixel_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A written study."""

    uid: str
    plan: StudyPlan
    folder: Path
    files: tuple[StudyFile, ...]


def demo_plans(profile: Profile, today: date) -> tuple[StudyPlan, StudyPlan, StudyPlan]:
    """Return the demonstration's three studies: hospital A's recent CT, its MR from more than a year ago, hospital B's MR."""
    a, b = (h for h in (profile.hospital("a"), profile.hospital("b")) if h)
    recent = StudyPlan(
        hospital="a", patient=PatientId(a.domain, PATIENT_A), day=today - timedelta(days=3), slices=20,
        samples=("CT_small.dcm", "693_UNCR.dcm"), accession="CT-7001", institution=a.title)
    old = replace(
        recent, description="MR brain", modality="MR", day=today - timedelta(days=500), slices=10, pixels=128,
        samples=("MR_small.dcm", "MR2_UNCR.dcm"), accession="MR-4112")
    origin = StudyPlan(
        hospital="b", patient=PatientId(b.domain, PATIENT_B), description="MR spine", modality="MR",
        day=today - timedelta(days=20), slices=12, samples=("examples_overlay.dcm",), accession="B-2290",
        institution=b.title)
    return recent, old, origin


def write_study(plan: StudyPlan, folder: Path, seed: int = 0) -> Study:
    """Write the study's files into `folder` with fresh UIDs; samples that are not installed are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    study_uid, series_uid, frame = new_oid(), new_oid(), new_oid()
    datasets = [_slice(plan, number, series_uid, frame, seed) for number in range(plan.slices)]
    datasets += [_relabelled(path, number) for number, path in enumerate(_installed(plan.samples), start=2)]
    files = []
    for number, dataset in enumerate(datasets, start=1):
        _label(dataset, plan, study_uid)
        files.append(_save(dataset, folder / f"{number:04d}.dcm"))
    return Study(uid=study_uid, plan=plan, folder=folder, files=tuple(files))


def data_sha256(path: Path) -> str:
    """Return the SHA-256 of the data set of a Part-10 file: what a C-STORE carries, without preamble and file meta."""
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")    # PS3.10 7.1: (0002,0000) gives the length behind itself
    return hashlib.sha256(memoryview(content)[start:]).hexdigest()


def pixel_sha256(path: Path) -> str:
    """Return the SHA-256 of Pixel Data."""
    return hashlib.sha256(pydicom.dcmread(path).PixelData).hexdigest()


def person_name(person: Demographics) -> str:
    """Return the DICOM name (PN): the alphabetic group, then the ideographic one."""
    groups = [f"{name.family}^{name.given}" for name in person.names]
    return "=".join(sorted(groups, key=lambda text: not text.isascii()))


def _installed(names: tuple[str, ...]) -> Iterator[Path]:
    extra = importlib.util.find_spec("data_store")              # the module of pydicom-data
    folders = [SAMPLES] + [Path(place) / "data" for place in (extra.submodule_search_locations or ())] if extra else [SAMPLES]
    for name in names:
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found:
            yield found


def _slice(plan: StudyPlan, number: int, series_uid: str, frame: str, seed: int) -> Dataset:
    """Return one generated image: an elliptic body that tapers along z, two cavities, a spine, noise."""
    dataset = Dataset()
    dataset.SOPClassUID = CT if plan.modality == "CT" else MR
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = new_oid(), series_uid, frame
    dataset.Modality, dataset.Manufacturer, dataset.SeriesDescription = plan.modality, "SYNTHETIC", "SYNTHETIC"
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 1, number + 1, 1
    dataset.PatientPosition, dataset.Laterality, dataset.PositionReferenceIndicator = "HFS", "", ""
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-180, -180, number * 5], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [360 / plan.pixels] * 2, 5
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = plan.pixels
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    if plan.modality == "CT":
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.KVP = -1024, 1, 120
    else:
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
        dataset.MRAcquisitionType, dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = "2D", 15, 500, 1
    dataset.PixelData = _phantom(plan.pixels, number / max(plan.slices - 1, 1), random.Random(f"{seed}/{number}"))  # noqa: S311
    return dataset


def _phantom(size: int, height: float, noise: random.Random) -> bytes:
    """Return 12-bit pixels, little endian; `height` runs from 0 to 1 along the body."""
    pixels = array("H", bytes(2 * size * size))
    girth = 0.75 + 0.25 * math.sin(math.pi * height)
    for x, y, width, depth, value in (
            (0.5, 0.5, 0.44 * girth, 0.33 * girth, 1064), (0.33, 0.47, 0.13 * girth, 0.19, 224),
            (0.67, 0.47, 0.13 * girth, 0.19, 224), (0.5, 0.72, 0.05, 0.06, 1724)):
        _ellipse(pixels, size, (x * size, y * size), (width * size, depth * size), value)
    grain = noise.randbytes(size * size).translate(bytes(n & 31 for n in range(256)))
    pixels = array("H", map(add, pixels, grain))
    if sys.byteorder == "big":
        pixels.byteswap()
    return pixels.tobytes()


def _ellipse(pixels: "array[int]", size: int, centre: tuple[float, float], radii: tuple[float, float], value: int) -> None:
    for row in range(math.ceil(centre[1] - radii[1]), math.floor(centre[1] + radii[1]) + 1):
        half = radii[0] * math.sqrt(max(0.0, 1 - ((row - centre[1]) / radii[1]) ** 2))
        left, right = round(centre[0] - half), round(centre[0] + half)
        pixels[row * size + left:row * size + right] = array("H", [value]) * (right - left)


def _relabelled(path: Path, series_number: int) -> Dataset:
    """Return an acquired sample with fresh UIDs and without what named its own patient."""
    dataset = pydicom.dcmread(path)
    dataset.remove_private_tags()
    for keyword in ("OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientComments", "PatientAddress",
                    "RequestAttributesSequence", "ProcedureCodeSequence", "ReferencedStudySequence", "InstitutionAddress",
                    "DataSetTrailingPadding"):      # padding of the file, which not every sender sends
        if keyword in dataset:
            del dataset[keyword]
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = new_oid(), new_oid()
    dataset.SeriesDescription, dataset.SeriesNumber = f"SAMPLE {path.stem}", series_number
    return dataset


def _label(dataset: Dataset, plan: StudyPlan, study_uid: str) -> None:
    dataset.SpecificCharacterSet = "GB18030"
    dataset.PatientName, dataset.PatientID = person_name(plan.person), plan.patient.value
    dataset.PatientBirthDate, dataset.PatientSex = plan.person.birth_date, plan.person.sex
    dataset.StudyInstanceUID, dataset.StudyID, dataset.AccessionNumber = study_uid, plan.accession[-4:], plan.accession
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = plan.day.strftime("%Y%m%d")
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "093000"
    dataset.StudyDescription, dataset.ReferringPhysicianName = plan.description, "Lin^Mei=林^梅"
    dataset.InstitutionName = plan.institution


def _save(dataset: Dataset, path: Path) -> StudyFile:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return StudyFile(
        path=path, sop_uid=str(dataset.SOPInstanceUID), series_uid=str(dataset.SeriesInstanceUID), size=path.stat().st_size,
        data_sha256=data_sha256(path), pixel_sha256=hashlib.sha256(dataset.PixelData).hexdigest())
