import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.people import Demographics, PersonName
from broker.patients import demographics
from broker.wire.hl7v2 import Header, parse
from broker.wire.hl7v2_pdq import read_pdq_answer, write_pdq_cancel, write_pdq_query
from tests.helpers.demographics import JING, fill
from tests.helpers.hl7 import judge
from tests.helpers.patients import HOSPB, Bench, plain, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
HEAD = "MSH|^~\\&|{}|CONS|BROKER|REGION|20260301104000||QBP^Q22^QBP_Q21|{}|P|2.5||||||{}|||ITI-21^IHE"


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return fill(Bench(database, region(profile), tmp_path))


def ask(
    bench: Bench, *segments: str, sender: str = "VIEW", control: str = "q1", charset: str = "UNICODE UTF-8", codec: str = "utf-8",
) -> list[str]:
    message = "\r".join((HEAD.format(sender, control, charset), *segments)) + "\r"
    return bench.mllp.answer(message.encode(codec), "10.0.0.7").decode(codec).split("\r")[:-1]


def shown(lines: list[str]) -> list[str]:
    """Return PID-3 of the patients without authorities."""
    return [re.sub(r"\^\^\^[^~|]*", "", plain(line.split("|")[3])) for line in lines if line.startswith("PID")]


def well_formed(lines: list[str]) -> None:
    """Let hl7apy judge an answer.

    It does not know that parameters are the query's to define (HL7 v2.5 5.5.4), nor that

    ERR repeats in IHE's answer (ITI TF-2 3.21.4.2.2).
    """
    first_err = next((line for line in lines if line.startswith("ERR")), "")
    kept = ["QPD|IHE PDQ Query|t|x" if line.startswith("QPD") else line for line in lines
            if line[:3] != "ERR" or line == first_err]
    judge("\r".join((*kept, "")))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any], bench: Bench) -> None:
    before = len(bench.audited())
    qpd = f"QPD|IHE PDQ Query|tag-1|{case['ask']}" + (f"|||||{case['domains']}" if "domains" in case else "")
    lines = ask(bench, qpd, "RCP|I|20^RD")
    well_formed(lines)
    msh = lines[0].split("|")
    assert (msh[2:6], msh[8], msh[11], msh[17]) == (
        ["BROKER", "REGION", "VIEW", "CONS"], "RSP^K22^RSP_K21", "2.5", "UNICODE UTF-8")
    patients, errors = case.get("patients", []), case.get("error", [])
    assert [line[:3] for line in lines] == ["MSH", "MSA", *["ERR"] * len(errors), "QAK", "QPD", *["PID", "QRI"] * len(patients)]
    answer = {line[:3]: line for line in lines}
    assert answer["MSA"] == f"MSA|{case['status'][0]}|q1"
    counts = "" if errors else f"||{len(patients)}|{len(patients)}|0"
    assert answer["QAK"] == f"QAK|tag-1|{case['status'][1]}{counts}"
    assert answer["QPD"] == qpd
    assert shown(lines) == patients
    assert [[line.split("|")[2], line.split("|")[3].split("^")[0]] for line in lines if line.startswith("ERR")] == errors
    records = bench.audited()[before:]
    assert {(one["event"], one["type"], one["action"]) for one in records} == {("110112", "ITI-21", "E")}
    assert len(records) == max(len(patients), 1)
    assert {one["outcome"] for one in records} == {"0" if case["status"][0] == "AA" else "4"}
    assert all(one["query"].startswith(b"MSH|") and qpd.encode() in one["query"] for one in records)


def test_a_patient_is_shown_whole(bench: Bench) -> None:
    lines = ask(bench, "QPD|IHE PDQ Query|t|@PID.5.1^欧阳|||||^^^HOSPA", "RCP|I")
    assert lines[4:] == [
        "PID|||A4^^^HOSPA&2.999.2.1&ISO||欧阳^静^如~OUYANG^Jing Ru|葉^瑋|19850612|F|||鼓楼路 12^^福州^福建^350001^CHN||"
        "+86-591-8765-4321|||||ACC-7^^^&2.999.2.9&ISO", "QRI|100"]
    assert bench.audited()[-1]["patient"] == "A4^^^&2.999.2.1&ISO"
    assert bench.audited()[-1]["message"] == "q1"


