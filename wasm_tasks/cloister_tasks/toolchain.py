"""From C to a module with its manifest, by the zig compiler from PyPI.

The same source gives the same bytes on every machine: nothing of the path, the time or the host
goes in. After linking, the descriptors that the macros of ``include/cloister.h`` left in the data
become the manifest, the memory is fixed at exactly what the linker laid out, and what only the
toolchain needed (custom sections, exported globals) is dropped.
"""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloister_protos import Kind, Role
from cloister_tasks import binary
from cloister_tasks.binary import Reader, Section, SectionId
from cloister_tasks.contract import DTYPES, ENTRY_POINTS, PAGE_BYTES, VARIANTS, Variant
from cloister_tasks.errors import BuildError, InvalidModule
from cloister_tasks.manifest import Buffer, Manifest
from cloister_tasks.module import ExternKind, Module, with_manifest

PACKAGE = Path(__file__).parent
STACK_BYTES = 65536
"""Bytes of the C stack; a module that needs more traps."""
COMPILE_SECONDS = 300
"""Seconds the compiler may take; past it the build fails."""

_FEATURES: Mapping[str, str] = {
    "scalar": "generic+bulk_memory",
    "simd128": "generic+bulk_memory+simd128",
    "relaxed-simd": "generic+bulk_memory+simd128+relaxed_simd",
}
_FLAGS = (
    "-target",
    "wasm32-freestanding",
    "-std=c17",
    "-O3",
    "-ffp-contract=off",  # what is written is what is computed, in every variant
    "-ffreestanding",
    "-nostdlib",
    "-Wall",
    "-Wextra",
    "-Wno-pass-failed",  # advice about loops, not about faults
    "-Wl,--no-entry",
    "-Wl,--strip-all",
    f"-Wl,-z,stack-size={STACK_BYTES}",
)
_HOLDS: Mapping[int, str] = {256: "linear", 257: "unweighted"}
"""What a descriptor may say in place of a role, by the manifest's field."""
_START, _STOP = "__start_cloister_descriptors", "__stop_cloister_descriptors"
_DESCRIPTOR = struct.Struct("<3I3I8I")
"""``struct cloister_descriptor``: name, description, address; role, dtype, dimensions; shape."""


def compile_c(
    source: Path,
    *,
    name: str | None = None,
    kind: Kind | None = None,
    defines: Mapping[str, str | int | float] | None = None,
    variant: Variant = "simd128",
) -> bytes:
    """Build a module from one C file that includes ``cloister.h``.

    Args:
        source: the C file; it may include files beside it, ``cloister.h`` and our kernels.
        name: name in the manifest; by default the one given to ``CLOISTER_TASK``.
        kind: what the module is for; by default what its entry points say.
        defines: macros, as by ``-D``.
        variant: instruction set.

    Raises:
        BuildError: the compiler is missing or refuses the source, or the module breaks the
            contract; the message says what to mend.
    """
    with tempfile.TemporaryDirectory(prefix="cloister-build-") as folder:
        linked = Path(folder) / "linked.wasm"
        _run_compiler(source.resolve(), linked, variant, defines or {})
        data = linked.read_bytes()
    try:
        module = _finish(data, name, kind, variant)
        Module.parse(module)
    except InvalidModule as e:
        raise BuildError(f"{source.name} builds, but breaks the task contract: {e}") from e
    return module


