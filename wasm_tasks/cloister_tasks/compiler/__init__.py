"""The compiler: a PyTorch module becomes one WASM task with an exact memory plan.

Layout, in the order data flows
-------------------------------
- ``compilation``  `compile`, step by step (``arguments``: checked first); ``task``: what it gives
- ``capture``      torch module -> graphs of ATen operators (``optimizers``: update rules)
- ``example_privacy``   the same for DP-SGD: the graph of a row, and that of an update
- ``lower``        graph -> program, by the table in ``operators``; ``value``: tensors meanwhile
- ``expression``   buffers and what is computed of them; ``ir``: kernels and programs
- ``passes``       what makes programs fast and small, each pass a file
- ``plan``         programs -> offsets in one arena, with proof
- ``emit``         kernels -> C functions; ``driver``: the C file around them
- ``initial``      what ``init(seed)`` draws
- ``matmul``, ``convolution``, ``pooling``   shapes and scratch memory of the kernels in C
- ``function``     torch functions by themselves; ``library``: the operators one by one, each
  compiled by ``operation``
- ``zoo``          models to try, test and measure with
- ``unsupported``  what cannot be compiled, and where it stands in the user's code

Importing it needs torch: ``pip install 'cloister[compile]'``.
"""

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "compiling PyTorch needs torch: pip install 'cloister[compile]'", name="torch"
    ) from error

from cloister_tasks.compiler.compilation import compile  # noqa: A004 - it is what it does
from cloister_tasks.compiler.example_privacy import ExamplePrivacy
from cloister_tasks.compiler.task import Task
from cloister_tasks.compiler.unsupported import Unsupported

del torch

__all__ = ["ExamplePrivacy", "Task", "Unsupported", "compile"]
