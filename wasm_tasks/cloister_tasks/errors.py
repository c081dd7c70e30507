"""What can go wrong with a task.

::

    TaskError
    ├── InvalidModule      the module breaks the task contract (its author's fault)
    ├── InvalidSignature   nobody, or not the named publisher, vouches for the module
    └── BuildError         a source could not be turned into a module (ours or the author's fault)
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Reason: TypeAlias = Literal["malformed", "import", "memory", "manifest", "export", "too_large"]
"""Which clause of the contract a module breaks.

``malformed`` its bytes are no core WASM module · ``import`` it wants something from the host ·
``memory`` not exactly one fixed, unshared memory · ``manifest`` missing, or at odds with the
contract or the memory · ``export`` an entry point is missing or has another signature ·
``too_large`` past a size limit.
"""


class TaskError(Exception):
    """Base of everything this package raises on purpose."""


class InvalidModule(TaskError):
    """A module that breaks the task contract: don't run it; its author has to mend it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class InvalidSignature(TaskError):
    """A module without a valid signature: fetch it again or ask its publisher to sign it."""


class BuildError(TaskError):
    """A source that could not be built; the message carries the compiler's own words."""
