"""Containers in a real HDFS while its servers are killed, frozen, full, closed and back: no call outlasts its deadline."""

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker.app.whole import App
from broker.archive.tiers.base import ContainerStore
from broker.archive.tiers.hdfs import HdfsStore
from broker.cli.main import cli
from broker.config import profile as profiles
from broker.config.settings import load
from broker.model.errors import Unavailable
from broker.run.web import checks
from broker.web.health import probe
from tests.helpers.containers import got, in_hdfs, put, section
from tests.helpers.hdfs import hadoop
from tests.helpers.hdfs.cluster import Cluster, Folder
from tests.helpers.hdfs.configuration import REPLICATION
from tests.helpers.hdfs.kerberos import SecureCluster
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.timeout(600)]

DATA = random.Random(20).randbytes(24 << 20)
IMAGE = DATA[:500_000]
SLOW = 6.0      # times a deadline that a busy machine is granted

SHORT: dict[str, Any] = {"metadata_seconds": 1.5, "read_seconds": 4.0, "write_seconds": 2.0}


@contextlib.contextmanager
def mended(hdfs: Folder) -> Iterator[Cluster]:
    try:
        yield hdfs.cluster
    finally:
        hdfs.cluster.mend()
        for _ in hdfs.cluster.datanodes:    # one that is starting may be offered to writers already
            eventually(lambda: in_hdfs(hdfs, ".well").health() == "")


def refused(call: Callable[[], object], seconds: float = 3.0) -> str:
    """Return why a call is refused, having seen that it is refused within so many seconds (and what a busy machine takes)."""
    begun = time.monotonic()
    with pytest.raises(Unavailable) as error:
        call()
    assert time.monotonic() - begun < seconds * SLOW
    assert error.value.what == "archive"
    return error.value.reason


def put_again(store: ContainerStore, data: bytes, seconds: float = 30) -> tuple[str, list[str]]:
    """Write under new names until one is written, as who packs does; return its name, and why others were not."""
    begun = time.monotonic()
    reasons: list[str] = []
    while True:
        name = f".tmp/{len(reasons)}"
        file = store.create(name, len(data))
        try:
            for offset in range(0, len(data), 1 << 20):
                file.write(data[offset:offset + (1 << 20)])
            file.close()
        except Unavailable as error:
            file.abort()
            reasons.append(error.reason)
            assert time.monotonic() - begun < seconds * SLOW
            time.sleep(1)
        else:
            return name, reasons


def test_a_datanode_killed_in_mid_write(hdfs: Folder) -> None:
    """What was begun may fail, within its deadline; the next ones under new names heal, and nothing is left of the others."""
    store = in_hdfs(hdfs)
    with mended(hdfs) as cluster:
        file = store.create(".tmp/first", len(DATA))
        file.write(DATA[:6 << 20])
        eventually(lambda: cluster.blocks(f"{hdfs.path}/sdicom/.tmp/first"))
        cluster.datanodes[cluster.blocks(f"{hdfs.path}/sdicom/.tmp/first")[-1][1][0]].kill()
        try:
            file.write(DATA[6 << 20:])
            file.close()
            assert got(store, ".tmp/first") == DATA
        except Unavailable:
            file.abort()
        name, _ = put_again(store, DATA)
        assert got(store, name) == DATA
        assert {one.name for one in store.files(".tmp")} <= {".tmp/first", name}


def test_a_datanode_killed_in_mid_read(hdfs: Folder) -> None:
    store = in_hdfs(hdfs)
    put(store, "aa/1.seq", DATA)
    reader = store.open("aa/1.seq")
    with mended(hdfs) as cluster:
        digest, seen = hashlib.sha256(), 0
        for piece in reader.stream(0, reader.size):
            digest.update(piece)
            if not seen:
                cluster.datanodes[cluster.blocks(f"{hdfs.path}/sdicom/aa/1.seq")[-1][1][0]].kill()
            seen += len(piece)
        assert digest.hexdigest() == hashlib.sha256(DATA).hexdigest()
        assert reader.pread(20 << 20, 1000) == DATA[20 << 20:(20 << 20) + 1000]
        assert got(in_hdfs(hdfs), "aa/1.seq") == DATA


def test_a_datanode_frozen_in_mid_read(hdfs: Folder) -> None:
    """It holds its connections and says nothing: another one is asked before the reader's deadline, for each block anew."""
    store = in_hdfs(hdfs, block_size=16 << 20)
    put(store, "aa/1.seq", DATA)
    reader = store.open("aa/1.seq")
    with mended(hdfs) as cluster:
        cluster.datanodes[cluster.blocks(f"{hdfs.path}/sdicom/aa/1.seq")[-1][1][0]].freeze()
        assert b"".join(reader.stream(0, reader.size)) == DATA


