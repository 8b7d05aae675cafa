"""A hospital system made with HAPI (Java): it feeds patients, asks, and is told of changes, also across a crash of the broker."""

import base64
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.ports import free_ports
from tests.helpers.region import Region
from tests.helpers.waiting import PATIENCE, eventually
from tests.peers.test_hapi import JARS, JAVA, fetch_jars

pytestmark = [pytest.mark.peer("java"), pytest.mark.timeout(900)]

CONSUMER = """[[consumer]]
key = "his"
transaction = "ITI-10"
host = "127.0.0.1"
port = {port}
application = "HIS-A"
facility = "HOSPA"
domains = ["2.999.2.1"]
"""


class Hapi:
    """The program, with what it got and the answers it had."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.got: list[str] = []
        self._answers: queue.Queue[str] = queue.Queue()
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            ["java", "-Xmx256m", "-cp", f"{JARS}/*", str(JAVA / "HapiPeer.java"), str(port)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self._ready.wait(PATIENCE * 2), "HAPI did not start"

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            what, _, data = line.rstrip("\n").partition("\t")
            text = base64.b64decode(data).decode()
            if what == "ready":
                self._ready.set()
            elif what == "got":
                self.got.append(text)
            else:
                self._answers.put(text)

    def send(self, port: int, message: str) -> list[list[str]]:
        """Send a message; return the answer as fields per segment."""
        assert self._process.stdin
        data = base64.b64encode(message.replace("\n", "\r").encode()).decode()
        self._process.stdin.write(f"{port}\t{data}\n")
        self._process.stdin.flush()
        return [line.split("|") for line in self._answers.get(timeout=PATIENCE).split("\r") if line]

    def told(self) -> list[str]:
        """Return PID-3 of every update notification, and its PID-5."""
        pids = [next(line for line in message.split("\r") if line.startswith("PID")).split("|") for message in self.got]
        return [pid[3] for pid in pids]

    def close(self) -> None:
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()
            self._process.wait(PATIENCE)
            self._listener.join()


@pytest.fixture
def start() -> Iterator[Callable[[int], Hapi]]:
    fetch_jars()
    started: list[Hapi] = []

    def make(port: int) -> Hapi:
        started.append(Hapi(port))
        return started[-1]
    yield make
    for one in started:
        one.close()


def adt(control: str, value: str, event: str = "A04") -> str:
    return (f"MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20260301101500+0800||ADT^{event}^ADT_A01|{control}|P|2.3.1||||||UNICODE UTF-8\n"
            f"EVN|{event}|20260301101500+0800\nPID|||{value}^^^HOSPA&2.999.2.1&ISO^PI||欧阳^静^^^^^L||19790214|F\nPV1||O\n")


def cx(value: str) -> str:
    return f"{value}^^^HOSPA&2.999.2.1&ISO"


def test_hapi_feeds_asks_and_is_told(tmp_path: Path, start: Callable[[int], Hapi]) -> None:
    [port] = free_ports(1)
    region = Region(tmp_path)
    (tmp_path / "region" / "consumers.toml").write_text(CONSUMER.format(port=port), "utf-8")
    with region:
        hapi = start(port)
        assert hapi.send(region.mllp_port, adt("m1", "A1"))[1][:3] == ["MSA", "AA", "m1"]
        assert hapi.send(region.mllp_port, adt("m2", "A2"))[1][:3] == ["MSA", "AA", "m2"]
        eventually(lambda: len(hapi.got) == 2)
        assert hapi.told() == [cx("A1"), f"{cx('A1')}~{cx('A2')}"]
        query = ("MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20260301103000||QBP^Q23^QBP_Q21|q1|P|2.5\n"
                 f"QPD|IHE PIX Query|tag-1|{cx('A1')}\nRCP|I\n")
        answer = {line[0]: line for line in hapi.send(region.mllp_port, query)}
        assert (answer["MSA"][1:3], answer["QAK"][1:3]) == (["AA", "q1"], ["tag-1", "OK"])
        assert cx("A2") in answer["PID"][3]


def test_what_was_to_be_told_outlives_a_crash_and_comes_in_order(tmp_path: Path, start: Callable[[int], Hapi]) -> None:
    here, nowhere = free_ports(2)
    region = Region(tmp_path)
    file = tmp_path / "region" / "consumers.toml"
    file.write_text(CONSUMER.format(port=nowhere), "utf-8")
    hapi = start(here)
    with region:
        for number in range(1, 6):
            event = adt(f"m{number}", f"A{number}").replace("19790214", f"1979020{number}")
            assert hapi.send(region.mllp_port, event)[1][1] == "AA"
        region.kill()
        file.write_text(CONSUMER.format(port=here), "utf-8")
        region.start()
        eventually(lambda: len(hapi.got) >= 5)
        assert hapi.told() == [cx(f"A{number}") for number in range(1, 6)]
        assert "his: 5 delivered" in region.run("patients", "notifications")
