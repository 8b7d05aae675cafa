import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from broker.archive.tiers.online import OnlineStore, StoredFile
from broker.files import durable
from broker.model.errors import Rejected, Unavailable

STUDY, SOP = "1.2.840.1.7", "1.2.840.1.7.1"


@pytest.fixture
def store(tmp_path: Path) -> OnlineStore:
    return OnlineStore(tmp_path / "online", one_commit=False)     # alike on every file system


def keep(store: OnlineStore, data: bytes, sop_uid: str = SOP, existing: str | None = None) -> StoredFile:
    part = store.begin()
    part.write(data)
    return part.commit("a", STUDY, sop_uid, existing)


def incoming(store: OnlineStore) -> list[str]:
    return os.listdir(store.folder / ".incoming")


@pytest.mark.parametrize("times", [128, 6000])
def test_an_object_is_kept_under_hospital_day_study_and_sop(store: OnlineStore, times: int) -> None:
    part = store.begin()
    data = bytes(range(256)) * times
    for start in range(0, len(data), 1000):
        part.write(memoryview(data)[start:start + 1000])
    assert part.head == data[:16384]
    assert (part.size, part.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    kept = part.commit("a", STUDY, SOP)
    assert kept.online.path == f"a/{time.strftime('%Y/%m/%d', time.gmtime())}/{STUDY}/{SOP}"
    assert not kept.conflict
    assert b"".join(store.open(kept.online).chunks()) == data
    assert incoming(store) == []


def test_the_same_bytes_again_are_the_same_object(store: OnlineStore) -> None:
    first = keep(store, b"one")
    assert keep(store, b"one") == first
    assert incoming(store) == []


def test_the_same_bytes_on_another_day_are_the_indexed_object(store: OnlineStore) -> None:
    old = store.folder / "a/2020/01/02" / STUDY
    old.mkdir(parents=True)
    (old / SOP).write_bytes(b"one")
    indexed = f"a/2020/01/02/{STUDY}/{SOP}"
    assert keep(store, b"one", existing=indexed).online.path == indexed
    other = keep(store, b"two", existing=indexed)
    assert other.conflict
    assert (old / SOP).read_bytes() == b"one"
    assert not keep(store, b"three", SOP, existing=f"a/2020/01/03/{STUDY}/{SOP}").conflict     # that file is gone


@pytest.mark.parametrize("other", [b"two", b"longer"])
def test_other_bytes_under_a_uid_are_kept_aside(store: OnlineStore, other: bytes) -> None:
    first = keep(store, b"one")
    second = keep(store, other)
    digest = hashlib.sha256(other).hexdigest()
    assert second.conflict
    assert second.online.path == f".conflict/a/{STUDY}/{SOP}.{digest[:12]}"
    assert b"".join(store.open(second.online).chunks()) == other
    assert b"".join(store.open(first.online).chunks()) == b"one"
    assert keep(store, other) == second
    assert incoming(store) == []


def test_abort_leaves_nothing(store: OnlineStore) -> None:
    part = store.begin()
    part.write(b"x" * 100000)
    part.abort()
    part.abort()
    assert incoming(store) == []


@pytest.mark.parametrize(("hospital", "study", "sop"), [
    ("..", STUDY, SOP), ("A", STUDY, SOP), ("a/b", STUDY, SOP), ("", STUDY, SOP), (".conflict", STUDY, SOP),
    ("a", "..", SOP), ("a", "1/2", SOP), ("a", "", SOP), ("a", STUDY, "../1.2"), ("a", STUDY, "1" * 65), ("a", STUDY, ""),
])
def test_nothing_escapes_the_folder(store: OnlineStore, hospital: str, study: str, sop: str) -> None:
    part = store.begin()
    part.write(b"x")
    with pytest.raises(Rejected):
        part.commit(hospital, study, sop)
    assert incoming(store) == []


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", ".incoming/1.part", "a", "a/2020/..", ".conflict/../1"])
def test_only_own_paths_are_opened_or_dropped(store: OnlineStore, path: str) -> None:
    with pytest.raises(Rejected):
        store.path(path)
    with pytest.raises(Rejected):
        store.drop([path])


def test_a_full_disk_at_write_is_unavailable_and_leaves_nothing(store: OnlineStore) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    part = store.begin()
    real = part._file
    part._file = Full()  # type: ignore[assignment]  # a disk that is full
    with pytest.raises(Unavailable) as caught:
        part.write(b"x")
    real.close()
    assert caught.value.what == "online store"
    assert incoming(store) == []


@pytest.mark.parametrize("step", ["fsync", "link", "open"])
def test_a_full_disk_at_any_step_is_unavailable_and_leaves_nothing(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch, step: str,
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    keep(store, b"before", "1.2.3")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(Unavailable):
        keep(store, b"one")
    monkeypatch.undo()
    assert incoming(store) == []
    assert not keep(store, b"one").conflict


def test_success_is_said_after_file_and_folders_are_durable(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def note_fsync(handle: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{handle}").removeprefix(str(store.folder)))
        fsync(handle)

    def note_link(source: str, target: str) -> None:
        done.append("link")
        link(source, target)

    part = store.begin()
    part.write(b"one")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    part.commit("a", STUDY, SOP)
    day = time.strftime("/a/%Y/%m/%d", time.gmtime())
    assert done[0].startswith("/.incoming/")
    assert done[-2:] == ["link", f"{day}/{STUDY}"]
    assert {"", "/a", day} <= set(done[1:-2])       # each new folder's name, in its parent


def test_without_fsync_nothing_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(handle: int) -> None:
        raise AssertionError

    monkeypatch.setattr(os, "fsync", never)
    assert not keep(OnlineStore(tmp_path / "online", fsync=False), b"one").conflict


def test_drop_removes_files_and_empty_folders_only(store: OnlineStore) -> None:
    one, two = keep(store, b"one"), keep(store, b"two", "1.2.9")
    store.drop([one.online.path, one.online.path])
    assert not store.path(one.online.path).exists()
    assert store.path(two.online.path).read_bytes() == b"two"
    store.drop([two.online.path])
    assert not (store.folder / "a").exists()
    assert store.folder.is_dir()
    assert not keep(store, b"three").conflict        # the folders come again


def test_a_folder_removed_in_the_moment_of_naming_comes_again(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    link, calls = os.link, 0

    def remove_first(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            Path(target).parent.rmdir()
        link(source, target)

    monkeypatch.setattr(os, "link", remove_first)
    kept = keep(store, b"one")
    assert store.path(kept.online.path).read_bytes() == b"one"


def test_a_copy_aside_lives_on_when_the_object_is_dropped(store: OnlineStore) -> None:
    kept = keep(store, b"one")
    aside = store.keep_as_conflict(kept.online)
    assert store.keep_as_conflict(kept.online) == aside
    assert aside.path.startswith(f".conflict/a/{STUDY}/{SOP}.")
    store.drop([kept.online.path])
    assert store.path(aside.path).read_bytes() == b"one"
    assert not store.path(kept.online.path).exists()


def test_the_files_of_a_study_are_found_on_every_day(store: OnlineStore) -> None:
    kept = keep(store, b"one")
    old = store.folder / "a/2020/01/02" / STUDY
    old.mkdir(parents=True)
    (old / "1.2.9").write_bytes(b"old")
    assert store.of_study("a", STUDY) == [f"a/2020/01/02/{STUDY}/1.2.9", kept.online.path]
    assert store.of_study("a", "1.2.3") == store.of_study("b", STUDY) == store.of_study("..", STUDY) == []


def test_sweep_removes_only_old_unfinished_files(store: OnlineStore) -> None:
    kept, young, old = keep(store, b"one"), store.begin(), store.begin()
    os.utime(old._temporary, (1.0, 1.0))
    assert store.sweep(older_than=3600) == 1
    assert len(incoming(store)) == 1
    assert store.path(kept.online.path).exists()
    young.abort()
    old.abort()


def test_recent_lists_what_arrived_lately(store: OnlineStore) -> None:
    kept = keep(store, b"one")
    keep(store, b"two")
    old = store.folder / "a/2020/01/02" / STUDY
    old.mkdir(parents=True)
    (old / SOP).write_bytes(b"old")
    (store.folder / "a" / "notes").mkdir()
    assert list(store.recent(1)) == [("a", kept.online.path)]
    assert list(OnlineStore(store.folder / "absent").recent(1)) == []


def test_remembered_folders_do_not_grow(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_REMEMBERED", 3)
    for n in range(5):
        part = store.begin()
        part.commit("a", f"1.2.{n}", SOP)
    assert len(store.folders._durable) <= 8
