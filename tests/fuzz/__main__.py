"""`python -m tests.fuzz [--seconds N] [--only NAME] [--seed S]`: fuzz every reader, N seconds each; exit 1 on findings.

`--replay FILE` reads one kept input with the target named by `--only` and shows the traceback.
"""

import argparse
import fnmatch
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz import watch
from tests.fuzz.harness import Finding
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run the targets asked for and print the counts."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz the readers")
    options.add_argument("--seconds", type=float, default=20.0, help="for each target")
    options.add_argument("--only", default="*", help="name of a target; * and ? as in file names")
    options.add_argument("--seed", type=int, default=None, help="the same seed gives the same inputs; default: the clock")
    options.add_argument("--replay", type=Path, help="read this file once instead")
    given = options.parse_args()
    wanted = [target for target in TARGETS if fnmatch.fnmatch(target.name, given.only)]
    if not wanted:
        options.error(f"no target {given.only}; there are {', '.join(target.name for target in TARGETS)}")
    if given.replay:
        with tempfile.TemporaryDirectory() as scratch:
            Console().print(wanted[0].make(Path(scratch))(given.replay.read_bytes()))
            os._exit(0)     # threads of what was read by are still there
    seed = int(time.time()) if given.seed is None else given.seed
    console = Console()
    table = Table("target", "inputs", "per second", "values", "refused", "kinds", "findings", title=f"seed {seed}")
    findings: list[Finding] = []
    for target in wanted:
        with console.status(f"{target.name}: {given.seconds:g} s"):
            report = watch.run(target, given.seconds, seed)
        findings += report.findings
        rate = report.inputs / report.seconds if report.seconds else 0.0
        table.add_row(target.name, f"{report.inputs:,}", f"{rate:,.0f}", f"{report.values:,}", f"{report.refused:,}",
                      f"{report.kinds:,}", str(len(report.findings)))
        if not console.is_terminal:     # a log shows how far it is
            console.print(f"{target.name}: {report.inputs:,} inputs, {len(report.findings)} findings", highlight=False)
        for finding in report.findings:
            console.print(f"[red]{target.name}[/red] {finding.what[:300]}\n    {finding.file}", highlight=False)
    console.print(table)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
