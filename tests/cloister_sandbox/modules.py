"""Modules for tests, written in WAT so that nothing has to be compiled from C."""

from __future__ import annotations

from functools import cache

import numpy as np
import wasmtime

from cloister_protos import Kind, Role
from cloister_tasks import Buffer, Manifest, with_manifest

PAGES = 2
ROWS = 8
F4, F8, I4, I8 = (np.dtype(code) for code in ("<f4", "<f8", "<i4", "<i8"))
BUFFERS = (
    Buffer("weight", Role.ROLE_PARAMETER, F4, (2, 2), 1024),
    Buffer("bias", Role.ROLE_PARAMETER, F4, (2,), 1040),
    Buffer("embedding", Role.ROLE_FROZEN, F4, (3,), 1088),
    Buffer("features", Role.ROLE_INPUT, F4, (ROWS, 3), 2048),
    Buffer("label", Role.ROLE_INPUT, I4, (ROWS,), 2304),
    Buffer("rate", Role.ROLE_HYPERPARAMETER, F4, (), 3000),
    Buffer("loss", Role.ROLE_METRIC, F8, (), 4096),
    Buffer("seen", Role.ROLE_METRIC, F8, (), 4104),
    Buffer("fault", Role.ROLE_FAULT, I8, (), 4112),
)
# weight[0, 0] = weight[0, 0] * 2 + features[0, 0] + rate; seen += rows
GOOD = """
  (f32.store (i32.const 1024) (f32.add (f32.load (i32.const 3000)) (f32.add
    (f32.mul (f32.load (i32.const 1024)) (f32.const 2)) (f32.load (i32.const 2048)))))
  (f64.store (i32.const 4104)
    (f64.add (f64.load (i32.const 4104)) (f64.convert_i32_s (local.get 0))))
  i32.const 0"""
RATE = '(data (i32.const 3000) "\\00\\00\\00\\3f")'  # 0.5


def manifest(pages: int = PAGES, buffers: tuple[Buffer, ...] = BUFFERS) -> Manifest:
    return Manifest(
        name="test",
        kind=Kind.KIND_TRAINING,
        memory_bytes=pages * 65536,
        entry_points=("init", "reset", "train", "evaluate", "predict"),
        buffers={b.name: b for b in buffers},
        variant="scalar",
    )


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def task(train: str = GOOD, *, extra: str = RATE, pages: int = PAGES, imports: str = "") -> bytes:
    """A module whose `train(rows)` has the given body."""
    nothing = "(param i32) (result i32) i32.const 0"
    text = f"""(module {imports} (memory (export "memory") {pages} {pages})
      (func (export "init") (param i64) (result i32)
        (i64.store (i32.const 1024) (local.get 0)) i32.const 0)
      (func (export "reset") (result i32)
        (f64.store (i32.const 4096) (f64.const 0)) (f64.store (i32.const 4104) (f64.const 0))
        (i64.store (i32.const 4112) (i64.const -1)) i32.const 0)
      (func $train (export "train") (param i32) (result i32) {train})
      (func (export "evaluate") {nothing})
      (func (export "predict") {nothing})
      {extra})"""
    return with_manifest(wat(text), manifest(pages))


@cache
def bomb(values: int = 21_500) -> bytes:
    """400 kB that take many seconds to compile: all locals live at once around a loop."""
    names = range(1, values + 1)
    loads = "".join(f"(local.set {i} (i32.load (local.get 0)))" for i in names)
    turns = "".join(
        f"(local.set {i} (i32.mul (local.get {i}) (local.get {(i + values // 2) % values + 1})))"
        for i in names
    )
    loop = f"(loop $a {turns} (br_if $a (local.get 1)))"
    return task(f"(local{' i32' * values}) {loads} {loop} (local.get 1)")
