"""Pictures of the archive that are not what was packed: who finds them, and what is given in their place."""

from base64 import b64decode
from pathlib import Path

import pytest

from broker.db import sql
from broker.imaging.damage import ROTTEN, Quarantine
from broker.imaging.fetch import RetrieveResult
from broker.imaging.locate import locate
from broker.imaging.store import damages, tables
from broker.imaging.store.damages import WHOLE
from broker.model.errors import Unavailable
from broker.model.imaging import Archived, InstanceRef, Online, Origin
from tests.helpers.archive import archive_of
from tests.helpers.conflicts import with_hospital
from tests.helpers.damage import audited, quarantine, spoil
from tests.helpers.fetch import OURS, Centre, Pacs, octets, read, refs_of, working

STUDY = "1.2.1"


@pytest.fixture
def keeping(centre: Centre, tmp_path: Path) -> Quarantine:
    return quarantine(centre.database, centre.sdfo, tmp_path)


def packed(centre: Centre, count: int = 3, *, keep_online: bool = False) -> tuple[list[InstanceRef], str]:
    refs = refs_of(STUDY, count, OURS)
    centre.land("a", refs)
    path = centre.pack(STUDY, keep_online=keep_online)
    with centre.database.write() as unit:
        sql(unit).execute(tables.study.update().values(tier="archive"))
    return refs, path


def known(centre: Centre) -> list[tuple[str, str, str]]:
    with centre.database.read() as unit:
        return [(one.container, one.sop_uid, one.reason) for one in damages.listed(unit)]


def given(gathered: RetrieveResult) -> dict[str, bytes]:
    return {ref.sop_uid: read(found.source) for ref, found in gathered.found.items()}


def cut(centre: Centre, refs: list[InstanceRef]) -> set[str]:
    """Return which of these pictures end with an error when somebody reads them all."""
    broken = set()
    for ref, found in centre.fetch.retrieve(refs).found.items():
        try:
            assert read(found.source) == octets(ref.sop_uid)
        except OSError:
            broken.add(ref.sop_uid)
    return broken


@pytest.mark.usefixtures("keeping")
def test_the_first_reader_is_cut_off_and_the_second_is_told(centre: Centre, tmp_path: Path) -> None:
    refs, path = packed(centre)
    bad = refs[1]
    spoil(centre.sdfo, path, bad.sop_uid)
    assert cut(centre, refs) == {bad.sop_uid}
    assert known(centre) == [(path, bad.sop_uid, ROTTEN)]
    again = centre.fetch.retrieve(refs)
    assert given(again) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs if ref != bad}
    assert again.missing == {bad: "its stored copy is damaged"}
    assert again.patients[bad].value == "P-a"
    record, = audited(tmp_path)
    assert record.xpath("string(EventIdentification/@EventOutcomeIndicator)") == "0"
    assert record.xpath("string(//EventTypeCode/@csd-code)") == "ARCHIVE-DAMAGE"
    study, = record.xpath("ParticipantObjectIdentification[ParticipantObjectIDTypeCode/@csd-code='110180']")
    assert study.get("ParticipantObjectID") == STUDY
    assert [b64decode(value).decode() for value in study.xpath("ParticipantObjectDetail/@value")] == [bad.sop_uid]
    assert str(record.xpath("string(*[@ParticipantObjectTypeCode='1']/@ParticipantObjectID)")).startswith("P-a^")


def test_damage_is_entered_and_audited_once(centre: Centre, keeping: Quarantine, tmp_path: Path) -> None:
    refs, path = packed(centre)
    one, two, three = (ref.sop_uid for ref in refs)
    assert keeping.enter(path, [one, two], "a reason") == [one, two]
    assert keeping.enter(path, [two, three], "another") == [three]
    assert keeping.enter(path, [one, two, three], "another") == []
    assert known(centre) == [(path, one, "a reason"), (path, two, "a reason"), (path, three, "another")]
    assert len(audited(tmp_path)) == 2


def test_what_was_mended_may_be_damaged_again(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre)
    keeping.enter(path, [refs[0].sop_uid], "a reason")
    with centre.database.write() as unit:
        assert damages.mended(unit, path, 5.0) == [refs[0].sop_uid]
    assert known(centre) == []
    assert keeping.enter(path, [refs[0].sop_uid], "again") == [refs[0].sop_uid]
    assert known(centre) == [(path, refs[0].sop_uid, "again")]


def test_damage_of_a_container_that_was_replaced_is_nobodys(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre)
    keeping.enter(path, [refs[0].sop_uid], ROTTEN)
    with centre.database.write() as unit:
        sql(unit).execute(tables.container.update().values(state="retired"))
    assert known(centre) == []
    assert keeping.enter(path, [refs[1].sop_uid], ROTTEN) == []
    assert keeping.enter(path.replace(".1-", ".9-"), [refs[1].sop_uid], ROTTEN) == []


def test_a_copy_online_is_given_instead(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre, keep_online=True)
    keeping.enter(path, [ref.sop_uid for ref in refs], ROTTEN)
    with centre.database.read() as unit:
        places = locate(unit, refs, centre.sdfo, centre.profile).places
    assert [[type(place.location) for place in places[ref]] for ref in refs] == [[Online]] * 3
    assert given(centre.fetch.retrieve(refs)) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs}