def test_the_record_of_the_wanted_domain_is_shown(bench: Bench) -> None:
    bench.add("B1", Demographics(names=(PersonName("张", "小伟"), PersonName("张", "伟")), birth_date="19790214", sex="M"))
    for domain, name in (("HOSPA", "张^伟"), ("HOSPB", "张^小伟"), ("HOSPC", "张^伟")):
        lines = ask(bench, f"QPD|IHE PDQ Query|t|@PID.3.1^A1~@PID.3.4.1^HOSPA|||||^^^{domain}", "RCP|I")
        assert lines[4].split("|")[5].split("~")[0] == name, domain


@pytest.mark.parametrize(("charset", "codec"), [
    ("GB 18030-2000", "gb18030"), ("UNICODE UTF-8", "utf-8"), ("BIG-5", "big5"), ("", "utf-8")])
def test_the_character_set_of_the_question_is_that_of_the_answer(bench: Bench, charset: str, codec: str) -> None:
    person = Demographics(names=(PersonName("葉", "許功"),), birth_date="19900101")
    bench.feed("A04", "A9", person)
    lines = ask(bench, "QPD|IHE PDQ Query|t|@PID.5.1^葉~@PID.5.2^許功", "RCP|I", charset=charset, codec=codec)
    assert lines[0].split("|")[17:18] == [charset or "UNICODE UTF-8"]
    assert lines[3] == "QPD|IHE PDQ Query|t|@PID.5.1^葉~@PID.5.2^許功"
    assert lines[4].split("|")[5] == "葉^許功"


@pytest.mark.parametrize(("rcp", "error"), [
    ("RCP|I|0^RD", ["RCP^1^2", "102"]), ("RCP|I|-1^RD", ["RCP^1^2", "102"]), ("RCP|I|many^RD", ["RCP^1^2", "102"]),
    ("RCP|I|1.5^RD", ["RCP^1^2", "102"]), ("RCP|I|10^CH", ["RCP^1^2", "103"])])
def test_a_quantity_that_is_none_is_refused(bench: Bench, rcp: str, error: list[str]) -> None:
    lines = ask(bench, "QPD|IHE PDQ Query|t|@PID.5.1^张", rcp)
    assert (lines[1], lines[3], lines[2].split("|")[2]) == ("MSA|AE|q1", "QAK|t|AE", error[0])
    assert lines[2].split("|")[3].split("^")[0] == error[1]


def test_without_qpd_or_its_tag_nothing_is_asked(bench: Bench) -> None:
    lines = ask(bench, "RCP|I")
    assert (lines[0].split("|")[8], lines[2].split("|")[2:4]) == ("ACK^Q22^ACK", ["QPD", "100^Segment sequence error^HL70357"])
    assert ask(bench, "QPD|IHE PDQ Query||@PID.5.1^张", "RCP|I")[2].split("|")[2] == "QPD^1^2"


# -- continuation

MANY = "QPD|IHE PDQ Query|tag-9|@PID.5.1^赵~@PID.7^1990|||||^^^HOSPA"


@pytest.fixture
def many(bench: Bench) -> Bench:
    """Seven persons of one name, born on different days."""
    for day in range(1, 8):
        bench.feed("A04", f"M{day}", Demographics(names=(PersonName("赵", "云"),), birth_date=f"199002{day:02}", sex="M"))
    return bench


def pointer(lines: list[str]) -> str:
    return next((line.split("|")[1] for line in lines if line.startswith("DSC")), "")


def counts(lines: list[str]) -> list[str]:
    return next(line for line in lines if line.startswith("QAK")).split("|")[2:]


def test_pages_follow_each_other_to_the_end(many: Bench) -> None:
    first = ask(many, MANY, "RCP|I|3^RD")
    assert (shown(first), counts(first)) == (["M1", "M2", "M3"], ["OK", "", "7", "3", "4"])
    assert first[-1] == f"DSC|{pointer(first)}|I"
    second = ask(many, MANY, "RCP|I|3^RD", f"DSC|{pointer(first)}|I", control="q2")
    assert (shown(second), counts(second), second[1]) == (["M4", "M5", "M6"], ["OK", "", "7", "3", "1"], "MSA|AA|q2")
    third = ask(many, MANY, "RCP|I|3^RD", f"DSC|{pointer(second)}|I", control="q3")
    assert (shown(third), counts(third), pointer(third)) == (["M7"], ["OK", "", "7", "1", "0"], "")
    again = ask(many, MANY, "RCP|I|2^RD", f"DSC|{pointer(first)}|I", control="q4")
    assert (shown(again), counts(again)) == (["M4", "M5"], ["OK", "", "7", "2", "2"])


