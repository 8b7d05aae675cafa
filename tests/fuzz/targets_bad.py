"""Readers with one fault each: the harness must find it."""

import ctypes
import os
import time
from pathlib import Path

import structlog

from broker.model.errors import Rejected
from tests.fuzz.harness import Reader, Target


def _loops(_scratch: Path) -> Reader:
    def read(_data: bytes) -> str:
        while True:
            pass
    return read


def _loops_in_c(_scratch: Path) -> Reader:
    return lambda _data: str(sum(range(1 << 50)))


def _hoards(_scratch: Path) -> Reader:
    return lambda _data: str(len(bytes(1 << 30)))


def _dies(_scratch: Path) -> Reader:
    def read(_data: bytes) -> str:
        os._exit(3)
    return read


def _crashes(_scratch: Path) -> Reader:
    return lambda _data: ctypes.string_at(0).hex()


def _complains(_scratch: Path) -> Reader:
    def read(_data: bytes) -> str:
        structlog.get_logger("broker.test").error("bug")
        return "read"
    return read


def _refuses(_scratch: Path) -> Reader:
    def read(_data: bytes) -> str:
        raise Rejected("X", "no")
    return read


def _is_slow(_scratch: Path) -> Reader:
    def read(data: bytes) -> str:
        until = time.process_time() + 0.35
        while time.process_time() < until:
            pass
        return f"{len(data)} bytes"
    return read


def _does_not_start(_scratch: Path) -> Reader:
    raise OSError("no room")


def _raises(_scratch: Path) -> Reader:
    return lambda data: str(data.index(b"not there"))


BAD = tuple(Target(name=make.__name__.strip("_"), make=make, golden=("index",), cpu=0.6) for make in (
    _loops, _loops_in_c, _hoards, _dies, _crashes, _complains, _refuses, _raises, _is_slow,
    _does_not_start))
