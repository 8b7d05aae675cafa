"""HL7 v2 as hospitals' programs really write it: nulls, empty repetitions, line ends, short headers, several messages at once."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker.config.profile import Profile
from broker.db import Database, Lock, lock, sql
from broker.patients.store import tables
from tests.helpers.mllp import codes, segment
from tests.helpers.patients import Bench, region
from tests.helpers.waiting import PATIENCE

HEAD = "MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20261126101500||ADT^{}|m1|P|2.3.1||||||UNICODE UTF-8\r"
FEED = HEAD.format("A04^ADT_A01") + "EVN||20261126101500\r"
MERGE = HEAD.format("A40^ADT_A39") + "EVN||20261126101500\r"
QUERY = ("MSH|^~\\&|VIEW|WARD|BROKER|REGION|20261126101500||QBP^Q23^QBP_Q21|q1|P|2.5||||||UNICODE UTF-8\r"
         "QPD|IHE PIX Query|q1|{}\rRCP|I\r")
A = "{}^^^HOSPA&2.999.2.1&ISO^PI"


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return Bench(database, region(profile), tmp_path)


def say(bench: Bench, data: str | bytes) -> list[list[str]]:
    raw = data if isinstance(data, bytes) else data.encode()
    return [line.split("|") for line in bench.mllp.answer(raw, "10.0.0.7").decode().split("\r") if line]


def verdict(answer: list[list[str]]) -> tuple[str, ...]:
    return (segment(answer, "MSA")[1], *codes(answer))


def feed(bench: Bench, pid3: str, name: str = "Qiu^Yi", birth: str = "19500505", more: str = "") -> tuple[str, ...]:
    return verdict(say(bench, f"{FEED}PID|||{pid3}||{name}||{birth}|F{more}\rPV1||O\r"))


def stored(bench: Bench) -> dict[str, dict[str, Any]]:
    """Return the demographics by id."""
    with bench.database.read() as unit:
        rows = sql(unit).execute(sa.select(tables.identity.c.value, tables.identity.c.demographics)).all()
    return {row.value: row.demographics if isinstance(row.demographics, dict) else json.loads(row.demographics) for row in rows}


NO_ID = ['""^^^HOSPA&2.999.2.1&ISO^PI', '""', '""^^^HOSPA', '""^""^""^""&""&""', ' "" ^^^HOSPA', '""~""',
         '""^^^HOSPA~^^^HOSPA', "~", "~~^^^&&~", '""""^^^HOSPA', '"^^^HOSPA', "^^^HOSPA&2.999.2.1&ISO^PI"]


@pytest.mark.parametrize("pid3", NO_ID)
def test_null_is_no_id(bench: Bench, pid3: str) -> None:
    assert feed(bench, pid3) == ("AE", "101")
    assert stored(bench) == {}
    assert verdict(say(bench, QUERY.format(pid3))) == ("AE", "101")


BESIDE = [f'""^^^HOSPA~{A}', f'{A}~""^^^HOSPA', f"~{A}~", f'""~{A}', f'""^^^IDCARD~{A}~""^^^IDCARD&2.999.9.1&ISO', f"~~~~{A}",
          f"^^^HOSPA~{A}", f'"" ~{A}~ ""']


@pytest.mark.parametrize("pid3", BESIDE)
def test_a_real_id_beside_null_counts(bench: Bench, pid3: str) -> None:
    assert feed(bench, pid3.format("R1")) == ("AA",)
    assert {value: person["other_ids"] for value, person in stored(bench).items()} == {"R1": []}
    assert verdict(say(bench, QUERY.format(pid3.format("R1")))) == ("AA",)


@pytest.mark.parametrize("authority", ['HOSPA&""&""', '""&2.999.2.1&ISO', 'HOSPA&""', 'HOSPA&2.999.2.1&ISO&""'])
def test_null_in_an_authority_is_an_absent_part(bench: Bench, authority: str) -> None:
    assert feed(bench, f'R1^""^""^{authority}^""') == ("AA",)
    assert list(stored(bench)) == ["R1"]


