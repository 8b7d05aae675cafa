"""What the broker acknowledged, kept by those who sent it: the only truth the checks afterwards start from."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document acknowledged by Success. `repeated`: the Success of an earlier attempt was lost, the broker then knew it."""

    unique_id: str
    sha1: str
    size: int
    patient: str
    submission_set: str
    repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An object acknowledged with 0x0000 (hospital A), or kept by hospital B. `sha256` covers the encoded data set."""

    patient: str
    study: str
    series: str
    sop: str
    sha256: str
    old: bool = False


@dataclass(slots=True)
class Journal:
    """Acknowledged things by their key; safe between threads; every entry is a line of `file` too."""

    file: Path
    documents: dict[str, Document] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    aside: dict[str, Picture] = field(default_factory=dict)             # by SHA-256: other bytes under a taken UID
    origin: dict[str, dict[str, Picture]] = field(default_factory=dict)  # hospital B's studies that `broker publish` took
    patients: dict[str, str] = field(default_factory=dict)              # value of hospital A's domain: MSH-10
    sent: dict[str, frozenset[str]] = field(default_factory=dict)       # uniqueIds by submission set, before it was sent
    kept: dict[str, frozenset[str]] = field(default_factory=dict)       # hospital B's images by study, before it was published
    flying: Counter[str] = field(default_factory=Counter)               # requests on their way now
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    outages: int = 0            # of the archive, begun and ended: odd while it is away
    guard: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge_documents(self, documents: Iterable[Document]) -> None:
        """The repository said Success (or, to a repetition, that it has them)."""
        with self.guard:
            for document in documents:
                self.documents[document.unique_id] = document
                self._write("document", document)

    def acknowledge_picture(self, picture: Picture) -> None:
        """The receiver said 0x0000."""
        with self.guard:
            self.pictures[picture.sop] = picture
            self._write("picture", picture)

    def acknowledge_aside(self, picture: Picture) -> None:
        """The receiver said 0x0000 to other bytes under a UID it has."""
        with self.guard:
            self.aside[picture.sha256] = picture
            self._write("aside", picture)

    def acknowledge_patient(self, value: str, control_id: str) -> None:
        """The patient index said AA."""
        with self.guard:
            self.patients[value] = control_id
            self._line({"kind": "patient", "value": value, "message": control_id})

    def acknowledge_origin(self, study: str, pictures: Iterable[Picture]) -> None:
        """`broker publish` ended well for a study that stays in hospital B's PACS."""
        with self.guard:
            self.origin[study] = {picture.sop: picture for picture in pictures}
            self._line({"kind": "origin", "study": study})

    def count(self, what: str, number: int = 1) -> None:
        """Count an event that is neither right nor wrong."""
        with self.guard:
            self.counts[what] += number

    @contextlib.contextmanager
    def under_way(self, what: str) -> Iterator[None]:
        """Note that a request is on its way while the block runs."""
        with self.guard:
            self.flying[what] += 1
        try:
            yield
        finally:
            with self.guard:
                self.flying[what] -= 1

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Note that the archive may be away while the block runs."""
        self.outages += 1
        try:
            yield
        finally:
            self.outages += 1

    def had_archive(self, before: int) -> bool:
        """Whether the archive has been there all the time since `outages` was `before`."""
        return before % 2 == 0 and self.outages == before

    def blame(self, what: str) -> None:
        """Note an answer that must not be, whatever was killed."""
        with self.guard:
            self.wrong.append(what)
            self._line({"kind": "wrong", "what": what})

    def studies(self) -> dict[str, dict[str, Picture]]:
        """Return the acknowledged objects of hospital A by study and SOP Instance UID."""
        found: dict[str, dict[str, Picture]] = {}
        with self.guard:
            for picture in self.pictures.values():
                found.setdefault(picture.study, {})[picture.sop] = picture
        return found

    def _write(self, kind: str, entry: Document | Picture) -> None:
        self._line({"kind": kind, **asdict(entry)})

    def _line(self, row: dict[str, object]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
