from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloister_sandbox import ChildSandbox, Crashed, Limits, Sandbox, SandboxPool, Trapped
from cloister_tasks import Module

from .modules import task

LIMITS = Limits(memory_bytes=1 << 20, run_seconds=20)
MakePool = Callable[..., SandboxPool]


def pid(sandbox: Sandbox) -> int:
    assert isinstance(sandbox, ChildSandbox)
    return sandbox.pid


def works(sandbox: Sandbox) -> bool:
    sandbox.run(("train", 1), receive=["weight"])
    return bool(sandbox.view("weight")[0, 0] == 0.5)


def alive(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


def test_a_warm_child_is_used_again(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    with pool.lease(good) as sandbox:
        first = pid(sandbox)
    with pool.lease(good.data) as sandbox:
        assert pid(sandbox) == first
        assert works(sandbox)


def test_leases_at_once_have_children_of_their_own(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    with pool.lease(good) as one, pool.lease(good) as two:
        assert pid(one) != pid(two)
        one.view("weight")[:] = 1
        two.view("weight")[:] = 2
        assert works(one)
        assert works(two)


def test_no_two_modules_share_a_child(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    with pool.lease(good) as sandbox:
        first = pid(sandbox)
    with pool.lease(task("i32.const 0")) as sandbox:
        assert pid(sandbox) != first


def test_a_child_killed_while_idle_is_replaced(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    with pool.lease(good) as sandbox:
        first = pid(sandbox)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # it has ended; the pool may find out
    with pool.lease(good) as sandbox:
        assert pid(sandbox) != first
        assert works(sandbox)


def test_a_spare_killed_while_waiting_is_replaced(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    with pool.lease(good) as sandbox:
        leased = pid(sandbox)
    waiting = pool._maker._nursery._ready  # type: ignore[union-attr]
    while not waiting.qsize():
        threading.Event().wait(0.01)
    spares = children(os.getpid()) - {leased}
    for spare in spares:
        descriptor = os.pidfd_open(spare)
        os.kill(spare, signal.SIGKILL)
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)
    with pool.lease(task("i32.const 0")) as sandbox:
        assert pid(sandbox) not in spares
        sandbox.run(("train", 1))


def children(parent: int) -> set[int]:
    found = set()
    for thread in Path(f"/proc/{parent}/task").iterdir():
        found |= {int(n) for n in (thread / "children").read_text().split()}
    return found


def test_a_misbehaving_child_is_replaced(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    bad = task("unreachable")
    for _ in range(3):
        with pool.lease(bad) as sandbox:
            with pytest.raises(Trapped):
                sandbox.run(("train", 1))
            assert not alive(pid(sandbox))
        with pool.lease(good) as sandbox:
            assert works(sandbox)


def test_other_errors_leave_the_child_alone(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    with pool.lease(good) as sandbox:
        first = pid(sandbox)
    with pytest.raises(KeyError), pool.lease(good) as sandbox:
        raise KeyError
    with pool.lease(good) as sandbox:
        assert pid(sandbox) == first


def test_beyond_capacity_the_least_recently_used_ends(make_pool: MakePool) -> None:
    pool = make_pool(LIMITS, capacity=2)
    modules = [Module.parse(task(f"(drop (i32.const {n})) i32.const 0")) for n in range(3)]
    pids = []
    for module in modules:
        with pool.lease(module) as sandbox:
            pids.append(pid(sandbox))
    assert [alive(number) for number in pids] == [False, True, True]


@pytest.mark.parametrize("isolated", [False, True])
def test_code_is_cached_over_restarts(
    make_pool: MakePool,
    good: Module,
    isolated: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "cloister_sandbox")
    for words in ("compiled", "from the cache"):
        caplog.clear()
        pool = make_pool(LIMITS, isolated=isolated, cache_dir=tmp_path)
        with pool.lease(good) as sandbox:
            assert works(sandbox)
        pool.close()
        assert words in caplog.text


def test_the_two_kinds_share_no_code(make_pool: MakePool, good: Module, tmp_path: Path) -> None:
    for isolated in (False, True):
        with make_pool(LIMITS, isolated=isolated, cache_dir=tmp_path).lease(good):
            pass
    assert len(list(tmp_path.glob("*.code"))) == 2


def test_a_poisoned_cache_is_compiled_anew(
    make_pool: MakePool, good: Module, tmp_path: Path
) -> None:
    pool = make_pool(LIMITS, cache_dir=tmp_path)
    with pool.lease(good):
        pass
    (path,) = tmp_path.glob("*.code")
    honest = path.read_bytes()
    path.write_bytes(honest[: len(honest) // 2])
    pool = make_pool(LIMITS, cache_dir=tmp_path)
    with pool.lease(good) as sandbox:
        assert works(sandbox)
    assert path.read_bytes() == honest


def test_code_that_does_not_load_is_compiled_anew(
    make_pool: MakePool, good: Module, tmp_path: Path
) -> None:
    pool = make_pool(LIMITS, cache_dir=tmp_path)
    pool._cache.put(good.digest, b"made by another build of the engine")
    with pool.lease(good) as sandbox:
        assert works(sandbox)


def test_threads_share_a_pool(make_pool: MakePool) -> None:
    pool = make_pool(LIMITS, capacity=2)
    modules = [task("i32.const 0"), task(), task("unreachable")]

    def work(number: int) -> str:
        try:
            with pool.lease(modules[number % 3]) as sandbox:
                sandbox.run(("train", 1), receive=["weight"])
                return str(sandbox.view("weight")[0, 0])
        except Trapped as e:
            return e.trap.value

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(work, range(24)))
    assert results == ["0.0", "0.5", "unreachable"] * 8


def test_leases_may_come_from_threads_that_end(make_pool: MakePool, good: Module) -> None:
    """The kernel kills a child with the thread that started it: that must not be a lessee's."""
    pool = make_pool(LIMITS)
    pids: list[int] = []

    def lease() -> None:
        with pool.lease(good) as sandbox:
            pids.append(pid(sandbox))

    for _ in range(2):
        thread = threading.Thread(target=lease)
        thread.start()
        thread.join()
    assert pids[0] == pids[1]


def test_closing_ends_all_children(make_pool: MakePool, good: Module) -> None:
    pool = make_pool(LIMITS)
    with pool.lease(good) as sandbox:
        idle = pid(sandbox)
    with pool.lease(good) as one, pool.lease(good) as two:
        pool.close()
        watched = [pid(one), pid(two), idle]
        for sandbox in (one, two):
            with pytest.raises(Crashed):
                sandbox.run(("train", 1))
    assert not any(alive(number) for number in watched)
    with pytest.raises(Crashed), pool.lease(good):
        pass
    pool.close()


def test_the_walls_are_reported(make_pool: MakePool) -> None:
    assert "in-process" in make_pool(LIMITS, isolated=False).report()
    assert "limits: data, " in make_pool(LIMITS).report()
