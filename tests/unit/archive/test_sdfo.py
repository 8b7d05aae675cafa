import errno
import os
import resource
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.archive.formats.sdicom import PackImage
from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Packed, Sdfo
from broker.archive.tiers import posix
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.model.errors import Unavailable
from broker.model.imaging import Archived, Online
from tests.helpers.archive import STUDY, Zeros, archive_of, image

IMAGES = {f"1.2.3.{n}": f"image {n} 图像".encode() * (n + 1) for n in range(5)}
EXPECTED = {uid: image(uid, data).sha256 for uid, data in IMAGES.items()}


@pytest.fixture
def sdfo(tmp_path: Path) -> Sdfo:
    return Sdfo(OnlineStore(tmp_path / "online"), PosixStore(tmp_path / "archive"))


def pack(sdfo: Sdfo) -> Packed:
    return sdfo.pack(STUDY, [image(uid, data) for uid, data in IMAGES.items()], {"hospital": "a"})


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_packed_study_reads_back_image_by_image(sdfo: Sdfo) -> None:
    packed = pack(sdfo)
    assert packed.path.endswith(".seq")
    assert STUDY in packed.path
    assert files(archive_of(sdfo)) == [packed.path]
    assert (archive_of(sdfo) / packed.path).stat().st_size == packed.size
    for uid, data in IMAGES.items():
        place = sdfo.locate(packed.path, uid)
        assert place is not None
        assert place.sha256 == EXPECTED[uid]
        assert b"".join(sdfo.open(place).chunks(3)) == data
    assert sdfo.locate(packed.path, "1.2.9") is None
    assert sdfo.manifest(packed.path) == {"hospital": "a"}
    assert sdfo.prove(packed.path, packed.sha256, EXPECTED) == packed.index


def test_a_picture_that_rotted_in_its_container_is_not_given_whole(sdfo: Sdfo) -> None:
    packed, noticed = pack(sdfo), list[Archived]()
    sdfo.noticed = noticed.append
    places = [place for uid in IMAGES if (place := sdfo.locate(packed.path, uid)) is not None]
    file = archive_of(sdfo) / packed.path
    data = bytearray(file.read_bytes())
    data[places[1].offset] ^= 1
    file.write_bytes(data)
    given = list[bytes]()
    with pytest.raises(OSError, match="the bytes of a picture are not those that were packed"):
        given += sdfo.open(places[1]).chunks(8)
    assert len(b"".join(given)) < places[1].size
    assert noticed == [places[1]]
    assert [b"".join(sdfo.open(place).chunks()) for place in places[2:]] == list(IMAGES.values())[2:]
    assert noticed == [places[1]]


