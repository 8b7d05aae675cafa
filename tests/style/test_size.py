import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "broker").rglob("*.py"))


def functions() -> Iterator[tuple[str, int]]:
    for file in SOURCES:
        if "migrations" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file.relative_to(ROOT)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_no_function_is_longer_than_sixty_lines() -> None:
    assert [(name, lines) for name, lines in functions() if lines > 60] == []


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    counts = {str(file.relative_to(ROOT)): len(file.read_text("utf-8").splitlines()) for file in SOURCES}
    assert {name: lines for name, lines in counts.items() if lines > 500} == {}


def test_nothing_is_left_for_later() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "raise NotImplemented" + "Error")
    assert [str(file) for file in SOURCES for mark in marks if mark in file.read_text("utf-8")] == []


def test_every_python_folder_of_the_package_is_a_package() -> None:
    folders = {file.parent for file in SOURCES if "migrations" not in file.parts}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
