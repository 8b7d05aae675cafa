"""Pure codecs: bytes to dataclasses and back. No clock, no socket, no store."""
