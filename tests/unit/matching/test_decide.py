from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.matching.block import block_keys
from broker.matching.decide import Verdict, same_person
from broker.matching.normalise import is_placeholder, name_key, own_numbers, resident_number
from broker.model.people import Demographics, PersonName

CARD = "99999919790214001"      # a man's; the check character is added below
MAN, WOMAN = resident_number("999999790214001"), "99999919790214002X"
WEI = PersonName("张", "伟")
PINYIN = PersonName("ZHANG", "WEI")
PERSON = Demographics(names=(WEI, PINYIN), birth_date="19790214", sex="M")


def other(**changes: Any) -> Demographics:
    return replace(PERSON, **changes)


@pytest.mark.parametrize(("a", "b", "verdict"), [
    (PERSON, PERSON, Verdict.SAME),
    (PERSON, other(names=(PersonName("张伟"),)), Verdict.SAME),
    (PERSON, other(names=(PersonName("张　伟"),)), Verdict.SAME),
    (PERSON, other(names=(PersonName("Zhang", "Ｗｅｉ"),)), Verdict.SAME),
    (PERSON, other(names=(PersonName("李", "雷"), WEI)), Verdict.SAME),
    (other(names=(PersonName("买买提", "·吾布力"),)), other(names=(PersonName("买买提•吾布力"),)), Verdict.SAME),
    (PERSON, other(names=(PersonName("章", "威"), PINYIN)), Verdict.UNKNOWN),
    (PERSON, other(names=(PersonName("張", "偉"),)), Verdict.UNKNOWN),
    (PERSON, other(names=(PersonName("WEI", "ZHANG"),)), Verdict.UNKNOWN),
    (PERSON, other(names=()), Verdict.UNKNOWN),
    (other(names=()), other(names=()), Verdict.UNKNOWN),
    (PERSON, other(sex="F"), Verdict.DIFFERENT),
    (PERSON, other(birth_date="19790215"), Verdict.DIFFERENT),
    (PERSON, other(sex=""), Verdict.UNKNOWN),
    (other(sex="U"), other(sex="U"), Verdict.UNKNOWN),
    (PERSON, other(birth_date=""), Verdict.UNKNOWN),
    (other(birth_date="1979"), other(birth_date="1979"), Verdict.UNKNOWN),
    (other(birth_date="19790101"), other(birth_date="19790101"), Verdict.UNKNOWN),
    (PERSON, other(birth_date="1979"), Verdict.UNKNOWN),
    (PERSON, other(birth_date="197902"), Verdict.UNKNOWN),
    (PERSON, other(birth_date="1980"), Verdict.DIFFERENT),
    (PERSON, other(birth_date="197903"), Verdict.DIFFERENT),
    (other(birth_date="1979"), other(birth_date="198002"), Verdict.DIFFERENT),
])
def test_names(a: Demographics, b: Demographics, verdict: Verdict) -> None:
    assert same_person(a, b) is verdict
    assert same_person(b, a) is verdict


@pytest.mark.parametrize(("a", "b", "verdict"), [
    ({"other_ids": (("2.999.9.1", MAN),)}, {"other_ids": (("", MAN),), "names": (PersonName("章"),)}, Verdict.SAME),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", "999999790214001"),), "names": (), "sex": ""}, Verdict.SAME),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", MAN),), "birth_date": "19790215"}, Verdict.DIFFERENT),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", MAN),), "birth_date": "", "names": ()}, Verdict.UNKNOWN),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", MAN),), "birth_date": "1979", "names": ()}, Verdict.SAME),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", MAN),), "birth_date": "197902"}, Verdict.SAME),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", MAN),), "birth_date": "1980"}, Verdict.DIFFERENT),
    ({"other_ids": (("x", WOMAN),)}, {"other_ids": (("x", WOMAN),), "names": (PersonName("章"),)}, Verdict.UNKNOWN),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", resident_number("999999790214003")),)}, Verdict.DIFFERENT),
    ({"other_ids": (("x", MAN),)}, {"other_ids": (("x", "12345"),)}, Verdict.SAME),
    ({"other_ids": (("x", "77"),), "names": ()}, {"other_ids": (("x", "77"),), "names": ()}, Verdict.UNKNOWN),
    ({"other_ids": (("x", MAN),), "names": (PersonName("李梅之子"),)}, {"other_ids": (("x", MAN),)}, Verdict.UNKNOWN),
])
def test_numbers(a: dict[str, Any], b: dict[str, Any], verdict: Verdict) -> None:
    assert same_person(other(**a), other(**b)) is verdict
    assert same_person(other(**b), other(**a)) is verdict


