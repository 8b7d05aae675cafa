import errno
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from broker.db import Database
from broker.files.sources import Spooled
from broker.model.errors import Rejected, Unavailable
from broker.repository import store
from broker.repository.documents import GRACE, Documents, IncomingDocument
from tests.helpers.manifests import spooled
from tests.helpers.waiting import PATIENCE


@pytest.fixture
def documents(database: Database, tmp_path: Path) -> Documents:
    return Documents(database, tmp_path / "documents")


def incoming(folder: Path, data: bytes, unique_id: str = "1.2.3", mime_type: str = "application/dicom") -> IncomingDocument:
    name = hashlib.sha1(data + unique_id.encode()).hexdigest()
    return IncomingDocument(unique_id=unique_id, mime_type=mime_type, spooled=spooled(data, folder / "spool", name))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "documents")) for path in (folder / "documents").rglob("*") if path.is_file())


def states(database: Database, *unique_ids: str) -> list[str]:
    with database.read() as unit:
        return [row.state for unique_id in unique_ids for row in store.find(unit, unique_id)]


def content(documents: Documents, unique_id: str = "1.2.3") -> bytes | None:
    found = documents.find(unique_id)
    return None if found is None else b"".join(found[1].chunks())


def test_a_document_is_retrievable_before_it_is_registered(documents: Documents, database: Database, tmp_path: Path) -> None:
    staged = documents.stage([incoming(tmp_path, b"abc")])
    assert content(documents) == b"abc"
    assert states(database, "1.2.3") == ["pending"]
    documents.commit(staged)
    assert states(database, "1.2.3") == ["stored"]
    found = documents.find("1.2.3")
    assert found is not None
    assert (found[0].sha1, found[0].size, found[0].mime_type) == (hashlib.sha1(b"abc").hexdigest(), 3, "application/dicom")
    assert found[0].path.startswith(hashlib.sha1(b"abc").hexdigest()[:2] + "/")


def test_a_refused_document_leaves_nothing(documents: Documents, database: Database, tmp_path: Path) -> None:
    documents.discard(documents.stage([incoming(tmp_path, b"abc"), incoming(tmp_path, b"def", "1.2.4")]))
    assert files(tmp_path) == []
    assert states(database, "1.2.3", "1.2.4") == []


def test_the_same_again_keeps_one_file(documents: Documents, database: Database, tmp_path: Path) -> None:
    documents.commit(documents.stage([incoming(tmp_path, b"abc")]))
    again = documents.stage([incoming(tmp_path, b"abc")])
    assert again.added == []
    documents.commit(again)
    assert len(files(tmp_path)) == 1
    documents.discard(documents.stage([incoming(tmp_path, b"abc")]))
    assert content(documents) == b"abc"


def test_other_bytes_under_a_known_id_are_refused_and_nothing_of_the_call_stays(
    documents: Documents, database: Database, tmp_path: Path,
) -> None:
    documents.commit(documents.stage([incoming(tmp_path, b"abc")]))
    with pytest.raises(Rejected, match=r"XDSNonIdenticalHash.*1\.2\.3"):
        documents.stage([incoming(tmp_path, b"new", "1.2.9"), incoming(tmp_path, b"abcd")])
    assert content(documents) == b"abc"
    assert states(database, "1.2.3", "1.2.9") == ["stored"]
    assert len(files(tmp_path)) == 1


def test_what_the_registry_did_not_answer_is_kept_and_settled_by_a_repeat(
    documents: Documents, database: Database, tmp_path: Path,
) -> None:
    documents.keep_undecided(documents.stage([incoming(tmp_path, b"abc")]))
    assert (content(documents), states(database, "1.2.3")) == (b"abc", ["kept"])
    refused = documents.stage([incoming(tmp_path, b"abc")])
    documents.discard(refused)
    assert states(database, "1.2.3") == ["kept"], "it may be registered: a refused repeat must not drop it"
    documents.commit(documents.stage([incoming(tmp_path, b"abc")]))
    assert (states(database, "1.2.3"), len(files(tmp_path))) == (["stored"], 1)


def test_a_call_that_was_taken_for_dead_does_not_drop_its_own_document(
    documents: Documents, database: Database, tmp_path: Path,
) -> None:
    slow = documents.stage([incoming(tmp_path, b"abc")])
    documents.recover(slow.added[0].at + 7200.0)
    assert states(database, "1.2.3") == ["kept"]
    documents.commit(slow)
    assert (content(documents), states(database, "1.2.3"), len(files(tmp_path))) == (b"abc", ["stored"], 1)


@pytest.mark.parametrize("first_accepted", [True, False])
@pytest.mark.parametrize("second_accepted", [True, False])
def test_two_calls_with_the_same_document_do_not_disturb_each_other(
    documents: Documents, database: Database, tmp_path: Path, first_accepted: bool, second_accepted: bool,
) -> None:
    first, second = documents.stage([incoming(tmp_path, b"abc")]), documents.stage([incoming(tmp_path, b"abc")])
    for staged, accepted in ((first, first_accepted), (second, second_accepted)):
        (documents.commit if accepted else documents.discard)(staged)
    expected = 1 if first_accepted or second_accepted else 0
    assert len(files(tmp_path)) == expected
    assert states(database, "1.2.3") == ["stored"] * expected
    assert content(documents) == (b"abc" if expected else None)


