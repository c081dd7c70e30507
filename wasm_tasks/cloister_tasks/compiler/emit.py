"""From kernels to C: one function for each distinct kernel, programs as calls of them.

A function takes the addresses it works on; everything else in it is a constant. Kernels that differ
in their addresses only (layers of one shape, time steps of a recurrent network) share a function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cloister_tasks.compiler.expression import (
    REGISTER,
    SIZES,
    Buffer,
    Constant,
    Div,
    Expr,
    Index,
    Load,
    Position,
    Var,
    count,
    indices,
    inner_indices,
)
from cloister_tasks.compiler.ir import Call, Check, Kernel, Loop, Reduction

LANES = 8
"""Partial sums of a reduction: as many as keep the adders busy; part of what results mean."""
WIDE = 4
"""Vectors an elementwise loop works on in one turn."""


@dataclass(frozen=True, slots=True)
class Address:
    """An argument of a call: elements into a buffer."""

    buffer: Buffer
    offset: int

    def c(self) -> str:
        """As C spells it."""
        if self.buffer.place is not None:
            return f"{self.buffer.place} + {self.offset}" if self.offset else self.buffer.place
        assert self.buffer.offset >= 0, f"{self.buffer} has no place"
        return f"({self.buffer.ctype} *)(arena + {self.nbyte})"

    @property
    def moves(self) -> str | None:
        """The variable it starts from, if its address is not known when the task is linked."""
        place = self.buffer.place
        return place if place is not None and place.startswith("now_") else None

    @property
    def nbyte(self) -> int:
        """Bytes from the start of the arena."""
        return self.buffer.offset + self.offset * SIZES[self.buffer.ctype]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a function."""

    function: int
    arguments: tuple[Address, ...]

    @property
    def kind(self) -> tuple[object, ...]:
        """What calls have in common that differ in constant addresses only."""
        return (self.function, *(a.moves for a in self.arguments))


@dataclass
class Functions:
    """The functions of a task, each distinct one once."""

    bodies: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def invoke(self, kernel: Kernel, scratch: Buffer | None) -> Invocation:
        """The call that runs a kernel."""
        writer = _Writer(kernel)
        if isinstance(kernel, Loop):
            body = writer.loop(kernel)
        elif isinstance(kernel, Reduction):
            body = writer.reduction(kernel)
        else:
            body = writer.call(kernel, scratch)
        text = f"({writer.signature()}) {{\n{body}\n}}"
        number = self._numbers.setdefault(text, len(self.bodies))
        if number == len(self.bodies):
            self.bodies.append(text)
        return Invocation(number, tuple(Address(b, o) for b, o in writer.slots))

    def definitions(self) -> str:
        """All of them in C.

        Not static: knowing every caller, LLVM would put constant addresses into a function, and
        forget what `restrict` says of its arguments.
        """
        head = "__attribute__((noinline)) void"
        return "\n".join(f"{head} k{n}{body}" for n, body in enumerate(self.bodies))


def check(indices_of: Check, rows: int) -> str:
    """C statements that return CLOISTER_INDEX when an index is out of range, naming its row."""
    writer = _Writer(None)
    loops, close = writer.loops(range(len(indices_of.domain)), indices_of.domain)
    value = writer.expr(indices_of.value)
    flat = " + ".join(
        f"i{d} * {count(indices_of.domain[d + 1 :])}"
        for d, n in enumerate(indices_of.domain)
        if n > 1
    )
    each = count(indices_of.domain) // rows if count(indices_of.domain) % rows == 0 else 0
    row = f"at + ({flat or '0'}) / {each}" if each else "-1"
    return (
        f"{loops} if ((uint32_t)({value}) >= {indices_of.size}u) {{"
        f" fault = {row}; return CLOISTER_INDEX; }}{close}"
    )


def number(value: float | int, ctype: str) -> str:
    """A constant in C, exact to the last bit."""
    if ctype != "float":
        if not -(2**31) <= int(value) < 2**31:
            return f"(int32_t){int(value)}ll"
        return f"({int(value)})" if value < 0 else str(int(value))
    value = float(value)
    if math.isnan(value):
        return '__builtin_nanf("")'
    if math.isinf(value):
        return "__builtin_inff()" if value > 0 else "(-__builtin_inff())"
    import numpy as np

    text = repr(float(np.float32(value))) if abs(value) < 3.4e38 else value.hex()
    return f"({text}f)" if text.startswith("-") else f"{text}f"


