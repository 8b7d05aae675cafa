"""A PACS that misbehaves, behind a running broker: the consumer hears in time what it gets and what not, and why."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.client.consult import Fetched
from broker.edge.dimse.pdata import CommandSet
from broker.model.imaging import InstanceRef
from tests.helpers import bad_pacs, dicom
from tests.helpers.bad_pacs import BadPacs
from tests.helpers.dimse import Parrot
from tests.helpers.site import THEIRS, A, Site, ref
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk")]

UNAVAILABLE = "XDSDocumentUniqueIdError"
Script = Callable[[BadPacs, Parrot, CommandSet, Sequence[Path]], None]


@dataclass
class Study:
    """Four images that only hospital B's PACS has."""

    site: Site
    pacs: BadPacs
    folder: Path
    files: list[Path] = field(default_factory=list)

    def refs(self) -> list[InstanceRef]:
        return [ref(file, THEIRS) for file in self.files]

    def fetch(self, folder: str = "got") -> Fetched:
        """RAD-69 for all of it."""
        with self.site.client() as client:
            return client.images(self.refs(), self.folder / folder)

    def comes(self) -> None:
        """Everything is fetched, as the PACS has it, as soon as the PACS is well again and no longer left alone."""
        self.pacs.behave()
        eventually(lambda: self.fetch("good").missing == ())
        got = self.fetch("good")
        bodies = {ref(file).sop_uid: dicom.body(file) for file in self.files}
        assert {picture.sop_uid: dicom.body(picture.path) for picture in got.pictures} == bodies
        eventually(lambda: {state for (state,) in self.site.rows("fetch_job", "state")} <= {"done", "failed"})


@pytest.fixture
def study(site: Site, pacs: BadPacs, tmp_path: Path) -> Iterator[Study]:
    found = Study(site, pacs, tmp_path, dicom.ct_study(tmp_path / "pacs", 4, patient=dicom.Patient(id=A.value)))
    pacs.behave()
    pacs.holds += found.files
    site.catalogue(found.refs(), A.value)
    yield found
    pacs.behave()


def missing(got: Fetched) -> list[str]:
    assert {problem.code for problem in got.missing} <= {UNAVAILABLE}
    return sorted(problem.location for problem in got.missing)


def greeting_refusal(peer: Parrot) -> bool:
    peer.hear()
    peer.say(b"\3\0\0\0\0\4\0\1\1\7")
    return False


def greeting_silence(peer: Parrot) -> bool:
    peer.socket.settimeout(30)
    peer.hear()
    peer.hear()
    return False


def greeting_half(peer: Parrot) -> bool:
    peer.socket.settimeout(30)
    peer.hear()
    peer.say(b"\2\0\xff\xff\xff\xff" + b"\0" * 5000)
    peer.hear()
    return False


@pytest.mark.parametrize(("script", "words"), [
    (bad_pacs.refuse, "Move destination unknown, status 0xA801"),
    (bad_pacs.silent, "silent for 2 seconds"),
    (bad_pacs.pending, "not done after 8 seconds|was not done within 8 seconds"),
    (bad_pacs.nothing, "did not send 4 of the instances|was not done within 8 seconds"),
])
def test_a_pacs_that_sends_nothing(study: Study, script: Script, words: str) -> None:
    study.pacs.move = script
    before = study.site.files()
    got = study.fetch()
    assert missing(got) == sorted(one.sop_uid for one in study.refs())
    assert got.pictures == ()
    assert any(part in problem.context for part in words.split("|") for problem in got.missing), got.missing[0].context
    assert study.site.files() == before
    study.comes()


@pytest.mark.parametrize("way", [bad_pacs.stops_at, bad_pacs.aborts_at, bad_pacs.skips], ids=["stops", "aborts", "skips"])
def test_what_a_pacs_cannot_send_keeps_nothing_else_away(study: Study, way: Callable[[str], Script]) -> None:
    bad = study.refs()[1].sop_uid
    study.pacs.move = way(bad)
    got = study.fetch()
    assert (len(got.pictures), missing(got)) == (3, [bad])
    assert len(study.pacs.asked) < 10
    again = study.fetch("again")
    assert (len(again.pictures), missing(again)) == (3, [bad])
    study.comes()


@pytest.mark.parametrize(("greet", "words"), [
    (greeting_refusal, "(refused: Called AE title not recognised)"),
    (greeting_silence, "(no answer to the request for an association)"),
    (greeting_half, "(no answer that can be read: "),
])
def test_a_pacs_that_lets_nobody_in(study: Study, greet: Callable[[Parrot], bool], words: str) -> None:
    study.pacs.greet = greet
    before = study.site.files()
    got = study.fetch()
    assert missing(got) == sorted(one.sop_uid for one in study.refs())
    assert got.pictures == ()
    assert [problem.context for problem in got.missing if words not in problem.context] == []
    assert study.site.files() == before
    study.comes()


def test_a_pacs_that_sends_half_and_aborts(study: Study) -> None:
    study.pacs.move = bad_pacs.half_and_abort
    got = study.fetch()
    assert [len(asked) for asked in study.pacs.asked] == [0, 2, 1]  # asked again for the rest, it gave half of that; then nothing
    assert (len(got.pictures), len(missing(got))) == (3, 1)
    study.comes()


def test_a_pacs_that_sends_other_instances_than_asked(study: Study) -> None:
    others = dicom.ct_study(study.folder / "others", 3)

    def other(pacs: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        pacs.send([*others, wanted[0]])
        peer.respond(command, bad_pacs.SUCCESS)

    study.pacs.move = other
    got = study.fetch()
    assert (len(got.pictures), len(missing(got))) == (2, 2)
    assert [picture.sop_uid for picture in got.pictures if picture.sop_uid in {ref(file).sop_uid for file in others}] == []
    assert all(study.site.known(ref(file).sop_uid) for file in others)      # nothing that came is lost: a submission
    study.comes()


def test_a_pacs_that_dies_and_comes_back(study: Study) -> None:
    study.pacs.move = bad_pacs.dies
    got = study.fetch()
    assert (len(got.pictures), len(missing(got))) == (1, 3)
    got = study.fetch()
    assert len(missing(got)) == 3
    study.pacs.start()
    study.comes()


def test_a_pacs_that_is_down_keeps_nobody_else_waiting(study: Study) -> None:
    study.pacs.move = bad_pacs.silent
    (near,) = study.site.store(study.folder / "near")
    with study.site.client() as client:
        got = client.images([ref(near), *study.refs()], study.folder / "both")
    assert [picture.sop_uid for picture in got.pictures] == [ref(near).sop_uid]
    assert len(missing(got)) == 4
    study.site.goes_on(study.folder)
    study.comes()
