"""`broker patients`: what a steward is told."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker.cli import _log
from broker.cli.main import cli
from broker.config import profile as profiles
from broker.db import Database, schema
from broker.model.people import PersonName
from broker.patients.notices import Notice
from broker.patients.store import outbox
from tests.helpers.patients import HOSPA, HOSPB, WEI, XAD, Bench

Asked = Callable[..., Any]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Hospitals A and B know one person; A had her twice."""
    (tmp_path / "data").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'data' / 'broker.db'}")
    schema.upgrade(database)
    bench = Bench(database, profiles.load("demo"), tmp_path)
    bench.feed("A04", "A1", control="m1")
    bench.feed("A04", "A9", replace(WEI, names=(PersonName("区", "秀兰"),)), control="m2")
    bench.add("B1")
    bench.feed("A40", "A1", retired="A9", control="m3")
    yield bench
    database.close()


@pytest.fixture
def ask(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(_log, "configure", lambda _: None)      # it would hold the runner's streams for all tests to come
    config = tmp_path / "broker.toml"
    config.write_text('profile = "demo"\ndata = "data"\n', "utf-8")
    return lambda *words: CliRunner().invoke(cli, ["patients", *words, "--config", str(config)])


@pytest.mark.parametrize("asked", ["HOSPA:A1", f"A9^^^&{HOSPA}&ISO", "HOSPB:B1", "affinity"])
def test_a_person_is_shown_with_all_ids_and_why(bench: Bench, ask: Asked, asked: str) -> None:
    affinity = f"{bench.affinity('A1')}^^^&{XAD}&ISO"
    shown = ask("show", affinity if asked == "affinity" else asked, "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.output)
    assert (told["affinity"], told["retired"]) == (affinity, [f"A9^^^&{HOSPA}&ISO"])
    assert [(one["id"], one["demographics"]["names"][0]["family"]) for one in told["ids"]] == [
        (f"A1^^^&{HOSPA}&ISO", "张"), (f"B1^^^&{HOSPB}&ISO", "张")]
    assert told["ids"][0]["links"] == [{"to": f"B1^^^&{HOSPB}&ISO", "kind": "automatic"}]
    assert told["active"] is ("A9" not in asked)


def test_a_person_is_shown_to_people(ask: Asked) -> None:
    shown = ask("show", "HOSPA:A9").output
    assert "HOSPA:A9 was merged away; it lives on as HOSPA:A1." in shown
    assert "merged into it: HOSPA:A9" in shown
    assert "HOSPB:B1: found by comparison" in shown
    assert "张 伟 = ZHANG WEI" in shown


def test_a_name_is_shown_as_it_is_whatever_it_holds(bench: Bench, ask: Asked) -> None:
    bench.feed("A04", "A5", replace(WEI, names=(PersonName("[/red]", ":smile:"),)))
    shown = ask("show", "HOSPA:A5")
    assert shown.exit_code == 0
    assert "[/red] :smile:" in shown.output


def test_the_history_of_an_id_says_what_when_and_by_whom(bench: Bench, ask: Asked) -> None:
    told = [json.loads(line) for line in ask("history", "HOSPA:A9", "--json").output.splitlines()]
    assert [(one["kind"], one["sender"], one["message"]) for one in told] == [
        ("fed", "HOSPA|HIS-A", "m2"), ("grouped", "HOSPA|HIS-A", "m2"), ("merged", "HOSPA|HIS-A", "m3")]
    assert told[2]["survivor"] == "A1"
    lines = ask("history", "HOSPA:A9").output.splitlines()
    assert "add: 区 秀兰, born 19790214, sex M  [HOSPA|HIS-A, m2]" in lines[0]
    assert "lives on as HOSPA:A1" in lines[2]
    joined = ask("history", f"{told[1]['affinity']}^^^&{XAD}&ISO").output
    assert "lives on as" in joined
    assert bench.affinity("A1") in joined


@pytest.mark.parametrize("command", ["show", "history"])
@pytest.mark.parametrize(("asked", "code"), [("HOSPA:nobody", 1), (f"X^^^&{XAD}&ISO", 1), ("NOWHERE:1", 2), ("A1", 2)])
def test_an_id_that_nobody_named_is_said_to_be_unknown(ask: Asked, command: str, asked: str, code: int) -> None:
    shown = ask(command, asked)
    assert shown.exit_code == code
    assert "no feed has named" in shown.output or "namespace" in shown.output or "not a patient id" in shown.output


def batch(*messages: str) -> bytes:
    return "\r".join(["FHS|^~\\&", "BHS|^~\\&", *messages, f"BTS|{len(messages)}", "FTS|1", ""]).encode("gb18030")


def adt(number: int, sender: str = "HIS-A|HOSPA", name: str = "欧阳^娜") -> str:
    return (f"MSH|^~\\&|{sender}|BROKER|REGION|20260301101500||ADT^A04^ADT_A01|f{number}|P|2.3.1||||||GB 18030-2000\r"
            f"PID|||F{number}^^^HOSPA&2.999.2.1&ISO||{name}||19790214|F")


def test_a_file_of_feeds_is_loaded_and_what_is_refused_is_named(bench: Bench, ask: Asked, tmp_path: Path) -> None:
    file = tmp_path / "feeds.hl7"
    file.write_bytes(batch(adt(1), adt(2, sender="HIS-X|HOSPX"), adt(3, name="王^芳")))
    done = ask("load", str(file))
    assert done.exit_code == 1
    assert "message 2 (f2): AE " in done.output
    assert "3 messages: 2 accepted, 1 refused" in done.output
    assert "欧阳 娜" in ask("show", "HOSPA:F1").output
    assert [json.loads(line)["message"] for line in ask("history", "HOSPA:F3", "--json").output.splitlines()] == ["f3", "f3"]
    again = [json.loads(line) for line in ask("load", str(file), "--json").output.splitlines() if line.startswith("{")]
    assert (again[0]["number"], again[0]["code"], again[1]) == (2, "AE", {"accepted": 2, "refused": 1})
    assert len(ask("history", "HOSPA:F1").output.splitlines()) == 2, "what came before is not worked off again"
    audited = [line for log in (tmp_path / "data" / "audit").glob("*.xml") for line in log.read_text("utf-8").splitlines()]
    assert sum("ITI-8" in line for line in audited) == 6


def test_a_file_without_feeds_is_wrong_use(ask: Asked, tmp_path: Path) -> None:
    file = tmp_path / "other.hl7"
    file.write_text("id;name\n1;Wei\n", "utf-8")
    done = ask("load", str(file))
    assert (done.exit_code, "holds no HL7 v2 message" in done.output) == (2, True)
    assert ask("load", str(tmp_path / "none")).exit_code == 2


def test_who_is_there_twice_is_listed_per_domain_the_one_known_longest_first(bench: Bench, ask: Asked) -> None:
    li = replace(WEI, names=(PersonName("李", "雷"),), birth_date="19550607")
    for value, person in (("A2", li), ("A3", WEI), ("A4", li)):
        bench.feed("A04", value, person)
    for value in ("B2", "B3"):
        bench.add(value, li)
    told = [json.loads(line) for line in ask("duplicates", "--json").output.splitlines()]
    assert [(one["namespace"], [each["id"] for each in one["ids"]]) for one in told] == [
        ("HOSPA", ["A1", "A3"]), ("HOSPA", ["A2", "A4"]), ("HOSPB", ["B2", "B3"])]
    assert (told[1]["affinity"], told[1]["ids"][0]["demographics"]["birth_date"]) == (bench.affinity("A2"), "19550607")
    shown = ask("duplicates", "--hospital", "b").output.splitlines()
    assert shown[0] == bench.affinity("B2", HOSPB)
    assert shown[1].startswith("  HOSPB:B2  李 雷, born 19550607, known since 20")
    assert shown[3] == "1 persons with several ids of one domain"
    assert [ask("duplicates", "--domain", name).output.splitlines()[-1][0] for name in ("HOSPA", HOSPB)] == ["2", "1"]
    bench.feed("A40", "A1", retired="A3")
    assert ask("duplicates", "--domain", HOSPA).output.splitlines()[-1][0] == "1"


@pytest.mark.parametrize(("words", "known"), [
    (("--hospital", "z"), "known: a, b"), (("--domain", "REGION"), "known: HOSPA, HOSPB"),
    (("--hospital", "a", "--domain", "HOSPB"), "known: HOSPA")])
def test_a_worklist_of_nobodys_domain_is_wrong_use(ask: Asked, words: tuple[str, ...], known: str) -> None:
    done = ask("duplicates", *words)
    assert (done.exit_code, known in done.output) == (2, True)


def test_a_steward_decides_looks_first_and_undoes(bench: Bench, ask: Asked) -> None:
    before = ask("show", "HOSPA:A1", "--json").output
    shown = ask("unmerge", "HOSPA:A9", "--preview")
    assert shown.exit_code == 0, shown.output
    assert "is the person with HOSPA:A9\n" in shown.output
    assert ask("show", "HOSPA:A1", "--json").output == before
    assert ask("unmerge", "HOSPA:A9", "--reason", "区 is somebody else").exit_code == 0
    assert json.loads(ask("show", "HOSPA:A9", "--json").output)["active"]
    assert "no more (区 is somebody else)" in ask("history", "HOSPA:A9").output
    assert ask("merge", "HOSPA:A1", "HOSPA:A9").exit_code == 0
    assert json.loads(ask("show", "HOSPA:A1", "--json").output)["retired"] == [f"A9^^^&{HOSPA}&ISO"]


def test_what_is_decided_is_shown_and_undone(bench: Bench, ask: Asked) -> None:
    told = json.loads(ask("unlink", "HOSPA:A1", "HOSPB:B1", "--json").output)
    assert sorted(one["ids"] for one in told["after"]) == [[f"A1^^^&{HOSPA}&ISO"], [f"B1^^^&{HOSPB}&ISO"]]
    assert json.loads(ask("show", "HOSPA:A1", "--json").output)["ids"][0]["apart"] == [f"B1^^^&{HOSPB}&ISO"]
    assert "never HOSPB:B1: decided" in ask("show", "HOSPA:A1").output
    assert ask("unlink", "HOSPA:A1", "HOSPB:B1", "--undo").exit_code == 0
    assert ask("link", "HOSPA:A1", "HOSPB:B1").exit_code == 0
    assert {"to": f"B1^^^&{HOSPB}&ISO", "kind": "decided"} in json.loads(
        ask("show", "HOSPA:A1", "--json").output)["ids"][0]["links"]


def test_what_cannot_be_decided_ends_with_status_1(ask: Asked) -> None:
    refused = ask("unmerge", "HOSPA:A1")
    assert (refused.exit_code, "was not merged away" in refused.output) == (1, True)


def test_the_past_is_shown_and_compared(ask: Asked) -> None:
    assert ask("show", "HOSPA:A1", "--at", "2001-01-01").exit_code == 1
    assert json.loads(ask("show", "HOSPA:A1", "--at", "2999-01-01T00:00", "--json").output)["retired"]
    changed = ask("diff", "HOSPA:A1", "2001-01-01").output.splitlines()
    assert f"+ merged into it: A9^^^&{HOSPA}&ISO" in changed
    assert all(line.startswith("+ ") for line in changed)
    assert ask("diff", "HOSPA:A1", "2998-01-01", "2999-01-01").output == ""
    assert ask("diff", "HOSPA:X", "2001-01-01").exit_code == 1


def test_notifications_are_listed_sent_again_and_dropped(bench: Bench, ask: Asked) -> None:
    with bench.database.write() as unit:
        outbox.write(unit, [Notice("viewer", "ITI-10", {"ids": [[HOSPA, "甲[1]"]]})] * 2, 1000.0)
    told = json.loads(ask("notifications", "--json").output)
    assert [(one["consumer"], one["state"], one["number"]) for one in told["queues"]] == [("viewer", "waiting", 2)]
    assert [one["body"] for one in told["notifications"]] == [{"ids": [[HOSPA, "甲[1]"]]}] * 2
    assert "viewer: 2 waiting" in ask("notifications").output
    assert ask("notifications", "drop", "1").exit_code == 0
    assert ask("notifications", "drop", "1").exit_code == 1
    assert json.loads(ask("notifications", "--state", "refused", "--json").output)["notifications"][0]["reason"] == (
        "dropped by an operator")
    assert ask("notifications", "retry", "1", "2").exit_code == 0
    assert ask("notifications", "retry", "99").exit_code == 1