@pytest.mark.parametrize("name", [
    PersonName("无名氏"), PersonName("无", "名氏"), PersonName("李梅", "之子"), PersonName("李梅之女"), PersonName("李", "梅婴"),
    PersonName("王小婴儿"), PersonName("TEST"), PersonName("Test", "Mei"), PersonName("test12"), PersonName("ＴＥＳＴ"),
    PersonName("测试", "一"), PersonName("BABY", "BOY"), PersonName("Unknown"), PersonName("WU", "MINGSHI"),
])
def test_placeholders_never_link(name: PersonName) -> None:
    assert is_placeholder(name)
    person = other(names=(WEI, name))
    assert same_person(person, person) is Verdict.UNKNOWN
    assert block_keys(person) == frozenset()


@pytest.mark.parametrize("name", [
    WEI, PINYIN, PersonName("Contest"), PersonName("TESTA", "MARIO"), PersonName(), PersonName("吴名")])
def test_names_are_not_placeholders(name: PersonName) -> None:
    assert not is_placeholder(name)


@pytest.mark.parametrize(("text", "number"), [
    ("99999919790214002X", "99999919790214002X"), (" 999999 19790214 002x", "99999919790214002X"),
    ("999999790214002", "99999919790214002X"), ("999999197902140021", ""), ("9999991979021400", ""), ("", ""), ("A1", ""),
])
def test_resident_numbers(text: str, number: str) -> None:
    assert resident_number(text) == number


def test_a_number_is_its_owners_only() -> None:
    assert MAN[:17] == CARD
    assert own_numbers(other(other_ids=(("x", MAN),))) == {MAN}
    assert own_numbers(other(other_ids=(("x", WOMAN),))) == frozenset()
    assert own_numbers(other(other_ids=(("x", WOMAN),), sex="")) == {WOMAN}
    assert own_numbers(other(other_ids=(("x", MAN),), birth_date="20200101")) == frozenset()


def test_name_keys_keep_the_script_apart() -> None:
    assert name_key(WEI) == "han:张伟"
    assert name_key(PersonName("O'Brien-", "Anne Marie")) == "letters:obrienannemarie"
    assert name_key(PersonName(" · ")) == ""


NAMES = st.builds(
    PersonName, family=st.sampled_from(["张", "章", "ZHANG", "无名氏", "", "欧阳"]), given=st.sampled_from(["伟", "WEI", ""]))
DATES = ["19790214", "19790101", "1979", "197902", "197903", ""]
PEOPLE = st.builds(
    Demographics, names=st.lists(NAMES, max_size=3).map(tuple), birth_date=st.sampled_from(DATES),
    sex=st.sampled_from(["M", "F", "U", ""]),
    other_ids=st.lists(st.tuples(st.sampled_from(["", "x"]), st.sampled_from([MAN, WOMAN, "1"])), max_size=2).map(tuple))


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=600)
@given(PEOPLE, PEOPLE)
def test_the_verdict_is_symmetric_and_found_by_blocking(a: Demographics, b: Demographics) -> None:
    assert same_person(a, b) is same_person(b, a)
    assert same_person(a, a) is not Verdict.DIFFERENT
    if same_person(a, b) is Verdict.SAME:
        assert block_keys(a) & block_keys(b)
