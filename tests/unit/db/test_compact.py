"""Texts by name in few bytes: what was stored is read by every later version, and nothing else passes for it."""

import contextlib
import zlib
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

import broker.app.whole  # noqa: F401 - it declares every table
from broker.db import Database, schema, sql
from broker.db.compact import pack, unpack
from broker.imaging.store import studies
from broker.imaging.store import tables as t
from tests.helpers.postgresql import fresh

STORED = "0143170b77f473b77dded71df77443ffb3197d18ae32323130343054aa0500"
FACTS = {"PatientName": "WANG=王^小明", "StudyDate": "20240101"}


def test_what_the_first_version_stored_is_read() -> None:
    assert unpack(bytes.fromhex(STORED)) == FACTS


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), st.text(st.characters(exclude_categories=()))))
def test_every_text_comes_back_as_it_was(found: dict[str, str]) -> None:
    assert list(unpack(pack(found)).items()) == list(found.items())


@pytest.mark.parametrize("body", [
    b"", b"\x01", b"\x02" + bytes.fromhex(STORED)[1:], bytes.fromhex(STORED)[:-1], bytes.fromhex(STORED) + b"\0", b"\x01\xff",
    zlib.compress(b"{}")])
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="texts"):
        unpack(body)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def test_the_rows_of_before_are_kept(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'broker.db'}"
    if kind == "postgresql":
        url = fresh(request.getfixturevalue("postgres").url, "0007f")
    with contextlib.closing(Database(url)) as database:
        schema.upgrade(database, "0007f")
        with database.write() as unit:
            before = sa.MetaData()
            before.reflect(sql(unit), only=["study", "series"])
            study, series = before.tables["study"], before.tables["series"]
            row = {
                "hospital": "a", "tier": "archive", "state": "complete", "patient_domain": "2.9", "patient_value": "P",
                "study_date": "20240101", "accession": "A", "objects": 0, "bytes": 0, "first_at": 0.5, "last_at": 1.5,
                "used_at": 2.5, "part": 0}
            sql(unit).execute(sa.insert(study), [
                {"id": number, "study_uid": f"1.2.{number}", **row, "facts": FACTS | {"StudyID": str(number)}}
                for number in range(1, 1100)])
            sql(unit).execute(sa.insert(series), [
                {"study_id": 7, "series_uid": uid, "modality": "CT", "body_part": "CHEST", "description": "肺 1.25 mm"}
                for uid in ("1.9", "1.10")])
        schema.upgrade(database)
        with database.read() as unit:
            found = {row.id: row.facts for row in sql(unit).execute(sa.select(t.study.c.id, t.study.c.facts))}
            assert found == {number: FACTS | {"StudyID": str(number)} for number in range(1, 1100)}
            described = sql(unit).execute(sa.select(t.series)).all()
            assert sorted(map(tuple, described)) == [
                (7, "1.10", "CT", "CHEST", "肺 1.25 mm"), (7, "1.9", "CT", "CHEST", "肺 1.25 mm")]
            kept = studies.get(unit, 7)
            assert (kept.study_uid, kept.first_at, kept.last_at, kept.used_at, kept.part) == ("1.2.7", 0.5, 1.5, 2.5, 0)
