"""From a factory of the user's own to a compiled task, and to its files.

Needs torch and the zig compiler (`cloister[compile]`).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.companion import write_companion
from cloister.errors import InvalidJob
from cloister.pytorch import load_factory

if TYPE_CHECKING:
    from cloister_tasks.compiler import Task


def compile_factory(factory: str, **options: Any) -> Task:
    """Compile what a function returns.

    Args:
        factory: "package.module:name" of a function without arguments that returns the arguments
            of `cloister.compile` by name: model, loss, optimizer, example and any of the others.
        options: arguments of `cloister.compile` that replace the factory's; None for none. The
            task is named for the factory unless either says otherwise.

    Raises:
        InvalidJob: the factory is none, fails, or returns something else.
        Unsupported: the model uses an operator the compiler does not know.
        BuildError: anything else about the arguments that does not go.
    """
    from cloister_tasks import compiler

    made = dict(load_factory(factory))
    known = inspect.signature(compiler.compile).parameters
    lacking = [n for n, p in known.items() if p.default is p.empty and n not in made]
    if lacking:
        raise InvalidJob(f"what {factory} returns lacks {', '.join(lacking)}")
    if foreign := [str(name) for name in made if name not in known]:
        raise InvalidJob(f"{factory} returns {', '.join(foreign)}; known are {', '.join(known)}")
    given = {name: value for name, value in options.items() if value is not None}
    return compiler.compile(**{"name": factory.rpartition(":")[2], **made, **given})


def write_task(path: Path, task: Task) -> Path:
    """Write the module, and beside it the values it begins with; returns that second file."""
    path.write_bytes(task.wasm)
    return write_companion(path, task.manifest, task.parameters, task.frozen)
