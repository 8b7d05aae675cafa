"""Benchmarks as ratios: ours and a named peer measured in turn in one run, on one file system.

A figure is a function that gives one pair of rates (ours, peer) each time it is called, greater is better (or a pair of costs:
`lower`); the runner calls it several times and takes the median of each side. `make bench ONLY=name*` writes `build/bench.json`
and prints the table.
"""

import fnmatch
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

Pair = tuple[float, float]
Round = Callable[[], Pair]


@dataclass(frozen=True)
class Figure:
    """One benchmark: `<work>.<peer>`; a name never changes peer or size. Where `lower` values are better, the peer is a bound.

    A `large` one, whose data take minutes to make, is measured only when a pattern asks for it.
    """

    name: str
    peer_name: str
    unit: str
    floor: float
    aim: float
    setup: Callable[["Notes"], AbstractContextManager[Round]]
    runs: int = 5
    lower: bool = False
    large: bool = False


@dataclass
class Notes:
    """Free remarks of a figure: sizes, memory."""

    lines: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Say one thing, once."""
        if text not in self.lines:
            self.lines.append(text)


@dataclass(frozen=True)
class Result:
    """What `build/bench.json` holds for one figure."""

    name: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    runs: int
    floor: float
    aim: float
    notes: str


def measure(figure: Figure) -> Result:
    """Set a figure up, warm it once, run it, give the medians."""
    notes = Notes()
    with figure.setup(notes) as once:
        once()
        pairs = [once() for _ in range(figure.runs)]
    ours, peer = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = peer / ours if figure.lower else ours / peer
    return Result(figure.name, ours, peer, figure.peer_name, figure.unit, ratio, figure.runs, figure.floor, figure.aim,
                  "; ".join(notes.lines))


def run(figures: list[Figure], only: str, target: Path) -> int:
    """Measure the figures that match `only`; return the number that stayed below their floor."""
    chosen = [figure for figure in figures if fnmatch.fnmatch(figure.name, only) and not (only == "*" and figure.large)]
    large = {figure.name for figure in figures if figure.large}
    console = Console(width=150)
    results = []
    for figure in chosen:
        started = time.monotonic()
        results.append(measure(figure))
        last = results[-1]
        console.print(f"{last.name}: {last.ratio:.2f} (floor {last.floor}, aim {last.aim}) in {time.monotonic() - started:.0f} s")
    target.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(target.read_text()) if target.exists() else []
    kept = {row["name"]: row for row in before if only != "*" or row["name"] in large}
    kept |= {result.name: asdict(result) for result in results}
    target.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
    console.print(table(results))
    return sum(result.ratio < result.floor for result in results)


def table(results: list[Result]) -> Table:
    """Return the results as a table for the screen."""
    shown = Table("figure", "ours", "peer", "unit", "ratio", "floor", "aim", "notes")
    for r in results:
        mark = "[red]" if r.ratio < r.floor else "[green]" if r.ratio >= r.aim else ""
        shown.add_row(r.name, f"{r.ours:.1f}", f"{r.peer:.1f} {r.peer_name}", r.unit, f"{mark}{r.ratio:.2f}",
                      str(r.floor), str(r.aim), r.notes)
    return shown


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(work: Callable[[], object], seconds_long: float = 0.5) -> float:
    """Return calls per second over at least `seconds_long`."""
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds_long:
        work()
        count += 1
    return count / passed


def markdown(rows: list[dict[str, object]]) -> Iterator[str]:
    """Return `build/bench.json` as the lines of docs/results.md's table."""
    yield "| figure | ours | peer | unit | ratio | floor | aim | notes |"
    yield "|---|---|---|---|---|---|---|---|"
    for r in rows:
        yield (f"| `{r['name']}` | {r['ours']:.1f} | {r['peer']:.1f} ({r['peer_name']}) | {r['unit']} | **{r['ratio']:.2f}** |"
               f" {r['floor']} | {r['aim']} | {r['notes']} |")


def main(figures: list[Figure], arguments: list[str]) -> None:
    """Run from the command line: `[pattern] [--write-docs FILE]`."""
    target = Path("build/bench.json")
    if "--write-docs" in arguments:
        page = Path(arguments[arguments.index("--write-docs") + 1])
        head = page.read_text("utf-8").partition("<!-- table -->")[0]
        page.write_text(head + "<!-- table -->\n\n" + "\n".join(markdown(json.loads(target.read_text()))) + "\n", "utf-8")
        return
    sys.exit(1 if run(figures, arguments[0] if arguments else "*", target) else 0)
