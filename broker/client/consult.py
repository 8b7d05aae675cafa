"""A consultation: who is the patient, what exists, and every picture as a file.

The client uses public doors only: ITI-45, ITI-18, ITI-43 and RAD-69 for consulting, ITI-44 and ITI-41 for those who
feed and submit. A region's facts (`RegionFacts`) are all it must know beside the broker's address.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.client import messages
from broker.client.soap import Endpoint, Landed, Limits, MtomAnswer
from broker.config.profile import Profile
from broker.files.sources import FileSlice
from broker.model.errors import Problem, Rejected
from broker.model.ids import PatientId, is_uid, new_oid, new_uuid_urn
from broker.model.imaging import InstanceRef
from broker.model.metadata import HAS_MEMBER, DocumentEntry, RegistryObjects
from broker.wire import ebxml, hl7v3, kos
from broker.wire.soap import Part

Progress = Callable[[int, int], None]

_ENTRIES = 100      # of one query
DAMAGED, NOT_ANSWERED, UNASKED = "DamagedDocument", "NotAnswered", "NotAsked"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionFacts:
    """What a client must know of a region: the affinity domain, the broker's HL7 V3 device, and its own device."""

    affinity_domain: str
    device_oid: str
    own_device: str = ""

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """Take them from the region's profile."""
        return cls(affinity_domain=profile.region.affinity_domain, device_oid=profile.region.device_oid)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """A manifest on disk: its registry entry, its file, and the pictures it names."""

    entry: DocumentEntry
    path: Path
    images: tuple[InstanceRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """What ITI-43 gave, and what it could not give (`location` of a problem is the document's uniqueId)."""

    files: tuple[ManifestFile, ...]
    missing: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A fetched object: a Part-10 file, byte for byte as sent; `sha256` of the whole file in hex.

    `source_uid` is the Retrieve Location UID it was had from.
    """

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    source_uid: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What RAD-69 gave, and each instance it could not give (`location` of a problem is the SOP Instance UID)."""

    pictures: tuple[Picture, ...]
    missing: tuple[Problem, ...] = ()


class Consultation:
    """One client of one broker. Use as a context manager, or call `close`."""

    def __init__(self, base_url: str, region: Profile | RegionFacts, limits: Limits | None = None) -> None:
        facts = region if isinstance(region, RegionFacts) else RegionFacts.of(region)
        self.region = facts if facts.own_device else replace(facts, own_device=new_oid())
        base = base_url.rstrip("/")
        with ExitStack() as stack:
            self._pix, self._registry, self._repository, self._imaging = (
                stack.enter_context(Endpoint(base + path, limits))
                for path in ("/pix", "/xds/registry", "/xds/repository", "/xds/imaging"))
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections."""
        self._open.close()

    def ids(self, patient: PatientId, domains: Sequence[str] = ()) -> tuple[PatientId, ...]:
        """Return the patient's ids in all other domains, or in `domains` (ITI-45).

        Raise `Rejected` (204) when the id or a domain is unknown.
        """
        query = hl7v3.write_pix_query(
            patient, domains, sender=self.region.own_device, receiver=self.region.device_oid)
        return hl7v3.read_pix_answer(self._pix.call(query))

    def affinity_id(self, patient: PatientId) -> PatientId:
        """Return the affinity-domain id under which the registry knows the patient. Raise `Rejected` when there is none."""
        domain = self.region.affinity_domain
        if patient.domain == domain:
            return patient
        found = [other for other in self.ids(patient, (domain,)) if other.domain == domain]
        if not found:
            raise Rejected("NoAffinityId", "the patient has no id in the affinity domain")
        return found[0]

    def documents(self, patient: PatientId) -> tuple[DocumentEntry, ...]:
        """Return the Approved manifests of an affinity-domain id (ITI-18 FindDocuments, formatCode Key Object Selection)."""
        answer, found = ebxml.read_query_response(self._registry.call(messages.find_documents(patient)))
        if answer.problems:
            raise Rejected.of(answer.problems)
        return found.documents

    def publishers(self, entries: Sequence[DocumentEntry]) -> dict[str, str]:
        """Return the sourceId of the SubmissionSet that each entry was submitted with, by the entry's id (ITI-18).

        An entry whose SubmissionSet the registry does not give is not among them.
        """
        found: dict[str, str] = {}
        for start in range(0, len(entries), _ENTRIES):
            answer, objects = ebxml.read_query_response(
                self._registry.call(messages.get_submission_sets(entries[start:start + _ENTRIES])))
            if answer.problems:
                raise Rejected.of(answer.problems)
            sources = {one.id: one.source_id for one in objects.submission_sets}
            found |= {
                link.target: sources[link.source] for link in objects.associations
                if link.type == HAS_MEMBER and link.submission_set_status == "Original" and link.source in sources}
        return found

    def manifests(self, entries: Sequence[DocumentEntry], folder: Path) -> Manifests:
        """Fetch the manifests of `entries` by one ITI-43 into `folder`, and read which pictures they name.

        A document whose size or SHA-1 is not the registered one is named as missing (DamagedDocument), not used.
        """
        if not entries:
            return Manifests(files=())
        files: list[ManifestFile] = []
        with _incoming(folder) as place:
            answer = self._repository.exchange(messages.retrieve_documents(entries), (), place)
            response, contents = _contents(answer, place)
            missing = list(response.problems)
            for entry in entries:
                if entry.unique_id not in contents:
                    missing += _unnamed(entry.unique_id, missing)
                    continue
                try:
                    files.append(_manifest(entry, contents[entry.unique_id].path, folder))
                except Rejected as error:
                    missing.append(Problem(error.problems[0].code, error.problems[0].context, entry.unique_id))
        return Manifests(files=tuple(files), missing=tuple(missing))

    def pictures(self, manifests: Iterable[ManifestFile], folder: Path, progress: Progress | None = None) -> Fetched:
        """Fetch every picture the manifests name by one RAD-69, as `folder`/study/series/SOP instance.dcm.

        `progress` is told (objects begun, bytes received). What did not come is in `missing`, object by object. Where a SOP
        Instance UID is used twice there are as many requests, for an answer tells objects apart by that UID alone; where two
        sources have different objects under the same UIDs, the second file's name ends with its source's UID.
        """
        return self.images([ref for manifest in manifests for ref in manifest.images], folder, progress)

    def images(self, refs: Sequence[InstanceRef], folder: Path, progress: Progress | None = None) -> Fetched:
        """Fetch these instances; see `pictures`."""
        asked = {_key(ref): ref for ref in refs}
        missing = [
            Problem(UNASKED, "a UID or the Retrieve Location UID is not valid", ref.sop_uid)
            for ref in asked.values() if not _askable(ref)]
        found: list[Picture] = []
        told = _Told(progress)
        rounds = _rounds(ref for ref in asked.values() if _askable(ref))
        for wanted in rounds:
            pictures, problems = self._round(wanted, folder, told, {picture.path: picture for picture in found})
            found += pictures
            missing += [_of_study(problem, wanted) for problem in problems] if len(rounds) > 1 else problems
        return Fetched(pictures=tuple(found), missing=tuple(missing))

    def _round(
        self, wanted: Mapping[str, InstanceRef], folder: Path, told: "_Told", taken: Mapping[Path, Picture],
    ) -> tuple[list[Picture], list[Problem]]:
        """Fetch instances whose SOP Instance UIDs, the keys of `wanted`, are all different; `taken` are the files so far."""
        with _incoming(folder) as place:
            answer = self._imaging.exchange(messages.retrieve_images(wanted.values()), (), place, told)
            told.next()
            response, contents = _contents(answer, place)
            found = [_place(ref, contents[uid], folder, taken) for uid, ref in wanted.items() if uid in contents]
        missing = list(response.problems)
        for uid in wanted.keys() - contents.keys():
            missing += _unnamed(uid, missing)
        return found, missing

    def feed_v3(self, message: bytes) -> None:
        """Send an ITI-44 message (see `wire.hl7v3.write_add_patient`). Raise `Rejected` when it is not accepted."""
        hl7v3.read_ack(self._pix.call(message))

    def submit(self, objects: RegistryObjects, documents: Mapping[str, Path], folder: Path) -> tuple[Problem, ...]:
        """Submit documents by ITI-41; `documents` maps a DocumentEntry's id to its file. Return the warnings.

        `folder` takes what the answer brings while it is read. Raise `Rejected` with the repository's errors.
        """
        types = {entry.id: entry.mime_type for entry in objects.documents}
        names = {document: f"{new_uuid_urn()[9:]}@client" for document in documents}
        parts = [Part(content_id=names[document], media_type=types.get(document, "application/octet-stream"),
                      source=FileSlice(str(path), path.stat().st_size)) for document, path in documents.items()]
        with _incoming(folder) as place:
            answer = self._repository.exchange(messages.provide(objects, names), parts, place, repeatable=False)
        response = ebxml.read_registry_response(answer.body)
        if response.problems or response.status != ebxml.SUCCESS:
            raise Rejected.of(response.problems or [Problem("UnexpectedAnswer", f"status {response.status}")])
        return response.warnings


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """Return a fresh folder beside the final places, so that a rename is enough; it is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as name:
        yield Path(name)


def _contents(answer: MtomAnswer, place: Path) -> tuple[ebxml.RegistryResponse, dict[str, Landed]]:
    """Return the answer's status and its documents as files, by uniqueId."""
    response, documents = messages.read_documents(answer.body)
    found: dict[str, Landed] = {}
    for number, document in enumerate(documents):
        if not document.attachment:
            path = place / f"inline-{number}"
            path.write_bytes(document.inline)
            found[document.unique_id] = Landed(
                path=path, media_type="", size=len(document.inline), sha256=hashlib.sha256(document.inline).hexdigest())
        elif document.attachment in answer.parts:
            found[document.unique_id] = answer.parts[document.attachment]
    return response, found


class _Told:
    """Passes progress on, over several requests."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._before = self._now = (0, 0)

    def __call__(self, objects: int, size: int) -> None:
        """Tell what one request brought so far."""
        self._now = self._before[0] + objects, self._before[1] + size
        if self._progress:
            self._progress(*self._now)

    def next(self) -> None:
        """Begin another request."""
        self._before = self._now


def _key(ref: InstanceRef) -> tuple[str, ...]:
    return ref.study_uid, ref.series_uid, ref.sop_uid, ref.source_uid


def _rounds(refs: Iterable[InstanceRef]) -> list[dict[str, InstanceRef]]:
    """Return the instances in as few groups as possible, none with a SOP Instance UID twice; by that UID."""
    rounds: list[dict[str, InstanceRef]] = []
    seen: Counter[str] = Counter()
    for ref in refs:
        if seen[ref.sop_uid] == len(rounds):
            rounds.append({})
        rounds[seen[ref.sop_uid]][ref.sop_uid] = ref
        seen[ref.sop_uid] += 1
    return rounds


def _of_study(problem: Problem, wanted: Mapping[str, InstanceRef]) -> Problem:
    """Return a problem that says which study's object it is about."""
    ref = wanted.get(problem.location)
    return replace(problem, context=f"{problem.context} (of study {ref.study_uid})") if ref else problem


def _place(ref: InstanceRef, landed: Landed, folder: Path, taken: Mapping[Path, Picture]) -> Picture:
    home = folder / ref.study_uid / ref.series_uid
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{ref.sop_uid}.dcm"
    if path in taken and taken[path].sha256 != landed.sha256:
        path = home / f"{ref.sop_uid}-{ref.source_uid}.dcm"
    landed.path.replace(path)
    return Picture(
        path=path, study_uid=ref.study_uid, series_uid=ref.series_uid, sop_uid=ref.sop_uid, source_uid=ref.source_uid,
        size=landed.size, sha256=landed.sha256)


def _askable(ref: InstanceRef) -> bool:
    return all(map(is_uid, (ref.study_uid, ref.series_uid, ref.sop_uid, ref.source_uid)))


def _unnamed(uid: str, named: Sequence[Problem]) -> list[Problem]:
    """Return a problem for what is neither there nor named."""
    return [] if any(p.location == uid for p in named) else [Problem(NOT_ANSWERED, "neither sent nor named as missing", uid)]


def _manifest(entry: DocumentEntry, path: Path, folder: Path) -> ManifestFile:
    data = path.read_bytes()
    digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    if entry.size not in (None, len(data)) or entry.hash.lower() not in ("", digest):
        raise Rejected(DAMAGED, "size or hash is not what the registry says")
    images = kos.read_manifest(data).instances
    return ManifestFile(entry=entry, path=path.replace(folder / f"{_safe(entry.unique_id)}.dcm"), images=images)


def _safe(unique_id: str) -> str:
    """Return a file name for a uniqueId, which may be any text."""
    return unique_id if is_uid(unique_id) else hashlib.sha256(unique_id.encode()).hexdigest()
