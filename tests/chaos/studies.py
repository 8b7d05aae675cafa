"""Synthetic studies of the load, and the bytes of a data set as a C-STORE carries them."""

import hashlib
import io
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom

from tests.chaos.journal import Picture
from tests.helpers import dicom

RECENT = time.strftime("%Y%m%d", time.gmtime(time.time() - 5 * 86400))
OLD = time.strftime("%Y%m%d", time.gmtime(time.time() - 500 * 86400))


@dataclass(frozen=True, slots=True)
class Shot:
    """One written file and what it is."""

    file: Path
    picture: Picture


def uid(dice: random.Random) -> str:
    """Return a UID of the 2.25 arc that the seed decides."""
    return f"2.25.{uuid.UUID(int=dice.getrandbits(128), version=4).int}"


def data_set(part10: bytes) -> bytes:
    """Return what follows the file meta group of a Part-10 file (PS3.10 7.1: (0002,0000) holds the group's length)."""
    return part10[144 + int.from_bytes(part10[140:144], "little"):]


def sha256_of(part10: bytes) -> str:
    """Return the SHA-256 of a Part-10 file's data set."""
    return hashlib.sha256(data_set(part10)).hexdigest()


def read_manifest(data: bytes) -> tuple[str, dict[str, str]]:
    """Return the study of a manifest, and the series of each image it names, by SOP Instance UID."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    (evidence,) = dataset.CurrentRequestedProcedureEvidenceSequence
    return str(evidence.StudyInstanceUID), {
        str(item.ReferencedSOPInstanceUID): str(one.SeriesInstanceUID)
        for one in evidence.ReferencedSeriesSequence for item in one.ReferencedSOPSequence}


def study(folder: Path, dice: random.Random, patient: str, *, date: str, count: int, pixels: int, series: int = 2) -> list[Shot]:
    """Write a CT study of `count` random images."""
    study_uid = uid(dice)
    series_uids = [uid(dice) for _ in range(series)]
    folder = folder / study_uid
    folder.mkdir(parents=True)
    return [
        shoot(folder / f"{number:03}.dcm", dice, (study_uid, series_uids[number % series], uid(dice)), patient=patient, date=date,
              number=number, pixels=pixels)
        for number in range(1, count + 1)]


def shoot(
    file: Path, dice: random.Random, uids: tuple[str, str, str], *, patient: str, date: str, number: int, pixels: int,
) -> Shot:
    """Write one image of random pixels under (study, series, SOP instance) UIDs."""
    dataset = dicom.ct_dataset(*uids, number=number, size=pixels, patient=dicom.Patient(id=patient, name="Chaos^Patient=混沌"))
    dataset.StudyDate = date
    dataset.PixelData = dice.randbytes(2 * pixels * pixels)
    dataset.save_as(file, enforce_file_format=True)
    picture = Picture(
        patient=patient, study=uids[0], series=uids[1], sop=uids[2], sha256=sha256_of(file.read_bytes()), old=date == OLD)
    return Shot(file, picture)


def drop(shots: Sequence[Shot]) -> None:
    """Remove the files; the journal knows what they held."""
    for shot in shots:
        shot.file.unlink(missing_ok=True)
