"""The steward's endpoint: what is asked and decided in JSON, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.db import Database
from broker.model.transaction import ServedTransaction
from broker.patients.desk import Desk
from broker.patients.steward import Steward
from broker.patients.steward_rest import DECISIONS, HISTORY_ROW, SHOW_ROW
from broker.web import rest
from broker.web.steward import StewardDoor
from tests.helpers.patients import HOSPA, WEI, XAD, Bench, region

Ask = Callable[..., tuple[int, Any]]
A1, A9, B1 = f"A1^^^&{HOSPA}&ISO", f"A9^^^&{HOSPA}&ISO", "B1^^^&2.999.3.1&ISO"


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    """A1 and B1 are one person; A9, another one, was merged into A1."""
    bench = Bench(database, region(profile), tmp_path)
    bench.feed("A04", "A1")
    bench.add("B1")
    bench.feed("A04", "A9", replace(WEI, birth_date="19550607"))
    bench.feed("A40", "A1", retired="A9")
    return bench


@pytest.fixture
def ask(bench: Bench) -> Ask:
    desk, steward = Desk(bench.database, bench.settler, lambda _unit, _outcome: (1, 2)), Steward(bench.database, XAD)
    rows = [*(ServedTransaction(row, desk) for row in DECISIONS.values()),
            *(ServedTransaction(row, steward) for row in (SHOW_ROW, HISTORY_ROW))]
    client = Client(rest.build(rows, bench.gate, Settings(), [StewardDoor("http://broker")])["/patients"])

    def asked(method: str, path: str, body: object = None, *, address: str = "127.0.0.1", **more: Any) -> tuple[int, Any]:
        if body is not None:
            more = {"data": body if isinstance(body, bytes) else json.dumps(body), "content_type": "application/json", **more}
        answer = client.open(
            f"/patients{path}", method=method, environ_overrides={"REMOTE_ADDR": address, "RAW_URI": f"/patients{path}"}, **more)
        assert answer.mimetype == "application/json"
        return answer.status_code, json.loads(answer.data)
    return asked


def test_a_person_is_told_as_the_command_tells_it(ask: Ask) -> None:
    status, person = ask("GET", f"/{A9}")
    assert (status, person["survivor"], person["active"], person["retired"]) == (200, A1, False, [A9])
    assert [one["id"] for one in person["ids"]] == [A1, B1]
    assert ask("GET", f"/{A9}?at=2001-01-01T00:00")[0] == 404
    assert ask("GET", f"/{A9}?at=2999-01-01T00:00Z")[1] == person


def test_a_history_is_told(ask: Ask) -> None:
    status, events = ask("GET", f"/{A9}/history")
    assert (status, [one["kind"] for one in events]) == (200, ["fed", "grouped", "merged"])


def test_a_decision_is_shown_made_and_undone(bench: Bench, ask: Ask) -> None:
    before = bench.affinity("A1")
    shown = ask("POST", "/unmerge", {"patient": A9, "preview": True})
    assert bench.affinity("A9") == before
    status, done = ask("POST", "/unmerge", {"patient": A9, "reason": "twins"})
    assert (status, shown[0], done["after"]) == (200, 200, shown[1]["after"])
    assert [one for one in shown[1]["moved"] if one["documents"]]
    assert bench.affinity("A9") not in {"", before}
    assert ask("POST", "/merge", {"patient": A1, "other": A9, "force": True})[0] == 200
    audited = [(one["type"], one["action"], one["outcome"]) for one in bench.audited() if one["type"].startswith("PATIENT")]
    assert audited == [
        ("PATIENT-UNMERGE", "R", "0"), ("PATIENT-UNMERGE", "U", "0"), ("PATIENT-MERGE", "U", "0"), ("PATIENT-MERGE", "U", "0")]


@pytest.mark.parametrize(("path", "body", "status", "code"), [
    ("/unmerge", {"patient": A1}, 404, "204"),
    ("/merge", {"patient": A1, "other": A9}, 404, "204"),
    ("/link", {"patient": A1, "other": A1}, 409, "205"),
    ("/link", {"patient": A1}, 400, "101"),
    ("/link", {"other": A1}, 400, "101"),
    ("/link", {"patient": "A1", "other": B1}, 400, "102"),
    ("/link", {"patient": A1, "other": B1, "forced": True}, 400, "102"),
    ("/link", {"patient": A1, "other": B1, "force": "yes"}, 400, "102"),
    ("/link", {"patient": A1, "other": B1, "force": 1}, 400, "102"),
    ("/link", [A1, B1], 400, "102"),
    ("/link", b"{", 400, "102"),
    ("/link", b"[" * 100_000, 400, "102"),
    ("/link", b"\xff\xfe", 400, "102"),
])
def test_what_cannot_be_done_says_why_and_changes_nothing(ask: Ask, path: str, body: object, status: int, code: str) -> None:
    before = ask("GET", f"/{A1}")
    found, told = ask("POST", path, body)
    assert (found, [one["code"] for one in told["errors"]]) == (status, [code])
    assert told["errors"][0]["text"]
    assert ask("GET", f"/{A1}") == before


def test_what_http_refuses_is_json_too(ask: Ask) -> None:
    assert ask("GET", "/nobody^^^&1.2&ISO")[0] == 404
    assert ask("GET", "/x")[0] == 400
    assert ask("DELETE", f"/{A1}")[0] == 405
    assert ask("POST", "/link", b"{}", content_type="text/plain")[0] == 415


def test_another_machine_is_refused_while_security_is_off(bench: Bench, ask: Ask) -> None:
    for method, path, body in (("GET", f"/{A1}", None), ("POST", "/unmerge", {"patient": A9})):
        status, told = ask(method, path, body, address="10.0.0.9")
        assert (status, "security.open_writes" in told["errors"][0]["text"]) == (403, True)
    assert bench.who("A9") == bench.who("A1")
