"""A WASM module checked against the task contract before any engine sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from cloister_protos import Kind
from cloister_tasks import binary
from cloister_tasks.binary import Reader, Section, SectionId
from cloister_tasks.contract import ENTRY_POINTS, PAGE_BYTES
from cloister_tasks.errors import InvalidModule
from cloister_tasks.manifest import MAX_MANIFEST_BYTES, Manifest

MANIFEST_SECTION = "cloister.manifest"
"""Name of the custom section that holds the manifest."""

MAX_MODULE_BYTES = 64 * 1024 * 1024
"""Default limit on a module's bytes; a larger one is refused."""

_MAX_PAGES = 65536
_MAX_VALUES = 1000
"""Parameters or results of one function; engines refuse more."""
_VALUE_TYPES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_REFERENCE_TYPES = {0x70: "funcref", 0x6F: "externref"}


class ExternKind(IntEnum):
    """What an import or export is."""

    FUNCTION = 0
    TABLE = 1
    MEMORY = 2
    GLOBAL = 3
    TAG = 4


@dataclass(frozen=True)
class Export:
    """Something the module offers to the host."""

    kind: ExternKind
    index: int
    """Place in the module's own index space."""
    signature: str | None = None
    """For a function, as in ``(i32, i32) -> i32``."""


@dataclass(frozen=True)
class Memory:
    """Limits of the module's one memory."""

    min_bytes: int
    max_bytes: int


@dataclass(frozen=True)
class Module:
    """A module that keeps the task contract (as far as one can see without compiling it)."""

    data: bytes
    digest: bytes
    """SHA-256 of ``data``, 32 bytes."""
    imports: tuple[str, ...]
    """Always empty: a module with imports does not parse."""
    exports: Mapping[str, Export]
    memory: Memory
    manifest: Manifest

    @classmethod
    def parse(cls, data: bytes, max_bytes: int = MAX_MODULE_BYTES) -> Module:
        """Check bytes from anywhere; the code itself is validated by the engine later.

        Raises:
            InvalidModule: it breaks the contract; ``reason`` says which clause. Nothing else
                is ever raised, and the time taken is linear in the size.
        """
        if len(data) > max_bytes:
            raise InvalidModule(
                "too_large", f"the module has {len(data)} bytes; at most {max_bytes} are allowed"
            )
        known: dict[int, Section] = {}
        manifests: list[Section] = []
        for section in binary.sections(data):
            if section.number != SectionId.CUSTOM:
                known[section.number] = section
            elif binary.custom_name(section) == MANIFEST_SECTION:
                manifests.append(section)
        _check_imports(known.get(SectionId.IMPORT))
        memory = _read_memory(known.get(SectionId.MEMORY))
        signatures = _read_signatures(known.get(SectionId.TYPE), known.get(SectionId.FUNCTION))
        exports = _read_exports(known.get(SectionId.EXPORT), signatures)
        manifest = _read_manifest(manifests)
        _check_agreement(manifest, memory, exports)
        return cls(
            data=bytes(data),
            digest=hashlib.sha256(data).digest(),
            imports=(),
            exports=MappingProxyType(exports),
            memory=memory,
            manifest=manifest,
        )


def with_manifest(data: bytes, manifest: Manifest) -> bytes:
    """Give a module its manifest, replacing the one it has; the result is not checked."""
    kept = [s for s in binary.sections(data) if binary.custom_name(s) != MANIFEST_SECTION]
    return binary.join([*kept, binary.custom(MANIFEST_SECTION, manifest.to_json())])


def _check_imports(section: Section | None) -> None:
    reader = binary.table(section)
    if count := reader.u32():
        first = f"{reader.name()}.{reader.name()}"
        raise InvalidModule(
            "import",
            f"the module has {count} imports, the first of them {first!r}; a task has none",
        )


