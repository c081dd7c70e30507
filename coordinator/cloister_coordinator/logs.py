"""Structured logs: one line an event, as ``key=value`` or as JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

Style: TypeAlias = Literal["text", "json"]

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class StructuredFormatter(logging.Formatter):
    """Formats a record with whatever was given as ``extra``."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows it in text, and is a field in JSON."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields |= {
            key: value
            for key, value in vars(record).items()
            if key not in _OWN and value not in ("", None)
        }
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._json:
            return json.dumps(fields | ({"traceback": trace} if trace else {}), default=str)
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return f"{line}\n{trace}" if trace else line


def configure(style: Style = "text", level: int = logging.INFO) -> None:
    """Send the log of this process to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(StructuredFormatter(style))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and not any(c in text for c in ' "=\n') else json.dumps(text)
