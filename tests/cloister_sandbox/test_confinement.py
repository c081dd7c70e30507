"""The walls, tried from inside: a process confines itself and then attempts what it must not."""

from __future__ import annotations

import json
import platform
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wasmtime

import cloister_sandbox
from cloister_sandbox import Confinement, landlock, seccomp
from cloister_sandbox.confinement import libc

PROGRAM = """
import ctypes, errno, json, mmap, os, resource, signal, socket, sys, threading, types
package = types.ModuleType("cloister_sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["cloister_sandbox"] = package
from cloister_sandbox import confinement

lib = confinement.libc()
first, second = socket.socketpair()
page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
PROT_RX = 5

def attempt(action):
    try:
        action()
    except MemoryError:
        return "MemoryError"
    except RuntimeError as e:
        return str(e)
    except ValueError:  # how setrlimit tells of EPERM
        return "EPERM"
    except OSError as e:
        return errno.errorcode[e.errno]
    return "done"

def syscall(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def protect():
    syscall(lib.mprotect, ctypes.c_void_p(address), 4096, PROT_RX)

def grow():
    return bytearray(64 * 1024 * 1024 + confinement.OVERHEAD_BYTES)

confinement.die_with_parent(lib, os.getppid())
walls = confinement.give_up_files(lib, 1 << 20)
early = {"open": attempt(lambda: open("/etc/passwd")), "list": attempt(lambda: os.listdir("/"))}
walls = confinement.give_up_calls(lib, walls)
attempts = {
    "open": lambda: open("/etc/passwd"),
    "write": lambda: open("/tmp/x", "w"),
    "list": lambda: os.listdir("/"),
    "socket": lambda: socket.socket(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": os.fork,
    "thread": lambda: threading.Thread(target=print).start(),
    "exec": lambda: os.execv("/bin/sh", ["/bin/sh"]),
    "kill parent": lambda: os.kill(os.getppid(), 0),
    "ptrace": lambda: syscall(lib.ptrace, 16, os.getppid(), 0, 0),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99)),
    "handle a signal": lambda: signal.signal(signal.SIGXCPU, signal.SIG_IGN),
    "stay after the parent": lambda: syscall(lib.prctl, 1, 0, 0, 0, 0),
    "file in memory": lambda: os.memfd_create("x"),
    "memory": grow,
    "chmod": lambda: os.chmod("/", 0o777),
    "rename": lambda: os.rename("/tmp", "/tmp2"),
    "mount": lambda: syscall(lib.mount, b"", b"/", b"", 0, None),
    "talk": lambda: first.send(b"hello"),
    "code before": protect,
}
results = {name: attempt(action) for name, action in attempts.items()}
confinement.give_up_code(lib, walls)
results["code after"] = attempt(protect)
results["data after"] = attempt(lambda: mmap.mmap(-1, 4096))
results["talk after"] = attempt(lambda: first.send(b"hello"))
print(json.dumps([early, results, walls.__dict__]), flush=True)
os._exit(0)
"""


FAULT = """
import ctypes, os, sys, threading, types
package = types.ModuleType("cloister_sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["cloister_sandbox"] = package
sys.path.append(sys.argv[2])
from cloister_sandbox import confinement
from cloister_sandbox.engine import Engine

lib = confinement.libc()
confinement.die_with_parent(lib, os.getppid())
walls = confinement.give_up_files(lib, 1 << 20)
engine = Engine(65536)
confinement.give_up_calls(lib, walls)
print("ready", flush=True)
ctypes.string_at(8)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program as children are run."""
    assert cloister_sandbox.__file__
    paths = [Path(cloister_sandbox.__file__).parent, Path(wasmtime.__file__).parents[1]]
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={},
    )


@pytest.fixture(scope="module")
def confined() -> list[dict[str, Any]]:
    done = run(PROGRAM)
    assert done.returncode == 0, done.stderr
    result: list[dict[str, Any]] = json.loads(done.stdout)
    return result


