"""The contract of a sandbox, run against every kind of sandbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from cloister_protos import Role
from cloister_sandbox import (
    Crashed,
    Faulted,
    Limits,
    OutOfMemory,
    OutOfTime,
    Refused,
    Sandbox,
    SandboxError,
    SandboxPool,
    Trap,
    Trapped,
)
from cloister_tasks import Module, binary, with_manifest

from .modules import BUFFERS, ROWS, bomb, manifest, task, wat

LIMITS = Limits(memory_bytes=1 << 20, run_seconds=20)
SHORT = replace(LIMITS, run_seconds=0.3)


@pytest.fixture(scope="module", params=["local", "isolated"])
def isolated(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "isolated")


@pytest.fixture(scope="module")
def pool(isolated: bool) -> Iterator[SandboxPool]:
    with SandboxPool(LIMITS, isolated=isolated) as pool:
        yield pool


@pytest.fixture(scope="module")
def hasty(isolated: bool) -> Iterator[SandboxPool]:
    with SandboxPool(SHORT, isolated=isolated) as pool:
        yield pool


@pytest.fixture
def sandbox(pool: SandboxPool, good: Module) -> Iterator[Sandbox]:
    with pool.lease(good) as sandbox:
        yield sandbox


def train(pool: SandboxPool, module: bytes) -> None:
    with pool.lease(module) as sandbox:
        sandbox.run(("reset",), ("train", 1))


def back_at_work(pool: SandboxPool, good: Module) -> bool:
    with pool.lease(good) as sandbox:
        sandbox.view("weight")[:] = 0
        sandbox.view("features")[:] = 4
        sandbox.run(("train", 1), send=["weight", "features"], receive=["weight"])
        return bool(sandbox.view("weight")[0, 0] == np.float32(4.5))


def test_data_goes_in_and_out(sandbox: Sandbox) -> None:
    sandbox.view(Role.ROLE_PARAMETER)[:] = [1, 2, 3, 4, 5, 6]
    sandbox.view("features")[:] = np.arange(24).reshape(ROWS, 3) + 10
    sandbox.view("rate")[...] = 0.25
    sandbox.run(
        ("reset",),
        ("train", 3),
        ("train", 2),
        send=[Role.ROLE_PARAMETER, "features", "rate"],
        receive=[Role.ROLE_PARAMETER, "seen"],
    )
    first = (1 * 2 + 10 + 0.25) * 2 + 10 + 0.25
    np.testing.assert_array_equal(sandbox.view(Role.ROLE_PARAMETER), [first, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(sandbox.view("weight"), [[first, 2], [3, 4]])
    assert sandbox.view("seen").item() == 5


def test_views_have_the_buffers_dtype_and_shape(sandbox: Sandbox) -> None:
    for buffer in BUFFERS:
        view = sandbox.view(buffer.name)
        assert (view.dtype, view.shape) == (buffer.dtype, buffer.shape)
        assert view.flags.writeable
    assert sandbox.view(Role.ROLE_PARAMETER).shape == (6,)
    assert sandbox.view(Role.ROLE_FROZEN).shape == (3,)


def test_only_the_first_rows_are_sent(sandbox: Sandbox) -> None:
    sandbox.view("features")[:] = 7
    sandbox.view("label")[:] = 9
    sandbox.run(("reset",), send=[("features", 2), ("label", 0)])
    if sandbox.isolated:  # in-process, views are the memory itself
        sandbox.view("features")[:] = -1
        sandbox.run(receive=["features", "label"])
        assert sandbox.view("features")[:2].tolist() == [[7] * 3] * 2
        assert not sandbox.view("features")[2:].any()
        assert not sandbox.view("label").any()


def test_defaults_can_be_received(sandbox: Sandbox) -> None:
    sandbox.run(receive=["rate"])
    assert sandbox.view("rate").item() == 0.5


def test_seeds_are_unsigned_or_signed_64_bits(sandbox: Sandbox) -> None:
    for seed, bits in (((1 << 64) - 1, 0xFF), (-1, 0xFF), (0, 0)):
        sandbox.run(("init", seed), receive=["weight"])
        assert set(sandbox.view("weight")[0].tobytes()) == {bits}


def test_fresh_forgets_everything(sandbox: Sandbox) -> None:
    sandbox.view("rate")[...] = 3
    sandbox.view("weight")[:] = 3
    sandbox.run(send=["rate", "weight"])
    sandbox.fresh()
    sandbox.run(receive=["rate", "weight"])
    assert sandbox.view("rate").item() == 0.5
    assert not sandbox.view("weight").any()


def test_a_lease_is_fresh(pool: SandboxPool, good: Module) -> None:
    for _ in range(2):
        with pool.lease(good) as sandbox:
            sandbox.run(("train", 1), receive=["weight"])
            assert sandbox.view("weight")[0, 0] == 0.5


def test_views_outlive_the_sandbox(pool: SandboxPool, good: Module) -> None:
    with pool.lease(good) as sandbox:
        view = sandbox.view("features")
        view[:] = 5
        sandbox.fresh()
    assert view.shape == (ROWS, 3)
    view[:] = 6


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda s: s.view("nothing"), "no buffer 'nothing'"),
        (lambda s: s.run(send=["nothing"]), "no buffer 'nothing'"),
        (lambda s: s.run(send=[("features", ROWS + 1)]), "9 rows"),
        (lambda s: s.run(receive=[("features", -1)]), "-1 rows"),
        (lambda s: s.run(receive=[("rate", 1)]), "1 rows"),
        (lambda s: s.run(("fold", 1)), "no such entry point"),
        (lambda s: s.run(("train",)), "takes 1"),
        (lambda s: s.run(("train", 1 << 31)), "no i32"),
        (lambda s: s.run(("init", 1 << 64)), "no i64"),
    ],
)
def test_mistakes_are_told_and_harmless(
    sandbox: Sandbox, use: Callable[[Sandbox], None], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        use(sandbox)
    sandbox.run(("train", 1))


@pytest.mark.parametrize(
    ("body", "trap"),
    [
        ("unreachable", Trap.UNREACHABLE),
        ("(call $train (local.get 0))", Trap.STACK_OVERFLOW),
        ("(i32.load (i32.const 131072))", Trap.MEMORY_OUT_OF_BOUNDS),
        ("(i32.load (i32.const 0xfffffff0))", Trap.MEMORY_OUT_OF_BOUNDS),
        ("(i32.div_s (i32.const 1) (i32.const 0))", Trap.INTEGER_DIVISION_BY_ZERO),
        ("(i32.div_s (i32.const 0x80000000) (i32.const -1))", Trap.INTEGER_OVERFLOW),
        ("(i32.trunc_f32_s (f32.const nan))", Trap.BAD_CONVERSION_TO_INTEGER),
        ("(call_indirect (type $t) (i32.const 0) (i32.const 0))", Trap.INDIRECT_CALL_TO_NULL),
        ("(call_indirect (type $t) (i32.const 0) (i32.const 9))", Trap.TABLE_OUT_OF_BOUNDS),
        ("(call_indirect (type $t) (i32.const 0) (i32.const 1))", Trap.BAD_SIGNATURE),
    ],
)
def test_traps(pool: SandboxPool, good: Module, body: str, trap: Trap) -> None:
    extra = "(type $t (func (param i32) (result i32))) (table 2 funcref) (elem (i32.const 1) 0)"
    with pytest.raises(Trapped) as caught:
        train(pool, task(body, extra=extra))
    assert caught.value.trap is trap
    assert caught.value.where == "train"
    assert back_at_work(pool, good)


def test_a_trap_in_the_start_function(pool: SandboxPool, good: Module) -> None:
    module = task("i32.const 0", extra="(func $s unreachable) (start $s)")
    with pytest.raises(Trapped, match="its start function"):
        train(pool, module)
    assert back_at_work(pool, good)


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        ("(loop $a (br $a)) i32.const 0", ""),
        ("i32.const 0", "(func $s (loop $a (br $a))) (start $s)"),
    ],
)
def test_endless_loops_end(hasty: SandboxPool, good: Module, body: str, extra: str) -> None:
    began = time.monotonic()
    with pytest.raises(OutOfTime) as caught:
        train(hasty, task(body, extra=extra))
    assert (caught.value.phase, caught.value.clock) == ("run", "wall")
    assert caught.value.seconds == SHORT.run_seconds
    assert time.monotonic() - began < 10
    assert back_at_work(hasty, good)


def test_many_short_runs_are_not_one_long_one(hasty: SandboxPool, good: Module) -> None:
    ends = time.monotonic() + 2 * SHORT.run_seconds
    with hasty.lease(good) as sandbox:
        while time.monotonic() < ends:
            sandbox.run(("train", 1))


def test_memory_cannot_grow(pool: SandboxPool) -> None:
    with pytest.raises(Faulted) as caught:
        train(pool, task("(memory.grow (i32.const 1))"))
    assert caught.value.status == -1


def test_tables_cannot_grow_without_end(pool: SandboxPool) -> None:
    body = "(table.grow (ref.null func) (i32.const 100000000))"
    with pytest.raises(Faulted) as caught:
        train(pool, task(body, extra="(table 0 funcref)"))
    assert caught.value.status == -1


def test_a_huge_table_is_refused(pool: SandboxPool, good: Module) -> None:
    with pytest.raises(Refused) as caught:
        train(pool, task(extra="(table 4000000000 funcref)"))
    assert caught.value.reason == "memory"
    assert back_at_work(pool, good)


def test_faults_name_the_row(pool: SandboxPool, good: Module) -> None:
    with pytest.raises(Faulted) as caught:
        train(pool, task("(i64.store (i32.const 4112) (i64.const 5)) i32.const 2"))
    assert (caught.value.status, caught.value.row, caught.value.client) == (2, 5, None)
    assert "out of range" in caught.value.message
    assert back_at_work(pool, good)


def test_a_fault_ends_the_run(pool: SandboxPool) -> None:
    with (
        pool.lease(task("(if (i32.eqz (local.get 0)) (then unreachable)) i32.const 70")) as sandbox,
        pytest.raises(Faulted, match="status 70"),
    ):
        sandbox.run(("train", 1), ("train", 0))


def test_after_an_error_the_sandbox_is_dead(pool: SandboxPool) -> None:
    with pool.lease(task("unreachable")) as sandbox:
        with pytest.raises(Trapped):
            sandbox.run(("train", 1))
        assert not sandbox.alive
        for use in (lambda: sandbox.run(("reset",)), sandbox.fresh, lambda: sandbox.view("loss")):
            with pytest.raises(Crashed, match="closed"):
                use()
        sandbox.close()


def rewritten(old: bytes, new: bytes) -> bytes:
    """The good module with another manifest, which our own tools would not write."""
    parts = [s for s in binary.sections(task()) if not binary.custom_name(s)]
    text = manifest().to_json()
    assert old in text
    return binary.join([*parts, binary.custom("cloister.manifest", text.replace(old, new))])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (task(imports='(import "env" "open" (func))'), "import"),
        (task(pages=17), "memory"),
        (task()[:-40], "malformed"),
        (b"", "malformed"),
        (b"#!/bin/sh\n", "malformed"),
        (wat("(module)"), "memory"),
        (wat('(module (memory (export "memory") 2 2))'), "manifest"),
        (with_manifest(wat('(module (memory (export "memory") 2 2))'), manifest()), "export"),
        (with_manifest(wat('(module (memory (export "memory") 1 2))'), manifest()), "memory"),
        (rewritten(b'"abi":1', b'"abi":7'), "manifest"),
        (rewritten(b"DTYPE_F32", b"DTYPE_F99"), "manifest"),
        (rewritten(b'"offset":"2048"', b'"offset":"131056"'), "manifest"),
        (rewritten(b'"offset":"2048"', b'"offset":"18446744073709551600"'), "manifest"),
        (rewritten(b'"offset":"2304"', b'"offset":"2048"'), "manifest"),
        (rewritten(b"{", b"[" * 200_000), "manifest"),
    ],
)
def test_refusals(pool: SandboxPool, good: Module, module: bytes, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        train(pool, module)
    assert caught.value.reason == reason
    assert back_at_work(pool, good)


def test_a_module_too_large_is_refused(isolated: bool, good: Module) -> None:
    limits = replace(LIMITS, module_bytes=len(good.data) - 1)
    with SandboxPool(limits, isolated=isolated) as pool:
        for module in (good, good.data):
            with pytest.raises(Refused) as caught, pool.lease(module):
                pass
            assert caught.value.reason == "too_large"


def test_an_invalid_body_is_refused_by_the_engine(pool: SandboxPool, good: Module) -> None:
    data = task("(i32.const 1234567)")
    at = data.index(b"\x41\x87\xad\xcb\x00")  # i32.const 1234567
    with pytest.raises(Refused) as caught:
        train(pool, data[:at] + b"\x43" + data[at + 1 :])  # f32.const where an i32 must be
    assert caught.value.reason == "malformed"
    assert "does not compile" in caught.value.message
    assert back_at_work(pool, good)


def test_a_compile_bomb(isolated: bool, good: Module) -> None:
    """What only a process can contain; `isolated` says which sandboxes do."""
    with SandboxPool(Limits(compile_seconds=1), isolated=isolated) as pool:
        with pool.lease(good) as sandbox:
            assert sandbox.isolated == isolated
        if not isolated:
            return
        began = time.monotonic()
        with pytest.raises(OutOfTime) as caught:
            train(pool, bomb())
        assert caught.value.phase == "compile"
        assert caught.value.clock in ("cpu", "wall")  # wall: when others hold the processors
        assert time.monotonic() - began < 20
        assert back_at_work(pool, good)


def test_the_same_bits_twice(pool: SandboxPool, isolated: bool) -> None:
    """Float arithmetic in an order of its own, against the sandbox of the other kind."""
    body = """(local $i i32) (local $x f32) (local.set $x (f32.const 0.1))
      (loop $a
        (local.set $x (f32.sqrt (f32.add (f32.mul (local.get $x) (f32.const 1.7))
          (f32.div (f32.const 1) (f32.add (local.get $x) (f32.const 0.3))))))
        (br_if $a (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
          (i32.const 1000))))
      (f32.store (i32.const 1024) (local.get $x)) i32.const 0"""
    module = Module.parse(task(body))

    def outcome(pool: SandboxPool) -> bytes:
        with pool.lease(module) as sandbox:
            sandbox.run(("train", 1), receive=["weight"])
            return sandbox.view("weight").tobytes()

    with SandboxPool(LIMITS, isolated=not isolated) as other:
        assert len({outcome(pool), outcome(pool), outcome(other), outcome(other)}) == 1


def test_errors_have_kinds() -> None:
    kinds = {e.kind for e in (Refused, Trapped, OutOfTime, OutOfMemory, Crashed, Faulted)}
    assert kinds == {"refused", "trapped", "out_of_time", "out_of_memory", "crashed", "faulted"}
    assert all(issubclass(e, SandboxError) for e in (Refused, Crashed, Faulted))
