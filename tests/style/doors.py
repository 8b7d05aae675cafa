"""The import linter's rule of doors: each library, and each actor's store, is imported by the modules named for it alone.

A line of the contract reads `what: where, where`. `where` is a module below `broker`; `x.**` is x and all below it, `*` one name.
"""

import re

import grimp
from importlinter import Contract, ContractCheck, fields, output


class DoorsContract(Contract):
    """Kept when nobody else imports what has a door."""

    type_name = "doors"
    doors = fields.ListField(subfield=fields.StringField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        lines: list[str] = self.doors  # type: ignore[assignment]  # the linter puts the list in the field's place
        wrong = [f"{importer} -> {what}" for line in lines for importer, what in intruders(graph, line)]
        return ContractCheck(kept=not wrong, metadata={"wrong": wrong})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["wrong"]:
            output.print_error(line, bold=False)
            output.new_line()


def intruders(graph: grimp.ImportGraph, line: str) -> list[tuple[str, str]]:
    """Return (importer, imported) of every import of what the line names that it does not allow."""
    what, _, named = line.partition(":")
    doors = [_pattern(f"broker.{where.strip()}") for where in named.split(",")]
    behind = [module for module in graph.modules if module == what or module.startswith(f"{what}.")]
    return sorted(
        (importer, module) for module in behind for importer in graph.find_modules_that_directly_import(module)
        if importer not in behind and not any(door.fullmatch(importer) for door in doors))


def _pattern(where: str) -> re.Pattern[str]:
    whole = where.endswith(".**")
    text = re.escape(where.removesuffix(".**")).replace(r"\*", "[^.]+")
    return re.compile(text + (r"(\..+)?" if whole else ""))
