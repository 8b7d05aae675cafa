"""Finds `wsdl/` and `profiles/` in a checkout and in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def data(name: str) -> Path:
    """Return the folder `wsdl` or `profiles`: from the wheel when it is there, else from the checkout."""
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name
