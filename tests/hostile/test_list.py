"""The list of hostile and broken input has a test for every case, and every test it names is there."""

import ast
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]

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


@cache
def named_in(file: str) -> dict[str, str]:
    """Give the tests of a module by name, each with the text of the module its parameters come from."""
    source = (ROOT / file).read_text("utf-8")
    return {
        node.name: source for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_phrase_has_a_case_and_every_case_a_test() -> None:
    found = [case["phrase"].partition(":")[0] for case in CASES]
    assert [phrase for phrase in PHRASES if phrase not in found] == []
    assert all(case["error"] and case["tests"] for case in CASES)
    assert len({case["phrase"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["phrase"])
def test_every_named_test_exists(case: dict[str, Any]) -> None:
    for node in case["tests"]:
        file, _, rest = node.partition("::")
        name, _, parameter = rest.partition("[")
        assert name in named_in(file), node
        if parameter:
            assert f'"{parameter.removesuffix("]")}"' in named_in(file)[name], node


def test_every_test_of_this_folder_proves_a_case() -> None:
    named = {tuple(node.partition("[")[0].split("::")) for case in CASES for node in case["tests"]}
    own = {(f"tests/hostile/{file.name}", name) for file in Path(__file__).parent.glob("test_*.py")
           if file != Path(__file__) for name in named_in(f"tests/hostile/{file.name}")}
    assert sorted(own - named) == []
