import pytest

from broker.wire.birth_date import read_birth_date


@pytest.mark.parametrize(("text", "found"), [
    ("1979", "1979"), ("197902", "197902"), ("19790214", "19790214"), ("19790000", "1979"), ("19790200", "197902"),
    ("197902141030", "19790214"), ("19790214103000.1234+0800", "19790214"), ("1979+0800", "1979"), ("19791231-0500", "19791231"),
    ("1979021", None), ("20000229", "20000229"), ("19790229", None), ("19791301", None),
    ("197900", "1979"), ("19791000", "197910"), ("19790010", None), ("197913", None), ("979", None),
    ("19790", None), ("1979-02-14", None), ("14.02.1979", None), ("", None), ("00000000", None), ("１９７９", None),
    ("19790214 ", None),
])
def test_a_birth_date_of_any_precision(text: str, found: str | None) -> None:
    assert read_birth_date(text) == found