def test_a_fault_of_the_engine_ends_the_process() -> None:
    """Its own handler for traps must be able to stand aside, or the fault would repeat for ever."""
    done = run(FAULT)
    assert (done.stdout, done.returncode) == ("ready\n", -signal.SIGSEGV)


def test_what_is_forbidden(confined: list[dict[str, Any]]) -> None:
    early, results, walls = confined
    assert results.pop("memory") == "MemoryError"
    assert [results.pop(name) for name in ("talk", "talk after", "data after")] == ["done"] * 3
    assert results.pop("code before") == "done"
    assert results.pop("thread") == "can't start new thread"
    if walls["landlock"]:
        assert set(early.values()) == {"EACCES"}
    if walls["seccomp"]:
        assert set(results.values()) == {"EPERM"}, results


def test_this_machine_has_all_walls(confined: list[dict[str, Any]]) -> None:
    _, _, walls = confined
    assert {"data", "fsize", "core", "nofile", "nproc"} <= set(walls["limits"])
    if platform.machine() in ("x86_64", "aarch64") and landlock.version(libc()) >= 6:
        assert walls["landlock"] == ["files", "tcp", "signals"]
        assert walls["seccomp"] is True


def test_the_report_says_what_is_missing() -> None:
    assert "landlock: not available" in Confinement(("data",)).report()
    assert "seccomp: not available" in Confinement(("data",)).report()
    whole = Confinement(("data",), ("files", "tcp"), True).report()
    assert whole == "limits: data; landlock: files, tcp; seccomp: on"


def decide(
    program: bytes, architecture: int, number: int, *, first: int = 0, third: int = 0
) -> int:
    """A classic BPF machine, after the kernel's documentation."""
    data = struct.pack("<IIQ", number, architecture, 0) + struct.pack(
        "<6Q", first, 0, third, 0, 0, 0
    )
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x15:
                at += if_true if accumulator == k else if_false
            case 0x45:
                at += if_true if accumulator & k else if_false
            case 0x06:
                return k
            case _:
                raise AssertionError(hex(operation))


ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x00050001


@pytest.mark.parametrize(
    ("machine", "architecture", "own"), [("x86_64", 0xC000003E, 317), ("aarch64", 0xC00000B7, 277)]
)
def test_the_allow_list_on_both_machines(machine: str, architecture: int, own: int) -> None:
    program = seccomp.allow_list(machine)
    column = ("x86_64", "aarch64").index(machine)
    allowed = {numbers[column] for numbers in seccomp.ALLOWED.values()} - {-1} | {own}
    for number in [*(set(range(600)) - {(13, 134)[column]}), 0x40000000, 0x40000001, 0xFFFFFFFF]:
        expected = ALLOW if number in allowed else EPERM
        assert decide(program, architecture, number) == expected, number
    sigaction = (13, 134)[column]
    assert decide(program, architecture, sigaction, first=11) == ALLOW
    assert decide(program, architecture, sigaction, first=24) == EPERM  # SIGXCPU
    assert decide(program, 0x40000003, 0) == KILL  # 32-bit calls have other numbers
    for forbidden in "open", "execve", "socket", "clone", "kill":
        assert forbidden not in seccomp.ALLOWED


@pytest.mark.parametrize(
    ("machine", "architecture", "own"), [("x86_64", 0xC000003E, 317), ("aarch64", 0xC00000B7, 277)]
)
def test_no_new_code_on_both_machines(machine: str, architecture: int, own: int) -> None:
    program = seccomp.no_new_code(machine)
    column = ("x86_64", "aarch64").index(machine)
    for name, numbers in seccomp.ALLOWED.items():
        if numbers[column] < 0:
            continue
        executable = decide(program, architecture, numbers[column], third=5)
        assert executable == (EPERM if name in ("mmap", "mprotect") else ALLOW)
        assert decide(program, architecture, numbers[column], third=3) == ALLOW
    assert decide(program, architecture, own) == EPERM
