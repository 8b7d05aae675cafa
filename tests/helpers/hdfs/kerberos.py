"""A key distribution centre of our own (MIT Kerberos), and an HDFS that lets in who has a ticket of it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.helpers.hdfs import hadoop
from tests.helpers.hdfs.cluster import Cluster
from tests.helpers.hdfs.configuration import SUPERUSER
from tests.helpers.hdfs.hadoop import Daemon
from tests.helpers.ports import free_port
from tests.helpers.waiting import eventually

REALM = "REGION.TEST"
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])     # where Debian keeps the servers
_CLIENT = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    udp_preference_limit = 1
    clockskew = 1
[realms]
    {realm} = {{
        kdc = 127.0.0.1:{port}
    }}
[domain_realm]
    localhost = {realm}
[logging]
    kdc = STDERR
"""
_SERVER = """\
[realms]
    {realm} = {{
        database_name = {folder}/principal
        key_stash_file = {folder}/stash
        acl_file = {folder}/acl
        kdc_listen = ""
        kdc_tcp_listen = 127.0.0.1:{port}
    }}
"""


class Kdc:
    """A key distribution centre on a loopback port, which needs no service of the machine. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = folder / "krb5.conf"
        self.port = free_port()
        self._daemon = Daemon("krb5kdc", [_program("krb5kdc"), "-n", "-r", REALM], folder / "kdc.log", self.environment())

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self.client.write_text(_CLIENT.format(realm=REALM, port=self.port))
        (self.folder / "kdc.conf").write_text(_SERVER.format(realm=REALM, port=self.port, folder=self.folder))
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "the database's own key")
        self._daemon.start()
        try:
            eventually(lambda: "commencing operation" in self._daemon.said())
        except AssertionError:
            self._daemon.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, cache: Path | None = None) -> dict[str, str]:
        """Return the environment in which a program finds this centre, and a ticket when its cache is given."""
        own = {"KRB5_CONFIG": str(self.client), "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf")}
        return {**os.environ, **own, "KRB5CCNAME": f"FILE:{cache or self.folder / 'nobody.cache'}"}

    def keytab(self, name: str) -> Path:
        """Make a principal, such as `broker` or `hdfs/localhost`; return the file with its key."""
        file = self.folder / f"{name.replace('/', '-')}.keytab"
        self._run("kadmin.local", "-r", REALM, "-q", f"addprinc -randkey {name}")
        self._run("kadmin.local", "-r", REALM, "-q", f"ktadd -k {file} -norandkey {name}")
        return file

    def ticket(self, name: str, keytab: Path, lifetime: str = "1h") -> Path:
        """Return a cache with a ticket of this principal that is good for so long (such as `5s`)."""
        cache = self.folder / f"{name.replace('/', '-')}.cache"
        self._run("kinit", "-k", "-t", str(keytab), "-l", lifetime, "-c", f"FILE:{cache}", name)
        return cache

    def _run(self, program: str, *arguments: str) -> str:
        return hadoop.run([_program(program), *arguments], self.environment())


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found is not None, f"{name} is not installed"
    return found


class SecureCluster(Cluster):
    """A cluster that asks for tickets. `protection` on the wire: `authentication`, `integrity` or `privacy`.

    WebHDFS asks for tickets as well, which our helper has not: use `admin` in place of `mkdir`, `write` and the like.
    """

    def __init__(self, folder: Path, kdc: Kdc, *, protection: str = "authentication", datanodes: int = 3) -> None:
        self.kdc = kdc
        keytab = kdc.keytab(f"{SUPERUSER}/localhost")
        self._cache = kdc.ticket(f"{SUPERUSER}/localhost", keytab)
        options = _secure(keytab, kdc.keytab("HTTP/localhost"), protection)
        super().__init__(folder, datanodes=datanodes, host="localhost", options=options, flags=(
            *hadoop.QUICK, f"-Djava.security.krb5.conf={kdc.client}"))

    def _environment(self) -> dict[str, str]:
        return self.kdc.environment(self._cache)


def _secure(keytab: Path, web: Path, protection: str) -> Mapping[str, str]:
    service, http = f"{SUPERUSER}/localhost@{REALM}", f"HTTP/localhost@{REALM}"
    return {
        "hadoop.security.authentication": "kerberos",
        "hadoop.security.authorization": "true",
        "hadoop.rpc.protection": protection,
        "dfs.data.transfer.protection": protection,
        "dfs.encrypt.data.transfer.cipher.suites": "AES/CTR/NoPadding",
        "dfs.block.access.token.enable": "true",
        "ignore.secure.ports.for.testing": "true",
        "dfs.namenode.kerberos.principal": service,
        "dfs.namenode.keytab.file": str(keytab),
        "dfs.datanode.kerberos.principal": service,
        "dfs.datanode.keytab.file": str(keytab),
        "dfs.web.authentication.kerberos.principal": http,
        "dfs.web.authentication.kerberos.keytab": str(web),
        "dfs.namenode.kerberos.internal.spnego.principal": http,
    }
