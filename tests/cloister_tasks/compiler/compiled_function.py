"""A torch function as a WASM function over numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloister_tasks import Status, Variant
from cloister_tasks.compiler.function import function_module

from ..conftest import Guest


def compile_function(
    function: Callable[..., Sequence[Tensor]], *example: Tensor, variant: Variant = "simd128"
) -> Callable[..., list[NDArray[Any]]]:
    """What to call with arrays of the example's shapes; results are copies in torch's dtypes.

    The call raises IndexError when an index computed from the arrays is out of range.
    """
    made = function_module(function, *example, variant=variant)
    guest = Guest(made.wasm)

    def view(name: str, like: Tensor) -> NDArray[Any]:
        return guest[name].ravel()[: like.numel()].reshape(tuple(like.shape))

    def run(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
        for number, (like, array) in enumerate(zip(made.arguments, arrays, strict=True)):
            view(f"a{number}", like)[...] = array
        if guest("predict", 0) != Status.OK:
            raise IndexError("an index is out of range")
        dtypes = (torch.empty((), dtype=like.dtype).numpy().dtype for like in made.results)
        return [
            np.array(view(f"r{number}", like), dtype)
            for number, (like, dtype) in enumerate(zip(made.results, dtypes, strict=True))
        ]

    return run
