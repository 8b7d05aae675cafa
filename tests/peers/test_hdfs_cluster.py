"""The cluster that other tests hurt: each fault of `tests/helpers/hdfs` does what it says, as Hadoop and its client see it."""

import contextlib
import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hdfs_native
import httpx
import psutil
import pytest

from tests.helpers.hdfs import hadoop
from tests.helpers.hdfs.cluster import Cluster, Folder, HdfsError
from tests.helpers.hdfs.configuration import REPLICATION
from tests.helpers.hdfs.kerberos import SecureCluster
from tests.helpers.hdfs.warm import ToolFailed
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.timeout(600)]


@contextlib.contextmanager
def mended(hdfs: Folder) -> Iterator[Cluster]:
    try:
        yield hdfs.cluster
    finally:
        hdfs.cluster.mend()


def write(hdfs: Folder, name: str, data: bytes) -> str:
    """Write by the client of the product; return the path."""
    path = f"{hdfs.path}/{name}"
    with hdfs_native.Client(hdfs.cluster.url).create(path) as file:
        file.write(data)
    return path


def test_what_one_client_writes_the_other_reads_and_two_datanodes_hold(hdfs: Folder) -> None:
    data = bytes(range(256)) * 1000
    path = write(hdfs, "a", data)
    assert hdfs.cluster.read(path) == data
    assert [len(places) for _, places in hdfs.cluster.blocks(path)] == [REPLICATION]
    hdfs.cluster.write(f"{hdfs.path}/b", data, blocksize=65536)
    assert bytes(hdfs_native.Client(hdfs.cluster.url).read(f"{hdfs.path}/b").read()) == data
    assert len(hdfs.cluster.blocks(f"{hdfs.path}/b")) == 4
    assert hdfs.cluster.names(hdfs.path) == ["a", "b"]


def test_a_killed_datanode_is_missed_and_comes_back(hdfs: Folder) -> None:
    path = write(hdfs, "a", b"x" * 10_000)
    with mended(hdfs) as cluster:
        ((_, places),) = cluster.blocks(path)
        cluster.datanodes[places[0]].kill()
        eventually(lambda: cluster.live() == 2)
        assert not cluster.whole()
        assert cluster.read(path) == b"x" * 10_000
    assert cluster.live() == 3


def test_a_frozen_namenode_answers_nothing_until_it_is_thawed(hdfs: Folder) -> None:
    with mended(hdfs) as cluster:
        cluster.namenode.freeze()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{cluster.http()}/jmx", timeout=1, trust_env=False)
        assert not cluster.whole()
    assert cluster.names(hdfs.path) == []


def test_a_namenode_that_was_killed_knows_the_files_when_it_is_back(hdfs: Folder) -> None:
    path = write(hdfs, "a", b"kept")
    with mended(hdfs) as cluster:
        cluster.namenode.kill()
        with pytest.raises(httpx.ConnectError):
            cluster.names(hdfs.path)
    assert cluster.read(path) == b"kept"


def test_safe_mode_refuses_a_new_file(hdfs: Folder) -> None:
    with mended(hdfs) as cluster:
        cluster.safe_mode(True)
        with pytest.raises(HdfsError, match="SafeModeException"):
            cluster.write(f"{hdfs.path}/a", b"1")
        with pytest.raises(RuntimeError, match="SafeModeException"):
            write(hdfs, "a", b"1")
    write(hdfs, "a", b"1")


def test_quotas_of_names_and_of_bytes(hdfs: Folder) -> None:
    hdfs.cluster.quota(hdfs.path, names=2)
    write(hdfs, "a", b"1")
    with pytest.raises(RuntimeError, match="NSQuotaExceededException"):
        write(hdfs, "b", b"1")
    hdfs.cluster.quota(hdfs.path, space=1000)
    with pytest.raises(RuntimeError, match="DSQuotaExceededException"):
        write(hdfs, "c", b"1")


def test_a_folder_of_somebody_else_is_closed(hdfs: Folder) -> None:
    closed = f"{hdfs.path}/closed"
    hdfs.cluster.mkdir(closed, owner="stranger", mode="700")
    with pytest.raises(HdfsError, match="AccessControlException"):
        hdfs.cluster.write(f"{closed}/a", b"1", user="broker")
    hdfs.cluster.write(f"{closed}/a", b"1", user="stranger")


def test_corrupt_replicas_one_is_survived_all_are_not(hdfs: Folder) -> None:
    data = b"x" * 10_000
    one, both = write(hdfs, "one", data), write(hdfs, "both", data)
    hdfs.cluster.corrupt(one, 1)
    hdfs.cluster.corrupt(both, REPLICATION)
    client = hdfs_native.Client(hdfs.cluster.url)
    assert bytes(client.read(one).read()) == data
    with pytest.raises(RuntimeError, match="All DataNodes failed"):
        client.read(both).read()


