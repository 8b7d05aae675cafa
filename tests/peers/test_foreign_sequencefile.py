"""Our containers in the hands of Hadoop's own SequenceFile classes, and theirs in ours."""

import hashlib
import random
from pathlib import Path

import pytest

from broker.archive.formats.sequencefile import Reader
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from tests.helpers.archive import STUDY, image, pread_of
from tests.helpers.hdfs import hadoop

pytestmark = [pytest.mark.peer("java"), pytest.mark.timeout(900)]

Rows = list[tuple[str, int, str]]


@pytest.fixture(scope="session")
def program() -> list[str]:
    """The command that runs Hadoop's SequenceFile classes."""
    return hadoop.command(str(hadoop.JAVA / "SequenceFiles.java"))


def rows(text: str) -> Rows:
    found = [line.split("\t") for line in text.splitlines() if not line.startswith("# ")]
    return [(key, int(size), digest) for key, size, digest in found]


def ours(file: Path, start: int = 0) -> Rows:
    data = file.read_bytes()
    reader = Reader(pread_of(data), len(data))
    return [(r.key, r.size, hashlib.sha256(data[r.offset:r.offset + r.size]).hexdigest())
            for r in reader.records(reader.sync(start) if start else 0)]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 40 images between 0 bytes and 400 KB: several sync marks."""
    folder, source = tmp_path_factory.mktemp("centre"), random.Random(7)
    images = [image(f"1.2.840.{n}", source.randbytes(0 if n == 3 else source.randrange(400_000)), n) for n in range(40)]
    sdfo = Sdfo(OnlineStore(folder / "online"), PosixStore(folder / "archive"))
    packed = sdfo.pack(STUDY, images, {"hospital": "a", "facts": {"PatientName": "葉^曉東"}})
    sdfo.prove(packed.path, packed.sha256, {one.sop_uid: one.sha256 for one in images})
    return folder / "archive" / packed.path


def test_hadoop_reads_every_image_of_our_container(program: list[str], container: Path) -> None:
    text = hadoop.run([*program, "read", str(container)])
    assert text.splitlines()[:2] == ["# sdicom.version=2", f"# study.uid={STUDY}"]
    found = rows(text)
    assert [key for key, _, _ in found] == ["\x01manifest", *(f"1.2.840.{n}" for n in range(40)), "\x01header", "\x01index"]
    assert found == ours(container)


@pytest.mark.parametrize("part", [0.3, 0.7])
def test_hadoop_finds_our_sync_marks(program: list[str], container: Path, part: float) -> None:
    start = int(container.stat().st_size * part)
    found = rows(hadoop.run([*program, "read", str(container), str(start)]))
    assert 0 < len(found) < 40
    assert found == ours(container, start)


def test_we_read_what_hadoop_writes(program: list[str], tmp_path: Path) -> None:
    file = tmp_path / "hadoop.seq"
    written = rows(hadoop.run([*program, "write", str(file), "60"]))
    assert len(written) == 60
    assert ours(file) == written
    data = file.read_bytes()
    assert Reader(pread_of(data), len(data)).header.metadata == {"study.uid": "1.2.3", "note": "影像"}
    for start in (1, len(data) // 2, len(data) - 20000):
        assert ours(file, start) == rows(hadoop.run([*program, "read", str(file), str(start)]))


def test_hadoop_shell_prints_our_container(program: list[str], container: Path, tmp_path: Path) -> None:
    """`hadoop fs -text`, the tool an operator has at hand."""
    (tmp_path / "core-site.xml").write_text("<configuration/>")
    text = hadoop.run(hadoop.command("org.apache.hadoop.fs.FsShell", "-text", container.as_uri(), classpath=[tmp_path]))
    assert "1.2.840.3\t\n" in text
    assert "\x01manifest\t7b 22 68 6f" in text      # {"ho