def test_null_for_an_authority_is_none(bench: Bench) -> None:
    answer = say(bench, f'{FEED}PID|||R1^^^""||Qiu^Yi||19500505|F\r')
    assert segment(answer, "MSA")[1:] == ["AE", "m1", "HIS-A at HOSPA: no assigning authority, id R1"]


@pytest.mark.parametrize("mrg", ['""', '""^^^HOSPA', "~", '""~^^^HOSPA'])
def test_a_merge_of_null_is_refused(bench: Bench, mrg: str) -> None:
    assert feed(bench, A.format("M1")) == ("AA",)
    assert verdict(say(bench, f"{MERGE}PID|||{A.format('M1')}\rMRG|{mrg}\r")) == ("AE", "101")
    assert list(stored(bench)) == ["M1"]


@pytest.mark.parametrize("mrg", [f'""^^^HOSPA~{A}', f"~{A}", f"{A}~", f'{A}~""', f'~~{A}~~""^^^IDCARD'])
def test_empty_repetitions_are_no_obstacle_to_a_merge(bench: Bench, mrg: str) -> None:
    for value, birth in (("M1", "19550101"), ("M2", "19550201")):
        assert feed(bench, A.format(value), birth=birth) == ("AA",)
    assert verdict(say(bench, f"{MERGE}PID|||~{A.format('M1')}~\rMRG|{mrg.format('M2')}\r")) == ("AA",)
    assert bench.who("M2") == {"M1"}


def test_null_wanted_domains_are_none_and_places_count_empty_repetitions(bench: Bench) -> None:
    assert feed(bench, A.format("Q1")) == ("AA",)
    for wanted in ('""', "~", '^^^""', '""~^^^REGION&2.999.1.1&ISO~'):
        answer = say(bench, QUERY.format(f'{A.format("Q1")}|{wanted}'))
        assert verdict(answer) == ("AA",)
        assert segment(answer, "PID")[3].endswith("^^^REGION&2.999.1.1&ISO")
    answer = say(bench, QUERY.format(f'{A.format("Q1")}|~""~^^^NOBODY'))
    assert segment(answer, "ERR")[2] == "QPD^1^4^3"


@pytest.mark.parametrize(("null", "plain"), [
    ('Tao^Wen^""', "Tao^Wen"), ('Tao&""^Wen^""^""^""^""^""', "Tao^Wen"), ('""~Tao^Wen', "Tao^Wen"), ('Tao^Wen~""', "Tao^Wen"),
    ('Tao^Wen~~^^^""', "Tao^Wen"), ('~Tao^Wen^ "" ', "Tao^Wen"), ('""^Wen', "^Wen"),
])
def test_null_in_a_component_is_an_empty_component(bench: Bench, null: str, plain: str) -> None:
    """The two records are one person, and read alike."""
    more, bare = '||""^""^Town^""|||""^^^""^86^591^1|', "||^^Town|||^^^^86^591^1|"
    assert feed(bench, A.format("C1"), null, "19720911", more) == ("AA",)
    assert feed(bench, A.format("C2"), plain, "19720911", bare) == ("AA",)
    people = stored(bench)
    assert people["C1"] == people["C2"]
    assert bench.who("C1") == ({"C1", "C2"})