def compiler() -> Path:
    """Where the zig compiler is.

    Raises:
        BuildError: ziglang is not installed.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError(
            "building modules needs the zig compiler: pip install 'cloister[author]'"
            " (400 MB; a client never needs it)"
        )
    return Path(spec.submodule_search_locations[0]) / "zig"


def _run_compiler(
    source: Path, target: Path, variant: str, defines: Mapping[str, str | int | float]
) -> None:
    if variant not in VARIANTS:
        raise BuildError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    if not source.is_file():
        raise BuildError(f"no C file {source}")
    command: Sequence[str] = (
        str(compiler()),
        "cc",
        *_FLAGS,
        f"-mcpu={_FEATURES[variant]}",
        f"-ffile-prefix-map={source.parent}=.",
        *(f"-Wl,--export={symbol}" for symbol in (_START, _STOP)),
        *(f"-I{PACKAGE / folder}" for folder in ("include", "kernels")),
        *(f"-D{macro}={value}" for macro, value in sorted(defines.items())),
        "-o",
        str(target),
        str(source),
    )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{source.name}: the compiler took over {COMPILE_SECONDS} s") from None
    if done.returncode != 0 or not target.exists():
        if _START in done.stderr:
            raise BuildError(f"{source.name} declares no buffers: use the macros of <cloister.h>")
        if "LEB is outside Varint32 range" in done.stderr:
            raise BuildError(f"{source.name}: its buffers need more than 2 GiB of memory")
        raise BuildError(f"{source.name} does not compile:\n{done.stderr.strip()[:16384]}")


def _finish(data: bytes, name: str | None, kind: Kind | None, variant: Variant) -> bytes:
    """Turn what the linker wrote into a module that keeps the contract."""
    sections = [s for s in binary.sections(data) if s.number != SectionId.CUSTOM]
    by_number = {s.number: s for s in sections}
    pages = _pages(by_number.get(SectionId.MEMORY))
    exports = _exports(by_number.get(SectionId.EXPORT))
    addresses = _globals(by_number.get(SectionId.GLOBAL))
    start, stop = (addresses[exports[symbol][1]] for symbol in (_START, _STOP))
    image = _Image(by_number.get(SectionId.DATA))
    said = _describe(image, start, stop)
    kind = kind or _kind_of(exports)
    manifest = Manifest(
        name=name or said.title,
        kind=kind,
        memory_bytes=pages * PAGE_BYTES,
        entry_points=tuple(ENTRY_POINTS[kind]),
        buffers={b.name: b for b in said.buffers},
        variant=variant,
        description=said.description,
        **dict.fromkeys(said.holds, True),
    )
    fixed: dict[int, bytes] = {
        SectionId.MEMORY: b"\1\1" + binary.u32(pages) * 2,
        SectionId.EXPORT: _without_globals(exports),
    }
    kept = [Section(s.number, memoryview(fixed.get(s.number, s.payload))) for s in sections]
    return with_manifest(binary.join(kept), manifest)


def _pages(section: Section | None) -> int:
    reader = binary.table(section)
    if reader.u32() != 1:
        raise BuildError("the linked module has no memory")
    reader.byte()
    return reader.u32()


def _exports(section: Section | None) -> dict[str, tuple[int, int]]:
    """Kind and index by name."""
    reader = binary.table(section)
    return {reader.name(): (reader.byte(), reader.u32()) for _ in range(reader.u32())}


def _without_globals(exports: Mapping[str, tuple[int, int]]) -> bytes:
    kept = [(n, *e) for n, e in exports.items() if e[0] != ExternKind.GLOBAL]
    entries = b"".join(binary.name(n) + bytes([k]) + binary.u32(i) for n, k, i in kept)
    return binary.u32(len(kept)) + entries


def _globals(section: Section | None) -> list[int]:
    """Initial values; the linker writes nothing but `i32.const value; end`."""
    reader = binary.table(section)
    values = []
    for _ in range(reader.u32()):
        reader.bytes(3)  # type, mutability, opcode
        values.append(reader.i32())
        reader.byte()  # end
    return values


class _Image:
    """The part of memory that the module's data segments fill."""

    def __init__(self, section: Section | None) -> None:
        self._segments: list[tuple[int, memoryview]] = []
        reader = Reader(section.payload if section else memoryview(b"\0"))
        for _ in range(reader.u32()):
            if reader.u32() != 0:
                raise BuildError("a data segment of the linked module has no fixed place")
            reader.byte()  # i32.const
            offset = reader.i32()
            reader.byte()  # end
            self._segments.append((offset, reader.bytes(reader.u32())))

    def from_address(self, address: int) -> memoryview:
        """What lies in memory from an address to the end of its segment; zeros are not stored."""
        for offset, content in self._segments:
            if offset <= address < offset + len(content):
                return content[address - offset :]
        return memoryview(b"")

    def bytes(self, address: int, count: int) -> bytes:
        """``count`` bytes from an address on; zero where no segment says otherwise."""
        return bytes(self.from_address(address)[:count]).ljust(count, b"\0")

    def string(self, address: int) -> str:
        """The C string at an address."""
        text, _, _ = bytes(self.from_address(address)[:1024]).partition(b"\0")
        return text.decode("utf-8", "replace")


@dataclass
class _Said:
    """What the source says about its module."""

    title: str = ""
    description: str = ""
    holds: set[str] = field(default_factory=set)
    """Fields of the manifest that are true."""
    buffers: list[Buffer] = field(default_factory=list)
    """In the order of their declaration."""


def _describe(image: _Image, start: int, stop: int) -> _Said:
    said = _Said()
    for at in range(start, stop, _DESCRIPTOR.size):
        name, text, address, role, dtype, dimensions, *shape = _DESCRIPTOR.unpack(
            image.bytes(at, _DESCRIPTOR.size)
        )
        if role == Role.ROLE_UNSPECIFIED:
            said.title, said.description = image.string(name), image.string(text)
            continue
        if role in _HOLDS:
            said.holds.add(_HOLDS[role])
            continue
        said.buffers.append(
            Buffer(
                name=image.string(name),
                role=role,
                dtype=DTYPES[dtype],
                shape=tuple(shape[:dimensions]),
                offset=address,
                description=image.string(text),
            )
        )
    if len({b.name for b in said.buffers}) < len(said.buffers):
        raise BuildError("two buffers have the same name")
    return said


def _kind_of(exports: Mapping[str, tuple[int, int]]) -> Kind:
    """The kind whose own function is exported."""
    for symbol, kind in (
        ("train", Kind.KIND_TRAINING),
        ("summarize", Kind.KIND_SUMMARY),
        ("fold", Kind.KIND_AGGREGATION),
    ):
        if symbol in exports:
            return kind
    raise BuildError(
        "the source exports none of train, summarize and fold: mark them CLOISTER_EXPORT(name)"
    )
