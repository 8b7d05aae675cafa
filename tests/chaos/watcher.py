"""A reader under load: whatever it is shown, whenever it looks, is whole."""

import contextlib
import hashlib
import random
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence

from tests.chaos import doors, studies
from tests.chaos.asking import B_PATIENT, DOMAIN_A, DOMAIN_B, LATER, NO_ANSWER, OURS, THEIRS, affinity_id
from tests.chaos.doors import APPROVED, RIM, Answer, Cut, Ref
from tests.chaos.journal import Journal
from tests.helpers.region import Region

SET_UNIQUE_ID = "urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8"
MEMBER = "urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember"

_ENTRIES, _SETS = 15, 4         # how many of what a query shows are looked into


class Watcher:
    """Asks ITI-18 for a patient, then ITI-43 and RAD-69 for what it was shown. Wrong answers go to the journal."""

    def __init__(self, region: Region, journal: Journal, reported: Sequence[str], stop: threading.Event) -> None:
        self._region, self._journal, self._reported, self._stop = region, journal, reported, stop

    def watch(self, dice: random.Random) -> None:
        """Look at one patient. An answer that is cut, or says that it comes later, says nothing."""
        with contextlib.suppress(Cut, *NO_ANSWER):
            patient = self._patient(dice)
            if patient:
                self._documents(patient, dice)
                self._submission_sets(patient, dice)
        self._stop.wait(dice.uniform(0, 0.5))

    def _patient(self, dice: random.Random) -> str:
        """Return one that reports are written about, or hospital B's, or one whose study came lately."""
        lately = list(self._journal.studies().values())[-20:]
        who = dice.random()
        if who < 0.4 or not lately:
            return dice.choice(self._reported)
        if who < 0.6:
            return affinity_id(self._region.mllp_port, B_PATIENT, DOMAIN_B, seconds=0)
        picture = next(iter(dice.choice(lately).values()))
        return affinity_id(self._region.mllp_port, picture.patient, DOMAIN_A, seconds=0)

    def _documents(self, patient: str, dice: random.Random) -> None:
        answer = doors.query(self._region.http_port, doors.FIND_DOCUMENTS, DocumentEntryPatientId=[patient],
                             DocumentEntryStatus=[APPROVED])
        entries = {_unique_id(entry, doors.UNIQUE_ID): entry for entry in self._found(answer, "ExtrinsicObject")}
        for set_uid, sent in list(self._journal.sent.items()):
            shown = sent & entries.keys()
            if shown and shown != sent:
                self._journal.blame(f"submission {set_uid}: {len(shown)} of {len(sent)} entries are shown")
        chosen = dice.sample(sorted(entries), min(_ENTRIES, len(entries)))
        if not chosen:
            return
        given = doors.retrieve_documents(self._region.http_port, chosen)
        for uid in chosen:
            data = given.documents.get(uid)
            if data is None and not _later(given):
                self._journal.blame(f"entry {uid} is shown, its document is absent: {given.errors}")
            elif data is not None:
                if hashlib.sha1(data, usedforsecurity=False).hexdigest() != _slot(entries[uid], "hash"):
                    self._journal.blame(f"entry {uid} is shown, its document has another SHA-1")
                self._journal.count("entries read under load")
        manifests = [uid for uid in chosen if entries[uid].get("mimeType") == "application/dicom" and uid in given.documents]
        if manifests:
            self._manifest(given.documents[dice.choice(manifests)], dice)

    def _manifest(self, data: bytes, dice: random.Random) -> None:
        """Ask for what a manifest names: for all of ours; for one of hospital B, whose PACS may be out of reach just now."""
        study, listed = studies.read_manifest(data)
        theirs = self._journal.kept.get(study)
        if theirs is not None and not listed.keys() <= theirs:
            self._journal.blame(f"a manifest of {study} names images its hospital does not have")
        asked = dict([dice.choice(sorted(listed.items()))]) if theirs is not None else listed
        source, outages = OURS if theirs is None else THEIRS, self._journal.outages
        answer = doors.retrieve_pictures(
            self._region.http_port, [Ref(study, series, sop, source) for sop, series in asked.items()])
        self._journal.count("manifests read under load")
        absent = asked.keys() - answer.documents.keys()
        if absent and theirs is None and not _later(answer) and self._journal.had_archive(outages):
            self._journal.blame(f"a manifest of {study} names {len(absent)} images RAD-69 does not give: {answer.errors[:2]}")
        known = self._journal.studies().get(study) or self._journal.origin.get(study) or {}
        wrong = [sop for sop, body in answer.documents.items()
                 if sop in known and studies.sha256_of(body) != known[sop].sha256]
        if wrong:
            self._journal.blame(f"RAD-69 gave wrong bytes of {wrong}")

    def _submission_sets(self, patient: str, dice: random.Random) -> None:
        answer = doors.query(self._region.http_port, doors.FIND_SUBMISSION_SETS, SubmissionSetPatientId=[patient],
                             SubmissionSetStatus=[APPROVED])
        uids = sorted(_unique_id(package, SET_UNIQUE_ID) for package in self._found(answer, "RegistryPackage"))
        for uid in dice.sample(uids, min(_SETS, len(uids))):
            contents = doors.query(self._region.http_port, doors.GET_CONTENTS, SubmissionSetUniqueId=[uid])
            entries = {entry.get("id"): _unique_id(entry, doors.UNIQUE_ID) for entry in self._found(contents, "ExtrinsicObject")}
            inside = {entries.get(link.get("targetObject")) for link in self._found(contents, "Association")
                      if link.get("associationType") == MEMBER}
            want = self._journal.sent.get(uid) or set(entries.values())
            if not want or inside != want:
                self._journal.blame(f"submission set {uid} is shown with {len(inside & want)} of {len(want)} entries")
            self._journal.count("submission sets read under load")

    def _found(self, answer: Answer, kind: str) -> Iterator[ET.Element]:
        """Return the objects of an answer; anything but success is noted and ends the look."""
        if answer.body is None or answer.status != "Success":
            if not _later(answer):
                self._journal.blame(f"ITI-18 answered {answer.status} {answer.errors}")
            raise Cut(answer.status)
        yield from answer.body.iter(f"{{{RIM}}}{kind}")


def _later(answer: Answer) -> bool:
    return bool(answer.errors) and {code for code, *_ in answer.errors} <= LATER


def _unique_id(found: ET.Element, scheme: str) -> str:
    values: Mapping[str, str] = {
        one.get("identificationScheme", ""): one.get("value", "") for one in found.iter(f"{{{RIM}}}ExternalIdentifier")}
    return values.get(scheme, "")


def _slot(found: ET.Element, name: str) -> str:
    return next((slot.findtext(f"{{{RIM}}}ValueList/{{{RIM}}}Value", "") for slot in found.iterfind(f"{{{RIM}}}Slot")
                 if slot.get("name") == name), "")