def test_pages_do_not_shift_when_others_come_and_go(many: Bench) -> None:
    first = ask(many, MANY, "RCP|I|3^RD")
    many.feed("A04", "M0", Demographics(names=(PersonName("赵", "云"),), birth_date="19900101", sex="M"))
    many.feed("A08", "M2", JING)
    many.feed("A40", "M9", Demographics(names=(PersonName("赵", "云"),), birth_date="19900204", sex="M"), retired="M4")
    second = ask(many, MANY, "RCP|I|3^RD", f"DSC|{pointer(first)}|I", control="q2")
    assert (shown(second), counts(second)) == (["M9", "M5", "M6"], ["OK", "", "7", "3", "1"])


@pytest.mark.parametrize("change", ["sender", "tag", "pointer", "number", "late", "cancelled"])
def test_a_pointer_is_good_for_its_query_and_sender_and_for_a_while(many: Bench, change: str) -> None:
    first = ask(many, MANY, "RCP|I|3^RD")
    given, qpd = pointer(first), MANY
    if change == "late":
        many.now += demographics.KEPT_SECONDS
    if change == "tag":
        qpd = MANY.replace("tag-9", "tag-8")
    if change == "pointer":
        given = given[:-1] + ("A" if given[-1] != "A" else "B")
    if change == "number":
        given = "-1." + given.partition(".")[2]
    if change == "cancelled":
        head = HEAD.format("VIEW", "q7", "").replace("QBP^Q22^QBP_Q21", "QCN^J01^QCN_J01")
        answer = many.mllp.answer(f"{head}\rQID|tag-9|IHE PDQ Query\r".encode(), "10.0.0.7").decode().split("\r")
        assert (answer[0].split("|")[8], answer[1]) == ("ACK^J01^ACK", "MSA|AA|q7")
    lines = ask(many, qpd, "RCP|I|3^RD", f"DSC|{given}|I", sender="OTHER" if change == "sender" else "VIEW", control="q2")
    assert (lines[1], lines[2].split("|")[2:4]) == ("MSA|AE|q2", ["DSC^1^1", "204^Unknown key identifier^HL70357"])
    assert shown(lines) == []


def test_an_end_of_what_is_not_there_is_acknowledged_and_one_without_tag_refused(bench: Bench) -> None:
    header = Header(sender=("VIEW", "CONS"), receiver=("BROKER", "REGION"))
    answer = bench.mllp.answer(write_pdq_cancel(header, "never"), "10.0.0.7").decode()
    assert "MSA|AA|" in answer
    assert [one["type"] for one in bench.audited()[-1:]] == ["ITI-21"]
    assert "ERR||QID^1^1|101" in bench.mllp.answer(write_pdq_cancel(header, ""), "10.0.0.7").decode()


