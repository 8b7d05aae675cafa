"""A broker of its own for one test: free ports, own folders, own profile, separate `broker serve` processes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from broker.config.data import data
from tests.helpers.ports import free_ports
from tests.helpers.waiting import PATIENCE


class Region:
    """The demonstration region on free ports under `folder`; `pacs_port` is where hospital B's PACS will listen.

    `changes` of the profile by file: old text, new text. `server` and `archive` are keys of broker.toml.
    """

    def __init__(self, folder: Path, *, redis_url: str = "", changes: Mapping[str, Mapping[str, str]] | None = None,
                 server: Mapping[str, Any] | None = None, database_url: str = "",
                 archive: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.http_port, self.mllp_port, self.dicom_port, self.pacs_port = free_ports(4)
        self.config = folder / "broker.toml"
        self.log = folder / "serve.log"
        profile = folder / "region"
        shutil.copytree(data("profiles") / "demo", profile)
        edits: dict[str, dict[str, str]] = {
            "hospitals.toml": {"port = 11113": f"port = {self.pacs_port}"},
            "retention.toml": {"quiet_seconds = 2": "quiet_seconds = 1"},
        }
        for file, pairs in (changes or {}).items():
            edits.setdefault(file, {}).update(pairs)
        for file, pairs in edits.items():
            text = (profile / file).read_text("utf-8")
            for old, new in pairs.items():
                assert old in text, (file, old)
                text = text.replace(old, new)
            (profile / file).write_text(text, "utf-8")
        lines = {
            "http_port": self.http_port, "mllp_port": self.mllp_port, "dicom_port": self.dicom_port, **(server or {})}
        archived = [f"{key} = {json.dumps(value)}" for key, value in (archive or {}).items()]
        self.config.write_text("\n".join([
            'profile = "region"', 'data = "data"', "[server]", *(f"{key} = {json.dumps(value)}" for key, value in lines.items()),
            "[redis]", f'url = "{redis_url}"', "[database]", f'url = "{database_url}"', "[archive]", *archived,
            ""]), "utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL of the HTTP port."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start `broker serve` and wait until everything answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "broker", "serve", "--config", str(self.config)], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            self.wait_healthy()
        except BaseException:
            self.stop()
            raise

    def wait_healthy(self, seconds: float = 120) -> None:
        """Return when /healthz says ok."""
        end = time.monotonic() + seconds
        state: Any = None
        while time.monotonic() < end:
            state = self.health()
            if state.get("status") == "ok":
                return
            assert self._process is None or self._process.poll() is None, self.log.read_text("utf-8", "replace")[-4000:]
            time.sleep(0.1)
        raise AssertionError(f"not healthy: {state}\n{self.log.read_text('utf-8', 'replace')[-4000:]}")

    def health(self) -> dict[str, Any]:
        """Return the body of /healthz, empty when nobody answers."""
        return self.get_json("/healthz")

    def get_json(self, path: str) -> dict[str, Any]:
        """GET a JSON document whatever its status; empty when nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return dict(json.load(error))
        except OSError:
            return {}

    def stop(self) -> None:
        """Stop as an operator would; a supervisor that does not end in time fails the test."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        assert status == 0, self.log.read_text("utf-8", "replace")[-4000:]

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill every process of the broker at once, as a crash of the machine would."""
        assert self._process is not None
        process, self._process = self._process, None
        supervisor = psutil.Process(process.pid)
        supervisor.suspend()        # so that it starts nobody meanwhile
        others = supervisor.children(recursive=True)
        process.kill()
        for other in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        process.wait()
        psutil.wait_procs(others)

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run a broker command with this region's configuration; return its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "broker", *arguments, "--config", str(self.config)], capture_output=True, text=True,
            check=False, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    def audit(self) -> list[ET.Element]:
        """Return all audit messages so far."""
        files = sorted((self.data / "audit").glob("*.xml"))
        return [ET.fromstring(line) for file in files for line in file.read_text("utf-8").splitlines()]

    def audited(self) -> set[tuple[str, str, str]]:
        """Return (event type code or event id, action, outcome) of all audit messages."""
        found = set()
        for message in self.audit():
            event = message.find("EventIdentification")
            assert event is not None
            kind = event.find("EventTypeCode")
            code = kind if kind is not None else event.find("EventID")
            assert code is not None
            found.add((code.get("csd-code", ""), event.get("EventActionCode", ""), event.get("EventOutcomeIndicator", "")))
        return found

    def logs(self) -> str:
        """Return everything the processes logged."""
        return self.log.read_text("utf-8", "replace")
