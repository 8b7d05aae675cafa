from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.config.profile import Hospital, Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.imaging.origin import Origins
from broker.imaging.store import studies
from broker.model.errors import Rejected, Unavailable
from tests.helpers.fetch import CT, THEIRS, Centre, Pacs, build, limited, refs_of, working

STUDY = "1.2.7"
MR = "1.2.840.10008.5.1.4.1.1.4"


@dataclass
class Silent(Pacs):
    """A PACS that says no SOP class, but for the instances of `told`."""

    told: dict[str, str] = field(default_factory=dict)

    def find_study(self, hospital: Hospital, study_uid: str) -> list[dict[str, str]]:
        return [
            {"StudyInstanceUID": study_uid, "SeriesInstanceUID": ref.series_uid, "SOPInstanceUID": ref.sop_uid,
             "PatientID": "P-b", **({"SOPClassUID": self.told[ref.sop_uid]} if ref.sop_uid in self.told else {})}
            for ref in self.holds if ref.study_uid == study_uid]


@pytest.fixture
def centre(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Centre]:
    built = build(database, tmp_path, limited(profile, connect_seconds=0.3, idle_seconds=2.0, total_seconds=20.0))
    yield built
    assert isinstance(built.coord, LocalCoord)
    built.coord.close()


def ask(centre: Centre, pacs: Silent, study_uid: str = STUDY) -> list[dict[str, str]]:
    hospital = centre.profile.hospital("b")
    assert hospital is not None
    return Origins(centre.database, pacs, centre.fetch).ask(hospital, study_uid, 100.0)


def test_one_picture_of_each_series_tells_its_class(centre: Centre) -> None:
    pacs = Silent(centre, refs_of(STUDY, 4, THEIRS, 2))
    with working(centre, pacs):
        rows = ask(centre, pacs)
    assert {row["SOPClassUID"] for row in rows} == {CT}
    assert len(rows) == 8
    asked = [sop for want in pacs.asked for sop in want.sop_uids]
    assert sorted(asked) == [f"{STUDY}.1.1", f"{STUDY}.2.1"]


def test_what_the_pacs_does_say_is_believed(centre: Centre) -> None:
    pacs = Silent(centre, refs_of(STUDY, 2, THEIRS, 2), told={f"{STUDY}.1.1": MR, f"{STUDY}.1.2": MR, f"{STUDY}.2.1": MR})
    with working(centre, pacs):
        rows = {row["SOPInstanceUID"]: row["SOPClassUID"] for row in ask(centre, pacs)}
    assert rows == {f"{STUDY}.1.1": MR, f"{STUDY}.1.2": MR, f"{STUDY}.2.1": MR, f"{STUDY}.2.2": CT}


def test_a_pacs_that_says_everything_is_not_asked_for_pictures(centre: Centre) -> None:
    refs = refs_of(STUDY, 3, THEIRS)
    pacs = Silent(centre, refs, told={ref.sop_uid: CT for ref in refs})
    assert len(ask(centre, pacs)) == 3
    assert pacs.asked == []


def test_asked_again_the_pictures_that_are_here_tell_it(centre: Centre) -> None:
    pacs = Silent(centre, refs_of(STUDY, 3, THEIRS))
    with working(centre, pacs):
        ask(centre, pacs)
        ask(centre, pacs)
    assert len(pacs.asked) == 1


def test_without_a_picture_the_study_is_on_record_and_the_reason_is_plain(centre: Centre) -> None:
    pacs = Silent(centre, refs_of(STUDY, 3, THEIRS), answers=False)
    with working(centre, pacs), pytest.raises(Unavailable, match=f"the SOP class of study {STUDY}.*did not answer|failed"):
        ask(centre, pacs)
    with centre.database.read() as unit:
        found = studies.study(unit, "b", STUDY)
        assert found is not None
        assert len(studies.origin_catalogue(unit, found.id)) == 3


def test_where_nobody_fetches_the_wait_ends(centre: Centre) -> None:
    with pytest.raises(Unavailable, match="the SOP class"):
        ask(centre, Silent(centre, refs_of(STUDY, 1, THEIRS)))


def test_a_study_the_pacs_does_not_know_is_rejected(centre: Centre) -> None:
    with pytest.raises(Rejected, match="UnknownStudy"):
        ask(centre, Silent(centre))
