"""What was checked, how many of it, and what was wrong; the table of a run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what must hold, for how many things it was looked at, and those for which it does not hold."""

    what: str
    looked_at: int
    wrong: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """The checks of a run in order, and plain counts beside them."""

    checks: list[Check] = field(default_factory=list)
    counts: list[tuple[str, int, str]] = field(default_factory=list)

    def check(self, what: str, looked_at: int, wrong: Iterable[str]) -> None:
        """Add a check."""
        self.checks.append(Check(what, looked_at, tuple(wrong)))

    def count(self, what: str, number: int, note: str = "") -> None:
        """Add a count that is neither right nor wrong."""
        self.counts.append((what, number, note))

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return sum(len(check.wrong) for check in self.checks)

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print(_table(("happened", "times", ""), self.counts))
        console.print(_table(("must hold", "checked", "wrong"), [
            (check.what, check.looked_at, f"[red]{len(check.wrong)}" if check.wrong else "[green]0") for check in self.checks]))
        for check in self.checks:
            for line in check.wrong[:5]:
                console.print(f"[red]{check.what}:[/] {line}", markup=True)

    def write(self, file: Path) -> None:
        """Write everything, every wrong thing named, as JSON."""
        file.write_text(json.dumps({
            "counts": [list(row) for row in self.counts],
            "checks": [{"what": c.what, "checked": c.looked_at, "wrong": list(c.wrong)} for c in self.checks],
        }, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(*head)
    for row in rows:
        table.add_row(*map(str, row))
    return table
