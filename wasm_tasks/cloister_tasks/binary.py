"""The sections of a WASM module, read and written without an engine.

A total reader: any bytes give sections or :class:`InvalidModule`, in time linear in their size,
of which it looks at no more than :data:`MAX_TABLE_BYTES` of a section one by one.
Format: WebAssembly Core Specification 2.0, chapter 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from cloister_tasks.errors import InvalidModule

MAGIC = b"\0asm\1\0\0\0"
MAX_TABLE_BYTES = 1024 * 1024
"""Bytes of a section that is read item by item; a larger one is refused."""
MAX_SECTIONS = 1024
"""Sections of one module; more are refused."""
MAX_NAME_BYTES = 1024
"""Bytes of an imported, exported or section name; a longer one is refused."""


class SectionId(IntEnum):
    """Section numbers this package reads or writes."""

    CUSTOM = 0
    TYPE = 1
    IMPORT = 2
    FUNCTION = 3
    MEMORY = 5
    GLOBAL = 6
    EXPORT = 7
    DATA = 11


_ORDER = {n: place for place, n in enumerate((1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11))}
"""The order in which non-custom sections must appear, each at most once."""


@dataclass(frozen=True)
class Section:
    """One section: its number and its payload."""

    number: int
    payload: memoryview


class Reader:
    """A cursor over untrusted bytes; every method raises InvalidModule past the end."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def bytes(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        if count > self.left:
            raise InvalidModule("malformed", "the module is truncated")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        """The next byte."""
        return self.bytes(1)[0]

    def u32(self) -> int:
        """An unsigned LEB128 number of at most 32 bits."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 1 << 32:
                    break
                return value
        raise InvalidModule("malformed", "a number has more than 32 bits")

    def i32(self) -> int:
        """A signed LEB128 number of at most 32 bits, given as unsigned."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte & 0x40:
                    value -= 1 << (shift + 7)
                return value & 0xFFFFFFFF
        raise InvalidModule("malformed", "a number has more than 32 bits")

    def name(self) -> str:
        """A UTF-8 name."""
        size = self.u32()
        if size > MAX_NAME_BYTES:
            raise InvalidModule("too_large", f"a name is longer than {MAX_NAME_BYTES} bytes")
        try:
            return str(self.bytes(size), "utf-8")
        except UnicodeDecodeError:
            raise InvalidModule("malformed", "a name is not UTF-8") from None


def sections(data: bytes) -> Iterator[Section]:
    """Split a module into its sections, in order.

    Raises:
        InvalidModule: (``malformed``) no core WASM module, truncated, or sections out of order.
    """
    if data[:8] != MAGIC:
        what = "a component, not a core module" if data[:4] == MAGIC[:4] else "not a WASM module"
        raise InvalidModule("malformed", f"the file is {what}")
    reader = Reader(memoryview(data)[8:])
    place, count = -1, 0
    while reader.left:
        count += 1
        if count > MAX_SECTIONS:
            raise InvalidModule("too_large", f"the module has more than {MAX_SECTIONS} sections")
        number = reader.byte()
        payload = reader.bytes(reader.u32())
        if number != SectionId.CUSTOM:
            if _ORDER.get(number, -1) <= place:
                raise InvalidModule("malformed", f"section {number} is unknown or out of order")
            place = _ORDER[number]
        yield Section(number, payload)


def table(section: Section | None) -> Reader:
    """A cursor over a section that is read item by item; an absent one counts as empty."""
    payload = memoryview(b"\0") if section is None else section.payload
    if len(payload) > MAX_TABLE_BYTES:
        raise InvalidModule(
            "too_large",
            f"section {section.number if section else 0} has {len(payload)} bytes;"
            f" at most {MAX_TABLE_BYTES} are read",
        )
    return Reader(payload)


def u32(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def name(text: str) -> bytes:
    """A UTF-8 name with its length."""
    encoded = text.encode()
    return u32(len(encoded)) + encoded


def join(parts: Iterable[Section]) -> bytes:
    """Write sections as a module; the inverse of :func:`sections`."""
    out = bytearray(MAGIC)
    for section in parts:
        out.append(section.number)
        out += u32(len(section.payload))
        out += section.payload
    return bytes(out)


def custom(title: str, content: bytes) -> Section:
    """A custom section."""
    return Section(SectionId.CUSTOM, memoryview(name(title) + content))


def custom_name(section: Section) -> str | None:
    """The name of a custom section; None for any other."""
    return Reader(section.payload).name() if section.number == SectionId.CUSTOM else None
