"""Everything the broker lets in at once, taken at once: a place that was lost while processes died is missed."""

import contextlib
import http.client
import random
import time
from collections.abc import Iterator
from pathlib import Path

from pynetdicom import AE
from pynetdicom.association import Association

from tests.chaos import studies
from tests.chaos.asking import B_PATIENT, OURS, THEIRS, differences, refs
from tests.chaos.checks import Report
from tests.chaos.doors import Asked, Cut, Held, Ref
from tests.chaos.journal import Journal, Picture
from tests.chaos.link import Link
from tests.chaos.load import stored
from tests.helpers.dicom import Orthanc
from tests.helpers.region import Region
from tests.helpers.waiting import spoken_to

_VERIFICATION = "1.2.840.10008.1.1"
_SECONDS = 20.0             # until a place that is being given back is free; one that is lost never is
_LARGE = 16                 # images of half a megabyte: far more than the buffers of a connection hold


def take_every_slot(region: Region, journal: Journal, report: Report, slots: int) -> None:
    """Begin as many retrieves as there are slots and read none: all begin. Read them, whole; and again."""
    study = _large_study(region, journal)
    asked = refs(study, OURS)
    wrong: list[str] = []
    for turn in ("first", "second"):
        until = time.monotonic() + _SECONDS
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(contextlib.closing(_held(region, asked, until))) for _ in range(slots)]
            more = stack.enter_context(contextlib.closing(Held(region.http_port, asked)))
            # An answer that waits for its reader holds no slot (decision 0016): one more is served, or told to come again.
            if more.status not in {http.client.OK, http.client.SERVICE_UNAVAILABLE}:
                wrong.append(f"{turn} time: retrieve {slots + 1} of {slots}: HTTP {more.status}")
            wrong += [f"{turn} time: retrieve {number} of {slots}: {said}"
                      for number, one in enumerate(held, 1) if (said := _whole(one, study))]
    report.check("as many retrieves at once as there are slots, whole when they are read at last, twice", 2 * (slots + 1), wrong)


def refuse_one_more_than_slots(
    region: Region, pacs: Orthanc, line: Link, journal: Journal, report: Report, slots: int,
) -> None:
    """Ask once more than there are slots for a study that its PACS cannot send now: one is told to come again, at once.

    All others get it when the PACS can. Each asks from an address of its own, since one address gets no more than its share.
    """
    shots = studies.study(region.folder / "origin", random.Random("held"), B_PATIENT, date=studies.RECENT, count=4, pixels=128)
    pacs.upload(shot.file for shot in shots)
    studies.drop(shots)
    study = {shot.picture.sop: shot.picture for shot in shots}
    study_uid = shots[0].picture.study
    journal.kept[study_uid] = frozenset(study)
    region.run("publish", "--hospital", "b", "--study", study_uid)
    journal.acknowledge_origin(study_uid, study.values())
    with contextlib.ExitStack() as stack:
        with line.held():
            left = [stack.enter_context(contextlib.closing(Asked(region.http_port, refs(study, THEIRS), f"127.0.1.{number}")))
                    for number in range(1, slots + 2)]
            answered = spoken_to([one.socket for one in left], _SECONDS)
            told = [one for one in left if one.socket in answered]
        wrong = [f"HTTP {one.status}" for one in told if one.status != http.client.SERVICE_UNAVAILABLE]
        wrong += [] if len(told) == 1 else [f"{len(told)} of {len(left)} are refused"]
        wrong += [said for one in left if one not in told and (said := _whole(one, study))]
    report.check("one retrieve more than the slots hold is told to come again, while all wait for a PACS", slots + 1, wrong)


def take_every_place(region: Region, report: Report, places: int) -> None:
    """Open as many associations as all receivers may have, each in the middle of a message, so that none has to go."""
    ae = AE(ae_title="PACSA")
    ae.add_requested_context(_VERIFICATION)
    taken: list[Association] = []
    until = time.monotonic() + _SECONDS
    try:
        # which receiver gets a connection is chance: one that is full refuses, another try may meet the other
        while len(taken) < places and time.monotonic() < until:
            taken += _begun(ae, region.dicom_port)
        wrong = [] if len(taken) == places else [f"{len(taken)} of {places} associations"]
        more = [one for _ in range(8) for one in _begun(ae, region.dicom_port)]
        taken += more
        wrong += [f"{len(taken)} associations, {places} are allowed"] if more else []
    finally:
        for one in taken:
            one.abort()
    report.check("as many associations at once as the receivers may have, not one more", places + 8, wrong)


def _held(region: Region, asked: list[Ref], until: float) -> Held:
    """Begin a retrieve; a slot given back a moment ago may take a moment to be free."""
    while (one := Held(region.http_port, asked)).status == http.client.SERVICE_UNAVAILABLE and time.monotonic() < until:
        one.close()
        time.sleep(0.2)
    return one


def _whole(held: Asked, study: dict[str, Picture]) -> str:
    """Say what is wrong with an answer that was held open; empty when nothing is."""
    try:
        answer = held.answer()
    except Cut as error:
        return str(error)
    return "" if len(answer.documents) == len(study) and not differences(study, answer) else "images are absent or others"


def _large_study(region: Region, journal: Journal) -> dict[str, Picture]:
    """Send a study of hospital A; return it when RAD-69 gives all of it."""
    shots = studies.study(Path(region.folder) / "sent", random.Random("large"), next(iter(journal.patients)), date=studies.RECENT,
                          count=_LARGE, pixels=512)
    assert stored(shots, region.dicom_port) == _LARGE
    studies.drop(shots)
    for shot in shots:
        journal.acknowledge_picture(shot.picture)
    study = {shot.picture.sop: shot.picture for shot in shots}
    until = time.monotonic() + _SECONDS
    while True:
        with contextlib.closing(_held(region, refs(study, OURS), until)) as one:
            if not _whole(one, study):
                return study
        assert time.monotonic() < until, "a study sent to a calm broker is not there"
        time.sleep(0.2)


def _begun(ae: AE, port: int) -> Iterator[Association]:
    """Return an association in mid-message, or nothing when it was refused."""
    one = ae.associate("127.0.0.1", port, ae_title="BROKER")
    if not one.is_established:
        return
    piece = bytes([one.accepted_contexts[0].context_id or 1, 1]) + b"half"       # of a command that goes on (PS3.8 9.3.5)
    assert one.dul.socket is not None
    one.dul.socket.send(b"\4\0" + (len(piece) + 4).to_bytes(4) + len(piece).to_bytes(4) + piece)
    yield one