def _read_memory(section: Section | None) -> Memory:
    reader = binary.table(section)
    count = reader.u32()
    if count != 1:
        raise InvalidModule("memory", f"the module has {count} memories; a task has exactly one")
    flags = reader.byte()
    if flags != 1:  # bit 0: has a maximum, bit 1: shared, bit 2: 64-bit, bit 3: custom page size
        fault = "has no maximum" if flags == 0 else "is shared, 64-bit or of another page size"
        raise InvalidModule("memory", f"the memory {fault}; a task's is fixed and its own")
    low, high = reader.u32(), reader.u32()
    if low != high or high > _MAX_PAGES:
        raise InvalidModule(
            "memory", f"the memory has {low} to {high} pages; a task's is fixed, at most 4 GiB"
        )
    return Memory(low * PAGE_BYTES, high * PAGE_BYTES)


def _read_types(reader: Reader) -> str:
    count = reader.u32()
    if count > _MAX_VALUES:
        raise InvalidModule("too_large", f"a function type has more than {_MAX_VALUES} values")
    names = []
    for _ in range(count):
        code = reader.byte()
        name = _VALUE_TYPES.get(code) or _REFERENCE_TYPES.get(code)
        if name is None:
            raise InvalidModule("malformed", f"unknown value type {code:#x}")
        names.append(name)
    return ", ".join(names)


def _read_signatures(types: Section | None, functions: Section | None) -> list[str]:
    """The signature of every function, in index order."""
    reader = binary.table(types)
    known = []
    for _ in range(reader.u32()):
        if reader.byte() != 0x60:
            raise InvalidModule("malformed", "a type is no function type")
        known.append(f"({_read_types(reader)}) -> {_read_types(reader) or '()'}")
    reader = binary.table(functions)
    signatures = []
    for _ in range(reader.u32()):
        index = reader.u32()
        if index >= len(known):
            raise InvalidModule("malformed", f"a function has the unknown type {index}")
        signatures.append(known[index])
    return signatures


def _read_exports(section: Section | None, signatures: list[str]) -> dict[str, Export]:
    reader = binary.table(section)
    exports: dict[str, Export] = {}
    for _ in range(reader.u32()):
        name, code, index = reader.name(), reader.byte(), reader.u32()
        if name in exports or code not in ExternKind.__members__.values():
            raise InvalidModule("malformed", f"the export {name!r} is double or of no known kind")
        kind = ExternKind(code)
        signature = None
        if kind is ExternKind.FUNCTION:
            if index >= len(signatures):
                raise InvalidModule("malformed", f"the export {name!r} is no function there is")
            signature = signatures[index]
        exports[name] = Export(kind, index, signature)
    return exports


def _read_manifest(found: list[Section]) -> Manifest:
    if len(found) != 1:
        raise InvalidModule(
            "manifest", f"the module has {len(found)} sections {MANIFEST_SECTION!r}; a task has one"
        )
    reader = Reader(found[0].payload)
    reader.name()
    if reader.left > MAX_MANIFEST_BYTES:
        raise InvalidModule("manifest", f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    return Manifest.from_json(bytes(reader.bytes(reader.left)))


def _check_agreement(manifest: Manifest, memory: Memory, exports: Mapping[str, Export]) -> None:
    """The manifest's claims against what the module has."""
    if manifest.memory_bytes != memory.max_bytes:
        raise InvalidModule(
            "manifest",
            f"the manifest says {manifest.memory_bytes} bytes of memory,"
            f" the module {memory.max_bytes}",
        )
    if exports.get("memory") != Export(ExternKind.MEMORY, 0):
        raise InvalidModule("export", "the module does not export its memory as 'memory'")
    for name, parameters in ENTRY_POINTS[manifest.kind].items():
        wanted = f"({', '.join(parameters)}) -> i32"
        found = exports.get(name)
        if found is None or found.signature != wanted:
            raise InvalidModule(
                "export",
                f"a module of {Kind.Name(manifest.kind)} exports the function {name}{wanted};"
                f" found {found.signature if found else 'none'}",
            )
