"""Parameters of FHIR searches: alternatives, tokens and their escapes."""

import pytest

from broker.model.errors import Rejected
from broker.patients.fhir import plain, token, values


@pytest.mark.parametrize(("text", "alternatives"), [
    ("a", ["a"]), ("a,b", ["a", "b"]), (r"a\,b", ["a,b"]), (r"a\\,b", ["a\\", "b"]), (r"a\\\,b", [r"a\,b"]),
    (r"a\|b,\$", ["a|b", "$"]), (r"a\b", [r"a\b"]), ("", [""]), (",", ["", ""]), ("张,李", ["张", "李"])])
def test_a_comma_divides_alternatives(text: str, alternatives: list[str]) -> None:
    assert [plain(one) for one in values(text)] == alternatives


@pytest.mark.parametrize(("text", "system", "value"), [
    ("urn:oid:1.2|A", "urn:oid:1.2", "A"), ("|A", "", "A"), ("s|", "s", ""), (r"s|a\|b", "s", "a|b"), (r"s\\|a", "s\\", "a"),
    (" s | a ", "s", "a")])
def test_a_bar_divides_system_and_value(text: str, system: str, value: str) -> None:
    found = token(text, "identifier")
    assert (found.system, found.value) == (system, value)


@pytest.mark.parametrize("text", ["A", "a|b|c", r"a\|b"])
def test_a_token_without_one_bar_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="identifier must have the form"):
        token(text, "identifier")
