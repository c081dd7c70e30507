"""An elementwise kernel writes over what it reads for the last time, and no new buffer is needed.

That goes where each element is read at the very place it is written: the two buffers become one.
"""

from __future__ import annotations

from cloister_tasks.compiler.expression import Buffer, loads
from cloister_tasks.compiler.ir import Call, Kernel, Loop, Operand, Program
from cloister_tasks.compiler.operators.products import Product


def reuse(program: Program) -> None:
    """Merge buffers of a program."""
    last: dict[Buffer, int] = {}
    first: dict[Buffer, int] = {}
    for number, kernel in enumerate(program.kernels):
        for buffer in (*kernel.reads(), *kernel.writes()):
            last[buffer] = number
            first.setdefault(buffer, number)
    results = set(program.results.values())
    merged: dict[Buffer, Buffer] = {}
    for number, kernel in enumerate(program.kernels):
        for old, new in merged.items():
            if last[old] >= number:
                kernel.rename(old, new)
                _rename_form(kernel, old, new)
        for target in dict.fromkeys(kernel.writes()):
            if target.place is not None or first[target] != number or target in results:
                continue
            source = _dying(kernel, target, number, last, results)
            if source is None:
                continue
            kernel.rename(target, source)
            _rename_form(kernel, target, source)
            merged[target] = source
            last[source] = last[target]
        merged = {old: new for old, new in merged.items() if last[old] > number}
    program.results = {name: merged.get(b, b) for name, b in program.results.items()}


def _dying(
    kernel: Kernel, target: Buffer, number: int, last: dict[Buffer, int], results: set[Buffer]
) -> Buffer | None:
    """A buffer of the same kind that the kernel reads for the last time, just where it writes."""
    if isinstance(kernel, Call):
        base = kernel.inputs.get("base")
        form = kernel.form
        if base is None or not isinstance(form, Product) or form.base is None:
            return None
        dense = (form.m * form.n, form.n, 1)
        fits = base == Operand(base.buffer) and form.base.strides == dense
        others = [o.buffer for name, o in kernel.inputs.items() if name != "base"]
        if fits and base.buffer not in others and _free(base.buffer, target, number, last, results):
            return base.buffer
        return None
    if not isinstance(kernel, Loop):
        return None
    places = {store.index for store in kernel.stores if store.buffer is target}
    if len(places) != 1 or any(s.accumulate for s in kernel.stores):
        return None
    (place,) = places
    if not place.linear:
        return None
    written = {store.buffer for store in kernel.stores}
    found: dict[Buffer, bool] = {}
    stored = False
    for store in kernel.stores:
        for load in loads(store.value):
            fits = load.index == place and not stored  # read before it is written over
            found[load.buffer] = found.get(load.buffer, True) and fits
        stored = stored or store.buffer is target
    for buffer, same in found.items():
        if same and buffer not in written and _free(buffer, target, number, last, results):
            return buffer
    return None


def _free(
    buffer: Buffer, target: Buffer, number: int, last: dict[Buffer, int], results: set[Buffer]
) -> bool:
    return (
        buffer.place is None
        and buffer not in results
        and buffer.ctype == target.ctype
        and buffer.size == target.size
        and last[buffer] == number
    )


def _rename_form(kernel: Kernel, old: Buffer, new: Buffer) -> None:
    """Keep what passes know about a call in step with its operands."""
    if isinstance(kernel, Call) and isinstance(kernel.form, Product):
        kernel.form = kernel.form.renamed(old, new)
