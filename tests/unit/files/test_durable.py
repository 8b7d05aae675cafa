"""Folders of durable files: those that become empty go, whoever empties their neighbours at the same moment."""

import threading
from pathlib import Path

import pytest

from broker.files import durable
from broker.files.durable import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    root = tmp_path / "online"
    root.mkdir()
    return Folders(root, fsync=True)


def put(folders: Folders, path: str) -> Path:
    file = folders.root / path
    folders.ensure(file.parent)
    file.write_bytes(b"an image")
    return file


def test_a_folder_that_another_process_removes_before_it_is_synced_is_gone_all_the_same(
    folders: Folders, monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = put(folders, "2026/11/study/image")
    sync = durable.fsync_folder

    def removed_before(folder: str | Path) -> None:
        if folder != folders.root and not any(Path(folder).iterdir()):
            Path(folder).rmdir()
        sync(folder)

    monkeypatch.setattr(durable, "fsync_folder", removed_before)
    folders.drop([file])
    assert list(folders.root.iterdir()) == []


def test_many_at_once_empty_neighbouring_folders(folders: Folders) -> None:
    files = [put(folders, f"2026/11/{study}/image") for study in range(64)]
    failures: list[Exception] = []

    def drop(some: list[Path]) -> None:
        try:
            for file in some:
                folders.drop([file])
        except OSError as error:
            failures.append(error)

    running = [threading.Thread(target=drop, args=(files[start::4],)) for start in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert (failures, list(folders.root.iterdir())) == ([], [])
