"""`python -m tests.fuzz.golden` makes the golden inputs anew. Commit what it writes only when a format really changed.

Files of other programs are recorded where those programs are installed, and left as they are where not. Every file's
origin is told in its folder's origin.toml; all content is synthetic.
"""

import json
import tomllib

from tests.fuzz.golden import dicom, fhir, hl7, soap
from tests.fuzz.golden.origin import Files
from tests.fuzz.harness import GOLDEN


def write(folder: str, files: Files) -> None:
    """Write the files of a folder and tell their origins, beside those of files that could not be made now."""
    place = GOLDEN / folder
    place.mkdir(parents=True, exist_ok=True)
    told = place / "origin.toml"
    before = tomllib.loads(told.read_text("utf-8")) if told.exists() else {}
    origins = {name: entry["how"] for name, entry in before.items() if (place / name).exists()}
    for name, (how, data) in files.items():
        (place / name).write_bytes(data)
        origins[name] = how
    told.write_text("".join(
        f"[{json.dumps(name)}]\nhow = {json.dumps(how, ensure_ascii=False)}\n" for name, how in sorted(origins.items())), "utf-8")


def main() -> None:
    """Make all folders."""
    for maker in (hl7.FOLDERS, fhir.FOLDERS, soap.FOLDERS, dicom.FOLDERS):
        for folder, make in maker.items():
            write(folder, make())


if __name__ == "__main__":
    main()