def test_two_calls_with_other_bytes_at_once_one_wins(documents: Documents, database: Database, tmp_path: Path) -> None:
    ready, results = threading.Barrier(2), []

    def submit(data: bytes) -> None:
        made = incoming(tmp_path, data)
        ready.wait(PATIENCE)
        try:
            documents.commit(documents.stage([made]))
            results.append(data)
        except Rejected:
            results.append(b"refused")

    threads = [threading.Thread(target=submit, args=(data,)) for data in (b"abc", b"xyz")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results.count(b"refused") == 1
    assert content(documents) in results
    assert len(files(tmp_path)) == 1


def test_a_full_disk_is_unavailable_and_leaves_nothing(
    documents: Documents, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [incoming(tmp_path, b"abc"), incoming(tmp_path, b"def", "1.2.4")]
    link = os.link

    def full(source: Any, target: Any) -> None:
        if source == made[1].spooled.path:
            raise OSError(errno.ENOSPC, "no space")
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(Unavailable, match="document store"):
        documents.stage(made)
    assert files(tmp_path) == []
    assert states(database, "1.2.3", "1.2.4") == []


def test_another_disk_is_copied(documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(source: Any, target: Any) -> None:
        raise OSError(errno.EXDEV, "other disk")

    monkeypatch.setattr(os, "link", other_disk)
    documents.commit(documents.stage([incoming(tmp_path, b"abc")]))
    assert content(documents) == b"abc"
    assert len(files(tmp_path)) == 1


def test_the_spooled_file_stays_its_owners(documents: Documents, tmp_path: Path) -> None:
    made = incoming(tmp_path, b"abc")
    documents.commit(documents.stage([made]))
    assert Path(made.spooled.path).read_bytes() == b"abc"
    shutil.rmtree(tmp_path / "spool")
    assert content(documents) == b"abc"


def test_a_file_that_is_not_whole_is_not_given(documents: Documents, tmp_path: Path) -> None:
    documents.commit(documents.stage([incoming(tmp_path, b"abc")]))
    (tmp_path / "documents" / files(tmp_path)[0]).write_bytes(b"ab")
    assert documents.find("1.2.3") is None


class Killed(BaseException):
    pass


STEPS = ("before the file", "in the copy", "before the registration", "after the registration", "in the refusal")


@pytest.mark.parametrize("step", STEPS)
def test_whenever_a_process_dies_no_file_is_orphaned_and_no_document_loses_its_bytes(
    documents: Documents, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str,
) -> None:
    def die(*_: Any) -> None:
        raise Killed

    def near(*_: Any) -> None:
        raise OSError(errno.EXDEV, "other disk")

    made = incoming(tmp_path, b"abc")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == "before the file":
            patch.setattr(os, "link", die)
        if step == "in the copy":
            patch.setattr(os, "link", near)
            patch.setattr(os, "rename", die)
        staged = documents.stage([made])
        if step == "in the refusal":
            patch.setattr(store, "remove", die)
            documents.discard(staged)
        raise Killed
    survivor = Documents(database, tmp_path / "documents")
    survivor.recover(time.time())
    survivor.recover(time.time() + GRACE + 1)
    whole = step in {"before the registration", "after the registration"}
    assert content(survivor) == (b"abc" if whole else None)
    assert states(database, "1.2.3") == (["kept"] if whole else [])
    assert len(files(tmp_path)) == (1 if whole else 0)
    survivor.commit(survivor.stage([made]))
    assert (states(database, "1.2.3"), len(files(tmp_path))) == (["stored"], 1)


@pytest.mark.parametrize("repeated", [True, False])
def test_a_dead_call_leaves_no_second_copy_of_what_its_sender_sent_again(
    documents: Documents, database: Database, tmp_path: Path, repeated: bool,
) -> None:
    documents.stage([incoming(tmp_path, b"abc")])
    again = documents.stage([incoming(tmp_path, b"abc")])
    if repeated:
        documents.commit(again)
    assert len(files(tmp_path)) == 2
    documents.recover(time.time() + GRACE + 1)
    assert states(database, "1.2.3") == ["stored" if repeated else "kept"]
    assert (content(documents), len(files(tmp_path))) == (b"abc", 1)


def test_recovery_leaves_calls_alone_that_are_still_running(documents: Documents, database: Database, tmp_path: Path) -> None:
    staged = documents.stage([incoming(tmp_path, b"abc")])
    (documents.incoming() / "copy").write_bytes(b"half")
    documents.recover(time.time() + GRACE / 2)
    assert states(database, "1.2.3") == ["pending"]
    assert (documents.incoming() / "copy").exists()
    documents.commit(staged)
    assert states(database, "1.2.3") == ["stored"]


def test_a_registered_document_survives_a_store_that_goes_down(
    documents: Documents, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged = documents.stage([incoming(tmp_path, b"abc")])

    def down() -> None:
        raise Unavailable("database")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", down)
        documents.commit(staged)
    assert content(documents) == b"abc"


def test_a_folder_that_cannot_be_made_is_unavailable(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    blocked = Documents(database, tmp_path / "file" / "documents")
    with pytest.raises(Unavailable, match="document store"):
        blocked.incoming()
    with pytest.raises(Unavailable, match="document store"):
        blocked.stage([IncomingDocument(unique_id="1", mime_type="", spooled=Spooled("", str(tmp_path / "file"), 0, "0" * 40))])
