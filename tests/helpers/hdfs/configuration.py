"""Hadoop's settings for a small cluster on loopback that notices within seconds what happens to it."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

REPLICATION = 2         # fewer than DataNodes: with as many, the first lost node ends all writing
NAME_SERVICE = "region"
SUPERUSER = "hdfs"

# A DataNode that says nothing for 3 s is offered to no writer, after 12 s (2 rechecks and 10 heartbeats) it is dead.
COMMON = {
    "dfs.replication": str(REPLICATION),
    "dfs.namenode.rpc-bind-host": "127.0.0.1",
    "dfs.namenode.datanode.registration.ip-hostname-check": "false",
    "dfs.namenode.fs-limits.min-block-size": "1024",
    "dfs.namenode.safemode.extension": "0",
    "dfs.namenode.safemode.threshold-pct": "1.0",       # after a restart it is ready when it knows where every block is
    "dfs.heartbeat.interval": "1",
    "dfs.namenode.heartbeat.recheck-interval": "1000",
    "dfs.namenode.stale.datanode.interval": "3000",
    "dfs.namenode.avoid.read.stale.datanode": "true",
    "dfs.namenode.avoid.write.stale.datanode": "true",
    "dfs.namenode.redundancy.interval.seconds": "1s",
    "dfs.blockreport.initialDelay": "0",
    "dfs.webhdfs.enabled": "true",
    "ipc.client.connect.max.retries": "3",
    "hadoop.user.group.static.mapping.overrides": f"{SUPERUSER}=supergroup;broker=broker;stranger=stranger;root=root",
}

LOG4J = """\
log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d %p %c{1}: %m%n
"""


def single(rpc: int, http: int, host: str = "127.0.0.1") -> dict[str, str]:
    """Return what says where the one NameNode is."""
    return {"fs.defaultFS": f"hdfs://{host}:{rpc}", "dfs.namenode.http-address": f"127.0.0.1:{http}"}


def pair(ports: Mapping[str, tuple[int, int]], edits: Path) -> dict[str, str]:
    """Return what says where the NameNodes of a name service are, by name their ports for RPC and HTTP."""
    return {
        "fs.defaultFS": f"hdfs://{NAME_SERVICE}",
        "dfs.nameservices": NAME_SERVICE,
        f"dfs.ha.namenodes.{NAME_SERVICE}": ",".join(ports),
        "dfs.namenode.shared.edits.dir": edits.as_uri(),
        "dfs.ha.fencing.methods": "shell(/bin/true)",
        "dfs.ha.automatic-failover.enabled": "false",
        "dfs.ha.tail-edits.period": "1",
        f"dfs.client.failover.proxy.provider.{NAME_SERVICE}":
            "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider",
        **{f"dfs.namenode.rpc-address.{NAME_SERVICE}.{name}": f"127.0.0.1:{rpc}" for name, (rpc, _) in ports.items()},
        **{f"dfs.namenode.http-address.{NAME_SERVICE}.{name}": f"127.0.0.1:{http}" for name, (_, http) in ports.items()},
    }


def datanode(data: Path, transfer: int, ipc: int, http: int) -> dict[str, str]:
    """Return what one DataNode has of its own: its folder, its ports, and that it keeps knocking until there is a NameNode."""
    return {"ipc.client.connect.max.retries": "1000", "ipc.client.connect.retry.interval": "200",
            "dfs.datanode.data.dir": data.as_uri(), "dfs.datanode.address": f"127.0.0.1:{transfer}",
            "dfs.datanode.ipc.address": f"127.0.0.1:{ipc}", "dfs.datanode.http.address": f"127.0.0.1:{http}"}


def write(folder: Path, properties: Mapping[str, str]) -> None:
    """Write a configuration folder as Hadoop's programs look for it on their class path."""
    rows = "".join(
        f"<property><name>{key}</name><value>{escape(value)}</value></property>\n" for key, value in properties.items())
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("core-site.xml", "hdfs-site.xml"):
        (folder / name).write_text(f"<configuration>\n{rows}</configuration>\n")
    (folder / "log4j.properties").write_text(LOG4J)