def test_pictures_of_a_container_come_from_one_range(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, asked = pack(sdfo), list[tuple[int, int]]()
    places = [place for uid in IMAGES if (place := sdfo.locate(packed.path, uid)) is not None]
    stream = posix.Reader.stream

    def spied(reader: posix.Reader, offset: int, length: int) -> Iterator[bytes]:
        asked.append((offset, length))
        return stream(reader, offset, length)

    monkeypatch.setattr(posix.Reader, "stream", spied)
    monkeypatch.setattr(posix.PosixStore, "gap", 1 << 10)       # as where asking goes over a network
    pictures = sdfo.reading()
    sources = [pictures.open(place) for place in places]
    assert [b"".join(source.chunks(7)) for source in sources] == list(IMAGES.values())
    assert asked == [(places[0].offset, places[-1].offset + places[-1].size - places[0].offset)]


def test_a_picture_behind_one_that_could_not_be_read_is_asked_for_anew(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, stream, away = pack(sdfo), posix.Reader.stream, [True]

    def failing(reader: posix.Reader, offset: int, length: int) -> Iterator[bytes]:
        yield from stream(reader, offset, 3)
        if away:
            raise Unavailable("archive")
        yield from stream(reader, offset + 3, length - 3)

    monkeypatch.setattr(posix.Reader, "stream", failing)
    monkeypatch.setattr(posix.PosixStore, "gap", 1 << 10)
    pictures = sdfo.reading()
    sources = [pictures.open(place) for uid in IMAGES if (place := sdfo.locate(packed.path, uid)) is not None]
    with pytest.raises(OSError, match="archive is not available"):
        list(sources[0].chunks())
    away.clear()        # the store is back
    assert [b"".join(source.chunks()) for source in sources] == list(IMAGES.values())


def test_a_name_that_a_lost_answer_has_taken_is_not_the_end(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch) -> None:
    create, names = posix.PosixStore.create, list[str]()

    def twice(store: posix.PosixStore, name: str, size: int) -> posix.Writer:
        names.append(name)
        if len(names) == 1:
            create(store, name, size).close()
        return create(store, name, size)

    monkeypatch.setattr(posix.PosixStore, "create", twice)
    monkeypatch.setattr(posix.PosixStore, "heals", 30.0)
    monkeypatch.setattr("broker.archive.sdfo.time.sleep", lambda _: None)
    assert pack(sdfo).path in files(archive_of(sdfo))
    assert len(names) == 2


@pytest.mark.parametrize("gap", [0, 200, 1 << 18])
@given(order=st.permutations(range(5)), length=st.integers(1, 40), left=st.lists(st.integers(0, 4), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_pictures_are_read_in_any_order_and_again_after_a_reader_left(
    sdfo: Sdfo, gap: int, order: list[int], length: int, left: list[int],
) -> None:
    packed, images = pack(sdfo), list(IMAGES.values())
    vars(sdfo.store)["gap"] = gap
    pictures = sdfo.reading()
    sources = []
    for uid in IMAGES:
        place = sdfo.locate(packed.path, uid)
        assert place is not None
        sources.append(pictures.open(place))
    for number in left:     # somebody who began and went away
        next(sources[number].chunks(length), None)
    for number in order:
        assert b"".join(sources[number].chunks(length)) == images[number]


def test_a_container_that_went_away_is_said_before_the_first_byte(sdfo: Sdfo) -> None:
    places = []
    for study in range(9):
        packed = sdfo.pack(f"{STUDY}.{study}", [image("1.2.3", b"picture")], {})
        place = sdfo.locate(packed.path, "1.2.3")
        assert place is not None
        places.append(place)
    pictures = sdfo.reading()
    sources = [pictures.open(place) for place in places]
    for place in places:
        sdfo.drop_container(place.container)
    with pytest.raises(FileNotFoundError):      # no more than eight are held open
        next(sources[0].chunks())
    assert b"".join(sources[8].chunks()) == b"picture"


def test_two_versions_of_a_study_are_two_files(sdfo: Sdfo) -> None:
    one, two = pack(sdfo), pack(sdfo)
    assert one.path != two.path
    sdfo.drop_container(one.path)
    sdfo.drop_container(one.path)
    assert files(archive_of(sdfo)) == [two.path]
    with pytest.raises(Unavailable):
        sdfo.index(one.path)


def test_an_online_picture_is_read_through_the_same_door(sdfo: Sdfo) -> None:
    part = sdfo.online.begin()
    part.write(b"picture")
    online = part.commit("a", STUDY, "1.2.3").online
    assert b"".join(sdfo.open(online).chunks()) == b"picture"
    sdfo.drop_online([online.path])
    with pytest.raises(Unavailable) as caught:
        sdfo.open(online)
    assert caught.value.what == "online store"


def test_a_file_of_another_size_than_its_index_is_not_opened(sdfo: Sdfo) -> None:
    part = sdfo.online.begin()
    part.write(b"picture")
    online = part.commit("a", STUDY, "1.2.3").online
    packed = pack(sdfo)
    for place, thing in (
        (Online(online.path, 6, ""), "a file of the online store"), (Online(online.path, 8, ""), "a file of the online store"),
        (Archived(packed.path, packed.size - 1, 2, ""), "a container"),
    ):
        with pytest.raises(Damaged, match=rf"^{thing} \(it has another size than the index says\) is not available$"):
            sdfo.open(place)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "ab/../x.seq", "", ".tmp/1-a", "ab/1.2-a.seq/x", "ab/x-a.seq"])
def test_only_paths_of_the_archive_are_opened(sdfo: Sdfo, path: str) -> None:
    with pytest.raises(Damaged):
        sdfo.open(Archived(path, 0, 1, ""))
    with pytest.raises(Damaged):
        sdfo.drop_container(path)


def test_any_flipped_byte_fails_the_proof(sdfo: Sdfo) -> None:
    packed = pack(sdfo)
    file = archive_of(sdfo) / packed.path
    good = file.read_bytes()
    for position in range(0, len(good), 7):
        file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1:])
        with pytest.raises(Damaged):
            sdfo.prove(packed.path, packed.sha256, EXPECTED)
    for cut in range(0, len(good), 101):
        file.write_bytes(good[:cut])
        with pytest.raises(Damaged):
            sdfo.prove(packed.path, packed.sha256, EXPECTED)
    file.write_bytes(good)
    sdfo.prove(packed.path, packed.sha256, EXPECTED)


@pytest.mark.parametrize("expected", [{"1.2.9": "a" * 64}, {"1.2.3.1": "a" * 64}])
def test_an_image_missing_or_other_than_at_ingest_fails_the_proof(sdfo: Sdfo, expected: dict[str, str]) -> None:
    packed = pack(sdfo)
    with pytest.raises(Damaged):
        sdfo.prove(packed.path, packed.sha256, expected)


