"""A torch function as a module of its own: operators without a model.

It goes the way of every task (captured, lowered, planned, emitted), so what holds for its
operators holds for those of a model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cloister_protos import Kind
from cloister_tasks.compiler.capture import Captured, traced_graph
from cloister_tasks.compiler.driver import body, checks, constant
from cloister_tasks.compiler.emit import Functions
from cloister_tasks.compiler.expression import SIZES, Buffer
from cloister_tasks.compiler.ir import Program
from cloister_tasks.compiler.lower import CTYPES, Lowering, data_of
from cloister_tasks.compiler.passes import pipeline
from cloister_tasks.compiler.plan import Plan, plan
from cloister_tasks.contract import Variant
from cloister_tasks.errors import BuildError
from cloister_tasks.toolchain import compile_c


@dataclass(frozen=True)
class FunctionModule:
    """A module whose ``predict(0)`` computes a function once.

    Its arguments are the buffers ``a0``, ``a1`` ..., its results ``r0``, ``r1`` ...: flat, of at
    least one element, in the guest's types (:data:`~..lower.CTYPES`).
    """

    wasm: bytes
    source: str
    """The C file."""
    arguments: Sequence[Tensor]
    """Tensors of their shapes and dtypes."""
    results: Sequence[Tensor]


def function_module(
    function: Callable[..., Sequence[Tensor]], *example: Tensor, variant: Variant = "simd128"
) -> FunctionModule:
    """The module of a function from tensors to a sequence of tensors.

    Gradients are asked for inside: ``torch.func.grad`` and its like are traced through.

    Args:
        function: any function of torch operators; its results in a flat list or tuple.
        example: tensors of the shapes and dtypes it will be called with.
        variant: instruction set.

    Raises:
        Unsupported: it uses an operator the compiler does not know.
        BuildError: torch cannot trace it.
    """
    if not example:
        raise BuildError("a function without arguments is a constant")
    groups = [("argument", {str(n): a for n, a in enumerate(example)})]
    names: list[tuple[str, str]] = []

    def flat(*arguments: Tensor) -> list[Tensor]:
        results = [r.clone() for r in function(*arguments)]
        names[:] = [("result", str(n)) for n in range(len(results))]
        return results

    captured = traced_graph(flat, groups, names, False)
    output = next(node for node in captured.graph.nodes if node.op == "output")
    results = [node.meta["val"] for node in output.args[0]]
    program, constants = _lowered(captured, example, len(results))
    pipeline.run(program)
    source = _source(program, plan(program), example, results, constants)
    with tempfile.TemporaryDirectory(prefix="cloister-compile-") as folder:
        path = Path(folder) / "function.c"
        path.write_text(source)
        wasm = compile_c(path, kind=Kind.KIND_TRAINING, variant=variant)
    return FunctionModule(wasm, source, example, results)


def _lowered(
    captured: Captured, example: Sequence[Tensor], results: int
) -> tuple[Program, dict[str, NDArray[np.generic]]]:
    graph = pipeline.graph(captured.graph, [True] * results)
    arguments = [
        Buffer(f"argument{n}", CTYPES[a.dtype], max(a.numel(), 1), f"a{n}")
        for n, a in enumerate(example)
    ]
    data: dict[str, NDArray[np.generic]] = {}
    constants = {}
    for name, tensor in captured.constants.items():
        place = f"constant{len(data)}"
        data[place] = data_of(tensor)
        constants[name] = Buffer(name, CTYPES[tensor.dtype], max(tensor.numel(), 1), place)
    lowering = Lowering("function", arguments, constants, set(arguments))
    return lowering.run(graph, [None] * results), data


def _source(
    program: Program,
    layout: Plan,
    example: Sequence[Tensor],
    results: Sequence[Tensor],
    constants: dict[str, NDArray[np.generic]],
) -> str:
    functions = Functions()
    run = body("function", program, layout, functions)
    buffers = [(f"a{n}", a) for n, a in enumerate(example)]
    buffers += [(f"r{n}", r) for n, r in enumerate(results)]
    copies = []
    for n, result in enumerate(results):
        offset = program.results[str(n)].offset
        nbytes = result.numel() * SIZES[CTYPES[result.dtype]]
        copies.append(f"    __builtin_memcpy(r{n}, arena + {offset}, {nbytes});")
    parts = [
        '#include <cloister.h>\n#include "guest.h"',
        'CLOISTER_TASK("function", "A function, compiled from PyTorch");',
        'CLOISTER_PARAMETER(nothing, "Tasks have parameters", 1);',
        'CLOISTER_INPUT(float, rows, "Tasks have rows", 1);',
        "CLOISTER_FAULT;",
        *(
            f'CLOISTER_LOCAL({CTYPES[t.dtype]}, {name}, "", {max(t.numel(), 1)});'
            for name, t in buffers
        ),
        f"static uint8_t arena[{max(layout.nbytes, 16)}] __attribute__((aligned(64)));",
        "static uint32_t step_key;",
        *(constant(name, array) for name, array in constants.items()),
        functions.definitions(),
        run,
        checks("function", program, 1),
        *(
            f"CLOISTER_EXPORT({entry}) int32_t {entry}({argument}) {{ return CLOISTER_OK; }}"
            for entry, argument in (("init", "int64_t seed"), ("reset", "void"))
        ),
        *(
            f"CLOISTER_EXPORT({entry}) int32_t {entry}(int32_t n) {{ return n * 0; }}"
            for entry in ("train", "evaluate")
        ),
        "CLOISTER_EXPORT(predict) int32_t predict(int32_t n) {\n    (void)n;\n    (void)step_key;"
        "\n    int32_t status = check_function(0);\n    if (status) return status;"
        "\n    run_function();",
        *copies,
        "    return index_out_of_range ? CLOISTER_INDEX : CLOISTER_OK;\n}",
    ]
    return "\n".join(parts) + "\n"
