"""The parent's side of a child: real children, hurt in every way."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister_sandbox import ChildSandbox, Crashed, Limits, OutOfMemory, OutOfTime
from cloister_sandbox import process as process_module
from cloister_sandbox.messages import pack
from cloister_sandbox.process import Process
from cloister_tasks import Module

from .modules import bomb, task

LIMITS = Limits(memory_bytes=1 << 20, run_seconds=20)
LOOP = "(loop $a (br $a)) i32.const 0"


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process(LIMITS)
    try:
        process.confinement()
        yield process
    finally:
        process.close()


def bound(process: Process, body: str, limits: Limits = LIMITS) -> ChildSandbox:
    sandbox = ChildSandbox(process, Module.parse(task(body)), limits)
    sandbox.fresh()
    return sandbox


def when_busy(pid: int, act: Callable[[], None]) -> threading.Thread:
    """Act as soon as a child uses the CPU."""
    clock = ~pid << 3 | 2
    start = time.clock_gettime(clock)

    def watch() -> None:
        while time.clock_gettime(clock) < start + 0.02:
            os.sched_yield()
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def confess(monkeypatch: pytest.MonkeyPatch, expression: str) -> str:
    """Start a child that says something on its last breath instead of serving."""
    boot = process_module._BOOT
    assert boot.endswith("main()\n")
    monkeypatch.setattr(
        process_module, "_BOOT", boot[: -len("main()\n")] + f"import os; sys.exit({expression})"
    )
    process = Process(LIMITS)
    try:
        with pytest.raises(Crashed) as caught:
            process.confinement()
    finally:
        process.close()
    return caught.value.message


def test_a_child_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "token")
    message = confess(monkeypatch, "repr([dict(os.environ), os.getcwd()])")
    assert "token" not in message
    environment = message[message.index("[") :]
    assert environment in ("[{}, '/']", "[{'LC_CTYPE': 'C.UTF-8'}, '/']")  # CPython's own


def test_a_child_inherits_only_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as secret:  # noqa: PTH123
        os.set_inheritable(secret.fileno(), True)
        message = confess(monkeypatch, "str(len(os.listdir('/proc/self/fd')))")
    assert message.endswith(": 5")  # three standard ones, the socket, the listing itself


def test_a_child_imports_neither_numpy_nor_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "{'wasmtime', 'numpy', 'google', 'cloister_tasks', 'site'}"
    assert confess(monkeypatch, f"str({names} & set(sys.modules))").endswith(": {'wasmtime'}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_killed_while_running(process: Process, number: signal.Signals) -> None:
    sandbox = bound(process, LOOP)
    killer = when_busy(sandbox.pid, lambda: os.kill(sandbox.pid, number))
    with pytest.raises(Crashed, match=number.name) as caught:
        sandbox.run(("train", 1))
    killer.join()
    assert caught.value.signal == number
    assert not sandbox.alive


def test_closed_from_another_thread_while_running(process: Process) -> None:
    sandbox = bound(process, LOOP)
    closer = when_busy(sandbox.pid, sandbox.close)
    with pytest.raises(Crashed, match="closed"):
        sandbox.run(("train", 1))
    closer.join()


def test_an_interrupted_run_is_not_taken_up_again(process: Process) -> None:
    """Ctrl-C in the middle of a run: the answer still to come must not reach the next one."""
    sandbox = bound(process, LOOP)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    killer = when_busy(sandbox.pid, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(("train", 1))
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, before)
    assert not sandbox.alive
    assert not process.alive


def test_cpu_time(process: Process) -> None:
    sandbox = bound(process, LOOP, replace(LIMITS, run_seconds=30, cpu_seconds=0.5))
    with pytest.raises(OutOfTime) as caught:
        sandbox.run(("train", 1))
    assert (caught.value.phase, caught.value.clock) == ("run", "cpu")


def test_a_child_that_stops_answering_is_killed(process: Process) -> None:
    sandbox = bound(process, "i32.const 0", replace(LIMITS, run_seconds=0.2))
    os.kill(sandbox.pid, signal.SIGSTOP)
    with pytest.raises(OutOfTime) as caught:
        sandbox.run(("train", 1))
    assert (caught.value.phase, caught.value.clock) == ("run", "wall")
    assert not Path(f"/proc/{sandbox.pid}").exists()


def test_compiling_past_the_memory_cap(process: Process) -> None:
    used = int(Path(f"/proc/{process.pid}/statm").read_text().split()[5]) * resource.getpagesize()
    cap = used + 8 * 1024 * 1024
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (cap, cap))
    with pytest.raises(OutOfMemory, match="compiling"):
        ChildSandbox(process, Module.parse(bomb(5000)), LIMITS)


def test_instantiating_past_the_memory_cap(process: Process) -> None:
    module = Module.parse(task(extra="(table 1048576 funcref)" * 16))  # 8 MiB each
    sandbox = ChildSandbox(process, module, LIMITS)
    with pytest.raises(OutOfMemory):
        sandbox.fresh()


@pytest.mark.parametrize("request_", [b"", b"nonsense", pack("odd", 1), pack("bind", {})])
def test_a_request_that_cannot_be_served_ends_the_child(process: Process, request_: bytes) -> None:
    with pytest.raises(Crashed):
        process.ask(request_, "run", wall=20, cpu=20)
    assert not Path(f"/proc/{process.pid}").exists()


def test_the_child_dies_with_its_parent() -> None:
    """A parent killed while its child is in an endless loop, and one killed while it is idle."""
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from cloister_sandbox import ChildSandbox, Limits
from cloister_sandbox.process import Process
from cloister_tasks import Module
limits = Limits()
idle = Process(limits)
idle.confinement()
busy = Process(limits)
busy.confinement()
sandbox = ChildSandbox(busy, Module.parse(bytes.fromhex(sys.stdin.readline())), limits)
sandbox.fresh()
print(idle.pid, busy.pid, flush=True)
sandbox.run(("train", 1))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(task(LOOP).hex() + "\n")
        parent.stdin.flush()
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        watched = [os.pidfd_open(pid) for pid in pids]
        when_busy(pids[1], parent.kill).join()
    for descriptor in watched:
        assert gone(descriptor)
        os.close(descriptor)


def gone(descriptor: int) -> bool:
    """Wait for a process to end."""
    return bool(select.select([descriptor], [], [], 20)[0])


def test_a_child_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister_sandbox.process._BOOT", "raise SystemExit('no luck')")
    process = Process(LIMITS)
    try:
        with pytest.raises(Crashed, match="no luck"):
            process.confinement()
    finally:
        process.close()


LIAR = """
import socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
channel.send(b'["ready",[[],[],false]]')
for answer in ANSWERS:
    channel.recv(65536)
    channel.send(answer)
channel.recv(65536)
"""


@pytest.mark.parametrize(
    "answers",
    [
        [b"\xff"],
        [b"x" * 60_000],
        [b'["done",null]'],
        [b'["bound",-1]'],
        [b'["bound",99999999999]'],
        [b'["bound","1"]'],
        [b'["failed",["odd"]]'],
        [b'["failed",7]'],
        [b'["bound",5]', b'["ready",[]]'],
        [b'["bound",5]', b'["faulted",["\\u001b[2J",1,null]]'],
        [b'["bound",5]', b'["faulted",["train",4294967296,null]]'],
        [b'["bound",5]', b'["faulted",["train",1,-9]]'],
    ],
)
def test_a_child_that_lies_is_killed(
    monkeypatch: pytest.MonkeyPatch, good: Module, answers: list[bytes]
) -> None:
    monkeypatch.setattr(process_module, "_BOOT", LIAR.replace("ANSWERS", repr(answers)))
    process = Process(LIMITS)
    try:
        process.confinement()
        with pytest.raises(Crashed, match="broke its protocol"):
            ChildSandbox(process, good, LIMITS).fresh()
        assert not process.alive
    finally:
        process.close()