def test_a_field_of_null_deletes_and_an_empty_one_does_not(bench: Bench) -> None:
    more = "|A^Alias|||Long St^^Town||1390||||||350102195502010024"
    assert feed(bench, A.format("D1"), "Tao^Wen", "19720911", more) == ("AA",)
    before = stored(bench)["D1"]
    for empty in ("", "~", "^", "~^^&~"):
        assert verdict(say(bench, f"{FEED}PID|||{A.format('D1')}||{empty}|{empty}|{empty}|{empty}|||{empty}||{empty}|||||"
                                  f"|{empty}\r")) == ("AA",)
        assert stored(bench)["D1"] == before
    assert verdict(say(bench, f'{FEED}PID|||{A.format("D1")}||""~""|""^""|""|""|||^^""||""||||||""\r')) == ("AA",)
    gone = stored(bench)["D1"]
    assert [gone[key] for key in ("names", "mother", "birth_date", "sex", "addresses", "phones", "other_ids")] == [
        [], None, "", "", [], [], []]


LINES = (FEED + f"PID|||{A.format('L1')}||Hu^Di||19810101|F|||Long St^^Town\rPV1||O\r").split("\r")[:-1]
ENDS = {
    "CR": "\r", "CR LF": "\r\n", "LF": "\n", "LF CR": "\n\r", "CR CR LF": "\r\r\n", "CR and blanks": "\r \t\r",
    "LF and blanks": "\n  ", "blank lines": "\n\n", "CR and NUL": "\r\0"}


@pytest.mark.parametrize("last", ["", "\r", "\n", "\r\n", "\n\n\n", "\0", " \r"])
@pytest.mark.parametrize("end", ENDS)
def test_segments_end_with_cr_lf_or_both(bench: Bench, end: str, last: str) -> None:
    assert verdict(say(bench, ENDS[end].join(LINES) + last)) == ("AA",)
    person = stored(bench)["L1"]
    assert (person["names"][0]["family"], person["addresses"][0]["city"]) == ("Hu", "Town")


@pytest.mark.parametrize("name", ["PV1|", "PV2|", "OBX|1|", "ZPI|x|", "PD1", "MRG|A9^^^HOSPA", "  PV1|", "NK1|1|Hu^Ma"])
def test_a_segment_behind_a_lone_line_feed_is_no_rest_of_the_one_before(bench: Bench, name: str) -> None:
    assert verdict(say(bench, "\r".join(LINES[:3]) + f"\n{name}\rPV1||O\r")) == ("AA",)
    assert stored(bench)["L1"]["addresses"][0]["city"] == "Town"


def test_a_line_feed_that_may_be_text_or_a_segment_is_refused(bench: Bench) -> None:
    answer = say(bench, "\r".join(LINES[:3]) + "\nCHN|350001\rPV1||O\r")
    assert segment(answer, "MSA")[1:] == [
        "AE", "m1", "a line feed stands before 'CHN': a segment ends with CR, and text has a line fee"]
    assert stored(bench) == {}


def test_a_line_feed_in_text_stays_text(bench: Bench) -> None:
    assert feed(bench, A.format("L1"), more="|||Long St\nno. 7^^Town\nUpper part") == ("AA",)
    assert stored(bench)["L1"]["addresses"][0] == {
        "street": "Long St\nno. 7", "city": "Town\nUpper part", "state": "", "postcode": "", "country": ""}


@pytest.mark.parametrize("torn", ["Upper part^^Town\r", "pv1||O\r", "P|1\r", "PV1^|O\r", "1PV|\r", "PID\x1cX|\r", "|||\r"])
def test_a_line_that_is_no_segment_is_refused(bench: Bench, torn: str) -> None:
    """It is the rest of one that was torn, and what it should have said is lost: not the sender's knowing."""
    for end in ("\r", "\n"):
        answer = say(bench, end.join((*LINES[:3], torn.strip(), LINES[3], "")))
        assert verdict(answer) == ("AE", "100")
        assert segment(answer, "MSA")[3].startswith("line 4 does not begin with the name of a segment")
    assert stored(bench) == {}


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\\X0D\\", "\\r", "\\.br\\", "<CR>", " "])
def test_other_ends_of_segments_are_refused_for_what_they_are(bench: Bench, end: str) -> None:
    answer = say(bench, end.join(LINES).replace("||||||UNICODE UTF-8", ""))
    assert verdict(answer) == ("AE", "100")
    assert segment(answer, "MSA")[2:] == ["m1", "there is no segment behind MSH: a segment ends with CR"]
    behind_a_set = say(bench, end.join(LINES))
    assert (segment(behind_a_set, "MSA")[2], verdict(behind_a_set)) == ("m1", ("AE", "103"))
    assert "EVN" in segment(behind_a_set, "MSA")[3]
    assert stored(bench) == {}


