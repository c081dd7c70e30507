"""Readers of single TOML values: each turns one into its type, or says what it must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloister_client.errors import ConfigError

Reader = Callable[[Any], Any]
"""Takes the value; raises ConfigError("must be ...")."""


def text(longest: int) -> Reader:
    """A printable text of 1 to `longest` characters."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= longest or not value.isprintable():
            raise ConfigError(f"must be a printable text of 1 to {longest} characters")
        return value

    return read


def texts(most: int, longest: int) -> Reader:
    """A list of at most `most` different texts."""

    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise ConfigError(f"must be a list of at most {most} texts")
        return tuple(dict.fromkeys(text(longest)(item) for item in value))

    return read


def path(value: Any) -> Path:
    """A path, still relative; `~` is the home folder."""
    return Path(text(4096)(value)).expanduser()


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigError("must be true or false")
    return value


def number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise ConfigError("must be a finite number")
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError("must be a finite number") from error


def positive(value: Any) -> float:
    """A finite number above 0."""
    result = number(value)
    if result <= 0:
        raise ConfigError("must be above 0")
    return result


def between(least: float, most: float) -> Reader:
    """A number from `least` to `most`."""

    def read(value: Any) -> float:
        result = number(value)
        if not least <= result <= most:
            raise ConfigError(f"must be from {least:g} to {most:g}")
        return result

    return read


def whole(least: int, most: int) -> Reader:
    """A whole number from `least` to `most`."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"must be a whole number from {least} to {most}")
        return value

    return read


def fraction(value: Any) -> float:
    """A number from 0 up to, but not including, 1."""
    result = number(value)
    if not 0 <= result < 1:
        raise ConfigError("must be at least 0 and below 1")
    return result


def number_or_error(value: Any) -> float | None:
    """A finite number, or None for "error"."""
    if value == "error":
        return None
    if isinstance(value, str):
        raise ConfigError('must be a number or "error"')
    return number(value)


def one_or_more(reader: Reader) -> Reader:
    """One value or a list of them, always as a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ConfigError("must not be empty")
        return tuple(reader(item) for item in values)

    return read


def table(reader: Reader) -> Reader:
    """A table whose values are all of one kind; its keys name a task's buffers."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ConfigError("must be a table: { name = ... }")
        found = {}
        for name, item in value.items():
            try:
                found[text(128)(name)] = reader(item)
            except ConfigError as error:
                raise ConfigError(f"{name[:128]!r}: {error}") from error
        return found

    return read


def digests(value: Any) -> frozenset[bytes]:
    """A list of 32-byte values in hexadecimal: public keys or SHA-256 digests."""
    try:
        found = frozenset(bytes.fromhex(item) for item in value)
    except (TypeError, ValueError):
        found = frozenset([b""])
    if not isinstance(value, list) or any(len(item) != 32 for item in found):
        raise ConfigError("must be a list of texts of 64 hexadecimal digits")
    return found
