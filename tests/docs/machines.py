"""Draws the state machines into docs/architecture.md: `python -m tests.docs.machines`."""

import re
from pathlib import Path

from broker.db.machine import GONE, NEW, Machine
from broker.imaging.store.machines import FETCH_JOB, PUBLICATION, RECALL, STUDY
from broker.patients.store.outbox import NOTIFICATION
from broker.repository.store import DOCUMENT

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
_BEGIN, _END = "<!-- machines -->\n", "<!-- end of machines -->"


def drawn(machine: Machine) -> str:
    """Return a machine as a Mermaid diagram; the events between two states share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for one in machine.transitions:
        arrows.setdefault((one.source, one.target), []).append(one.event)
    lines = [f"    {_state(source)} --> {_state(target)}: {', '.join(events)}" for (source, target), events in arrows.items()]
    return "\n".join([f"**{machine.name.capitalize()}**", "", "```mermaid", "stateDiagram-v2", *lines, "```", ""])


def _state(name: str) -> str:
    return "[*]" if name in (NEW, GONE) else name


def page(text: str) -> str:
    """Return the page with the diagrams as they are now."""
    diagrams = "\n".join(drawn(machine) for machine in (STUDY, PUBLICATION, FETCH_JOB, RECALL, DOCUMENT, NOTIFICATION))
    return re.sub(f"(?<={_BEGIN}).*(?={_END})", lambda _: f"\n{diagrams}\n", text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