def test_a_segment_that_goes_on_in_another_is_refused(bench: Bench) -> None:
    assert verdict(say(bench, "\r".join((*LINES[:3], "ADD|^350001", "")))) == ("AE", "100")
    assert stored(bench) == {}


@pytest.mark.parametrize("marks", ["^~", "^~\\", "^~\\&", "^~\\&#", "^~@", "^~&", "$*"])
def test_msh_2_has_two_to_five_characters(bench: Bench, marks: str) -> None:
    component, repetition = marks[0], marks[1]
    text = (FEED + f"PID|||{A.format('S1').split('&')[0]}||Lu^Mi~Mi^Lu||19820101|F\r").replace("^~\\&", "M&", 1)
    text = text.replace("^", component).replace("~", repetition).replace("M&", marks, 1)
    answer = say(bench, text)
    assert segment(answer, "MSA")[1:] == ["AA", "m1"]
    assert [name["family"] for name in stored(bench)["S1"]["names"]] == ["Lu", "Mi"]
    assert segment(answer, "MSH")[1][:2] == marks[:2]
    assert segment(answer, "MSH")[8] == f"ACK{component}A04{component}ACK"


def test_what_a_short_msh_2_leaves_out_is_text(bench: Bench) -> None:
    """No escape, no sub-component (HL7 v2.5 2.5.4): the answer takes marks that the message does not hold."""
    text = FEED.replace("^~\\&", "^~") + "PID|||S\\F\\1^^^HOSPA||Lu & Co^C:\\E\\||19820101|F\r"
    assert verdict(say(bench, text)) == ("AA",)
    assert stored(bench)["S\\F\\1"]["names"][0]["family"] == "Lu & Co"
    query = QUERY.replace("^~\\&", "^~").format("S\\F\\1^^^HOSPA")
    lines = bench.mllp.answer(query.encode(), "10.0.0.7").decode().split("\r")
    assert lines[0].startswith("MSH|^~&#|BROKER|REGION|VIEW|WARD|")
    assert lines[3] == query.split("\r")[1]
    assert lines[4].split("|")[3].endswith("^^^REGION#2.999.1.1#ISO")


@pytest.mark.parametrize("marks", ["", "^", "^^", "^~~&", "^~\\&#!", "ab", "^1\\&", "^ \\&", "^~\\&^"])
def test_a_wrong_msh_2_is_refused_under_its_control_id(bench: Bench, marks: str) -> None:
    answer = say(bench, FEED.replace("^~\\&", marks) + f"PID|||{A.format('S1')}||Lu^Mi||19820101|F\r")
    assert segment(answer, "MSH")[2:6] == ["BROKER", "REGION", "HIS-A", "HOSPA"]
    assert (segment(answer, "MSA")[2], verdict(answer)) == ("m1", ("AE", "102"))
    assert stored(bench) == {}


