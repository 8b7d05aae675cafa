"""Codecs: bytes to dataclasses and back. No socket, no store; `xop` alone writes attachments to temporary files."""
