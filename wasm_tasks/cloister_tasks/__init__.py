"""The task format, the built-in tasks and aggregations, and the toolchain that builds them.

Layout
------
- ``errors``         what can go wrong
- ``contract``       the task contract as data: entry points, roles, element types
- ``status``         what an entry point returns
- ``binary``         the sections of a WASM module
- ``manifest``       what a module says about itself
- ``module``         a module checked against the contract
- ``signature``      who vouches for a module (needs cryptography; import it by itself)
- ``toolchain``      C to a module (needs ziglang to run)
- ``wat``            WASM text to a module (needs wasmtime; import it by itself)
- ``cache``          builds kept on disk
- ``template``       built-in tasks, specialised to their shapes
- ``builtin``        built-in aggregations

Beside them the C: ``include/cloister.h`` is what a task's author includes, ``kernels/`` the
arithmetic, ``templates/`` and ``aggregations/`` what is built in.
"""

from cloister_tasks.builtin import AGGREGATIONS, aggregation
from cloister_tasks.contract import ABI, ENTRY_POINTS, PAGE_BYTES, VARIANTS, Variant
from cloister_tasks.errors import BuildError, InvalidModule, InvalidSignature, Reason, TaskError
from cloister_tasks.manifest import Block, Buffer, Manifest
from cloister_tasks.module import (
    MAX_MODULE_BYTES,
    Export,
    ExternKind,
    Memory,
    Module,
    with_manifest,
)
from cloister_tasks.status import OWN, Status, describe
from cloister_tasks.template import TEMPLATES, build
from cloister_tasks.toolchain import compile_c

__all__ = [
    "ABI",
    "AGGREGATIONS",
    "ENTRY_POINTS",
    "MAX_MODULE_BYTES",
    "OWN",
    "PAGE_BYTES",
    "TEMPLATES",
    "VARIANTS",
    "Block",
    "Buffer",
    "BuildError",
    "Export",
    "ExternKind",
    "InvalidModule",
    "InvalidSignature",
    "Manifest",
    "Memory",
    "Module",
    "Reason",
    "Status",
    "TaskError",
    "Variant",
    "aggregation",
    "build",
    "compile_c",
    "describe",
    "with_manifest",
]
