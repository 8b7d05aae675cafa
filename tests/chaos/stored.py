"""Reads what a stopped broker has on disk with sqlite3, hashlib, pydicom and our own reader of containers: no broker code."""

import hashlib
import re
import sqlite3
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos import sequencefile
from tests.chaos.checks import Report
from tests.chaos.journal import Journal
from tests.chaos.rows import opened
from tests.chaos.studies import read_manifest, sha256_of

KOS = "1.2.840.10008.5.1.4.1.1.88.59^^1.2.840.10008.2.6.1"
MEMBER = "urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember"
APPROVED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved"

# What is kept, in which folder of the data folder, and the tables whose rows name the files there.
NAMED = (
    ("documents", "documents", ("document",)), ("archive", "archive", ("container",)),
    ("online tier", "online", ("instance", "conflict")))
# The database, sockets and locks of a broker that may run again, its audit trail. Nothing half-written, nobody's role.
OWN = re.compile(r"broker\.db(-wal|-shm)?|audit/audit-\d{8}\.xml|run/locks/[^/]+|run/coord/[a-z_+]+@\d+-[0-9a-f]{8}")

_Row = sqlite3.Row


class Stored:
    """The checks of files and rows. One instance looks at one data folder."""

    def __init__(self, data: Path, journal: Journal, report: Report) -> None:
        self._data, self._journal, self._report = data, journal, report

    def look(self) -> None:
        """Make every check."""
        with opened(self._data) as connection:
            self._connection = connection
            self._database()
            self._registered()
            self._whole_submissions()
            self._documents()
            self._patients()
            pictures = self._online()
            self._archived(pictures)
            self._acknowledged(pictures)
            self._aside()
            self._studies()
            self._jobs()
            self._manifests(pictures)
            self._files()
        self._audit()

    def _rows(self, query: str, *values: Any) -> list[_Row]:
        return self._connection.execute(query, values).fetchall()

    def _database(self) -> None:
        found = [row[0] for row in self._rows("PRAGMA integrity_check")]
        broken = [str(tuple(row)) for row in self._rows("PRAGMA foreign_key_check")]
        self._report.check("the database is undamaged", 1, [line for line in found if line != "ok"] + broken)

    def _registered(self) -> None:
        entries: dict[str, list[_Row]] = {}
        for row in self._rows("SELECT o.*, e.hash, e.size FROM registry_object o JOIN registry_entry e ON e.object_id = o.id"):
            entries.setdefault(row["unique_id"], []).append(row)
        wrong = []
        for uid, document in self._journal.documents.items():
            found = [(row["hash"], row["size"], row["status"]) for row in entries.get(uid, [])]
            if found != [(document.sha1, document.size, APPROVED)]:
                wrong.append(f"{uid}: {found}")
        self._report.check("every acknowledged document is registered exactly once", len(self._journal.documents), wrong)
        twice = [uid for uid, rows in entries.items() if len(rows) > 1]
        self._report.check("no entry is registered twice", len(entries), twice)
        held = Counter(row["unique_id"] for row in self._rows("SELECT unique_id FROM document WHERE state != 'pending'"))
        self._report.check("every entry has its document, once", len(entries), [
            f"{uid}: {held[uid]}" for uid in entries if held[uid] != 1])

    def _whole_submissions(self) -> None:
        uuids = {row["uuid"]: row["kind"] for row in self._rows("SELECT uuid, kind FROM registry_object")}
        links = self._rows("SELECT o.uuid, a.* FROM registry_association a JOIN registry_object o ON o.id = a.object_id")
        self._report.check("every association has both its ends", len(links), [
            link["uuid"] for link in links if link["source"] not in uuids or link["target"] not in uuids])
        members = {(link["source"], link["target"]) for link in links if link["type"] == MEMBER}
        sets = {row["unique_id"]: row["uuid"] for row in self._rows(
            "SELECT uuid, unique_id FROM registry_object WHERE kind = 'submission'")}
        filled = {source for source, target in members if uuids.get(target) == "document"}
        inside = {target for source, target in members if uuids.get(source) == "submission"}
        self._report.check("no submission set is without entries", len(sets), [
            uid for uid, uuid in sets.items() if uuid not in filled])
        documents = [uuid for uuid, kind in uuids.items() if kind == "document"]
        self._report.check("no entry is outside a submission set", len(documents), [
            uuid for uuid in documents if uuid not in inside])
        entries = {row["unique_id"]: row["uuid"] for row in self._rows(
            "SELECT uuid, unique_id FROM registry_object WHERE kind = 'document'")}
        self._report.check("every acknowledged document is in its submission set", len(self._journal.documents), [
            uid for uid, document in self._journal.documents.items()
            if (sets.get(document.submission_set), entries.get(uid)) not in members])

    def _documents(self) -> None:
        folder = self._data / "documents"
        rows = self._rows("SELECT * FROM document")
        wrong = []
        for row in rows:
            file = folder / row["path"]
            body = file.read_bytes() if file.is_file() else b""
            if (len(body), hashlib.sha1(body, usedforsecurity=False).hexdigest()) != (row["size"], row["sha1"]):
                wrong.append(f"{row['path']} of {row['unique_id']} ({row['state']})")
        self._report.check("every document row has its file", len(rows), wrong)
        self._report.check("no document is pending", len(rows), [row["unique_id"] for row in rows if row["state"] == "pending"])
        registered = {row["unique_id"] for row in self._rows("SELECT unique_id FROM registry_object WHERE kind = 'document'")}
        alone = [row for row in rows if row["unique_id"] not in registered]
        cut = {uid for sent in self._journal.sent.values() for uid in sent} - self._journal.documents.keys()
        self._report.check("a document without an entry is kept for the repetition of a submission that was cut", len(alone), [
            f"{row['path']} of {row['unique_id']} ({row['state']})" for row in alone
            if row["state"] != "kept" or row["unique_id"] not in cut])

    def _patients(self) -> None:
        known = Counter(row["value"] for row in self._rows(
            "SELECT value FROM patient_identity WHERE domain = '2.999.2.1' AND state = 'active' AND group_id IS NOT NULL"))
        fed = Counter((row["value"], row["message_id"]) for row in self._rows("SELECT * FROM patient_event WHERE kind = 'fed'"))
        self._report.check("every acknowledged patient is known once", len(self._journal.patients), [
            value for value, control in self._journal.patients.items() if known[value] != 1 or fed[value, control] != 1])

    def _online(self) -> dict[str, list[str]]:
        """Check online files against their rows; return the data set hashes of each SOP instance, by UID, wherever it is."""
        folder = self._data / "online"
        rows = self._rows("SELECT i.*, s.hospital, s.study_uid FROM instance i JOIN study s ON s.id = i.study_id")
        pictures: dict[str, list[str]] = {}
        wrong = []
        for row in rows:
            file = folder / row["path"]
            body = file.read_bytes() if file.is_file() else b""
            if (len(body), hashlib.sha256(body).hexdigest()) != (row["size"], row["sha256"]):
                wrong.append(row["path"])
            else:
                pictures.setdefault(row["sop_uid"], []).append(sha256_of(body))
        self._report.check("every instance row has its file", len(rows), wrong)
        return pictures

    def _archived(self, pictures: dict[str, list[str]]) -> None:
        folder = self._data / "archive"
        rows = self._rows("SELECT c.*, s.study_uid FROM container c JOIN study s ON s.id = c.study_id")
        wrong, images_seen = [], 0
        for row in rows:
            try:
                images = _whole_container(folder / row["path"], row)
            except (sequencefile.Broken, OSError) as error:
                wrong.append(f"{row['path']}: {error}")
                continue
            images_seen += len(images)
            for sop, image in images.items():
                pictures.setdefault(sop, []).append(sha256_of(image))
        self._report.check("every container is whole and as its row says", len(rows), wrong)
        repeated = Counter(row["study_id"] for row in rows)
        self._report.check("no study has two containers", len(repeated), [str(key) for key, n in repeated.items() if n > 1])
        self._report.count("images in containers", images_seen)

    def _acknowledged(self, pictures: dict[str, list[str]]) -> None:
        self._report.check("every acknowledged object is stored once, byte for byte", len(self._journal.pictures), [
            f"{sop} of study {picture.study}: {len(pictures.get(sop, []))} copies"
            for sop, picture in self._journal.pictures.items() if pictures.get(sop) != [picture.sha256]])

    def _aside(self) -> None:
        folder = self._data / "online"
        rows = self._rows("SELECT * FROM conflict")
        there: dict[str, str] = {}
        wrong = []
        for row in rows:
            file = folder / row["path"]
            body = file.read_bytes() if file.is_file() else b""
            if hashlib.sha256(body).hexdigest() == row["sha256"]:
                there[sha256_of(body)] = row["sop_uid"]
            else:
                wrong.append(row["path"])
        self._report.check("every conflict row has its file", len(rows), wrong)
        self._report.check("every acknowledged object under a taken UID is kept aside", len(self._journal.aside), [
            picture.sop for digest, picture in self._journal.aside.items() if there.get(digest) != picture.sop])

    def _studies(self) -> None:
        rows = self._rows("SELECT s.*, (SELECT count(*) FROM instance i WHERE i.study_id = s.id) AS found FROM study s")
        self._report.check("every study is at rest and counts its objects", len(rows), [
            f"{row['study_uid']}: {row['tier']} {row['state']}, {row['objects']} objects, {row['found']} rows"
            for row in rows if row["state"] != "complete" or row["objects"] != row["found"]])
        self._report.count("studies in the archive", sum(row["tier"] == "archive" for row in rows))

    def _jobs(self) -> None:
        jobs = self._rows("SELECT * FROM fetch_job")
        self._report.check("no fetch is stuck", len(jobs), [
            f"{job['id']} {job['state']}" for job in jobs if job["state"] not in {"done", "failed"}])
        failed = sum(job["state"] == "failed" for job in jobs)
        self._report.count("fetches", len(jobs), f"{failed} failed, and were asked for again")

    def _manifests(self, pictures: dict[str, list[str]]) -> None:
        """Every publication is in the registry, once per study, and names exactly the images of its study."""
        approved: dict[str, list[tuple[str, set[str]]]] = {}
        entries = self._rows(
            "SELECT o.uuid, o.unique_id, o.status, d.path FROM registry_object o JOIN registry_code c ON c.object_id = o.id"
            " AND c.attribute = 'formatCode' AND c.code = ? LEFT JOIN document d ON d.unique_id = o.unique_id", KOS)
        for row in entries:
            if row["status"] == APPROVED and row["path"]:
                study, listed = read_manifest((self._data / "documents" / row["path"]).read_bytes())
                approved.setdefault(study, []).append((row["uuid"], set(listed)))
        publications = self._rows(
            "SELECT p.*, s.study_uid, s.hospital, s.id AS sid FROM publication p JOIN study s ON s.id = p.study_id")
        wrong = []
        for row in publications:
            if row["state"] == "waiting_patient" and row["patient_value"] not in self._journal.patients:
                continue
            found = approved.pop(row["study_uid"], [])
            want = self._images_of(row)
            if row["state"] != "published" or [uuid for uuid, _ in found] != [row["entry_uuid"]] or found[0][1] != want:
                wrong.append(f"{row['study_uid']}: {row['state']}, {len(found)} manifests, {len(found[0][1]) if found else 0} of"
                             f" {len(want)} images {row['reason']}")
        self._report.check("every study has one approved manifest that names exactly its images", len(publications), wrong)
        self._report.check("no manifest is without its study", len(approved), list(approved))
        have = {row["study_uid"] for row in publications}
        studies = {*self._journal.studies(), *self._journal.origin}
        self._report.check("every acknowledged study is published or waits", len(studies), studies - have)
        self._report.count("manifests", len(entries), "older versions are deprecated")

    def _images_of(self, row: _Row) -> set[str]:
        if row["hospital"] == "b":
            return set(self._journal.origin.get(row["study_uid"], ()))
        images = {found["sop_uid"] for found in self._rows("SELECT sop_uid FROM instance WHERE study_id = ?", row["sid"])}
        for found in self._rows("SELECT path FROM container WHERE study_id = ? AND state = 'current'", row["sid"]):
            images |= sequencefile.container((self._data / "archive" / found["path"]).read_bytes())[0].keys()
        return images

    def _files(self) -> None:
        """Every file below the data folder is named by a row, or is one of the few the broker has for itself."""
        left = {str(file.relative_to(self._data)) for file in self._data.rglob("*") if not file.is_dir()}
        for what, folder, tables in NAMED:
            named = {f"{folder}/{row['path']}" for table in tables for row in self._rows(f"SELECT path FROM {table}")}
            files = {file for file in left if file.startswith(f"{folder}/")}
            left -= files
            self._report.check(f"every file of the {what} has its row", len(files), sorted(files - named))
        self._report.check("every other file is one of the broker's own", len(left), sorted(
            file for file in left if not OWN.fullmatch(file)))

    def _audit(self) -> None:
        wrong, told, lines = [], set(), 0
        for file in sorted((self._data / "audit").glob("*.xml")):
            text = file.read_text("utf-8")
            if not text.endswith("\n"):
                wrong.append(f"{file.name} ends in mid-line")
            for number, line in enumerate(text.splitlines(), 1):
                lines += 1
                try:
                    message = ET.fromstring(line)
                except ET.ParseError as error:
                    wrong.append(f"{file.name}:{number}: {error}")
                    continue
                told |= _told(message)
        self._report.check("every line of the audit trail is a message", lines, wrong)
        sets = {d.submission_set for d in self._journal.documents.values() if not d.repeated}
        self._report.check("every acknowledged submission is in the audit trail", len(sets), [
            uid for uid in sets if ("ITI-41", uid) not in told])
        studies = self._journal.studies()
        self._report.check("every acknowledged study is in the audit trail", len(studies), [
            uid for uid in studies if ("C-STORE", uid) not in told])
        self._report.check("every acknowledged feed is in the audit trail", len(self._journal.patients), [
            value for value in self._journal.patients if ("ITI-8", f"{value}^^^&2.999.2.1&ISO") not in told])


def _told(message: ET.Element) -> set[tuple[str, str]]:
    """Return (transaction, object) of a success."""
    event = message.find("EventIdentification")
    kind = event.find("EventTypeCode") if event is not None else None
    if event is None or kind is None or event.get("EventOutcomeIndicator") != "0":
        return set()
    return {(kind.get("csd-code", ""), found.get("ParticipantObjectID", ""))
            for found in message.iter("ParticipantObjectIdentification")}


def _whole_container(file: Path, row: _Row) -> dict[str, bytes]:
    """Return the images of a container that is as its row and its own index say."""
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if (row["state"], row["sha256"]) != ("current", digest):
        raise sequencefile.Broken(f"state {row['state']}, or another checksum")
    images, index = sequencefile.container(data)
    listed = {entry[0]: (entry[5], entry[6]) for entry in index}
    there = {sop: (len(image), hashlib.sha256(image).hexdigest()) for sop, image in images.items()}
    if listed != there or len(images) != row["images"]:
        raise sequencefile.Broken("index and records differ")
    return images
