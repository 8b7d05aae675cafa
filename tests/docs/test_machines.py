from broker.imaging.store.machines import FETCH_JOB
from tests.docs import machines


def test_the_diagrams_are_those_of_the_tables() -> None:
    text = machines.PAGE.read_text("utf-8")
    assert "stateDiagram-v2" in text
    assert machines.page(text) == text, "run python -m tests.docs.machines"


def test_a_diagram_has_an_arrow_for_each_transition() -> None:
    drawn = machines.drawn(FETCH_JOB)
    assert "    [*] --> queued: asked for\n" in drawn
    assert "    running --> queued: given back, abandoned\n" in drawn
    assert "    done --> [*]: forgotten\n" in drawn
