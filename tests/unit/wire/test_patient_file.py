"""Tables and lines of patients as bytes: what a row is, and what is wrong with it, without memory that grows with the file."""

import io
import tracemalloc
from collections.abc import Callable, Iterable
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.people import Address, Demographics, PersonName
from broker.wire.patient_file import COLUMNS, Line, Table, lines, read_row, write_row

LARGEST = 1000


def rows(data: bytes, encoding: str = "UTF-8") -> list[tuple[int, bytes, dict[str, str], str]]:
    table = Table(io.BytesIO(data), encoding, LARGEST)
    return [(one.number, one.raw, dict(one.cells), str(one.problem or "")) for one in table]


def test_what_is_torn_ends_a_row_and_the_next_one_is_read() -> None:
    long, unclosed = b"2," + b"x" * 5000 + b"\n", b'4,"never closed\n'
    found = rows(b"id,family\n1,a\n" + long + b"3,c\n" + unclosed)
    assert [one[:3] for one in found] == [
        (2, b"1,a\n", {"id": "1", "family": "a"}), (3, b"", {}), (4, b"3,c\n", {"id": "3", "family": "c"}), (5, unclosed, {})]
    assert [one[3] for one in found[1::2]] == [
        "limit exceeded: server.max_message", "102: the row is no CSV: unexpected end of data"]
    swallowed = rows(b'id\n"1\n' + b"2\n" * 1000)
    assert swallowed[0][3] == "limit exceeded: server.max_message"
    assert swallowed[-1][1] == b"2\n", "a quotation mark that is never closed swallows no more than the limit"


def test_a_row_of_several_lines_is_one_and_comes_back_as_it_was() -> None:
    raw = b'"1","\xe5\xbc\xa0\r\nZHANG"\r\n'
    assert rows(b'"id";"family"\n'.replace(b";", b",") + raw)[0][:2] == (2, raw)
    assert read_row({"id": "1", "family": "张\r\nZHANG", "given": "\nWEI"}).changes == {
        "names": (PersonName("张"), PersonName("ZHANG", "WEI"))}


def test_other_bytes_than_the_encoding_has_are_one_rows_problem() -> None:
    assert [one[3] for one in rows(b"id\n\xff\n2\n")] == ["102: byte 1 of the line is no UTF-8", ""]
    assert rows("id\n葉\n".encode("gb18030"), "GB18030")[0][2] == {"id": "葉"}
    with pytest.raises(Rejected, match="no UTF-8"):
        rows("id,族\n".encode("gb18030"))


@pytest.mark.parametrize(("cells", "problem"), [
    ({"family": "\n" * 100}, "more than 100 lines"), ({"city": "a\x07"}, "control characters"), ({"phone": "1" * 251}, "250"),
    ({"birth_date": "14.2.1979"}, "birth_date"), ({"birth_date": "1979-2-30"}, "birth_date"),
    ({"birth_date": "1979214"}, "birth_date"), ({"birth_date": "yesterday"}, "birth_date"), ({"sex": "X"}, "table 0001")])
def test_what_is_nobodys_data_is_refused(cells: dict[str, str], problem: str) -> None:
    if "family" in cells:
        cells = {"family": f"a{cells['family']}b"}
    with pytest.raises(Rejected, match=problem):
        read_row({"id": "1", **cells})


@pytest.mark.parametrize(("text", "date"), [
    ("1979-02-14", "19790214"), ("1979/2/14", "19790214"), ("1979.2.14", "19790214"), ("19790214", "19790214"),
    ("1979-2", "197902"), ("1979", "1979"), ("1979/00/00", "1979")])
def test_birth_dates_as_files_have_them(text: str, date: str) -> None:
    assert read_row({"id": "1", "birth_date": text}).changes == {"birth_date": date}


def test_ids_with_authorities_in_each_form() -> None:
    row = read_row({"id": "1", "other_ids": "A\nB^^^HOSPB\nC^^^HOSPC&2.999.4.1&ISO\nD^^^&2.999.4.1&ISO\nE^^^2.999.4.1"})
    assert row.other_ids == (("", "A"), ("HOSPB", "B"), ("2.999.4.1", "C"), ("2.999.4.1", "D"), ("2.999.4.1", "E"))
    assert (read_row({"id": "1"}).other_ids, read_row({"id": "1"}).national) == (None, None)


TEXT = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), max_size=8).filter(lambda one: "^" not in one)
SOME = TEXT.filter(bool)
PEOPLE = st.builds(
    Demographics, names=st.lists(st.builds(PersonName, SOME, TEXT, TEXT, TEXT, TEXT, TEXT), max_size=3).map(tuple),
    birth_date=st.sampled_from(["", "1979", "197902", "19790214"]), sex=st.sampled_from(["", "F", "M", "O"]),
    mother=st.none() | st.builds(PersonName, SOME, TEXT),
    addresses=st.lists(st.builds(Address, TEXT, SOME, TEXT, TEXT, TEXT), max_size=3).map(tuple),
    phones=st.lists(SOME, max_size=3).map(tuple),
    accounts=st.lists(st.tuples(st.sampled_from(["", "HOSPA", "2.999.2.1"]), SOME), max_size=2).map(tuple),
    other_ids=st.lists(st.tuples(st.just("2.999.3.1"), SOME), max_size=2).map(tuple))


@given(person=PEOPLE)
def test_what_is_written_is_read_as_it_was(person: Demographics) -> None:
    cells = dict(zip(COLUMNS, write_row(PatientId("2.999.2.1", "F1"), "XAD", person), strict=True))
    row = read_row(cells)
    assert (row.domain, row.value, row.other_ids or ()) == ("2.999.2.1", "F1", person.other_ids)
    assert Demographics(**row.changes, other_ids=row.other_ids or ()) == person


class _Endless(io.RawIOBase):
    """A file of one line of many megabytes, and of very many short ones."""

    def __init__(self) -> None:
        self._parts = iter([b"id\n", *([b"x" * 65536] * 300), b"\n", *([b"1\n" * 1000] * 50)])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        part = next(self._parts, b"")
        buffer[:len(part)] = part
        return len(part)


def _buffered() -> BinaryIO:
    return io.BufferedReader(_Endless(), 131072)  # type: ignore[type-var]


@pytest.mark.parametrize("read", [lambda file: Table(file, "UTF-8", 100_000), lambda file: lines(file, 100_000)])
def test_memory_does_not_grow_with_the_file(read: Callable[[BinaryIO], Iterable[Line]]) -> None:
    tracemalloc.start()
    try:
        number = len([None for _ in read(_buffered())])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number > 50_000
    assert peak < 3_000_000