class _Writer:
    """Writes one kernel; collects the addresses it takes."""

    def __init__(self, kernel: Kernel | None):
        self.slots: dict[tuple[Buffer, int], int] = {}
        self._written = set() if kernel is None else set(kernel.writes())
        self._direct = kernel is None
        self._dropped: set[int] = set()
        self._sizes: list[int] = []
        self._known: dict[tuple[Buffer, Index], str] = {}
        """Variables that hold what this iteration stored."""

    def signature(self) -> str:
        """Parameters: restrict where nothing else in the kernel reaches the same buffer."""
        times: dict[Buffer, int] = {}
        for buffer, _ in self.slots:
            times[buffer] = times.get(buffer, 0) + 1
        parts = []
        for (buffer, _), n in self.slots.items():
            shared = times[buffer] > 1 and buffer in self._written
            const = "" if buffer in self._written else "const "
            parts.append(f"{const}{buffer.ctype} *{'' if shared else 'restrict '}a{n}")
        return ", ".join(parts) or "void"

    # -- expressions -------------------------------------------------------------------------------

    def access(self, buffer: Buffer, index: Index) -> str:
        """An element, as an lvalue."""
        if self._direct:
            assert buffer.place is not None
            return f"({buffer.place})[{self.index(index)}]"
        slot = self.slots.setdefault((buffer, index.constant), len(self.slots))
        return f"a{slot}[{self.index(Index(index.terms))}]"

    def index(self, index: Index) -> str:
        """An index expression."""
        parts = []
        for atom, c in index.terms:
            if isinstance(atom, Var):
                if atom.number in self._dropped:
                    continue
                text = f"i{atom.number}"
            elif isinstance(atom, Div):
                text = f"({self.index(atom.index)}) / {atom.by}"
                text = f"({text})"
            else:
                text = f"({self.expr(atom.value)})"
            parts.append(text if c == 1 else f"{text} * {c}")
        if index.constant or not parts:
            parts.append(str(index.constant))
        return " + ".join(parts)

    def expr(self, expr: Expr) -> str:
        """A value."""
        if isinstance(expr, Load):
            if (expr.buffer, expr.index) in self._known:
                return self._known[expr.buffer, expr.index]
            return self.access(expr.buffer, expr.index)
        if isinstance(expr, Constant):
            return number(expr.value, expr.ctype)
        if isinstance(expr, Position):
            return f"({self.index(expr.index)})"
        return expr.form.format(*(self.expr(a) for a in expr.arguments))

    # -- loops -------------------------------------------------------------------------------------

    def merge(self, domain: Sequence[int], used: Iterable[Index], fixed: frozenset[int]) -> None:
        """Let adjacent dimensions that every access walks as one be one loop.

        Variable d disappears into d + 1 when each index moves by size(d + 1) times as much for it.
        `fixed` are reduced variables: they merge only among themselves.
        """
        found = list(used)
        self._sizes = list(domain)
        live = [d for d, n in enumerate(domain) if n > 1]
        for at in range(len(live) - 2, -1, -1):
            d, e = live[at], live[at + 1]
            if (d in fixed) != (e in fixed):
                continue
            span = self._sizes[e]
            if all(i.coefficient(d) == i.coefficient(e) * span for i in found):
                # e now runs over both; dimensions further out merge with the longer one.
                self._dropped.add(d)
                self._sizes[e] *= self._sizes[d]
                live[at] = e
                live[at + 1 :] = live[at + 2 :]

    def loops(self, dims: Iterable[int], sizes: Sequence[int], wide: int = 0) -> tuple[str, str]:
        """Nested loops over some variables, and what closes them.

        `wide`: vectors the innermost one works on between two jumps backwards, where the host
        looks whether time is up.
        """
        heads = [
            f"for (int i{d} = 0; i{d} < {sizes[d]}; i{d}++) {{"
            for d in dims
            if d not in self._dropped and sizes[d] > 1
        ]
        if heads and wide:
            heads[-1] = f'_Pragma("clang loop interleave_count({wide})") {heads[-1]}'
        return " ".join(heads), " }" * len(heads)

    def loop(self, kernel: Loop) -> str:
        """An elementwise kernel."""
        used: list[Index] = []
        for store in kernel.stores:
            used += [store.index, *inner_indices(store.index), *indices(store.value)]
        self.merge(kernel.domain, used, frozenset())
        head, close = self.loops(range(len(kernel.domain)), self._sizes, WIDE)
        lines = []
        for number, store in enumerate(kernel.stores):
            sign = "+=" if store.accumulate else "="
            value = self.expr(store.value)
            if len(kernel.stores) > 1:
                lines.append(f"{store.buffer.ctype} v{number} = {value};")
                value = f"v{number}"
                self._known[store.buffer, store.index] = value
            if store.buffer.place != REGISTER:
                lines.append(f"{self.access(store.buffer, store.index)} {sign} {value};")
        return f"{head} {' '.join(lines)}{close}"

    # -- reductions --------------------------------------------------------------------------------

    def reduction(self, kernel: Reduction) -> str:
        """Loops over what is kept, partial results over what is reduced."""
        used = [kernel.index, *indices(kernel.value)]
        self.merge(kernel.domain, used, kernel.reduced)
        dims = [
            d for d in range(len(kernel.domain)) if self._sizes[d] > 1 and d not in self._dropped
        ]
        keep = [d for d in dims if d not in kernel.reduced]
        over = [d for d in dims if d in kernel.reduced]
        if kernel.kind in ("argmax", "argmin"):
            return self._arg(kernel, keep)
        fold = _FOLDS[kernel.kind]
        kind: str = kernel.target.ctype
        if kernel.kind in ("sum", "prod"):  # integers wrap around, as torch's do
            kind = {"float": "double", "int32_t": "uint32_t"}.get(kind, kind)
        fast = self._fastest(kernel, dims)
        if fast in over and self._sizes[fast] >= 2 * LANES:
            return self._lanes_inside(kernel, keep, over, fast, kind, fold)
        if fast in keep and over:
            return self._lanes_across(kernel, keep, over, fast, kind, fold)
        head, close = self.loops(keep, self._sizes)
        inner, end = self.loops(over, self._sizes)
        start = fold[0].get(kernel.target.ctype, fold[0]["float"])
        value = self.expr(kernel.value)
        step = fold[1].format("s", f"({kind})({value})")
        done = f"{self.access(kernel.target, kernel.index)} = ({kernel.target.ctype})s;"
        return f"{head} {kind} s = {start}; {inner} {step}{end} {done}{close}"

    def _fastest(self, kernel: Reduction, dims: Sequence[int]) -> int:
        """The variable along which most loads are contiguous; the last one if none is."""
        votes = dict.fromkeys(dims, 0)
        for index in indices(kernel.value):
            for d in dims:
                votes[d] += abs(index.coefficient(d)) == 1
        return max(dims, key=lambda d: (votes[d], d), default=-1)

    def _lanes_inside(
        self,
        kernel: Reduction,
        keep: Sequence[int],
        over: Sequence[int],
        fast: int,
        kind: str,
        fold: tuple[dict[str, str], str],
    ) -> str:
        """A reduced variable is contiguous: LANES partial results side by side along it."""
        ctype = kernel.target.ctype
        start = fold[0].get(ctype, fold[0]["float"])
        head, close = self.loops(keep, self._sizes)
        outer, end = self.loops([d for d in over if d != fast], self._sizes)
        size = self._sizes[fast]
        whole = size - size % LANES
        value = f"({kind})({self.expr(kernel.value)})"
        step = fold[1].format("s[l]", value)
        lines = [
            f"{head} {kind} s[{LANES}]; for (int l = 0; l < {LANES}; l++) s[l] = {start};",
            f'{outer} _Pragma("clang loop unroll_count({WIDE})")'
            f" for (int b = 0; b < {whole}; b += {LANES})"
            f" for (int l = 0; l < {LANES}; l++) {{ int i{fast} = b + l; {step} }}",
        ]
        if whole < size:
            lines.append(
                f"for (int l = 0; l < {size - whole}; l++) {{ int i{fast} = {whole} + l; {step} }}"
            )
        lines.append(end)
        width = LANES // 2
        while width:
            lines.append(
                f"for (int l = 0; l < {width}; l++) {fold[1].format('s[l]', f's[l + {width}]')}"
            )
            width //= 2
        lines.append(f"{self.access(kernel.target, kernel.index)} = ({ctype})s[0];{close}")
        return "\n".join(lines)

    def _lanes_across(
        self,
        kernel: Reduction,
        keep: Sequence[int],
        over: Sequence[int],
        fast: int,
        kind: str,
        fold: tuple[dict[str, str], str],
    ) -> str:
        """A kept variable is contiguous: LANES results side by side along it."""
        ctype = kernel.target.ctype
        start = fold[0].get(ctype, fold[0]["float"])
        head, close = self.loops([d for d in keep if d != fast], self._sizes)
        outer, end = self.loops(over, self._sizes)
        step = fold[1].format("s[l]", f"({kind})({self.expr(kernel.value)})")
        done = f"{self.access(kernel.target, kernel.index)} = ({ctype})s[l];"
        size = self._sizes[fast]
        lines = [head]
        whole = size - size % LANES
        for begin, stop, lanes in ((0, whole, LANES), (whole, size, size - whole)):
            if begin == stop:
                continue
            at = f"int i{fast} = b + l;"
            lines += [
                f"for (int b = {begin}; b < {stop}; b += {lanes}) {{ {kind} s[{lanes}];"
                f" for (int l = 0; l < {lanes}; l++) s[l] = {start};",
                f"{outer} for (int l = 0; l < {lanes}; l++) {{ {at} {step} }}{end}",
                f"for (int l = 0; l < {lanes}; l++) {{ {at} {done} }} }}",
            ]
        return "\n".join([*lines, close])

    def _arg(self, kernel: Reduction, keep: Sequence[int]) -> str:
        """The position of an extreme: the first one; no number counts as the most extreme."""
        over = [d for d in range(len(kernel.domain)) if d in kernel.reduced]
        head, close = self.loops(keep, self._sizes)
        inner, end = self.loops(over, self._sizes)
        value = self.expr(kernel.value)
        sign = ">" if kernel.kind == "argmax" else "<"
        done = f"{self.access(kernel.target, kernel.index)} = best;"
        ctype = kernel.value.ctype  # a float would not tell large integers apart
        return (
            f"{head} int best = 0, n = 0; {ctype} m = 0; {inner} {ctype} v = {value};"
            f" if (n == 0 || v {sign} m || (v != v && m == m)) {{ m = v; best = n; }} n++;"
            f"{end} {done}{close}"
            if inner
            else f"{head} {self.access(kernel.target, kernel.index)} = 0;{close}"
        )

    # -- library calls -----------------------------------------------------------------------------

    def call(self, kernel: Call, scratch: Buffer | None) -> str:
        """A kernel of the library."""
        names = {}
        for name, operand in (*kernel.inputs.items(), *kernel.outputs.items()):
            key = (operand.buffer, operand.offset)
            names[name] = f"a{self.slots.setdefault(key, len(self.slots))}"
        if scratch is not None:
            self._written.add(scratch)
            names["work"] = f"a{self.slots.setdefault((scratch, 0), len(self.slots))}"
        else:
            names["work"] = "0"
        code = kernel.code
        for name, slot in names.items():
            code = code.replace("{" + name + "}", slot)
        return code


_FOLDS: dict[str, tuple[dict[str, str], str]] = {
    "sum": ({"float": "0", "int32_t": "0"}, "{0} += {1};"),
    "prod": ({"float": "1", "int32_t": "1"}, "{0} *= {1};"),
    "max": (
        {"float": "(-__builtin_inff())", "int32_t": "INT32_MIN", "uint8_t": "0"},
        "{0} = maximum({0}, {1});",
    ),
    "min": (
        {"float": "__builtin_inff()", "int32_t": "INT32_MAX", "uint8_t": "1"},
        "{0} = minimum({0}, {1});",
    ),
    "any": ({"float": "0", "uint8_t": "0"}, "{0} |= {1};"),
    "all": ({"float": "1", "uint8_t": "1"}, "{0} &= {1};"),
}
"""Neutral element by type, and how one more element is taken in."""
