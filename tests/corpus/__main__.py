"""`python -m tests.corpus [--every N] [--write-docs FILE]`: real files through every door, and what came of each."""

import argparse
import re
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.corpus.files import made_by_hand, specimens
from tests.corpus.run import by_cstore, by_origin
from tests.corpus.table import lost, markdown

OUT = Path("build/corpus")
_MARK = "<!-- corpus -->"


def main() -> int:
    """Run, print the tables; 1 when anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take one file of so many")
    parser.add_argument("--write-docs", type=Path, help="put the tables into this file, behind its mark")
    options = parser.parse_args()
    console = Console(width=200)
    shutil.rmtree(OUT, ignore_errors=True)
    real = list(specimens())[::options.every]
    files = [*real, *list(made_by_hand((OUT / "made").resolve()))[::options.every]]
    console.print(f"{len(files)} files")
    ways, began = [], time.monotonic()
    for name, way, some in (("cstore", by_cstore, files), ("origin", by_origin, real)):     # Orthanc hangs on some made by hand
        folder = (OUT / name).resolve()
        folder.mkdir(parents=True)
        ways.append(way(folder, some, console.print))
    tables = markdown(ways)
    (OUT / "corpus.md").write_text(tables, "utf-8")
    console.print(tables, markup=False)
    wrong = lost(ways)
    for text in wrong:
        console.print(f"LOST {text}", markup=False)
    console.print(f"{len(files)} files, {len(wrong)} lost or wrong, {time.monotonic() - began:.0f} s; more is in {OUT}")
    if options.write_docs:
        _write(options.write_docs, tables)
    return 1 if wrong else 0


def _write(file: Path, tables: str) -> None:
    """Replace what stands between the mark and the next heading."""
    text = file.read_text("utf-8")
    assert _MARK in text, file
    file.write_text(re.sub(rf"{_MARK}\n.*?(?=\n## |\Z)", lambda _: f"{_MARK}\n\n{tables}", text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
