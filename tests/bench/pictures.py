"""CT studies for the DICOM figures, written once into the benchmarks' folder and kept there."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.bench import scene
from tests.helpers.dicom import ct_dataset

STUDIES, SLICES = 4, 200
_SERIES = 2
_MADE = "1"     # raise it when `_slice` changes: the files are made anew


@dataclass(frozen=True)
class Pictures:
    """Studies of `SLICES` CT slices each, a folder per study."""

    folder: Path
    size: int

    @property
    def studies(self) -> list[Path]:
        """The studies' folders."""
        return [self.folder / f"study-{number}" for number in range(STUDIES)]

    @property
    def uid(self) -> str:
        """The Study Instance UID of the first study."""
        return _study_uid(self.size, 0)

    @property
    def bytes(self) -> int:
        """Size of one file."""
        return (self.studies[0] / "0000.dcm").stat().st_size


def made(size: int) -> Pictures:
    """Return studies of slices of `size` x `size` pixels of 16 bit, with a header of about 280 elements."""
    pictures = Pictures(scene.ROOT / f"ct-{size}", size)
    mark = pictures.folder / "made"
    if not (mark.is_file() and mark.read_text("ascii") == _MADE):
        shutil.rmtree(pictures.folder, ignore_errors=True)
        for study, folder in enumerate(pictures.studies):
            folder.mkdir(parents=True)
            for number in range(SLICES):
                _slice(size, study, number).save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
        mark.write_text(_MADE, "ascii")
    return pictures


def _study_uid(size: int, study: int) -> str:
    return f"1.2.840.99.{size}.{study + 1}"


def _slice(size: int, study: int, number: int) -> Dataset:
    study_uid = _study_uid(size, study)
    series_uid = f"{study_uid}.{number % _SERIES + 1}"
    dataset = ct_dataset(study_uid, series_uid, f"{series_uid}.{number + 1}", number=number, size=size)
    dataset.PixelData = os.urandom(2 * size * size)
    for group in (0x0019, 0x0021, 0x0027, 0x0043):      # as scanners do: more private elements than standard ones
        block = dataset.private_block(group, "BENCH", create=True)
        for element in range(50):
            block.add_new(element, "DS" if element % 2 else "LO", f"{number * element / 7:.6f}")
    for keyword in ("ReferencedImageSequence", "SourceImageSequence"):
        setattr(dataset, keyword, Sequence(_reference(series_uid, other) for other in range(3)))
    for keyword, value in {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "Manufacturer": "SYNTHETIC", "ProtocolName": "CHEST ROUTINE",
        "ImagePositionPatient": [-180.0, -180.0, number * 1.25], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SliceLocation": number * 1.25, "SliceThickness": 1.25, "KVP": 120, "PixelSpacing": [0.7, 0.7],
        "FrameOfReferenceUID": f"{study_uid}.0", "WindowCenter": 40, "WindowWidth": 400, "RescaleIntercept": -1024,
        "RescaleSlope": 1,
    }.items():
        setattr(dataset, keyword, value)
    return dataset


def _reference(series_uid: str, number: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{series_uid}.{number + 1}"
    return item