def test_a_frozen_namenode_holds_nobody_longer_than_the_deadlines(hdfs: Folder) -> None:
    store = in_hdfs(hdfs, **SHORT)
    put(store, "aa/1.seq", DATA)
    put(store, ".tmp/2", IMAGE)
    reader = store.open("aa/1.seq")
    writing = store.create(".tmp/3", len(IMAGE))
    with mended(hdfs) as cluster:
        cluster.namenode.freeze()

        def write() -> None:
            writing.write(IMAGE)
            writing.close()
        calls: list[Callable[[], object]] = [
            lambda: store.open("aa/1.seq", cold=True), lambda: store.create(".tmp/9", 10),
            lambda: store.rename(".tmp/2", "aa/2.seq"),
            lambda: store.delete("aa/1.seq"), lambda: list(store.files("aa")), store.folders, store.space, store.clock, write]
        for call in calls:
            assert refused(call) == "no answer in time"
        assert store.health() == "no answer in time from the NameNode"
        with contextlib.suppress(Unavailable):      # the client asks the NameNode about old readers too, or does not
            assert reader.pread(0, 1000) == DATA[:1000]
        writing.abort()
    assert got(store, ".tmp/2") == IMAGE or got(store, "aa/2.seq") == IMAGE
    put(store, "aa/5.seq", IMAGE)
    assert got(store, "aa/5.seq") == IMAGE
    assert store.health() == ""


def test_many_callers_of_a_frozen_namenode_pile_up_no_threads(hdfs: Folder) -> None:
    """Past a number of hung calls others fail at once; as soon as the cluster answers they go on, in the same process."""
    store = in_hdfs(hdfs, **SHORT)
    put(store, "aa/1.seq", IMAGE)
    before = threading.active_count()
    with mended(hdfs) as cluster:
        cluster.namenode.freeze()
        with ThreadPoolExecutor(8) as pool:
            reasons = list(pool.map(lambda _: refused(lambda: store.open("aa/1.seq", cold=True)), range(60)))
        assert set(reasons) == {"no answer in time"}
        assert threading.active_count() - before <= 16 + 8 + 3
        cluster.namenode.thaw()
        eventually(lambda: store.health() == "")
        assert got(store, "aa/1.seq") == IMAGE
    eventually(lambda: threading.active_count() - before <= 16 + 3)     # and one of each store that looked whether all is well


def test_a_process_with_a_hung_call_ends(hdfs: Folder) -> None:
    put(in_hdfs(hdfs), "aa/1.seq", IMAGE)
    program = textwrap.dedent(f"""
        from broker.archive.tiers.hdfs import HdfsStore
        from broker.config.settings import HdfsSection
        store = HdfsStore({hdfs.url + "/sdicom"!r}, HdfsSection(metadata_seconds=1))
        store.open("aa/1.seq")
        print("open", flush=True)
        input()
        try:
            store.open("aa/1.seq", cold=True)
        except Exception as error:
            print(error)
    """)
    with mended(hdfs) as cluster, subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        cluster.namenode.freeze()
        said, _ = process.communicate("\n", timeout=60)
        assert said.splitlines()[-1] == "archive is not available: no answer in time"
        assert process.returncode == 0


def test_a_dead_namenode_and_one_that_is_back(hdfs: Folder) -> None:
    store = in_hdfs(hdfs, metadata_seconds=3)
    put(store, "aa/1.seq", IMAGE)
    with mended(hdfs) as cluster:
        cluster.namenode.kill()
        assert refused(lambda: store.open("aa/1.seq"), 3) == "the connection is refused"
        assert refused(lambda: store.create("aa/2.seq", 10), 3) == "the connection is refused"
        assert store.health() == "the connection is refused"
    assert got(store, "aa/1.seq") == IMAGE
    assert store.health() == ""


def test_safe_mode(hdfs: Folder) -> None:
    """Reads go on; a write waits a while for its end."""
    store, patient = in_hdfs(hdfs, metadata_seconds=2), in_hdfs(hdfs, metadata_seconds=120)
    put(store, "aa/1.seq", IMAGE)
    with mended(hdfs) as cluster, ThreadPoolExecutor() as pool:
        cluster.safe_mode(True)
        assert got(store, "aa/1.seq") == IMAGE
        for call in (lambda: store.create("aa/2.seq", 10), lambda: store.rename("aa/1.seq", "aa/3.seq"),
                     lambda: store.delete("aa/1.seq")):
            assert refused(call) == "the NameNode is in safe mode"
        assert store.health() == "the NameNode is in safe mode"
        waiting = pool.submit(put, patient, "aa/2.seq", IMAGE)
        cluster.safe_mode(False)
        waiting.result()
    assert got(store, "aa/2.seq") == IMAGE


