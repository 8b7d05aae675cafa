"""Logs: structured lines on standard error, readable on a terminal, JSON otherwise. Never patient data.

What libraries log, warnings, and errors that end a thread or a process are lines of the same form. Of an error its kind and
where it happened are said, not its text: that may hold a peer's or a patient's words.
"""

import json
import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

import structlog

# What JSON leaves as it is and a terminal or an editor acts on: DEL, C1 controls, line ends and directions of Unicode.
_ACTIVE = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def configure(role: str, level: int = logging.INFO) -> None:
    """Set up structlog, the standard library's loggers and the last handlers of errors for this process."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _where,
        _role(role),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(serializer=_json))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _ended


def _where(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put the kind of an error and its frames in the place of the error."""
    info = event.pop("exc_info", None)
    if info is True or (isinstance(info, tuple) and info[0] is None):
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["frames"] = "".join(traceback.format_tb(error.__traceback__))
    return event


def _role(role: str) -> structlog.typing.Processor:
    """Return what names the role in every line, in whatever thread it is said."""
    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("role", role)
        return event
    return add


def _json(event: object, **options: Any) -> str:
    return _ACTIVE.sub(lambda found: f"\\u{ord(found.group()):04x}", json.dumps(event, ensure_ascii=False, **options))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        structlog.get_logger("broker").critical("the process ends with a bug", exc_info=(kind, error, trace))


def _ended(arguments: threading.ExceptHookArgs) -> None:
    if not issubclass(arguments.exc_type, SystemExit):
        structlog.get_logger("broker").critical(
            "a thread ended with a bug", thread=arguments.thread.name if arguments.thread else "",
            exc_info=(arguments.exc_type, arguments.exc_value, arguments.exc_traceback))
