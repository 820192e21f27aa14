"""Logs are events with fields: `log.info("group_scored", group=group.id, reward_mean=0.41)`.

One line per event on standard error; `json_lines=True` writes one JSON object per line instead. A field whose
name says that it is a secret is never written out.
"""

import json
import logging
import sys
from typing import TextIO

SECRET_WORDS = ("token", "key", "secret", "password", "authorization")
PUBLIC_FIELDS = frozenset({"tokens", "keys"})


class EventLogger:
    """Writes named events with fields through the standard library's logging."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"natgym.{name}")

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": {name: _shown(name, fields[name]) for name in fields}})


def get_logger(name: str) -> EventLogger:
    """The logger of one part: `log = get_logger("episode")`."""
    return EventLogger(name)


def configure(level: str = "info", *, json_lines: bool = False, stream: TextIO | None = None) -> None:
    """Send natgym's events to `stream` (standard error unless told). Call once, in a process's entry point."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if json_lines else _LineFormatter())
    logger = logging.getLogger("natgym")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {"time": record.created, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps({**head, **_fields(record)}, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "fields", {})


def _shown(name: str, value: object) -> object:
    lowered = name.lower()
    if lowered not in PUBLIC_FIELDS and any(word in lowered.split("_") for word in SECRET_WORDS):
        return "***"
    return f"{value:.6g}" if isinstance(value, float) else value