def test_all_datanodes_gone_and_back(hdfs: Folder) -> None:
    store = in_hdfs(hdfs)
    put(store, "aa/1.seq", IMAGE)
    reader = store.open("aa/1.seq")
    with mended(hdfs) as cluster:
        for datanode in cluster.datanodes:
            datanode.kill()
        assert refused(lambda: reader.pread(0, 100), 10) == "no DataNode gives a block"
        assert refused(lambda: b"".join(store.open("aa/1.seq").stream(0, 100)), 10) == "no DataNode gives a block"
        assert refused(lambda: put(store, ".tmp/1", IMAGE), 10) in ("the connection is refused", "too few DataNodes take a block")
        assert store.health() in ("the connection is refused", "too few DataNodes take a block",
                                  "no answer in time from DataNodes that are to write")
    assert reader.pread(0, 1000) == IMAGE[:1000]
    assert put_again(store, IMAGE)[0]


def test_too_few_datanodes_and_the_room_of_the_cluster_are_told_over_http(hdfs: Folder) -> None:
    blind = in_hdfs(hdfs)
    store = in_hdfs(hdfs, web=["http://127.0.0.1:9", hdfs.cluster.http()])
    assert blind.space() is None
    space, told = store.space(), hdfs.cluster.jmx("FSNamesystemState")
    assert space is not None
    assert space.total == told["CapacityTotal"] // REPLICATION
    assert 0 < space.free < space.total
    assert store.health() == ""
    with mended(hdfs) as cluster:
        for datanode in cluster.datanodes[1:]:
            datanode.kill()
        eventually(lambda: cluster.live() == 1, 60)
        said = f"of the {REPLICATION} DataNodes that a block's copies need, 1 are live"
        eventually(lambda: store.health() == said, 30)
        assert blind.health() == ""


