"""`broker archive inspect`: what is in one container."""

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from broker.app import imaging
from broker.app.core import Core
from broker.archive import proof
from broker.archive.formats import sdicom
from broker.archive.formats.header import Header
from broker.archive.formats.sdicom import ContainerIndex
from broker.archive.tiers.base import ContainerReader
from broker.archive.tiers.posix import PosixStore
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.model.errors import Unavailable


def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", help="a file, or the path of a container in the archive")],
    image: Annotated[str, typer.Option(metavar="UID", help="show the attributes of this image")] = "",
    prove: Annotated[bool, typer.Option("--prove", help="read all of it, and compare every picture with its SHA-256")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what one container holds and tells of its study.

    Exit status 1 when it cannot be read or something in it is damaged, 2 when it has no such image.
    """
    _log.configure("archive")
    try:
        size, index, header, manifest = _read(file, config, prove=prove)
    except Unavailable as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(1) from error
    if image and image not in index.entries:
        typer.echo(f"broker: {image} is not in it", err=True)
        raise typer.Exit(2)
    found = _told(size, index, header, manifest)
    if image:
        found = {"image": image, **_entry(index, image), "attributes": header.image(image) if header else {}}
    if as_json or image:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=None if as_json else 1))
    else:
        _show(found)


def _read(file: str, config: Path | None, *, prove: bool) -> tuple[int, ContainerIndex, Header | None, dict[str, Any]]:
    path = Path(file)
    if path.is_file():
        return _of(PosixStore(path.parent).open(path.name), prove=prove)
    settings, profile = load(config)
    with closing(Core(settings, profile)) as core:
        return _of(imaging.sdfo(core).reader(file), prove=prove)


def _of(reader: ContainerReader, *, prove: bool) -> tuple[int, ContainerIndex, Header | None, dict[str, Any]]:
    index, header = sdicom.read_described(reader.pread, reader.size)
    if prove:
        proof.prove(reader, "", {})
    return reader.size, index, header, index.manifest or sdicom.read_manifest(reader.pread, reader.size)


def _told(size: int, index: ContainerIndex, header: Header | None, manifest: dict[str, Any]) -> dict[str, Any]:
    about = {series.uid: series.attributes for series in header.series} if header else {}
    series: dict[str, dict[str, Any]] = {}
    for entry in index.entries.values():
        one = series.setdefault(entry.series_uid, {"uid": entry.series_uid, "attributes": about.get(entry.series_uid, {}),
                                                   "images": []})
        one["images"].append({"uid": entry.sop_uid, **_entry(index, entry.sop_uid)})
    return {"version": 2 if index.block else 1, "size": size, "images": len(index.entries), "manifest": manifest,
            "attributes": header.study if header else {}, "series": list(series.values())}


def _entry(index: ContainerIndex, sop_uid: str) -> dict[str, Any]:
    entry = index.entries[sop_uid]
    return {"series": entry.series_uid, "sop_class": entry.sop_class, "transfer_syntax": entry.transfer_syntax,
            "offset": entry.offset, "size": entry.size, "sha256": entry.sha256}


def _show(found: dict[str, Any]) -> None:
    manifest = found["manifest"]
    typer.echo(f"container of version {found['version']}, {decimal(found['size'])}, {found['images']} images")
    for name, value in manifest.items():
        if name not in {"series", "images"} and value not in ("", {}, None):
            typer.echo(f"{name}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}")
    for series in found["series"]:
        typer.echo(f"series {series['uid']}: {len(series['images'])} images, {decimal(sum(i['size'] for i in series['images']))}")
