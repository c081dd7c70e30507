"""From a captured graph to a program: every operator through one table.

``operators/`` fills the table. What it does not hold is refused, with the line of the user's model
that asked for it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Graph, Node

from cloister_tasks.compiler.expression import (
    Buffer,
    CType,
    Index,
    Load,
    contiguous,
    flatten,
    loads,
    variables,
)
from cloister_tasks.compiler.ir import Check, Kernel, Loop, Program, Store
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.compiler.value import Value

CTYPES: dict[torch.dtype, CType] = {
    torch.float32: "float",
    torch.int64: "int32_t",
    torch.int32: "int32_t",
    torch.int16: "int32_t",
    torch.int8: "int32_t",
    torch.uint8: "int32_t",
    torch.bool: "uint8_t",
}
"""How the guest keeps each dtype; integers in 32 bits, as wide as any index it can address."""

COST_KEPT = 6
"""Operations an element may cost to be recomputed by each of several users, not stored once."""
COST_WRITTEN = 200
"""Operations an element may cost at all before it is stored: clang takes minutes over the longest
expressions, which grow without a bound where an operator reads its argument twice."""

Handler: TypeAlias = "Callable[..., Any]"
_H = TypeVar("_H", bound="Callable[..., Any]")
KEY = Buffer("key", "int32_t", 1, place="&step_key")
"""Key of the random numbers of one step."""

OPERATORS: dict[Any, Handler] = {}
"""What lowers each operator: ``handler(lowering, node, *arguments)``, arguments as Values."""


def lowers(*targets: Any) -> Callable[[_H], _H]:
    """Enter a function into the table."""

    def enter(handler: _H) -> _H:
        for target in targets:
            OPERATORS[target] = handler
        return handler

    return enter


class Lowering:
    """One graph on its way to a program."""

    def __init__(
        self,
        name: str,
        inputs: Sequence[Buffer],
        constants: dict[str, Buffer],
        rows: set[Buffer],
    ):
        self.program = Program(name)
        self._inputs = list(inputs)
        self._constants = constants
        self._rows = rows
        self._values: dict[Node, Any] = {}
        self._made = 0
        self.streams = 0
        self._origin = ""

    def run(self, graph: Graph, destinations: Sequence[Buffer | None]) -> Program:
        """Lower a graph whose placeholders are the inputs.

        Results with a destination are written there when all else is computed; the others get
        buffers of their own, named ``0``, ``1`` ... in the program's results.
        """
        inputs = iter(self._inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                shape = tuple(node.meta["val"].shape)
                self._values[node] = Value.view(next(inputs), shape)
            elif node.op == "get_attr":
                shape = tuple(node.meta["val"].shape)
                self._values[node] = Value.view(self._constants[node.target], shape)
            elif node.op == "call_function":
                self._values[node] = self._lower(node)
            elif node.op == "output":
                self._finish([self._values.get(n) for n in node.args[0]], destinations)
        return self.program

    def _lower(self, node: Node) -> Any:
        if node.target is operator.getitem:
            return self._values[node.args[0]][node.args[1]]  # type: ignore[index]
        handler = OPERATORS.get(node.target)
        if handler is None:
            raise Unsupported(node, "the compiler does not know this operator")
        for value in _tensors(node.meta.get("val")):
            if value.dtype not in CTYPES:
                raise Unsupported(
                    node, f"it gives {value.dtype}; only float32, integers and bool are known"
                )
        self._origin = node.name
        arguments = [self._argument(a) for a in node.args]
        result = handler(
            self, node, *arguments, **{k: self._argument(v) for k, v in node.kwargs.items()}
        )
        if isinstance(result, Value) and (
            (len(node.users) > 1 and _worth_keeping(result)) or result.cost > COST_WRITTEN
        ):
            self.realize(result)
        return result

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self._values[argument]
        if isinstance(argument, (list, tuple)):
            return [self._argument(a) for a in argument]
        return argument

    # -- what operators use ------------------------------------------------------------------------

    def buffer(self, size: int, ctype: CType) -> Buffer:
        """A new buffer of the arena."""
        number = self.fresh()
        return Buffer(f"{self.program.name[0]}{number}", ctype, max(size, 1))

    def fresh(self) -> int:
        """A number not given before."""
        self._made += 1
        return self._made

    def random_stream(self) -> int:
        """The number of the next operator that draws random numbers."""
        self.streams += 1
        return self.streams

    def key(self) -> Load:
        """The random key of the step at hand."""
        return Load(KEY, Index())

    def emit(self, kernel: Kernel) -> None:
        """Add a kernel."""
        if not kernel.origin:
            kernel.origin = self._origin
        self.program.kernels.append(kernel)

    def depends_on_rows_only(self, value: Value) -> bool:
        """Whether a value can be known before the program runs."""
        point = variables(value.shape)
        return all(load.buffer in self._rows for load in loads(value.at(point)))

    def check(self, value: Value, size: int) -> None:
        """Have data-dependent indices checked before the program runs."""
        self.program.checks.append(Check(value.shape, value.at(variables(value.shape)), size))

    def realize(self, value: Value) -> Value:
        """The value, in memory."""
        if value.buffer is None and value.origin is not None:
            source, view = value.origin
            seen = view(self.realize(source))
            assert seen.buffer is not None
            value.become(seen.buffer, seen.strides, seen.offset)
        elif value.buffer is None:
            buffer = self.buffer(value.size, value.ctype)
            self.store(value, buffer)
            value.become(buffer, contiguous(value.shape))
        return value

    def dense(self, value: Value) -> Value:
        """The value as a row-major stretch of memory."""
        if value.buffer is not None and value.dense:
            return value
        copy = self.realize(Value.lazy(value.shape, value.ctype, value.at))
        assert copy.buffer is not None
        value.become(copy.buffer, copy.strides)
        return value

    def store(self, value: Value, buffer: Buffer) -> None:
        """Write a value densely into a buffer."""
        if value.size:
            point = variables(value.shape)
            store = Store(buffer, flatten(point, value.shape), value.at(point))
            self.emit(Loop(value.shape, [store]))

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The value in another shape, copied if it has to be."""
        result = value.reshape(shape)
        if result is None:
            result = self.dense(value).reshape(shape)
        assert result is not None
        return result

    # -- results -----------------------------------------------------------------------------------

    def _finish(self, results: list[Value | None], destinations: Sequence[Buffer | None]) -> None:
        """Write results; those that would read what another one overwrites are computed first."""
        targets = {d for d in destinations if d is not None}
        self._origin = "result"
        pending: list[tuple[Value, Buffer]] = []
        for number, (value, destination) in enumerate(zip(results, destinations, strict=True)):
            if value is None:
                continue
            if destination is None:
                self.program.results[str(number)] = self._own(value)
            else:
                point = variables(value.shape)
                dense = flatten(point, value.shape)
                for load in loads(value.at(point)):
                    foreign = load.buffer is not destination or load.index != dense
                    if load.buffer in targets and foreign:
                        value = self.realize(Value.lazy(value.shape, value.ctype, value.at))
                        break
                pending.append((value, destination))
        for value, destination in pending:
            own = Value.lazy(value.shape, value.ctype, value.at)
            if value.buffer is not destination or not value.dense:
                self.store(own, destination)

    def _own(self, value: Value) -> Buffer:
        """A buffer of the arena that holds exactly this value."""
        held = value.buffer
        if held is None or held.place is not None or not value.dense or value.size != held.size:
            value = Value.lazy(value.shape, value.ctype, value.at)
        held = self.realize(value).buffer
        assert held is not None
        return held


def _worth_keeping(value: Value) -> bool:
    """Whether storing it costs less than computing it again for another user."""
    if value.cost > COST_KEPT:
        return True  # a single number too: written out for each user, a chain of them would double
    return value.size > 1 and value.reads > 1 and value.origin is None


def _tensors(meta: Any) -> list[torch.Tensor]:
    if isinstance(meta, torch.Tensor):
        return [meta]
    if isinstance(meta, (list, tuple)):
        return [m for m in meta if isinstance(m, torch.Tensor)]
    return []


def data_of(tensor: torch.Tensor) -> NDArray[np.generic]:
    """A tensor as the guest keeps it: f32, i32 or bool."""
    array: NDArray[np.generic] = tensor.detach().cpu().numpy()
    return array.astype({"f": "f4", "b": "?"}.get(array.dtype.kind, "i4"))


def ctype_of(node: Any) -> CType:
    """Element type of a node's one result."""
    return CTYPES[node.meta["val"].dtype]


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of a node's one result."""
    return tuple(node.meta["val"].shape)
