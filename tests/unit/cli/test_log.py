"""Every line on standard error is JSON, of libraries too, and none repeats what a peer or a record said."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.outside

PROGRAM = """
import logging, threading, warnings
import structlog
from broker.cli import _log
_log.configure("web")
"""
NAME = "葉^曉東"
LINES = {
    "ours": 'structlog.get_logger("x").info("said", reason=reason)',
    "ours with an error": 'try: raise KeyError(reason)\nexcept KeyError: structlog.get_logger("x").exception("failed")',
    "a library's": 'logging.getLogger("lib").warning("said")',
    "a library's with an error": 'try: raise KeyError(reason)\nexcept KeyError: logging.getLogger("lib").exception("failed")',
    "a warning": 'warnings.warn("said")',
    "a thread's end": "def work(): raise KeyError(reason)\nthread = threading.Thread(target=work); thread.start(); thread.join()",
    "the process's end": "raise KeyError(reason)",
}


@pytest.mark.parametrize("kind", LINES)
def test_a_line_is_json_and_has_its_role(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + f"reason = {NAME!r}\n" + LINES[kind]], capture_output=True, text=True, check=False)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["role"], bool(line["event"]), bool(line["timestamp"])) for line in said] == [("web", True, True)]
    if kind == "ours":
        assert said[0]["reason"] == NAME
    else:
        assert NAME not in done.stderr
    if "error" in kind or "end" in kind:
        assert said[0]["error"] == "KeyError"
        assert "line " in said[0]["frames"]


def test_nothing_in_a_line_acts_on_a_terminal() -> None:
    reason = "\x1b[31m\x7f\x9b31m\u202eabc\u2028 " + NAME
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + f"reason = {reason!r}\n" + LINES["ours"]], capture_output=True, check=False)
    text = done.stderr.decode()
    assert text.strip().isprintable()
    assert NAME in text
    assert json.loads(text)["reason"] == reason
