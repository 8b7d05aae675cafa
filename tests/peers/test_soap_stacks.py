"""SOAP stacks as they come, without WS-Addressing: they read our answers and our faults."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.soap import NS, Served, ask, served

pytestmark = [pytest.mark.peer("java"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
STACKS = ROOT / "tests" / "peers" / "java" / "stacks"
PROGRAMS = {"metro": "JaxWs.java", "cxf": "JaxWs.java", "axis2": "Axis2.java"}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("edge")) as server:
        yield server


@pytest.fixture(params=PROGRAMS)
def stack(request: pytest.FixtureRequest) -> list[str]:
    """The command that runs a stack; its jars are fetched once."""
    name: str = request.param
    jars = ROOT / "build" / "soap-stacks" / name
    if not list(jars.glob("*.jar")):
        run("mvn", "-q", "-B", "-f", str(STACKS / f"{name}.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={jars}")
    return ["java", "-Xmx256m", "-cp", f"{jars}/*", str(STACKS / PROGRAMS[name])]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout.decode()


def test_a_stack_reads_answers_and_faults(stack: list[str], edge: Served) -> None:
    messages = (
        ("/ask", ask("hello").decode(), "plain", "answer ", "hello"),
        ("/keep", f'<Keep xmlns="{NS}"/>', "mtom", "answer ", "Kept"),
        ("/give", f'<Give xmlns="{NS}">3</Give>', "plain", "fault ", "MTOMFeature"),
        ("/ask", f'<Other xmlns="{NS}"/>', "plain", "fault ", "is not served here"),
    )
    told = run(*stack, *(word for path, body, how, _, _ in messages for word in (f"{edge.url}{path}", body, how))).splitlines()
    assert len(told) == len(messages)
    for line, (_, _, _, begins, holds) in zip(told, messages, strict=True):
        assert line.startswith(begins), line
        assert holds in line