def test_hadoops_own_tools_in_a_process_that_stays(hdfs: Folder, tmp_path: Path) -> None:
    warm = hdfs.cluster.warm
    (tmp_path / "a").write_bytes(b"x" * 300_000)
    assert warm.put(tmp_path / "a", f"{hdfs.path}/a") > 0
    assert warm.get(f"{hdfs.path}/a", tmp_path / "b") > 0
    assert (tmp_path / "b").read_bytes() == b"x" * 300_000
    assert warm.read(f"{hdfs.path}/a")[1] == 300_000
    assert warm.digest(f"{hdfs.path}/a") == hashlib.sha256(b"x" * 300_000).hexdigest()
    assert "Status: HEALTHY" in hdfs.cluster.admin("fsck", hdfs.path)
    assert "RS-6-3-1024k" in hdfs.cluster.admin("ec", "-listPolicies")
    with pytest.raises(ToolFailed, match="No such file"):
        hdfs.cluster.admin("dfs", "-cat", f"{hdfs.path}/none")


def client_of(cluster: Cluster) -> Any:
    return hdfs_native.Client(cluster.url, config=cluster.options)


def test_a_name_service_is_switched_and_survives_its_active_namenode(hdfs_pair: Cluster) -> None:
    hdfs_pair.mkdir("/open", mode="777")
    with client_of(hdfs_pair).create("/open/a") as file:
        file.write(b"kept")
    hdfs_pair.admin("haadmin", "-transitionToStandby", "nn1")
    assert hdfs_pair.state(0) == "standby"
    hdfs_pair.admin("haadmin", "-transitionToActive", "nn2")
    assert hdfs_pair.active() == 1
    assert bytes(client_of(hdfs_pair).read("/open/a").read()) == b"kept"
    hdfs_pair.namenodes[1].kill()
    hdfs_pair.promote(0)
    assert bytes(client_of(hdfs_pair).read("/open/a").read()) == b"kept"
    hdfs_pair.mend()
    assert [hdfs_pair.state(number) for number in (0, 1)] == ["active", "standby"]


ASK = """
import json, sys, hdfs_native
url, options, who, keytab = sys.argv[1:]
client = hdfs_native.Client(url, json.loads(options), kerberos_principal=who or None, kerberos_keytab=keytab or None)
with client.create("/open/a") as file:
    file.write(b"kept")
print(bytes(client.read("/open/a").read()).decode())
"""


@pytest.mark.peer("kerberos")
def test_who_has_the_key_gets_in_and_nobody_else(hdfs_kerberos: SecureCluster) -> None:
    hdfs_kerberos.admin("dfs", "-mkdir", "/open")
    hdfs_kerberos.admin("dfs", "-chmod", "777", "/open")
    kdc, keytab = hdfs_kerberos.kdc, str(hdfs_kerberos.kdc.keytab("broker"))
    ask = [sys.executable, "-c", ASK, hdfs_kerberos.url, json.dumps(hdfs_kerberos.options)]
    with pytest.raises(AssertionError, match="GSS_S_NO_CRED"):
        hadoop.run([*ask, "stranger", keytab], kdc.environment())
    assert hadoop.run([*ask, "broker", keytab], kdc.environment()) == "kept\n"
    assert "broker" in hdfs_kerberos.admin("dfs", "-ls", "/open/a")
    old = kdc.environment(kdc.ticket("broker", Path(keytab), "2s"))
    eventually(lambda: subprocess.run(["klist", "-s"], env=old, check=False).returncode)
    with pytest.raises(AssertionError, match="expired"):
        hadoop.run([*ask, "", ""], old)


def test_nothing_is_left_of_it_when_the_testing_process_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import os, pathlib, time
        from tests.helpers.hdfs.hadoop import Daemon
        servers = [Daemon(name, ["sleep", "600"], pathlib.Path({str(tmp_path / "log")!r}), os.environ) for name in ("a", "b")]
        for server in servers:
            server.start()
        print(*(server.pid for server in servers), flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as tester:
        assert tester.stdout is not None
        servers = [psutil.Process(int(pid)) for pid in tester.stdout.readline().split()]
        assert len(servers) == 2
        eventually(lambda: [server.name() for server in servers] == ["sleep", "sleep"])
        servers[0].suspend()
        tester.kill()
        assert psutil.wait_procs(servers, 60)[1] == []
