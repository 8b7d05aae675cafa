"""`broker check`: what a configuration means, and whether it can run."""

import json
import os
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from broker.cli._config import AsJson, ConfigFile, load
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.db import Database, schema
from broker.model.errors import Unavailable


def check(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Explain a configuration: region, hospitals, addresses, folders; exit status 1 when something would stop the start."""
    settings, profile = load(config)
    rows = [*_facts(settings, profile), *_findings(settings)]
    if as_json:
        typer.echo(json.dumps([{"what": what, "value": value, "ok": ok} for what, value, ok in rows], ensure_ascii=False))
    else:
        table = Table("", "what", "value", show_header=False, box=None)
        for what, value, ok in rows:
            table.add_row("ok" if ok else "[red]!!", what, value)
        Console().print(table)
    raise typer.Exit(0 if all(ok for *_rest, ok in rows) else 1)


Row = tuple[str, str, bool]


def _facts(settings: Settings, profile: Profile) -> list[Row]:
    server = settings.server
    return [
        ("region", f"{profile.region.name} ({profile.region.title}), profile {profile.folder}", True),
        ("affinity domain", profile.region.affinity_domain, True),
        ("repository / imaging source", f"{profile.region.repository_uid} / {profile.region.source_uid}", True),
        *(
            (f"hospital {h.key}", f"{h.title}: {h.kind}, AE {h.ae_title}" + (f" at {h.host}:{h.port}" if h.port else ""), True)
            for h in profile.hospitals
        ),
        ("SOAP and HTTP", settings.public_url, True),
        ("HL7 v2 (MLLP)", f"{server.host}:{server.mllp_port}", True),
        ("DICOM", f"{server.ae_title} at {server.host}:{server.dicom_port}", True),
        ("coordination", "Redis" if settings.redis.url else "inside this machine", True),
        ("security", "off: every caller is anonymous" if settings.security.mode == "off" else settings.security.mode, True),
    ]


def _findings(settings: Settings) -> list[Row]:
    folders = {
        "online pictures": settings.online_folder, "archive": settings.archive_folder,
        "documents": settings.documents_folder, "audit spool": settings.audit_folder,
    }
    return [*(_folder(name, path) for name, path in folders.items()), _store(settings)]


def _folder(name: str, path: Path) -> Row:
    nearest = next(p for p in (path, *path.parents) if p.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    return name, f"{path}" if writable else f"{path}: {nearest} cannot be written", writable


def _store(settings: Settings) -> Row:
    kind = "SQLite" if settings.database_url.startswith("sqlite") else "database"
    path = settings.data / "broker.db"
    if not settings.database.url and not path.exists():
        return "durable store", f"{kind}, {path} will be made", True
    database = Database(settings.database_url)
    try:
        found = schema.current(database)
    except Unavailable as error:
        return "durable store", f"{kind}: {error}", False
    finally:
        database.close()
    ready = found == schema.head() or not settings.database.url
    return "durable store", f"{kind}, schema {found or 'none'}" + ("" if ready else "; run `broker db upgrade`"), ready
