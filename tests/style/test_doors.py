"""The linter's own rule of doors finds who goes round one."""

import grimp
import pytest

from tests.style.doors import intruders

IMPORTS = (("broker.a", "lib"), ("broker.a.b", "lib"), ("broker.x.store", "lib"), ("broker.x.store.tables", "lib"),
           ("broker.x.y.store", "lib"), ("broker.other", "unrelated"), ("broker.x", "broker.x.store"),
           ("broker.x.store.rows", "broker.x.store.tables"), ("broker.a", "broker.x.store.tables"))


@pytest.mark.parametrize(("line", "wrong"), [
    ("lib: a, *.store", ["broker.a.b", "broker.x.store.tables", "broker.x.y.store"]),
    ("lib: a.**, *.store.**", ["broker.x.y.store"]),
    ("lib: a.**, x.**", []),
    ("broker.x.store: x.**", ["broker.a"]),
    ("nothing: a", []),
])
def test_who_goes_round_a_door(line: str, wrong: list[str]) -> None:
    graph = grimp.ImportGraph()
    for importer, imported in IMPORTS:
        graph.add_import(importer=importer, imported=imported)
    assert [importer for importer, _ in intruders(graph, line)] == wrong
