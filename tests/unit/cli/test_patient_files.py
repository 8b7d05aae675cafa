"""`broker patients load` of tables and FHIR Patients, and `export`: what goes out comes in again."""

import csv
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
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.people import Address, Demographics, PersonName
from broker.patients.listed import Listed
from broker.patients.steward import Steward
from broker.wire.patient_file import COLUMNS
from tests.helpers.patients import HOSPA, HOSPB, WEI, XAD, Bench

A_SENDER = "HIS-A|HOSPA"
HEADER = "domain,id,family,given,birth_date,sex,phone,street,city,state,postcode,country,national_id\n"
FANG = "HOSPA,F1,王,芳,1985-05-01,f,0591-8765432,鼓楼路12号,福州,福建,350001,CHN,\n"
FULL = Demographics(
    names=(PersonName("欧阳", "娜", use="L"), PersonName("OUYANG", "Na", "Li", "Jr", "Dr", use="A"), PersonName("", "Nana")),
    birth_date="198505", sex="F", mother=PersonName("林", "美"),
    addresses=(Address('鼓楼路12号, 3"', "福州", "福建", "350001", "CHN"), Address(city="Xiamen")),
    phones=("0591-8765432", "mailto:na@hospital.example"), accounts=(("", "ACC-1"), (HOSPA, "ACC-2"), ("HOSPA", "ACC-3")),
    other_ids=(("2.999.77.7", "X;1"), ("", "11010519491231002X")))


