"""Modules that a device must survive, each beside the answer it must give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import wasmtime

from cloister_tasks import Manifest, binary, with_manifest

PARAMETERS, ROWS, FEATURES = 4, 8, 3


def manifest(memory_bytes: int = 65536, **offsets: int) -> Manifest:
    """Four parameters, eight rows of three features, one metric."""
    buffers = [
        ("weight", "ROLE_PARAMETER", "DTYPE_F32", [PARAMETERS], 1024),
        ("features", "ROLE_INPUT", "DTYPE_F32", [ROWS, FEATURES], 2048),
        ("loss", "ROLE_METRIC", "DTYPE_F64", [], 4096),
    ]
    document = {
        "abi": 1,
        "name": "hostile",
        "kind": "KIND_TRAINING",
        "memoryBytes": str(memory_bytes),
        "entryPoints": ["init", "reset", "train", "evaluate", "predict"],
        "variant": "scalar",
        "buffers": [
            {
                "name": name,
                "role": role,
                "dtype": dtype,
                "shape": shape,
                "offset": str(offsets.get(name, offset)),
            }
            for name, role, dtype, shape, offset in buffers
        ],
    }
    return Manifest.from_json(json.dumps(document).encode())


def module(train: str, *, pages: int = 1, extra: str = "", imports: str = "") -> bytes:
    """A task whose `train` has the given body."""
    ready = "(param i32) (result i32) i32.const 0"
    text = f"""(module {imports}
      (memory (export "memory") {pages} {pages}) {extra}
      (func (export "init") (param i64) (result i32) i32.const 0)
      (func (export "reset") (result i32) i32.const 0)
      (func $train (export "train") (param i32) (result i32) {train})
      (func (export "evaluate") {ready})
      (func (export "predict") {ready}))"""
    return with_manifest(bytes(wasmtime.wat2wasm(text)), manifest(pages * 65536))


GOOD = module("(f32.store (i32.const 1024) (f32.const 2)) i32.const 0")
"""Sets the first parameter to 2: its update against a zero model is (2, 0, 0, 0)."""


def bomb(values: int = 30_000) -> bytes:
    """341 kB that take an optimizing compiler most of a minute.

    Every local is live through the loop and every iteration feeds each from two far-off others,
    so the register allocator has tens of thousands of values and no order that helps.
    """
    mix = "".join(
        f"(local.set {i + 1} (i32.add (local.get {(31 * i + 17) % values + 1})"
        f" (local.get {(7919 * i + 5) % values + 1})))"
        for i in range(values)
    )
    return module(
        f"(local{' i32' * values}) (loop $again {mix} (br_if $again (local.get 1))) (local.get 5)"
    )


def outside() -> bytes:
    """A manifest whose input lies past the end of memory."""
    sections = [
        section
        for section in binary.sections(GOOD)
        if binary.custom_name(section) != "cloister.manifest"
    ]
    text = manifest().to_json().replace(b'"2048"', b'"65500"')
    return binary.join([*sections, binary.custom("cloister.manifest", text)])


@dataclass(frozen=True)
class Hostile:
    """One attack and the kinds of failure that count as having seen it."""

    name: str
    build: Callable[[], bytes]
    kinds: frozenset[str]
    says: str
    """What the reason must mention, for the person who reads it."""


def _hostile(name: str, build: Callable[[], bytes], kinds: str, says: str) -> Hostile:
    return Hostile(name, build, frozenset(kinds.split()), says)


HOSTILE = [
    _hostile(
        "import",
        lambda: module("(i32.const 0)", imports='(import "env" "open" (func))'),
        "refused",
        "import",
    ),
    _hostile("memory", lambda: module("i32.const 0", pages=2048), "refused", "memory"),
    _hostile(
        "endless loop",
        lambda: module("(loop $again (br $again)) i32.const 0"),
        "out_of_time",
        "second",
    ),
    _hostile(
        "endless start function",
        lambda: module(
            "i32.const 0", extra="(func $start (loop $again (br $again))) (start $start)"
        ),
        "out_of_time",
        "second",
    ),
    _hostile("recursion", lambda: module("(call $train (local.get 0))"), "trapped", "stack"),
    _hostile("out of bounds", lambda: module("(i32.load (i32.const 65536))"), "trapped", "memory"),
    _hostile("unreachable", lambda: module("unreachable"), "trapped", "unreachable"),
    _hostile("status", lambda: module("i32.const 99"), "faulted", "99"),
    _hostile(
        "not finite",
        lambda: module("(f32.store (i32.const 1024) (f32.const nan)) i32.const 0"),
        "gate",
        "finite",
    ),
    _hostile("compile bomb", bomb, "out_of_time", "compil"),
    _hostile("manifest outside memory", outside, "refused", "memory"),
    _hostile("truncated", lambda: GOOD[:-40], "refused", ""),
    _hostile("no module", lambda: b"#!/bin/sh\nrm -rf /\n", "refused", ""),
]


def with_other_digest(blob: bytes) -> bytes:
    """The same length, one bit flipped: what a digest check must catch."""
    return blob[:-1] + bytes([blob[-1] ^ 1])


__all__ = ["GOOD", "HOSTILE", "Hostile", "module", "with_other_digest"]
