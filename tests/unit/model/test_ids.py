import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import Rejected
from broker.model.ids import PatientId, escape_hl7, is_oid, is_uid, is_uuid_urn, new_oid, new_uuid_urn, unescape_hl7


@pytest.mark.parametrize(("text", "good"), [
    ("2.999.1", True), ("0.0", True), ("1", False), ("3.1", False), ("1.02", False), ("1..2", False), ("1.2.", False),
    ("", False),
    ("1." + "2" * 63, False), ("1." + "2" * 62, True),
])
def test_oid(text: str, good: bool) -> None:
    assert is_oid(text) is good


@pytest.mark.parametrize("evil", ["../etc/passwd", "1.2/3", "1.2\n", "1.2\0", "", "1" * 65, "１.２"])
def test_an_evil_uid_is_no_uid(evil: str) -> None:
    assert not is_uid(evil)


def test_fresh_identifiers_are_well_formed() -> None:
    assert is_uuid_urn(new_uuid_urn())
    assert is_oid(new_oid())
    assert not is_uuid_urn(new_uuid_urn().upper())


@pytest.mark.parametrize("cx", [
    "P-1", "P-1^^^2.999.1", "^^^&2.999.1&ISO", "P-1^^^X&2.999.1&ISO", "P-1^^^&2.999.1&ISO^PI", "P^1^^&2.999.1&ISO",
    "P-1^^^&2.999.01&ISO", "P-1^^^&2.999.1&DNS"])
def test_only_the_xds_form_of_a_patient_id_is_read(cx: str) -> None:
    with pytest.raises(Rejected, match="XDSRegistryMetadataError"):
        PatientId.parse(cx)


def test_trailing_empty_components_do_not_matter() -> None:
    assert PatientId.parse("P-1^^^&2.999.1&ISO^^") == PatientId("2.999.1", "P-1")


@settings(derandomize=True)
@given(st.text(min_size=1, alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])))
def test_a_patient_id_survives_writing_and_reading(value: str) -> None:
    assert unescape_hl7(escape_hl7(value)) == value
    assert PatientId.parse(str(PatientId("2.999.1", value))) == PatientId("2.999.1", value)