class Site:
    """A broker of its own: its folder, its index, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        (folder / "broker.toml").write_text('profile = "demo"\ndata = "data"\n', "utf-8")
        self.database = Database(f"sqlite:///{folder / 'data' / 'broker.db'}")
        schema.upgrade(self.database)
        self.bench = Bench(self.database, profiles.load("demo"), folder / "data")

    def ask(self, *words: str | Path) -> Any:
        return CliRunner().invoke(cli, ["patients", *map(str, words), "--config", str(self.folder / "broker.toml")])

    def people(self) -> dict[PatientId, Demographics]:
        return {one.patient: one.person for one in Steward(self.database, XAD).every()}

    def audited(self, code: str) -> list[tuple[str, str]]:
        return [(one["action"], one["outcome"]) for one in self.bench.audited() if one["type"] == code]


Sites = Callable[[str], Site]


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    monkeypatch.setattr(_log, "configure", lambda _: None)      # it would hold the runner's streams for all tests to come
    made: list[Site] = []

    def make(name: str) -> Site:
        made.append(Site(tmp_path / name))
        return made[-1]
    yield make
    for site in made:
        site.database.close()


@pytest.fixture
def site(sites: Sites) -> Site:
    return sites("here")


def write(site: Site, name: str, text: str, encoding: str = "utf-8") -> Path:
    file = site.folder / name
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize(("encoding", "words", "delimiter"), [
    ("utf-8", (), ","), ("utf-8-sig", (), ";"), ("gb18030", ("--encoding", "gb18030"), "\t")])
def test_a_table_is_loaded(site: Site, encoding: str, words: tuple[str, ...], delimiter: str) -> None:
    file = write(site, "list.csv", (HEADER + FANG).replace(",", delimiter).replace("\n", "\r\n"), encoding)
    done = site.ask("load", file, "--sender", A_SENDER, *words)
    assert (done.exit_code, done.output) == (0, "1 rows: 1 accepted, 0 refused\n")
    assert site.people() == {PatientId(HOSPA, "F1"): Demographics(
        names=(PersonName("王", "芳"),), birth_date="19850501", sex="F", phones=("0591-8765432",),
        addresses=(Address("鼓楼路12号", "福州", "福建", "350001", "CHN"),))}
    assert [json.loads(line)["message"] for line in site.ask("history", "HOSPA:F1", "--json").output.splitlines()] == [
        "list.csv:2", "list.csv:2"]
    assert site.audited("PATIENT-LOAD") == [("C", "0")]
    assert site.ask("load", file, "--sender", A_SENDER, *words).exit_code == 0, "it may be loaded again"
    assert site.audited("PATIENT-LOAD") == [("C", "0"), ("U", "0")]


def test_what_a_table_does_not_say_stays(site: Site) -> None:
    site.bench.feed("A04", "F1", FULL)
    before = site.people()[PatientId(HOSPA, "F1")]
    assert site.ask("load", write(site, "list.csv", "namespace,id,sex,family,other_ids\nHOSPA,F1,M,,\n"),
                    "--sender", A_SENDER).exit_code == 0
    assert site.people() == {PatientId(HOSPA, "F1"): replace(before, sex="M")}


def test_rows_that_are_refused_are_named_and_written_out_as_they_came(site: Site) -> None:
    bad = ["HOSPA,F2,李,雷,1979-02-31,M,,,,,,,\r\n", "HOSPB,F3,李,雷,1979-02-14,M,,,,,,,\n", "HOSPA,F4,李\n",
           'HOSPA,F5,"李"雷,,,,,,,,,,\n', "HOSPA,,李,雷,1979-02-14,M,,,,,,,\n", f'HOSPA,F6,"{"x" * 300}",,,,,,,,,,\n',
           "HOSPA,F7,李,雷,1979-02-14,Q,,,,,,,"]
    torn = b"HOSPA,F8,\xff\xfe,,,,,,,,,,\n"
    file, rejects = site.folder / "list.csv", site.folder / "rejects.csv"
    file.write_bytes((HEADER + bad[0] + FANG + "\n" + ",,,,,,,,,,,,\n").encode() + torn + "".join(bad[1:]).encode())
    done = site.ask("load", file, "--sender", A_SENDER, "--rejects", rejects)
    assert done.exit_code == 1
    for told in ("row 2: 102: birth_date is not a date", "row 6: 102: byte 10 of the line is no UTF-8",
                 "row 7: 204: HIS-A at HOSPA: may not feed the domain of id F3 of HOSPB", "row 8: 102: the row has 3 cells",
                 "row 9: 102: the row is no CSV", "row 10: 101: no patient id", "row 11: 102: family has more than 250",
                 "row 12: 103: sex is not in table 0001", "9 rows: 1 accepted, 8 refused"):
        assert told in done.output
    assert rejects.read_bytes() == HEADER.encode() + bad[0].encode() + torn + "".join(bad[1:]).encode() + b"\n"
    assert rejects.stat().st_mode & 0o007 == 0
    assert site.audited("PATIENT-LOAD").count(("U", "4")) == 8
    mended = rejects.read_bytes().replace(b"1979-02-31", b"1979-02-28")
    rejects.write_bytes(mended)
    again = site.ask("load", rejects, "--sender", A_SENDER, "--json")
    assert json.loads(again.output.splitlines()[-1]) == {"accepted": 1, "refused": 7}
    assert {one.value for one in site.people()} == {"F1", "F2"}


def test_messages_that_are_refused_are_written_out_too(site: Site) -> None:
    messages = [f"MSH|^~\\&|{sender}|BROKER|REGION|20260301101500||ADT^A04^ADT_A01|f{number}|P|2.3.1||||||GB 18030-2000\r"
                f"PID|||F{number}^^^HOSPA||欧阳^娜||19790214|F\r".encode("gb18030")
                for number, sender in enumerate((A_SENDER, "HIS-X|HOSPX", A_SENDER))]
    file, rejects = site.folder / "feeds", site.folder / "rejects.hl7"
    file.write_bytes(b"BHS|^~\\&\r" + b"".join(messages) + b"BTS|3\r")
    assert site.ask("load", file, "--rejects", rejects).exit_code == 1
    assert rejects.read_bytes() == messages[1]


@pytest.mark.parametrize(("name", "content", "words", "told"), [
    ("list.csv", HEADER + FANG, (), "--sender is needed"),
    ("list.csv", HEADER + FANG, ("--sender", "HIS-X|HOSPX"), "HIS-X at HOSPX may feed no domain"),
    ("list.csv", HEADER, ("--sender", A_SENDER), "holds no row"),
    ("list.csv", "", ("--sender", A_SENDER), "misses the column id"),
    ("list.csv", "id,surname\n1,x\n", ("--sender", A_SENDER), "unknown columns: surname (known: domain, id, family"),
    ("list.csv", "id,ID\n1,x\n", ("--sender", A_SENDER), "columns twice: id"),
    ("list.csv", "x" * 3_000_000, ("--sender", A_SENDER), "the first line is no header"),
    ("list.csv", "id\n1\n", ("--sender", A_SENDER, "--rejects", "list.csv"), "another file"),
    ("list.csv", "id\n1\n", ("--sender", A_SENDER, "--rejects", "absent/bad.csv"), "cannot be written"),
    ("list.csv", "id,\n1,\n", ("--sender", A_SENDER), "unknown columns: (without a name)"),
    ("list.txt", "id\n1\n", ("--sender", A_SENDER), "give --format"),
    ("list.hl7", "MSH|", ("--sender", A_SENDER), "name their sender themselves"),
    ("list.ndjson", "\n \n", ("--sender", "127.0.0.1"), "holds no Patient"),
])
def test_wrong_use_is_told_and_feeds_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str, content: str, words: tuple[str, ...], told: str,
) -> None:
    monkeypatch.chdir(site.folder)
    file = write(site, name, content)
    done = site.ask("load", file, *words)
    assert (done.exit_code, told in done.output) == (2, True), done.output
    assert site.people() == {}
    assert file.read_text("utf-8") == content


def patient(value: str, **said: Any) -> str:
    identifier = [{"system": f"urn:oid:{XAD}", "value": "ISSUED-BY-US"}, {"system": f"urn:oid:{HOSPB}", "value": value}]
    return json.dumps({"resourceType": "Patient", "identifier": identifier, **said}, ensure_ascii=False)


def test_patients_of_fhir_are_loaded_and_merged(site: Site) -> None:
    name = [{"family": "王", "given": ["芳"]}]
    survivor = {"type": "replaced-by", "other": {"identifier": {"system": f"urn:oid:{HOSPB}", "value": "N1"}}}
    lines = [patient("N1", name=name, gender="female", birthDate="1985-05-01"), "", patient("N2", name=name),
             patient("N2", active=False, link=[survivor]), '{"resourceType": "Observation"}', "[" * 10_000,
             patient("N3", active=False),
             json.dumps({"resourceType": "Patient", "identifier": [{"system": f"urn:oid:{HOSPA}", "value": "F1"}]})]
    file, rejects = write(site, "people.jsonl", "\n".join(lines)), site.folder / "rejects.ndjson"
    done = site.ask("load", file, "--sender", "2.999.3.9", "--rejects", rejects)
    assert done.exit_code == 1
    for told in ("line 5: structure: no resourceType that is taken: Observation", "line 6: structure: the body is nested",
                 "line 7: business-rule: active=false", "line 8: 204: 2.999.3.9: may not feed the domain of id F1",
                 "7 Patients: 3 accepted, 4 refused"):
        assert told in done.output
    assert rejects.read_text("utf-8") == "".join(f"{line}\n" for line in lines[4:])
    assert site.people() == {PatientId(HOSPB, "N1"): Demographics(
        names=(PersonName("王", "芳"),), birth_date="19850501", sex="F")}
    assert json.loads(site.ask("show", "HOSPB:N2", "--json").output)["survivor"] == f"N1^^^&{HOSPB}&ISO"


def test_a_table_that_is_exported_is_loaded_as_it_was(site: Site, sites: Sites) -> None:
    for value, person in (("F1", FULL), ("F2", WEI), ("F3", Demographics())):
        site.bench.feed("A04", value, person)
    site.bench.feed("A40", "F2", retired="F3")
    file, other = site.folder / "all.csv", sites("there")
    done = site.ask("export", file, "--encoding", "GB18030")
    assert (done.exit_code, done.output) == (0, f"2 records written to {file}\n")
    rows = file.read_text("gb18030").splitlines()
    assert rows[0] == ",".join(COLUMNS)
    assert site.bench.affinity("F1") in file.read_text("gb18030")
    assert site.audited("PATIENT-EXPORT") == [("R", "0")]
    assert file.stat().st_mode & 0o007 == 0
    assert other.ask("load", file, "--sender", A_SENDER, "--encoding", "gb18030").exit_code == 0
    assert other.people() == site.people()
    assert site.people()[PatientId(HOSPA, "F1")] == FULL


def test_patients_that_are_exported_are_loaded_as_they_were(site: Site, sites: Sites) -> None:
    said = replace(FULL, names=FULL.names[:1], mother=PersonName("林"), accounts=())     # what a FHIR Patient can say
    site.bench.feed("A04", "F1", said)
    file, other = site.folder / "all.ndjson", sites("there")
    assert json.loads(site.ask("export", file, "--json").output) == {"records": 1}
    assert json.loads(file.read_text("utf-8"))["id"] == site.bench.affinity("F1")
    assert other.ask("load", file, "--sender", A_SENDER).exit_code == 0
    assert other.people() == site.people() == {PatientId(HOSPA, "F1"): said}


def test_an_export_that_fails_leaves_what_was_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.bench.feed("A04", "F1")
    file, every = write(site, "all.csv", "of yesterday"), Steward.every
    assert site.ask("export", site.folder / "all.xml").exit_code == 2
    assert site.ask("export", site.folder / "absent" / "all.csv").exit_code == 1

    def fail(steward: Steward) -> Iterator[Listed]:
        yield from every(steward)
        raise Unavailable("the database")
    monkeypatch.setattr(Steward, "every", fail)
    done = site.ask("export", file)
    assert (done.exit_code, "the database is not available" in done.output) == (1, True)
    assert file.read_text("utf-8") == "of yesterday"
    assert not [*site.folder.glob(".*.part")]


def test_an_export_of_many_portions_is_whole_and_in_order(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.patients.steward._PORTION", 2)
    for number in range(5):
        site.bench.feed("A04", f"F{number}", replace(WEI, birth_date=f"1979021{number}"))
    file = site.folder / "all.csv"
    assert site.ask("export", file).exit_code == 0
    with file.open(encoding="utf-8", newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == [f"F{number}" for number in range(5)]
