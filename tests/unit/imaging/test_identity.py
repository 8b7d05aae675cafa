import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config.profile import Profile
from broker.imaging.identity import FACTS, fuller, is_corrected, patient_of, plain_id
from broker.model.ids import PatientId
from tests.helpers import dicom

OWN, OTHERS = "2.999.2.1", "2.999.3.1"


@pytest.mark.parametrize(("text", "plain"), [
    ("P1", "P1"), (" P1 ", "P1"), ("P1\0", "P1"), ("P1 \0 ", "P1"), ("\u3000P1\u00a0", "P1"), ("\ufeffP1", "P1"), ("", ""),
    ("  ", ""),
    ("e\u0301", "\u00e9"), ("p1", "p1"), ("0P1", "0P1"), ("P 1", "P 1"), ("病1", "病1"),
])
def test_a_plain_id(text: str, plain: str) -> None:
    assert plain_id(text) == plain
    assert plain_id(plain) == plain


@pytest.mark.parametrize(("issuer", "domain"), [
    ("", OWN), ("HOSPA", OWN), ("HOSPB", OTHERS), (" HOSPB ", OTHERS), (OTHERS, OTHERS), (f"HOSPB&{OTHERS}&ISO", OTHERS),
    (f"&{OTHERS}&ISO", OTHERS), ("hospb", OWN), ("PACS7", OWN), ("REGION", OWN), ("IDCARD", OWN), ("2.999.77", OWN),
])
def test_whom_a_picture_names(profile: Profile, issuer: str, domain: str) -> None:
    found = patient_of({"PatientID": " P1", "IssuerOfPatientID": issuer}, dicom.hospital(profile, "a"), profile)
    assert found == PatientId(domain, "P1")


def test_a_picture_that_names_nobody(profile: Profile) -> None:
    assert patient_of({}, dicom.hospital(profile, "a"), profile) == PatientId(OWN, "")
    assert patient_of({"PatientID": "P"}, None, profile) == PatientId("", "P")


_TEXTS = st.sampled_from(["", "A", "B", "AB", "A?", "B\ufffd", "葉^曉東"])
_SAID = st.dictionaries(st.sampled_from(FACTS), _TEXTS)


@given(st.lists(_SAID, min_size=1, max_size=5).flatmap(lambda said: st.tuples(st.just(said), st.permutations(said))))
def test_what_many_pictures_say_together_does_not_depend_on_the_order(
    both: tuple[list[dict[str, str]], list[dict[str, str]]],
) -> None:
    nothing: dict[str, str] = {}
    one, other = (functools.reduce(fuller, said, nothing) for said in both)
    assert one == other
    assert fuller(one, one) == one
    for said in both[0]:
        for keyword, text in said.items():
            alone = keyword not in {"PatientID", "IssuerOfPatientID", "StudyDate", "StudyTime"} and "Procedure" not in keyword
            if text and alone:
                assert one[keyword], "nothing that was said is lost for something emptier"


def test_values_that_belong_together_are_taken_together() -> None:
    one = {"StudyDate": "20240105", "StudyTime": "", "ProcedureCodeValue": "1", "ProcedureCodingSchemeDesignator": "X"}
    other = {"StudyDate": "20240106", "StudyTime": "101500", "ProcedureCodeValue": "22222"}
    assert fuller(one, other) == {
        "StudyDate": "20240106", "StudyTime": "101500", "ProcedureCodeValue": "1", "ProcedureCodingSchemeDesignator": "X"}


@pytest.mark.parametrize(("known", "said", "corrected"), [
    ("Ye^XiaoDong", "Ye^XiaoDong^", False), ("Ye^XiaoDong", "YE^XIAODONG", False), ("Ye^XiaoDong", "Ye^XiaoDong==", False),
    ("Ye^XiaoDong", "", False), ("", "Ye^XiaoDong", False), ("Ye^XiaoDong", "Lin^A", True),
    ("Ye^XiaoDong=葉^曉東", "Ye^XiaoDong=葉^小東", True),
])
def test_a_corrected_name(known: str, said: str, corrected: bool) -> None:
    assert is_corrected({"PatientName": known}, {"PatientName": said}) is corrected


def test_a_corrected_birth_date_or_sex() -> None:
    assert is_corrected({"PatientBirthDate": "19790214"}, {"PatientBirthDate": "19790215"})
    assert not is_corrected({"PatientBirthDate": "19790214"}, {"PatientBirthDate": "1979.02.14"})
    assert is_corrected({"PatientSex": "F"}, {"PatientSex": "M"})
    assert not is_corrected({"StudyDate": "20240101"}, {"StudyDate": "20240102"})
