"""A long run: `python -m tests.bench.drill STUDIES` builds an archive of so many studies of 200 images, enters its rows in an
empty database, then does the drill beside it. 5000 studies are a million images; about 1.3 KB each, since no pixel is read.
"""

import hashlib
import os
import sys
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console

from broker.archive.formats.sdicom import PackImage, write_container
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.config import profile as profiles
from broker.db import Database, schema
from broker.files.sources import Octets
from broker.imaging.archiving.drill import drill
from broker.imaging.archiving.rebuild import Rebuilder
from tests.bench import scene
from tests.bench.rebuild import Names, manifest, picture
from tests.helpers.dicom import CT

IMAGES, SERIES = 200, 4
_FIRST = 100_000        # so that all UIDs have one length, and a study's pictures are another's with other digits


def _study(number: int) -> str:
    return f"1.2.840.99.{_FIRST + number}"


def _pictures() -> list[tuple[str, bytes]]:
    """Return (series, bytes) of each picture of the first study."""
    found = []
    for place in range(IMAGES):
        series = f"{_study(0)}.{place % SERIES + 1}"
        found.append((series, picture(_study(0), series, f"{series}.{1000 + place}", place, 8)))
    return found


def _pack(archive: Path, pictures: list[tuple[str, bytes]], number: int, names: Names) -> None:
    before, now, images = _study(0), _study(number), []
    for place, (of, data) in enumerate(pictures):
        series, own = of.replace(before, now), data.replace(before.encode(), now.encode())
        images.append(PackImage(
            sop_uid=f"{series}.{1000 + place}", series_uid=series, sop_class=CT, transfer_syntax="1.2.840.10008.1.2.1",
            number=place, sha256=hashlib.sha256(own).hexdigest(), source=Octets(own)))
    folder = archive / hashlib.sha256(now.encode()).hexdigest()[:2]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{now}-{number:012x}.seq").open("wb") as file:
        write_container(file, now, images, manifest(now, [f"{now}.{one + 1}" for one in range(SERIES)], number, names), bytes(16))


def main(studies: int) -> None:
    """Build, rebuild, drill; print how long each took."""
    said, names, pictures = Console(), Names(), _pictures()
    with scene.folder() as where:
        began = time.perf_counter()
        for number in range(studies):
            _pack(where / "archive", pictures, number, names)
        said.print(f"{studies} containers, {studies * IMAGES} images packed in {time.perf_counter() - began:.0f} s")
        sdfo, profile = Sdfo(OnlineStore(where / "online"), PosixStore(where / "archive")), profiles.load("demo")
        with closing(Database(f"sqlite:///{where / 'broker.db'}")) as database:
            schema.upgrade(database)
            began = time.perf_counter()
            found = Rebuilder(database, sdfo, profile).run()
            seconds = time.perf_counter() - began
            said.print(f"rebuild-index: {found.studies} studies, {found.images} images in {seconds:.1f} s, "
                       f"{found.images / seconds:.0f} images/s; {len(found.damaged)} damaged")
            seen = drill(database, sdfo, profile)
            said.print(f"drill: {seen.rebuilt.images} images in {seen.seconds:.1f} s; {seen.different} studies different; "
                       f"memory {scene.peak_memory(os.getpid())}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
