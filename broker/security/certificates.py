"""How long certificates are valid: for `broker check`. Apart from `tls`, because reading them takes a library of 10 MB."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509

from broker.config.settings import Settings
from broker.security.tls import WIRES


def files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Return key and file of every setting that names certificates."""
    for wire in WIRES:
        port = getattr(settings.tls, wire)
        for key in ("certificate", "client_ca"):
            if (file := getattr(port, key)) is not None:
                yield f"tls.{wire}.{key}", file
    for key in ("certificate", "ca"):
        if (file := getattr(settings.outbound, key)) is not None:
            yield f"outbound.{key}", file


def validity(file: Path) -> tuple[datetime, datetime]:
    """Return from when to when all certificates of a PEM file are valid together. Raise ValueError when it holds none."""
    found = x509.load_pem_x509_certificates(file.read_bytes())
    return max(one.not_valid_before_utc for one in found), min(one.not_valid_after_utc for one in found)
