import os
import time
from pathlib import Path

import pytest

from broker.archive.tiers import online
from broker.archive.tiers.online import OnlineStore
from broker.files import ordered

STUDY, SOP = "1.2.840.1.7", "1.2.840.1.7.1"
MOUNTS = "27 1 {number} / / rw,relatime shared:1 - {kind} /dev/x rw\n28 1 0:99 / /other rw - tmpfs none rw\n"


def mounted(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str = "") -> bool:
    """Say whether a folder would be in order on such a file system."""
    device = folder.stat().st_dev
    mounts, ext4, devices = folder / "mountinfo", folder / "ext4", folder / "devices"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(MOUNTS.format(number=number, kind=kind))
    (ext4 / "dm-3").mkdir(parents=True)
    (ext4 / "dm-3" / "options").write_text(options)
    devices.mkdir()
    (devices / number).symlink_to("../../devices/virtual/block/dm-3")
    monkeypatch.setattr(ordered, "_MOUNTS", mounts)
    monkeypatch.setattr(ordered, "_EXT4", ext4)
    monkeypatch.setattr(ordered, "_DEVICES", devices)
    return ordered.is_ordered(folder)


@pytest.mark.parametrize(("kind", "options", "expected"), [
    ("ext4", "rw\ndelalloc\ndata=ordered\n", True),
    ("ext4", "rw\ndata=journal\n", True),
    ("ext4", "rw\ndata=writeback\n", False),
    ("ext4", "rw\ndelalloc\n", False),      # no journal
    ("xfs", "", True),
    ("nfs4", "", False),
    ("btrfs", "", False),
])
def test_only_file_systems_that_keep_order_are_trusted(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, expected: bool) -> None:
    assert mounted(tmp_path, monkeypatch, kind, options) is expected


@pytest.mark.parametrize("hidden", ["_MOUNTS", "_EXT4", "_DEVICES"])
def test_what_the_system_does_not_tell_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    assert mounted(tmp_path, monkeypatch, "ext4", "data=ordered\n")
    monkeypatch.setattr(ordered, hidden, tmp_path / "absent")
    assert not ordered.is_ordered(tmp_path)


def test_this_machine_has_a_journal_where_it_is_trusted_on_ext4(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    link = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not link.is_symlink():
        pytest.skip("no block device")
    name = Path(os.readlink(link)).name
    if not (Path("/proc/fs/ext4") / name).is_dir():
        pytest.skip("no ext4")
    journals = list(Path("/proc/fs/jbd2").glob(f"{name}-*"))     # says it independently
    assert ordered.is_ordered(tmp_path) <= bool(journals)


def test_bytes_are_written_back_and_errors_are_told(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(b"x" * 100000)
        ordered.write_back(file.fileno())
        handle = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ordered.write_back(handle)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the disk, in turn."""
    done: list[str] = []
    fsync, link, back = os.fsync, os.link, ordered.write_back

    def note_fsync(handle: int) -> None:
        done.append("fsync " + Path(os.readlink(f"/proc/self/fd/{handle}").removesuffix(" (deleted)")).name)
        fsync(handle)

    def note_link(source: str, target: str) -> None:
        done.append("link")
        link(source, target)

    def note_back(handle: int) -> None:
        done.append("write back")
        back(handle)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    monkeypatch.setattr(online, "write_back", note_back)
    return done


def keep(store: OnlineStore, data: bytes, sop_uid: str = SOP) -> online.StoredFile:
    part = store.begin()
    part.write(data)
    return part.commit("a", STUDY, sop_uid)


def test_in_order_bytes_come_before_the_name_and_success_after_both(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    monkeypatch.setattr(online, "is_ordered", lambda _folder: True)
    store = OnlineStore(tmp_path / "online")
    keep(store, b"before", "1.2.3")
    steps.clear()
    kept = keep(store, b"one")
    assert steps[:2] == ["write back", "link"]
    assert steps[2].endswith(".part")       # the file, whose first name it was
    assert steps[3:] == [f"fsync {STUDY}"]
    assert store.path(kept.path).read_bytes() == b"one"


@pytest.mark.parametrize("in_order", [True, False])
def test_without_the_switch_or_the_order_the_file_is_durable_before_its_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str], in_order: bool) -> None:
    monkeypatch.setattr(online, "is_ordered", lambda _folder: in_order)
    store = OnlineStore(tmp_path / "online", one_commit=not in_order)
    keep(store, b"before", "1.2.3")
    steps.clear()
    keep(store, b"one")
    assert steps[0].endswith(".part")
    assert steps[1:] == ["link", f"fsync {STUDY}"]


def test_the_name_that_another_gave_is_made_durable_before_success(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    monkeypatch.setattr(online, "is_ordered", lambda _folder: True)
    store = OnlineStore(tmp_path / "online")
    keep(store, b"one")
    aside = keep(store, b"two")
    assert aside.conflict
    for data, path in ((b"one", f"a/{time.strftime('%Y/%m/%d', time.gmtime())}/{STUDY}/{SOP}"), (b"two", aside.path)):
        steps.clear()
        assert keep(store, data).path == path
        assert steps[-2:] == [f"fsync {Path(path).name}", f"fsync {STUDY}"]
