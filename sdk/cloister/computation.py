"""One operator, computed in a sandbox: to see what a device would compute.

Needs torch and the zig compiler (`cloister[compile]`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloister_sandbox import Limits, SandboxPool

if TYPE_CHECKING:
    from cloister_tasks.compiler.library import DType

MOST_BYTES = 1 << 26
"""Bytes of a file or a JSON text with one input; larger ones are not read."""

_NUMPY = {"FP32": "<f4", "INT32": "<i4", "INT8": "i1", "BOOL": "?"}


def compute(
    name: str,
    *inputs: Any,
    dtype: DType = "FP32",
    attributes: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> NDArray[Any]:
    """Compile one operator, and run it in an isolated sandbox.

    Args:
        name: an operator of `cloister_tasks.compiler.library`, such as "Add" or "Conv2d".
        inputs: arrays, or nested lists of numbers.
        dtype: FP32, INT32 or INT8. Integers wrap around; see the library.
        attributes: by name, such as axis or strides.
        limits: caps of the sandbox.

    Returns:
        f32, i32, i8 or bool, in the result's shape.

    Raises:
        BuildError: no such operator, or inputs that do not fit it or one another.
        ValueError: an input is no array of this type.
        SandboxError: it ran past a limit, or an index was out of range.
    """
    from cloister_tasks.compiler.library import TORCH
    from cloister_tasks.compiler.operation import compile_operator, find

    operator = find(name)
    arrays = [
        exactly(value, operator.dtype(place, dtype), f"input {place + 1}")
        for place, value in enumerate(inputs)
    ]
    function = compile_operator(operator.name, arrays, dtype, attributes)
    names = [f"a{place}" for place in range(len(arrays))]
    with SandboxPool(limits) as pool, pool.lease(function.wasm) as sandbox:
        for key, array in zip(names, arrays, strict=True):
            sandbox.view(key)[:] = array.ravel()
        sandbox.run(("predict", 0), send=names, receive=["r0"])
        result = sandbox.view("r0").copy()
    (like,) = function.results
    wanted = next(_NUMPY[key] for key, known in TORCH.items() if known == like.dtype)
    return result.astype(wanted).reshape(tuple(like.shape))  # INT8 from the guest's INT32: wraps


def exactly(value: Any, dtype: DType, what: str) -> NDArray[Any]:
    """An array of a type, from one or from nested lists; FP32 alone may round.

    Raises ValueError: not numbers, not of one shape, or not representable.
    """
    try:
        given = np.asarray(value)
    except ValueError:
        raise ValueError(f"{what}: the lists in it are of unlike lengths") from None
    wanted = np.dtype(_NUMPY[dtype])
    if given.dtype.kind not in ("b" if dtype == "BOOL" else "fiu"):
        kind = "true and false" if dtype == "BOOL" else "numbers"
        raise ValueError(f"{what} must be {kind}, as one array")
    with np.errstate(over="ignore", invalid="ignore"):
        array = given.astype(wanted)
    bad = np.isinf(array) & np.isfinite(given) if dtype == "FP32" else array != given
    if bad.any():
        raise ValueError(f"{what}: {given[bad].flat[0]} is not representable in {dtype}")
    return array


def read_json(text: str, what: str) -> Any:
    """Nested lists of numbers. Raises ValueError."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"{what} is larger than {MOST_BYTES >> 20} MiB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON: {error}") from error


def read_npy(path: Path) -> NDArray[Any]:
    """An array from an NPY file, without ever unpickling. Raises ValueError, OSError."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES >> 20} MiB")
    try:
        # mapped, so that a header that promises more than the file holds costs nothing
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no NPY file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path} is no NPY file but an archive of several")
    return np.array(array)


def dtype_of(arrays: Sequence[NDArray[Any]]) -> DType:
    """The type to ask for when nobody says: that of the first array, FP32 of another type."""
    known: dict[str, DType] = {"<i4": "INT32", "|i1": "INT8"}
    return known.get(arrays[0].dtype.newbyteorder("<").str, "FP32") if arrays else "FP32"
