"""Codecs: bytes to dataclasses and back. No socket, no store."""