def test_quotas(hdfs: Folder) -> None:
    store = in_hdfs(hdfs)
    put(store, "aa/1.seq", IMAGE)
    path = f"{hdfs.path}/sdicom"
    hdfs.cluster.quota(path, space=4 << 20)
    space = store.space()
    assert space is not None
    assert (space.total, space.free) == ((4 << 20) // REPLICATION, ((4 << 20) - REPLICATION * len(IMAGE)) // REPLICATION)
    with pytest.raises(Unavailable, match="archive is full: the quota of bytes is used up") as error:
        put(store, "aa/2.seq", DATA)
    assert error.value.full
    hdfs.cluster.quota(path, space=1 << 20)
    assert store.health() == "the quota of bytes is used up"
    hdfs.cluster.quota(path, names=2)
    with pytest.raises(Unavailable, match="archive is full: the quota of files and folders is used up"):
        put(store, "aa/3.seq", IMAGE)
    assert store.health() == "the quota of files and folders is used up"
    assert got(store, "aa/1.seq") == IMAGE


def test_permission_denied(hdfs: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    hdfs.cluster.mkdir(f"{hdfs.path}/closed", owner="stranger", mode="755")
    monkeypatch.setenv("HADOOP_USER_NAME", "")
    store = in_hdfs(hdfs, "closed/sdicom", user="broker")
    assert refused(lambda: store.create("aa/1.seq", 10)) == "no permission: user broker may not write there"
    assert store.health() == "no permission: user broker may not write there"
    hdfs.cluster.chmod(f"{hdfs.path}/closed", "700")
    assert refused(lambda: list(store.files("aa"))) == "no permission: user broker may not execute there"


def test_others_on_the_cluster_read_no_container(hdfs: Folder) -> None:
    store = in_hdfs(hdfs)
    put(store, ".tmp/1", IMAGE)
    store.rename(".tmp/1", "aa/1.seq")

    def modes(folder: str) -> dict[str, str]:
        rows = hdfs.cluster.rest("GET", "LISTSTATUS", hdfs.path + folder).json()["FileStatuses"]["FileStatus"]
        return {row["pathSuffix"]: row["permission"] for row in rows}
    assert modes("/sdicom/aa") == {"1.seq": "640"}
    assert modes("/sdicom") == {".tmp": "750", "aa": "750"}
    assert modes("") == {"sdicom": "750"}


def test_corrupted_replicas_one_is_survived_all_are_not(hdfs: Folder) -> None:
    store = in_hdfs(hdfs)
    put(store, "aa/one.seq", IMAGE)
    put(store, "aa/both.seq", IMAGE)
    hdfs.cluster.corrupt(f"{hdfs.path}/sdicom/aa/one.seq", 1)
    hdfs.cluster.corrupt(f"{hdfs.path}/sdicom/aa/both.seq", REPLICATION)
    for _ in range(4):
        assert got(store, "aa/one.seq") == IMAGE
    assert refused(lambda: store.open("aa/both.seq").pread(0, len(IMAGE)), 10) == "no DataNode gives a block"


def test_a_hung_writer_is_given_up(hdfs: Folder) -> None:
    """All DataNodes hold their connections and take nothing."""
    store = in_hdfs(hdfs, write_seconds=3.0, write_rate=1e9)
    with mended(hdfs) as cluster:
        file = store.create(".tmp/1", len(DATA))
        file.write(DATA[:1 << 20])
        for datanode in cluster.datanodes:
            datanode.freeze()

        def rest() -> None:
            for _ in range(4):
                file.write(DATA)
            file.close()
        refused(rest, 3)
        file.abort()
        file.abort()
    name, _ = put_again(store, DATA)
    assert got(store, name) == DATA
    assert [one.name for one in store.files(".tmp")] == [name]


def test_a_reader_of_a_file_that_was_removed(hdfs: Folder) -> None:
    """Once the DataNodes have dropped the blocks, it is not there: that is not an outage."""
    store = in_hdfs(hdfs)
    put(store, "aa/1.seq", IMAGE)
    reader = store.open("aa/1.seq")
    assert reader.pread(0, 10) == IMAGE[:10]
    store.delete("aa/1.seq")

    def gone() -> bool:
        try:
            return not reader.pread(0, 10)
        except FileNotFoundError:
            return True
    eventually(gone)
    with pytest.raises(FileNotFoundError):
        list(reader.stream(0, len(IMAGE)))


def test_a_file_that_another_broker_removed_is_not_open_for_ever(hdfs: Folder) -> None:
    """Files last opened are remembered; one that could not be read any more is asked for anew."""
    store, other = in_hdfs(hdfs), in_hdfs(hdfs)
    put(store, "aa/1.seq", IMAGE)
    assert store.open("aa/1.seq") is store.open("aa/1.seq")
    assert store.open("aa/1.seq", cold=True) is not store.open("aa/1.seq", cold=True)
    other.delete("aa/1.seq")

    def gone() -> bool:
        try:
            return not store.open("aa/1.seq").pread(0, 10)
        except FileNotFoundError:
            return True
    eventually(gone)
    with pytest.raises(FileNotFoundError):
        store.open("aa/1.seq")


def test_a_writer_whose_file_was_removed_is_told(hdfs: Folder) -> None:
    store = in_hdfs(hdfs)
    file = store.create(".tmp/1", len(IMAGE))
    file.write(IMAGE)
    store.delete(".tmp/1")
    with pytest.raises(Unavailable):
        file.close()


def test_a_url_that_is_no_cluster(hdfs: Folder) -> None:
    store = HdfsStore(f"hdfs://127.0.0.1:1{hdfs.path}", section(metadata_seconds=2))
    assert store.health() == "the connection is refused"


@contextlib.contextmanager
def pair(cluster: Cluster, name: str, **changed: object) -> Iterator[HdfsStore]:
    """Yield a store in a name service; mend its NameNodes afterwards."""
    cluster.rest("PUT", "MKDIRS", "/open")
    cluster.chmod("/open", "777")
    try:
        yield HdfsStore(f"{cluster.url}/open/{name}", section(options=cluster.options, **changed))
    finally:
        cluster.mend()


def test_a_graceful_switch_of_namenodes(hdfs_pair: Cluster) -> None:
    """Reads go on; a file being written is closed, or it is said that it is not and the next one is written."""
    with pair(hdfs_pair, "switch", metadata_seconds=60) as store:
        put(store, "aa/1.seq", DATA)
        stream = store.open("aa/1.seq").stream(0, len(DATA))
        read = next(stream)
        file = store.create(".tmp/first", len(DATA))
        file.write(DATA[:10 << 20])
        now = hdfs_pair.active()
        hdfs_pair.admin("haadmin", "-transitionToStandby", f"nn{1 + now}")
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(got, store, "aa/1.seq")       # nobody is active for a moment
            hdfs_pair.admin("haadmin", "-transitionToActive", f"nn{2 - now}")
            assert waiting.result() == DATA
        try:
            file.write(DATA[10 << 20:])
            file.close()
            assert got(store, ".tmp/first") == DATA
        except Unavailable:
            file.abort()
        name, _ = put_again(store, DATA)
        assert store.rename(name, "aa/2.seq")
        assert got(store, "aa/2.seq") == DATA
        assert read + b"".join(stream) == DATA
        assert store.health() == ""


def test_the_active_namenode_killed_and_the_other_promoted(hdfs_pair: Cluster) -> None:
    """Until then a call waits, or says what is wrong within its deadline; afterwards the same stores go on."""
    with pair(hdfs_pair, "killed", metadata_seconds=120) as store:
        hasty = HdfsStore(f"{hdfs_pair.url}/open/killed", section(options=hdfs_pair.options, metadata_seconds=3))
        put(store, "aa/1.seq", DATA)
        put(store, ".tmp/2", IMAGE)
        reader = store.open("aa/1.seq")
        now = hdfs_pair.active()
        hdfs_pair.namenodes[now].kill()
        assert refused(lambda: hasty.open("aa/1.seq"), 3) in ("no NameNode is active", "the connection is refused")
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(store.rename, ".tmp/2", "aa/2.seq")
            hdfs_pair.promote(1 - now)
            assert waiting.result() is True
        assert got(store, "aa/2.seq") == IMAGE
        assert b"".join(reader.stream(0, len(DATA))) == DATA
        eventually(lambda: hasty.health() == "")
        put(hasty, "aa/3.seq", IMAGE)
        assert got(hasty, "aa/3.seq") == IMAGE


ASK = """
import json, sys
from broker.archive.tiers.hdfs import HdfsStore
from broker.config.settings import HdfsSection
print(HdfsStore(sys.argv[1], HdfsSection(replication=2, **json.loads(sys.argv[2]))).health())
"""


@pytest.mark.peer("kerberos")
def test_kerberos_each_cause_is_named(hdfs_kerberos: SecureCluster, tmp_path: Path) -> None:
    hdfs_kerberos.admin("dfs", "-mkdir", "-p", "/archive")
    hdfs_kerberos.admin("dfs", "-chmod", "777", "/archive")
    kdc = hdfs_kerberos.kdc
    keytab, nobody = kdc.keytab("broker"), kdc.environment()

    def health(environment: dict[str, str], **changed: str) -> str:
        changed.setdefault("protection", "authentication")
        return hadoop.run([sys.executable, "-c", ASK, f"{hdfs_kerberos.url}/archive/sdicom", json.dumps(changed)],
                          environment).strip()
    assert health(nobody, principal="broker", keytab=str(keytab)) == ""
    assert "broker" in hdfs_kerberos.admin("dfs", "-ls", "/archive")
    assert health(kdc.environment(kdc.ticket("broker", keytab)), principal="broker") == ""
    wrong = "no Kerberos key or ticket of archive.hdfs.principal"
    assert health(nobody, principal="stranger", keytab=str(keytab)) == wrong
    assert health(nobody, principal="broker") == wrong
    assert health(nobody, principal="broker", keytab=str(tmp_path / "none")) == "archive.hdfs.keytab cannot be read"
    old = kdc.environment(kdc.ticket("broker", keytab, "2s"))
    eventually(lambda: subprocess.run(["klist", "-s"], env=old, check=False).returncode)
    assert health(old, principal="broker") == "the Kerberos ticket has expired"
    assert health(nobody, protection="") == "the NameNode ended the connection; it may ask for Kerberos"


def test_broker_check_and_healthz_say_in_one_line_what_is_wrong(hdfs: Folder, tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(f"""
        data = "data"
        [archive]
        url = "{hdfs.url}/sdicom"
        [archive.hdfs]
        replication = {REPLICATION}
        metadata_seconds = 20
    """)

    def check() -> dict[str, Any]:
        done = CliRunner().invoke(cli, ["check", "--json", "--config", str(config)])
        assert done.exit_code == 0, done.output
        (row,) = (row for row in json.loads(done.stdout) if row["what"] == "archive")
        return dict(row)
    settings = load(config)
    app = App(settings, profiles.load(settings.profile))
    health = checks(app)["archive"]
    assert check() == {"what": "archive", "value": f"{hdfs.url}/sdicom", "ok": True, "warning": False}
    assert probe({"archive": health}) == {"archive": "ok"}
    hdfs.cluster.mkdir(f"{hdfs.path}/sdicom")
    hdfs.cluster.quota(f"{hdfs.path}/sdicom", names=1)
    line = "the quota of files and folders is used up"
    assert check() == {"what": "archive", "value": f"{hdfs.url}/sdicom: {line}", "ok": True, "warning": True}
    assert probe({"archive": health}) == {"archive": line}
    assert not (tmp_path / "data" / "archive").exists()
    app.close()
