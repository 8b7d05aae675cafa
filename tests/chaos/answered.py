"""Asks a running broker for everything it acknowledged, through its public doors."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.chaos import doors
from tests.chaos.asking import OURS, THEIRS, affinity_id, differences, refs
from tests.chaos.checks import Report
from tests.chaos.doors import Cut
from tests.chaos.journal import Journal, Picture
from tests.helpers.region import Region

_BATCH = 25


def ask_for_everything(region: Region, journal: Journal, report: Report) -> None:
    """Retrieve every acknowledged document, object and patient."""
    documents = len(journal.documents)
    report.check("every acknowledged document is found by ITI-18, once", documents, _unregistered(region, journal))
    report.check("every acknowledged document is given by ITI-43 with its SHA-1", documents, _documents(region, journal))
    studies = journal.studies()
    objects = sum(map(len, studies.values()))
    report.check("every acknowledged object is given by RAD-69 as it was sent", objects, _pictures(region, studies, OURS))
    report.check("every image of hospital B is given by RAD-69 as its PACS has it", sum(map(len, journal.origin.values())),
                 _pictures(region, journal.origin, THEIRS))
    report.check("every acknowledged patient has an id in the affinity domain", len(journal.patients), [
        value for value in journal.patients if not affinity_id(region.mllp_port, value)])


def _unregistered(region: Region, journal: Journal) -> Iterator[str]:
    by_patient: dict[str, list[str]] = {}
    for uid, document in journal.documents.items():
        by_patient.setdefault(document.patient, []).append(uid)
    for uids in by_patient.values():
        for batch in _batches(uids):
            found = Counter(doors.registered(region.http_port, batch))
            yield from (f"{uid}: {found[uid]} entries" for uid in batch if found[uid] != 1)


def _documents(region: Region, journal: Journal) -> Iterator[str]:
    for batch in _batches(list(journal.documents)):
        answer = doors.retrieve_documents(region.http_port, batch)
        for uid in batch:
            data = answer.documents.get(uid)
            if data is None or hashlib.sha1(data, usedforsecurity=False).hexdigest() != journal.documents[uid].sha1:
                yield f"{uid}: {'absent' if data is None else 'other bytes'}"


def _pictures(region: Region, studies: Mapping[str, Mapping[str, Picture]], source: str) -> Iterator[str]:
    for study in studies.values():
        yield from _retrieve(region, study, source)


def _retrieve(region: Region, study: Mapping[str, Picture], source: str) -> list[str]:
    try:
        answer = doors.retrieve_pictures(region.http_port, refs(study, source))
    except Cut as error:
        return [f"{sop}: {error}" for sop in study]
    wrong = [f"{sop}: other bytes" for sop in differences(study, answer)]
    reasons = {place: context for _, place, context in answer.errors}
    return wrong + [f"{sop}: absent, {reasons.get(sop, 'nothing said')}" for sop in study if sop not in answer.documents]


def _batches(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (uids[start:start + _BATCH] for start in range(0, len(uids), _BATCH))