TWO = FEED + f"PID|||{A.format('T1')}||Xu^Ba||19830101|F\rPV1||O\r"
BATCH = "BHS|^~\\&|HIS-A|HOSPA|ELSE|WHERE|20261126101500||||b1\r"
SEVERAL = {
    "a query and a feed": (QUERY.format(A.format("M1")) + TWO, "q1", "several messages in one block"),
    "two feeds": (TWO + TWO.replace("T1", "T2").replace("|m1|", "|m2|"), "m1", "several messages in one block"),
    "two feeds, LF only": ((TWO + TWO).replace("\r", "\n"), "m1", "several messages in one block"),
    "two feeds, a lone LF between": (TWO[:-1] + "\n" + TWO, "m1", "several messages in one block"),
    "a batch": (BATCH + TWO + "BTS|1\r", "b1", "a batch (FHS, BHS)"),
    "a file": ("FHS|^~\\&|HIS-A|HOSPA|||20261126101500||||f1\r" + BATCH + TWO + "BTS|1\rFTS|1\r", "f1", "a batch (FHS, BHS)"),
    "a batch without an id": (BATCH.replace("b1", "") + TWO + "BTS|1\r", "m1", "a batch (FHS, BHS)"),
    "an empty batch": (BATCH + "BTS|0\r", "b1", "a batch (FHS, BHS)"),
    "the end of a batch": (TWO + "BTS|1\r", "m1", "a batch (FHS, BHS)"),
    "the end of a file": (TWO + "FTS|1\r", "m1", "a batch (FHS, BHS)"),
    "a batch behind a message": (TWO + BATCH + TWO, "m1", "a batch (FHS, BHS)"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_messages_in_one_block_are_refused_whole(bench: Bench, name: str) -> None:
    data, control, text = SEVERAL[name]
    answer = say(bench, data)
    assert verdict(answer) == ("AE", "100")
    assert segment(answer, "MSH")[2:4] == ["BROKER", "REGION"]
    assert segment(answer, "MSA")[2] == control
    assert segment(answer, "MSA")[3].startswith(text)
    assert stored(bench) == {}


@pytest.mark.parametrize(("given", "kept"), [
    ("1979", "1979"), ("197902", "197902"), ("19790214", "19790214"), ("1979+0800", "1979"), ("197902-0500", "197902"),
    ("19790214+0800", "19790214"), ("197902141530", "19790214"), ("19790214153000.1234+0800", "19790214"),
    ("19790214^D", "19790214"), ("~19790214", "19790214"), ('19790214^""', "19790214"),
])
def test_birth_dates_are_kept_as_exactly_as_they_are_given(bench: Bench, given: str, kept: str) -> None:
    assert feed(bench, A.format("P1"), birth=given) == ("AA",)
    assert stored(bench)["P1"]["birth_date"] == kept


LONG = "x" * 251
BOUNDED = {
    "family name": (5, LONG), "given name": (5, f"A^{LONG}"), "a further name": (5, f"A~B~{LONG}"),
    "mother": (6, LONG), "street": (11, LONG),
    "country": (11, f"^^^^^{LONG}"), "telephone": (13, LONG), "business telephone": (14, f"^^^^^^{LONG}"), "date": (7, "1" * 251),
    "sex": (8, LONG), "national number": (19, LONG), "another's id": (3, f"{A.format('X1')}~{LONG}^^^IDCARD"),
    "an authority": (3, f"X1^^^{LONG}"), "101 names": (5, "~".join(["A"] * 101)), "101 addresses": (11, "~".join(["A"] * 101)),
    "101 ids": (3, "~".join([A.format("X1")] * 101)), "101 telephones": (13, "~".join(["1"] * 101)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_values_of_a_person_are_bounded(bench: Bench, name: str) -> None:
    number, text = BOUNDED[name]
    fields = ["PID", "", "", A.format("X1"), "", "Hu^Di", *[""] * 14]
    fields[number] = text
    answer = say(bench, FEED + "|".join(fields) + "\r")
    assert verdict(answer) == ("AE", "102")
    assert segment(answer, "ERR")[1].startswith(f"PID^1^{number}^")
    assert segment(answer, "MSA")[3] in {"a value has more than 250 characters", "more than 100 repetitions"}
    assert stored(bench) == {}


BIG = 4_000_000 - 1000
# PID-5 and what follows the sex, or the segments behind PID.
EVIL = {
    "backslashes": ("\\" * BIG, ""), "escapes": ("\\F\\" * (BIG // 3), ""), "one long name": ("A " * (BIG // 2), ""),
    "characters": ("葉" * (BIG // 3), ""), "a thousand long names": ("~".join(["test " * 800] * 999), ""),
    "repetitions": ("~" * BIG, ""), "components": ("^" * BIG, ""), "sub-components": ("&" * BIG, ""),
    "nulls": ('""^' * (BIG // 3), ""), "telephones": ("Hu", "|||||" + "~".join(["1" * 4000] * 999)), "fields": ("Hu", "|" * BIG),
    "line feeds": ("\n" * BIG, ""), "segments behind line feeds": ("Hu", "\nZZZ" * (BIG // 4)),
    "segments": ("Hu", "\rZZZ" * (BIG // 4)), "national number": ("Hu", "|" * 11 + "9" * BIG),
    "nearly segments": ("Hu", "\nABC" * 9000 + " \n" * 900),
}


def evil(name: str) -> str:
    pid5, more = EVIL[name]
    return f"{FEED}PID|||{A.format('E1')}||{pid5}||19810101|F{more}\r"


def cost(bench: Bench, message: bytes, times: int = 3) -> float:
    """Return the processor time of one message, the best of so many."""
    def once() -> float:
        begun = time.process_time()
        bench.mllp.answer(message, "10.0.0.7")
        return time.process_time() - begun
    return min(once() for _ in range(times))


@pytest.mark.parametrize("name", EVIL)
def test_no_message_costs_more_than_its_size(bench: Bench, name: str) -> None:
    """What is measured against is a feed with an attachment of the same size, which is taken.

    The dearest takes ten times as much on a calm machine and fifteen on a busy one; work that is repeated takes hundreds.
    """
    plain = f"{FEED}PID|||{A.format('E0')}||Hu^Di||19810101|F\rOBX|1|ED|1||{'A' * BIG}\r".encode()
    assert verdict(say(bench, plain)) == ("AA",)
    assert cost(bench, evil(name).encode()) < 25 * cost(bench, plain)


# MSH-18, which is read before anything else.
LONG_SETS = {"marks": "&" * BIG, "escapes": "\\" * BIG, "sets": "~^" * (BIG // 2), "letters": "A" * BIG}


@pytest.mark.parametrize("name", LONG_SETS)
def test_no_header_costs_more_than_its_size(bench: Bench, name: str) -> None:
    plain = f"{FEED}PID|||{A.format('E0')}||Hu^Di||19810101|F\rOBX|1|ED|1||{'A' * BIG}\r".encode()
    said = FEED.split("|")[:12]
    evil = ["|".join([*said, "", "", "", "", "", f"{number}{LONG_SETS[name]}"]) + "\r" for number in range(4)]
    assert verdict(say(bench, evil.pop())) == ("AE", "102")
    assert min(cost(bench, message.encode(), 1) for message in evil) < 12 * cost(bench, plain)     # none was seen before


@pytest.mark.parametrize("name", ["backslashes", "one long name", "a thousand long names", "telephones", "national number"])
def test_a_message_that_is_refused_for_its_values_waits_for_no_lock(bench: Bench, name: str) -> None:
    with bench.database.write() as unit:
        lock(unit, Lock.PATIENT_INDEX)
        answers: list[list[list[str]]] = []
        thread = threading.Thread(target=lambda: answers.append(say(bench, evil(name))))
        thread.start()
        thread.join(PATIENCE)
        assert [verdict(answer) for answer in answers] == [("AE", "102")]


@pytest.mark.parametrize("name", ["x" * 250, "葉" * 250, "\\F\\" * 250, "~".join(["葉" * 250] * 100)])
def test_values_at_the_bound_are_taken(bench: Bench, name: str) -> None:
    assert feed(bench, A.format("X1"), name) == ("AA",)
    assert len(stored(bench)["X1"]["names"][0]["family"]) == 250