def test_expired_lists_and_the_oldest_of_too_many_are_removed(many: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> int:
        with many.database.read() as unit:
            return int(unit.connection.exec_driver_sql("SELECT count(*) FROM patient_hits").scalar_one())

    monkeypatch.setattr("broker.patients.store.hits.KEPT_LISTS", 10)
    for _ in range(70):
        ask(many, MANY, "RCP|I|3^RD")
    assert kept() < 70
    many.now += demographics.KEPT_SECONDS
    ask(many, MANY, "RCP|I|3^RD")
    assert kept() == 1


# -- bounds

def test_an_answer_is_bounded_and_says_that_there_are_more(many: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demographics, "MOST_PERSONS", 5)
    lines = ask(many, MANY, "RCP|I|2^RD")
    assert (shown(lines), counts(lines)) == (["M1", "M2"], ["OK", "", "5", "2", "3"])
    assert lines[1] == "MSA|AA|q1"
    assert lines[2].startswith("ERR|||0^Message accepted^HL70357|W||||more persons")
    well_formed(lines)
    monkeypatch.setattr(demographics, "MOST_RECORDS", 3)
    assert counts(ask(many, MANY, "RCP|I")) == ["OK", "", "3", "3", "0"]


def test_a_more_telling_parameter_narrows_a_search_that_is_too_wide(many: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demographics, "MOST_RECORDS", 3)
    lines = ask(many, "QPD|IHE PDQ Query|t|@PID.5.1^赵~@PID.5.2^云~@PID.7^199002~@PID.8^M~@PID.13^87654321", "RCP|I")
    assert (counts(lines), [line[:3] for line in lines]) == (["NF", "", "0", "0", "0"], ["MSH", "MSA", "QAK", "QPD"])


def test_a_hidden_domain_is_neither_shown_nor_searched(database: Database, profile: Profile, tmp_path: Path) -> None:
    shy = region(profile)
    shy = shy.model_copy(update={"domains": tuple(
        domain.model_copy(update={"hidden": True}) if domain.oid == HOSPB else domain for domain in shy.domains)})
    bench = fill(Bench(database, shy, tmp_path))
    bench.add("B7", Demographics(names=(PersonName("隐", "名"),), birth_date="19700102", sex="M"))
    assert shown(ask(bench, "QPD|IHE PDQ Query|t|@PID.5.1^张", "RCP|I")) == ["XAD~A1~C1"]
    assert shown(ask(bench, "QPD|IHE PDQ Query|t|@PID.5.1^隐", "RCP|I")) == []
    by_oid = [ask(bench, f"QPD|IHE PDQ Query|t|@PID.3.1^B1~@PID.3.4.2^{oid}", "RCP|I")[1:3] for oid in (HOSPB, "2.999.77")]
    assert by_oid[0] == by_oid[1] == ["MSA|AA|q1", "QAK|t|NF||0|0|0"]
    by_name = [ask(bench, f"QPD|IHE PDQ Query|t|@PID.3.1^B1~@PID.3.4.1^{name}", "RCP|I") for name in ("HOSPB", "NEVER")]
    assert [line.split("|")[2] for line in (by_name[0][2], by_name[1][2])] == ["QPD^1^3^1"] * 2
    assert ask(bench, "QPD|IHE PDQ Query|t|@PID.5.1^张|||||^^^HOSPB", "RCP|I")[2].split("|")[2] == "QPD^1^8^1"


# -- hostile

@pytest.mark.parametrize(("asked", "place"), [
    ("@PID.5.1^" + "x" * (1 << 22), "QPD^1^3^1"), ("@PID.5.1^" + "\\F\\" * (1 << 20), "QPD^1^3^1"),
    ("x" * (1 << 22), "QPD^1^3^1"), ("~".join(["@PID.5.1^x"] * 10_000), "QPD^1^3"),
    ("~".join(["@PID.5.1^x"] * 101), "QPD^1^3^101")])
def test_too_long_and_too_many_parameters_are_refused(bench: Bench, asked: str, place: str) -> None:
    lines = ask(bench, f"QPD|IHE PDQ Query|t|{asked}", "RCP|I")
    assert (lines[1], lines[2].split("|")[2:4]) == ("MSA|AE|q1", [place, "102^Data type error^HL70357"])


def test_a_hundred_parameters_of_one_kind_are_all_asked(bench: Bench) -> None:
    lines = ask(bench, "QPD|IHE PDQ Query|t|" + "~".join(["@PID.5.1^张", *["@PID.5.1^无"] * 99]), "RCP|I")
    assert counts(lines) == ["NF", "", "0", "0", "0"]


def test_what_our_client_writes_is_answered_and_the_answer_read(many: Bench) -> None:
    header = Header(sender=("VIEW", "CONS"), receiver=("BROKER", "REGION"), charset="GB 18030-2000")
    query: dict[str, Any] = {"domains": ["2.999.2.1"], "tag": "t-1", "quantity": 4}
    asked = [("PID.5.1", "赵"), ("PID.7", "1990")]
    first = read_pdq_answer(parse(many.mllp.answer(write_pdq_query(header, asked, **query), "10.0.0.7")))
    assert (len(first.patients), first.total, first.remaining, first.warning) == (4, 7, 3, "")
    assert first.patients[0].person.names == (PersonName("赵", "云"),)
    assert [one.value for one, _ in first.patients[0].ids] == ["M1"]
    rest = read_pdq_answer(parse(many.mllp.answer(
        write_pdq_query(header, asked, **query, pointer=first.pointer), "10.0.0.7")))
    assert ([patient.ids[0][0].value for patient in rest.patients], rest.pointer) == (["M5", "M6", "M7"], "")
