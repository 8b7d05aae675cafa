from dataclasses import replace

import pytest

from broker.config.profile import Profile
from broker.db import sql
from broker.imaging import maker
from broker.imaging.locate import Located, locate, sources
from broker.imaging.store import tables
from broker.model.imaging import Archived, InstanceRef, Online, Origin
from tests.helpers.archive import archive_of
from tests.helpers.fetch import JPEG, OURS, THEIRS, Centre, octets, read, refs_of


def _locate(centre: Centre, *refs: InstanceRef) -> Located:
    with centre.database.read() as unit:
        return locate(unit, refs, centre.sdfo, centre.profile)


def _kinds(centre: Centre, ref: InstanceRef) -> list[str]:
    return [type(place.location).__name__ for place in _locate(centre, ref).places[ref]]


def test_online(centre: Centre) -> None:
    ref, = refs_of("1.2.1", 1, OURS)
    centre.land("a", [ref], syntax=JPEG)
    place, = _locate(centre, ref).places[ref]
    assert isinstance(place.location, Online)
    assert place.transfer_syntax == JPEG
    assert place.holding.patient.value == "P-a"
    assert read(centre.sdfo.open(place.location)) == octets(ref.sop_uid)


def test_archive(centre: Centre) -> None:
    ref, other = refs_of("1.2.1", 2, OURS)
    centre.land("a", [ref, other], syntax=JPEG)
    centre.pack("1.2.1")
    place, = _locate(centre, ref).places[ref]
    assert isinstance(place.location, Archived)
    assert place.transfer_syntax == JPEG
    assert read(centre.sdfo.open(place.location)) == octets(ref.sop_uid)


def test_origin(centre: Centre) -> None:
    ref, = refs_of("1.2.1", 1, THEIRS)
    centre.catalogue([ref])
    place, = _locate(centre, ref).places[ref]
    assert place.location == Origin("b")


def test_several_at_once_best_first(centre: Centre) -> None:
    refs = refs_of("1.2.1", 2, THEIRS)
    centre.catalogue(refs)
    centre.land("b", refs)
    centre.pack("1.2.1", keep_online=True)
    assert _kinds(centre, refs[0]) == ["Online", "Archived", "Origin"]


@pytest.mark.parametrize("series", ["1.2.1.1", "1.2.1.2"])
def test_other_bytes_that_come_when_the_study_is_packed_are_not_the_picture(
    centre: Centre, monkeypatch: pytest.MonkeyPatch, series: str,
) -> None:
    ref, = refs_of("1.2.1", 1, OURS)
    centre.land("a", [ref])
    centre.pack("1.2.1")
    monkeypatch.setattr("tests.helpers.fetch.octets", lambda uid: b"other bytes")
    late = replace(ref, series_uid=series)
    centre.land("a", [late])
    located = _locate(centre, ref, late).places
    assert [read(centre.sdfo.open(place.location)) for place in located[ref]
            if not isinstance(place.location, Origin)] == [octets(ref.sop_uid)]
    assert len(located[late]) == (1 if series == ref.series_uid else 0)


def test_a_study_of_an_origin_can_have_parts_in_each_place(centre: Centre) -> None:
    refs = refs_of("1.2.1", 3, THEIRS)
    centre.catalogue(refs)
    centre.land("b", refs[:1])
    assert [_kinds(centre, ref) for ref in refs] == [["Online", "Origin"], ["Origin"], ["Origin"]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("change", "found"), [
    ({}, True),
    ({"source_uid": ""}, True),
    ({"study_uid": "1.2.2"}, False),
    ({"series_uid": "1.2.1.2"}, False),
    ({"sop_uid": "1.2.1.1.9"}, False),
    ({"source_uid": THEIRS}, False),
    ({"source_uid": "2.999.77"}, False),
])
def test_hierarchy_and_source_must_agree(centre: Centre, change: dict[str, str], found: bool, packed: bool) -> None:
    ref, = refs_of("1.2.1", 1, OURS)
    other, = refs_of("1.2.2", 1, OURS)
    centre.land("a", [ref, other, replace(other, study_uid="1.2.1", series_uid="1.2.1.2", sop_uid="1.2.1.2.1")])
    if packed:
        centre.pack("1.2.1")
    assert bool(_kinds(centre, replace(ref, **change))) is found


@pytest.mark.parametrize(("change", "found"), [
    ({}, True),
    ({"series_uid": "1.2.1.9"}, False),
    ({"source_uid": OURS}, False),
])
def test_what_an_origin_keeps_is_asked_for_under_its_own_source(centre: Centre, change: dict[str, str], found: bool) -> None:
    ref, = refs_of("1.2.1", 1, THEIRS)
    centre.catalogue([ref])
    assert bool(_kinds(centre, replace(ref, **change))) is found


def test_what_an_origin_sent_of_itself_is_ours_too(centre: Centre) -> None:
    ref, = refs_of("1.2.1", 1, THEIRS)
    centre.land("b", [ref])
    assert _kinds(centre, ref) == _kinds(centre, replace(ref, source_uid=OURS)) == ["Online"]


def test_the_same_study_of_two_hospitals_is_told_apart_by_its_source(centre: Centre) -> None:
    here, = refs_of("1.2.1", 1, OURS)
    there = replace(here, source_uid=THEIRS)
    centre.land("a", [here])
    centre.catalogue([there])
    located = _locate(centre, here, there)
    assert [type(place.location) for place in located.places[here]] == [Online]
    assert [place.location for place in located.places[there]] == [Origin("b")]


def test_an_unreadable_container_is_said(centre: Centre) -> None:
    ref, = refs_of("1.2.1", 1, OURS)
    centre.land("a", [ref])
    path = centre.pack("1.2.1")
    (archive_of(centre.sdfo) / path).unlink()
    located = _locate(centre, ref)
    assert located.places[ref] == []
    assert located.unread == {"1.2.1"}


def test_a_retired_container_does_not_count(centre: Centre) -> None:
    ref, = refs_of("1.2.1", 1, OURS)
    centre.land("a", [ref])
    centre.pack("1.2.1")
    with centre.database.write() as unit:
        sql(unit).execute(tables.container.update().values(state="retired"))
    assert _kinds(centre, ref) == []


def test_many_instances_in_one_question(centre: Centre) -> None:
    refs = refs_of("1.2.1", 700, THEIRS, series=2)
    centre.catalogue(refs)
    centre.land("b", refs[:10])
    located = _locate(centre, *refs)
    assert all(located.places.values())
    assert sum(isinstance(places[0].location, Online) for places in located.places.values()) == 10


def test_unknown_everything(centre: Centre) -> None:
    assert _kinds(centre, InstanceRef("1.2.3", "1.2.3.4", "1.2.3.4.5", source_uid=OURS)) == []


def test_sources(profile: Profile) -> None:
    assert sources(profile) == {OURS, THEIRS, *(maker.second_location(hospital, profile) for hospital in profile.hospitals)}
