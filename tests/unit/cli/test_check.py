"""`broker check`: what it says of a configuration, and what it warns of."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker.cli import _kept
from broker.cli.main import cli
from broker.config.settings import load
from tests.helpers.pki import Authority


def run(folder: Path, text: str = "", expect: int = 0) -> Any:
    config = folder / "broker.toml"
    config.write_text(text)
    done = CliRunner().invoke(cli, ["check", "--json", "--config", str(config)])
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout) if expect < 2 else done.stderr


def warnings(rows: Any) -> dict[str, str]:
    return {row["what"]: row["value"] for row in rows if row["warning"]}


def test_a_fresh_installation_has_nothing_to_warn_of(tmp_path: Path) -> None:
    rows = run(tmp_path)
    assert warnings(rows) == {}
    assert all(row["ok"] for row in rows)
    assert {"region", "hospital a", "security", "data", "run folder", "durable store"} <= {row["what"] for row in rows}


def test_what_others_may_read_is_named_with_its_mode_and_does_not_stop_the_start(tmp_path: Path) -> None:
    for place, mode in (("data", 0o755), ("data/online", 0o751), ("data/run", 0o750), ("data/audit", 0o750)):
        (tmp_path / place).mkdir()
        (tmp_path / place).chmod(mode)
    settings = load(_config(tmp_path, 'data = "data"\n'))
    for name in ("broker.db", "broker.db-wal"):
        (settings.data / name).touch()
        (settings.data / name).chmod(0o644)
    found = warnings(run(tmp_path, 'data = "data"\n'))
    assert sorted(found) == ["data", "database", "online pictures", "run folder"]
    assert "0755" in found["data"]
    assert "0750" in found["data"]
    assert [one.prepare() for one in _kept.kept(settings)] == [True] * 9
    assert warnings(run(tmp_path, 'data = "data"\n')) == {}


def _config(folder: Path, text: str) -> Path:
    file = folder / "broker.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(("host", "open_"), [
    ("127.0.0.1", False), ("::1", False), ("localhost", False), ("127.8.8.8", False),
    ("0.0.0.0", True), ("::", True), ("10.1.2.3", True), ("broker.example", True),
])
def test_an_address_that_others_reach_is_warned_of_while_security_is_off(tmp_path: Path, host: str, open_: bool) -> None:
    found = warnings(run(tmp_path, f'[server]\nhost = "{host}"\n'))
    assert ("security" in found) is open_
    assert not open_ or host in found["security"]


def test_feeds_that_anybody_may_send_are_warned_of(tmp_path: Path) -> None:
    assert "security.open_writes" not in warnings(run(tmp_path, ""))
    found = warnings(run(tmp_path, "[security]\nopen_writes = true\n"))
    assert "whoever reaches the HTTP port" in found["security.open_writes"]


def test_a_configuration_with_a_password_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    text = '[redis]\nurl = "redis://:secret@127.0.0.1:1/0"\n'
    before = os.umask(0o022)
    try:
        assert "secret" not in warnings(run(tmp_path, text))["configuration"]
    finally:
        os.umask(before)
    (tmp_path / "broker.toml").chmod(0o600)
    assert warnings(run(tmp_path, text)) == {}


def test_a_misspelt_profile_is_looked_for_beside_the_configuration_first(tmp_path: Path) -> None:
    said = run(tmp_path, 'profile = "fujain"\n', expect=2)
    assert f"looked for {tmp_path / 'fujain' / 'region.toml'} and " in said
    assert said.count("\n") == 1


def test_a_hospital_is_named_by_its_key_and_what_is_wrong_in_plain_words(tmp_path: Path) -> None:
    for change, expected in (
            (('domain = "2.999.3.1"', 'domain = "2.999.03.1"'), "hospital b.domain: not an OID: '2.999.03.1'\n"),
            (('key = "b"', 'key = "B"'), "hospital B.key: "), (('key = "b"\n', ""), "hospital number 2.key: ")):
        said = _with_hospitals(tmp_path, *change)
        assert expected in said
        assert "Value error" not in said
        assert "hospital[" not in said


def _with_hospitals(folder: Path, old: str, new: str) -> str:
    region = folder / "region"
    region.mkdir(exist_ok=True)
    demo = Path(__file__).parents[3] / "profiles" / "demo"
    for file in demo.glob("*.toml"):
        text = file.read_text("utf-8")
        if file.name == "hospitals.toml":
            assert old in text
            text = text.replace(old, new)
        (region / file.name).write_text(text, "utf-8")
    return str(run(folder, 'profile = "region"\n', expect=2))


def test_a_configuration_that_is_not_there_is_said_in_plain_words(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    done = CliRunner().invoke(cli, ["check", "--config", str(missing)])
    assert (done.exit_code, done.stderr) == (2, f"broker: {missing}: it cannot be read (No such file or directory)\n")


def tls(certificate: Path, key: Path) -> str:
    return f'[tls.dicom]\ncertificate = "{certificate}"\nkey = "{key}"\n'


def test_certificates_that_cannot_be_used_or_have_ended_are_named(tmp_path: Path) -> None:
    pki = Authority(tmp_path / "pki")
    good, old, other = pki.sign("good", days=90), pki.sign("old", days=-1), pki.sign("other")
    for _, key in (good, old, other):
        key.chmod(0o600)

    def found(text: str, expect: int) -> dict[str, str]:
        return {row["what"]: row["value"] for row in run(tmp_path, text, expect) if not row["ok"]}

    assert found(tls(*good), 0) == {}
    assert warnings(run(tmp_path, tls(*good))) == {}
    assert found(tls(good[0], other[1]), 1) == {
        "TLS of dicom": f"tls.dicom.key: {other[1]}: it does not belong to the certificate"}
    assert found(tls(tmp_path / "none.pem", good[1]), 1) == {
        "TLS of dicom": f"tls.dicom.certificate: {tmp_path / 'none.pem'}: No such file or directory"}
    assert found(tls(*old), 1)["tls.dicom.certificate"].startswith(f"{old[0]}: it has expired on ")
    assert warnings(run(tmp_path, tls(*other)))["tls.dicom.certificate"].startswith(f"{other[0]}: valid until ")
    good[1].chmod(0o644)
    assert warnings(run(tmp_path, tls(*good))) == {"tls.dicom.key": f"{good[1]} has mode 0644 and holds a private key"}


def test_a_public_url_that_is_plain_before_a_port_of_tls_is_wrong(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "pki").sign("server")
    text = f'[server]\npublic_url = "http://x"\n[tls.http]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    (wrong,) = [row for row in run(tmp_path, text, 1) if not row["ok"]]
    assert wrong["what"] == "server.public_url"