@pytest.mark.parametrize("step", ["fsync", "link", "open"])
def test_a_full_archive_is_unavailable_and_leaves_nothing(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(Unavailable) as caught:
            pack(sdfo)
    assert caught.value.what == "archive"
    assert files(archive_of(sdfo)) == []
    assert pack(sdfo)


@pytest.mark.parametrize("step", ["create", "close", "rename"])
def test_a_store_that_may_heal_is_given_the_time(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    failures, names = [Unavailable("archive")] * 3, list[str]()
    owner = posix.Writer if step == "close" else posix.PosixStore
    whole = getattr(owner, step)

    def failing(of: object, *arguments: object) -> object:
        names.append(str(arguments[0]) if arguments else "")
        if failures:
            raise failures.pop()
        return whole(of, *arguments)

    waited = list[float]()
    monkeypatch.setattr(owner, step, failing)
    monkeypatch.setattr(posix.PosixStore, "heals", 30.0)
    monkeypatch.setattr("broker.archive.sdfo.time.sleep", waited.append)
    packed = pack(sdfo)
    assert files(archive_of(sdfo)) == [packed.path]
    assert waited == [1.0] * 3
    assert step == "close" or len(set(names)) == 4      # each try has a new name


def test_a_store_that_does_not_heal_or_is_full_is_not_waited_for(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Unavailable) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise error
        return fail

    waited = list[float]()
    monkeypatch.setattr("broker.archive.sdfo.time.sleep", waited.append)
    monkeypatch.setattr(posix.PosixStore, "create", failing(Unavailable("archive")))
    with pytest.raises(Unavailable):
        pack(sdfo)
    monkeypatch.setattr(posix.PosixStore, "heals", 30.0)
    monkeypatch.setattr(posix.PosixStore, "create", failing(Unavailable("archive", full=True)))
    with pytest.raises(Unavailable):
        pack(sdfo)
    assert waited == []


def test_a_container_is_durable_before_it_has_its_name(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def note_fsync(handle: int) -> None:
        done.append("file" if "/.tmp/" in os.readlink(f"/proc/self/fd/{handle}") else "folder")
        fsync(handle)

    def note_link(source: Path, target: Path) -> None:
        done.append("link")
        link(source, target)

    sdfo = Sdfo(OnlineStore(sdfo.online.folder, fsync=False), sdfo.store)      # the archive syncs all the same
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    pack(sdfo)
    assert done.index("file") < done.index("link")
    assert done[-1] == "folder"


def test_the_index_is_read_once(sdfo: Sdfo, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, opened = pack(sdfo), 0
    pread = os.pread

    def count(handle: int, length: int, offset: int) -> bytes:
        nonlocal opened
        opened += 1
        return pread(handle, length, offset)

    monkeypatch.setattr(os, "pread", count)
    assert sdfo.index(packed.path) is sdfo.index(packed.path)
    assert opened == 1


def test_remembered_indexes_are_bounded(sdfo: Sdfo) -> None:
    sdfo._indexes._left = 12
    paths = [pack(sdfo).path for _ in range(4)]
    for path in paths:
        sdfo.index(path)
    assert list(sdfo._indexes._found) == paths[-2:]
    sdfo.index(paths[0])
    sdfo.drop_container(paths[3])
    assert list(sdfo._indexes._found) == [paths[0]]
    assert sdfo._indexes._left == 7


def test_sweep_removes_unfinished_containers(sdfo: Sdfo) -> None:
    packed = pack(sdfo)
    leftover = archive_of(sdfo) / ".tmp" / f"{STUDY}-0123"
    leftover.write_bytes(b"half")
    assert sdfo.sweep() == 0
    os.utime(leftover, (1.0, 1.0))
    assert sdfo.sweep() == 1
    assert files(archive_of(sdfo)) == [packed.path]
    assert list(sdfo.containers(older_than=-1.0)) == [(packed.path, STUDY)]
    assert list(sdfo.containers(older_than=3600.0)) == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_study(sdfo: Sdfo) -> None:
    source = Zeros(50 << 20)
    images = [PackImage(sop_uid=f"1.2.{n}", series_uid="1.2", sop_class="1.2", transfer_syntax="1.2", sha256=source.sha256,
                        source=source) for n in range(4)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    packed = sdfo.pack(STUDY, images, {})
    sdfo.prove(packed.path, packed.sha256, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert packed.size > 200 << 20
    assert peak < 4 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
    sdfo.drop_container(packed.path)