def test_the_pacs_of_a_hospital_that_sends_is_asked_instead(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre)
    centre.profile = with_hospital(centre.profile, "a", port=11112)
    keeping.enter(path, [refs[2].sop_uid], ROTTEN)

    def send(one: Pacs, want: object, progress: object) -> None:
        one.centre.land("a", refs)

    pacs = Pacs(centre, list(refs), script=send)
    with working(centre, pacs):
        assert given(centre.fetch.retrieve(refs)) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs}
        assert [want.sop_uids for want in pacs.asked] == [(refs[2].sop_uid,)]
        assert given(centre.fetch.retrieve(refs)) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs}
    assert len(pacs.asked) == 1


def test_a_pacs_that_does_not_have_it_either_is_named(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre)
    centre.profile = with_hospital(centre.profile, "a", port=11112)
    keeping.enter(path, [refs[0].sop_uid], ROTTEN)
    with working(centre, Pacs(centre, [])):
        missing = centre.fetch.retrieve(refs, deadline=10.0).missing
    assert list(missing) == [refs[0]]
    assert missing[refs[0]].startswith("its stored copy is damaged, and the PACS of a did not send")


def test_a_container_that_is_not_there_holds_nobody_from_the_pacs(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre)
    assert given(centre.fetch.retrieve(refs[:1])) == {refs[0].sop_uid: octets(refs[0].sop_uid)}     # its index is remembered
    file = archive_of(centre.sdfo) / path
    away = file.rename(file.with_suffix(".away"))
    keeping.enter(path, [WHOLE], "its file is not there")
    assert set(centre.fetch.retrieve(refs).missing.values()) == {"its stored copy is damaged"}
    centre.profile = with_hospital(centre.profile, "a", port=11112)
    with centre.database.read() as unit:
        located = locate(unit, refs, centre.sdfo, centre.profile)
    assert [[place.location for place in located.places[ref]] for ref in refs] == [[Origin("a")]] * 3
    away.rename(file)
    assert given(centre.fetch.retrieve(refs)) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs}


@pytest.mark.parametrize("remembered", [True, False])
def test_a_reader_who_finds_the_container_gone_is_given_the_copies_of_the_pacs(
        centre: Centre, keeping: Quarantine, remembered: bool) -> None:
    refs, path = packed(centre)
    centre.profile = with_hospital(centre.profile, "a", port=11112)
    if remembered:
        centre.sdfo.index(path)
    (archive_of(centre.sdfo) / path).unlink()
    with working(centre, Pacs(centre, list(refs), script=lambda one, *_: one.centre.land("a", refs))):
        assert given(centre.fetch.retrieve(refs)) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs}
    assert known(centre) == [(path, WHOLE, "its file is not there")]


def test_an_archive_that_is_not_mounted_is_not_taken_for_damage(centre: Centre, keeping: Quarantine) -> None:
    refs, _ = packed(centre)
    folder = archive_of(centre.sdfo)
    mounted = folder.rename(folder.with_suffix(".mounted"))
    folder.mkdir()
    assert "its store cannot give it now" in centre.fetch.retrieve(refs).missing[refs[0]]
    assert known(centre) == []
    folder.rmdir()
    mounted.rename(folder)
    assert given(centre.fetch.retrieve(refs)) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs}


def test_of_a_container_with_a_damaged_record_the_pictures_are_given(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre)
    keeping.enter(path, [WHOLE, refs[0].sop_uid], "cut off between two images")
    gathered = centre.fetch.retrieve(refs)
    assert set(gathered.found) == set(refs[1:])
    assert given(gathered) == {ref.sop_uid: octets(ref.sop_uid) for ref in refs[1:]}


def test_a_reader_is_not_disturbed_by_a_database_that_is_down(
        centre: Centre, keeping: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    refs, path = packed(centre)
    spoil(centre.sdfo, path, refs[0].sop_uid)
    found = centre.fetch.retrieve(refs).found

    def down() -> None:
        raise Unavailable("database")

    with monkeypatch.context() as patched:
        patched.setattr(centre.database, "write", down)
        with pytest.raises(OSError, match="not those that were packed"):
            read(found[refs[0]].source)
        assert known(centre) == []
    assert cut(centre, refs) == {refs[0].sop_uid}
    assert [sop_uid for _, sop_uid, _ in known(centre)] == [refs[0].sop_uid]


def test_a_picture_of_a_container_without_an_index_is_damage_of_the_whole(centre: Centre, keeping: Quarantine) -> None:
    refs, path = packed(centre)
    (archive_of(centre.sdfo) / path).unlink()
    keeping.noticed(Archived(path, 100, 200, "0" * 64))
    assert known(centre) == [(path, WHOLE, "its file is not there")]
    assert set(centre.fetch.retrieve(refs).missing) == set(refs)


def test_damage_is_asked_for_once_in_a_retrieve(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    refs, _ = packed(centre, 20)
    asked: list[list[int]] = []
    real = damages.damaged

    def counted(unit: object, study_ids: object) -> dict[str, set[str]]:
        asked.append(list(study_ids))  # type: ignore[call-overload]
        return real(unit, asked[-1])  # type: ignore[arg-type]

    monkeypatch.setattr(damages, "damaged", counted)
    assert len(centre.fetch.retrieve(refs).found) == 20
    assert [len(ids) for ids in asked] == [1]
