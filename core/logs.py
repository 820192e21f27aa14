"""Logs are events with fields: `log.info("group_scored", group=group.id, reward_mean=0.41)`.

One line per event on standard error; `json_lines=True` writes one JSON object per line instead. A field whose
name says that it is a secret is never written out, at any depth. Text that a model wrote cannot start a line of its
own, send a terminal code, or be longer than MAX_CHARACTERS.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from math import isfinite
from typing import TextIO, cast

SECRET_NAME = re.compile(r"(^|[-_])(token|(api)?key|secret|password|passwd|authorization|cookie|credentials?)($|[-_])", re.I)
MAX_CHARACTERS = 500


class LogLevel(StrEnum):
    """From which level on events are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EventLogger:
    """Writes named events with fields through the standard library's logging."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"natgym.{name}")

    def debug(self, event: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": _shown(fields)})


def get_logger(name: str) -> EventLogger:
    """The logger of one part: `log = get_logger("episode")`."""
    return EventLogger(name)


def configure(level: str = LogLevel.INFO, *, json_lines: bool = False, stream: TextIO | None = None) -> None:
    """Send natgym's events to `stream` (standard error unless told). Call once, in a process's entry point."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if json_lines else _LineFormatter())
    logger = logging.getLogger("natgym")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_one_word(value)}" for name, value in _fields(record).items())
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {"time": record.created, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps({**_fields(record), **head})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "fields", {})


def _shown(value: object, name: str = "") -> object:
    """Plain JSON data without secrets, non-finite numbers or long texts."""
    if SECRET_NAME.search(name):
        return "***"
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): _shown(item, str(key)) for key, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(item) for item in cast("list[object]", value)]
    if isinstance(value, float) and isfinite(value):
        return float(f"{value:.6g}")
    if value is None or isinstance(value, bool | int):
        return value
    text = str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}... ({len(text)} characters)"


def _one_word(value: object) -> str:
    """The text itself where it is one printable word, else JSON, so that a line splits at its blanks."""
    if isinstance(value, str) and value and value.isprintable() and " " not in value:
        return value
    return json.dumps(value)
