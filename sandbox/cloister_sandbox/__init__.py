"""The walls around a module: an engine without imports inside, a confined process outside.

Layout
------
- ``errors``       what can go wrong, and whose fault it is
- ``limits``       how much a module may use
- ``sandbox``      what a sandbox is, whichever walls it has
- ``local``        a sandbox in this process: the inner wall only
- ``isolated``     a sandbox in a child process: both walls
- ``pool``         sandboxes at hand: leased fresh, kept warm, replaced when they misbehave
- ``code_cache``   native code of modules already compiled
- ``conductor``    many virtual clients in one call, for simulation

The inner wall:

- ``engine``       the engine and its settings
- ``ticker``       the clock behind deadlines
- ``guest``        one instance: its memory and entry points

The outer wall:

- ``nursery``      children started before anybody needs them
- ``process``      a child seen from its parent: ask, limit, end
- ``messages``     what parent and child say to each other
- ``memory_file``  bytes they share
- ``child``        the child's own program
- ``confinement``  what it gives up, with ``landlock`` and ``seccomp``
"""

from cloister_sandbox.code_cache import CodeCache
from cloister_sandbox.conductor import FIRST, LAST, Conductor
from cloister_sandbox.confinement import Confinement
from cloister_sandbox.errors import (
    Crashed,
    Faulted,
    OutOfMemory,
    OutOfTime,
    Refused,
    SandboxError,
    Trap,
    Trapped,
)
from cloister_sandbox.isolated import ChildSandbox
from cloister_sandbox.limits import Limits
from cloister_sandbox.local import LocalSandbox
from cloister_sandbox.pool import SandboxPool
from cloister_sandbox.sandbox import Key, Sandbox, Transfer

__all__ = [
    "FIRST",
    "LAST",
    "ChildSandbox",
    "CodeCache",
    "Conductor",
    "Confinement",
    "Crashed",
    "Faulted",
    "Key",
    "Limits",
    "LocalSandbox",
    "OutOfMemory",
    "OutOfTime",
    "Refused",
    "Sandbox",
    "SandboxError",
    "SandboxPool",
    "Transfer",
    "Trap",
    "Trapped",
]
