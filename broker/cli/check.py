"""`broker check`: what a configuration means, whether it can run, and what it leaves open to others."""

import ipaddress
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from broker.archive import tiers
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._kept import kept
from broker.config.profile import Profile
from broker.config.settings import ConfigError, Settings
from broker.db import Database, schema
from broker.files.modes import FILE, too_loose
from broker.imaging.maker import second_location
from broker.model.errors import Unavailable
from broker.security import certificates, tls
from broker.security.rules import open_writes

_RENEW = timedelta(days=30)    # before its end somebody should know


class Row(NamedTuple):
    """One line. Not `ok`: it would stop the start. With `warning` it starts, and somebody should know."""

    what: str
    value: str
    ok: bool = True
    warning: bool = False

    @property
    def mark(self) -> str:
        """What stands before it."""
        return "[red]!!" if not self.ok else "[yellow]! " if self.warning else "ok"


def check(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Explain a configuration: region, hospitals, addresses, folders; exit status 1 when something would stop the start."""
    settings, profile = load(config)
    rows = [*_facts(settings, profile), _security(settings), *_open_writes(settings), *_findings(settings),
            *_loose(settings, config), *_tls(settings)]
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows], ensure_ascii=False))
    else:
        table = Table("", "what", "value", show_header=False, box=None)
        for row in rows:
            table.add_row(row.mark, row.what, row.value)
        Console().print(table)
    raise typer.Exit(0 if all(row.ok for row in rows) else 1)


def _facts(settings: Settings, profile: Profile) -> list[Row]:
    server = settings.server
    return [
        Row("region", f"{profile.region.name} ({profile.region.title}), profile {profile.folder}"),
        Row("affinity domain", profile.region.affinity_domain),
        Row("repository / imaging source", f"{profile.region.repository_uid} / {profile.region.source_uid}"),
        *(
            Row(f"hospital {h.key}", f"{h.title}: {h.kind}, AE {h.ae_title}" + (f" at {h.host}:{h.port}" if h.port else ""))
            for h in profile.hospitals
        ),
        *(
            Row(f"imaging source {h.key}", h.source_uid or f"ours; {second_location(h, profile)} where another was before it")
            for h in profile.hospitals
        ),
        Row("SOAP and HTTP", settings.public_url),
        Row("HL7 v2 (MLLP)", f"{server.host}:{server.mllp_port}"),
        Row("DICOM", f"{server.ae_title} at {server.host}:{server.dicom_port}"),
        Row("coordination", "Redis" if settings.redis.url else "inside this machine"),
    ]


def _security(settings: Settings) -> Row:
    if settings.security.mode != "off":
        return Row("security", settings.security.mode)
    if _stays_here(settings.server.host):
        return Row("security", "off: every caller is anonymous")
    text = f"off, and others reach {settings.server.host}: whoever does reads and changes everything"
    return Row("security", text, warning=True)


def _open_writes(settings: Settings) -> list[Row]:
    warning = open_writes(settings)
    return [Row("security.open_writes", warning, warning=True)] if warning else []


def _stays_here(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(settings: Settings) -> list[Row]:
    """Return which ports speak TLS, what of it cannot be used, and certificates that are not valid, or not for long."""
    rows = []
    for wire in tls.WIRES:
        port = getattr(settings.tls, wire)
        try:
            if tls.server_context(f"tls.{wire}", port) is not None:
                clients = "required" if port.client_required else "taken" if port.client_ca else "not asked for"
                rows.append(Row(f"TLS of {wire}", f"{port.minimum} or higher, client certificates are {clients}"))
        except ConfigError as error:
            rows.append(Row(f"TLS of {wire}", str(error), ok=False))
    try:
        tls.client_context(settings.outbound)
    except ConfigError as error:
        rows.append(Row("TLS of our calls", str(error), ok=False))
    if settings.tls.http.certificate and settings.public_url.startswith("http:"):
        text = f"{settings.public_url}, but the port speaks TLS: it should begin with https"
        rows.append(Row("server.public_url", text, ok=False))
    return rows + [row for name, file in certificates.files(settings) if (row := _validity(name, file)) is not None]


def _validity(name: str, file: Path) -> Row | None:
    try:
        begins, ends = certificates.validity(file)
    except (OSError, ValueError):
        return None         # said above
    now = datetime.now(UTC)
    if now < begins:
        return Row(name, f"{file}: it is not valid before {begins:%Y-%m-%d %H:%M} UTC", ok=False)
    if now >= ends:
        return Row(name, f"{file}: it has expired on {ends:%Y-%m-%d %H:%M} UTC", ok=False)
    return Row(name, f"{file}: valid until {ends:%Y-%m-%d}", warning=ends - now < _RENEW)


def _findings(settings: Settings) -> list[Row]:
    return [*(_folder(one.name, one.path) for one in kept(settings) if one.mode != FILE), *_hdfs(settings), _store(settings)]


def _folder(name: str, path: Path) -> Row:
    nearest = next(p for p in (path, *path.parents) if p.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    return Row(name, f"{path}" if writable else f"{path}: {nearest} cannot be written", writable)


def _hdfs(settings: Settings) -> list[Row]:
    """Return where the archive is, when it is no folder, and what is wrong there: the broker starts and works without it."""
    if not settings.archive.url:
        return []
    store = tiers.containers(settings)
    wrong = store.health()
    store.end()
    return [Row("archive", f"{settings.archive.url}: {wrong}" if wrong else settings.archive.url, warning=bool(wrong))]


def _loose(settings: Settings, config: Path | None) -> list[Row]:
    """Return what others on this machine may read or write and should not."""
    found = [
        Row(one.name, f"{one.path} has mode {_mode(one.path)}, it should have {one.mode:04o}: others may read patient data",
            warning=True)
        for one in kept(settings) if one.is_loose]
    for wire in tls.WIRES:
        port = getattr(settings.tls, wire)
        key = port.key or port.certificate
        if key is not None and key.exists() and too_loose(key, FILE):
            found.append(Row(f"tls.{wire}.key", f"{key} has mode {_mode(key)} and holds a private key", warning=True))
    secret = any(":" in url.partition("://")[2].rpartition("@")[0] for url in (settings.database.url, settings.redis.url))
    if config is not None and secret and too_loose(config, FILE):
        found.append(Row("configuration", f"{config} has mode {_mode(config)} and holds a password", warning=True))
    return found


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def _store(settings: Settings) -> Row:
    kind = "SQLite" if settings.database_url.startswith("sqlite") else "database"
    path = settings.data / "broker.db"
    if not settings.database.url and not path.exists():
        return Row("durable store", f"{kind}, {path} will be made")
    database = Database(settings.database_url)
    try:
        found = schema.current(database)
    except Unavailable as error:
        return Row("durable store", f"{kind}: {error}", ok=False)
    finally:
        database.close()
    ready = found == schema.head() or not settings.database.url
    return Row("durable store", f"{kind}, schema {found or 'none'}" + ("" if ready else "; run `broker db upgrade`"), ready)
