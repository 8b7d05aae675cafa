"""The list of hostile and broken input has a test for every case, and every test it names is there."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
# The agreed list in one file, and what the field sent since in one file for each part of the house.
FILES = (HERE / "cases.toml", *sorted((HERE / "found").glob("*.toml")))
CASES: list[dict[str, Any]] = [case for file in FILES for case in tomllib.loads(file.read_text("utf-8"))["case"]]

# The list as it was agreed, phrase by phrase; a phrase may have several cases.
PHRASES = (
    "unknown patient", "wrong code", "duplicate uniqueId with another hash", "hash mismatch", "size mismatch",
    "missing attachment", "surplus attachment", "MTOM body cut at every part border and in mid-part", "body over the limit",
    "part over the limit", "chunked body without end", "DTD", "entities", "second Body child", "unknown action",
    "wrong content type", "mustUnderstand on an unknown header", "MLLP frame split at every byte",
    "GB 18030 character split across reads", "several messages in one segment", "a frame without an end", "ADT without PID-3",
    "unknown authority", "wrong version", "same MSH-10 again", "C-STORE of a broken dataset", "C-STORE of an evil SOP UID",
    "C-STORE of a group length lie", "C-STORE of an unsupported class", "the same SOP instance twice",
    "KOS with mismatched lists", "S-DICOM truncated", "S-DICOM with a flipped byte", "a PACS that refuses",
    "a PACS that is silent", "a PACS that pends for ever", "a PACS that sends half and aborts",
    "a PACS that sends other instances than asked", "a PACS that says success and sends nothing",
    "a PACS that dies and comes back", "a consumer that disconnects in mid-answer", "disk full", "Redis gone and back",
    "slow bodies have deadlines", "idle connections have deadlines", "a thousand idle HTTP connections",
    "a thousand idle MLLP connections", "a thousand idle DICOM connections",
)

# Who reads what strangers send: the module of its property tests and its fuzz targets.
READERS = {
    "SOAP and MTOM": ("tests/property/test_mime.py", {"mime", "soap", "centre", "xml"}),
    "ebXML": ("tests/property/test_ebxml.py", {"ebxml", "query", "retrieve", "answers"}),
    "HL7 v2": ("tests/property/test_hl7v2.py", {"hl7v2", "mllp"}),
    "HL7 V3": ("tests/property/test_hl7v3.py", {"hl7v3"}),
    "FHIR": ("tests/property/test_fhir.py", {"fhir"}),
    "KOS": ("tests/unit/wire/test_kos.py", {"kos"}),
    "DICOM objects": ("tests/property/test_tags.py", {"tags", "identify", "receiver"}),
    "SequenceFile": ("tests/property/test_sequencefile.py", {"sequencefile", "container", "index", "header", "attributes"}),
    "PDU": ("tests/property/test_pdata.py", {"pdu", "association", "pacs"}),
}


@cache
def named_in(file: str) -> frozenset[str]:
    """Return the names of a module's tests."""
    return frozenset(node.name for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
                     if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def test_every_phrase_has_a_case_and_every_case_a_test() -> None:
    found = [case["phrase"].partition(":")[0] for case in CASES]
    assert [phrase for phrase in PHRASES if phrase not in found] == []
    assert all(case["error"] and case["tests"] for case in CASES)
    assert len({case["phrase"] for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def collected() -> frozenset[str]:
    """The node ids pytest itself finds in the named modules."""
    files = sorted({node.partition("::")[0] for case in CASES for node in case["tests"]})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return frozenset(line for line in done.stdout.splitlines() if "::" in line)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["phrase"])
def test_every_named_test_exists(collected: frozenset[str], case: dict[str, Any]) -> None:
    """A node without parameters stands for all it has."""
    assert [node for node in case["tests"] if node not in collected
            and ("[" in node or not any(one.startswith(f"{node}[") for one in collected))] == []


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_has_its_property_tests_and_fuzz_targets(reader: str) -> None:
    file, targets = READERS[reader]
    given = [node for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
             and any(isinstance(one, ast.Call) and ast.unparse(one.func) == "given" for one in node.decorator_list)]
    assert given, file
    assert targets - {target.name for target in TARGETS} == set()


def test_every_fuzz_target_belongs_to_a_reader() -> None:
    known = set().union(*(targets for _, targets in READERS.values()))
    assert {target.name for target in TARGETS} - known == {"coord"}     # what the broker's own processes tell each other


def test_every_test_of_this_folder_proves_a_case() -> None:
    named = {tuple(node.partition("[")[0].split("::")) for case in CASES for node in case["tests"]}
    own = {(f"tests/hostile/{file.name}", name) for file in Path(__file__).parent.glob("test_*.py")
           if file != Path(__file__) for name in named_in(f"tests/hostile/{file.name}")}
    assert sorted(own - named) == []
