"""From any error to one message and an exit code: the one table of it.

Errors are found by name, because naming the classes would import every package at each start;
an error whose module was never imported cannot have been raised.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping

import typer

from cloister.commands.exit_code import ExitCode


class Mistake(Exception):
    """Options or files that make no sense together; the message says which."""


CODES: Mapping[str, ExitCode] = {
    "cloister.commands.failure.Mistake": ExitCode.USAGE,
    "cloister.errors.InvalidJob": ExitCode.USAGE,
    "cloister.errors.InvalidRequest": ExitCode.USAGE,
    "cloister.errors.NotFound": ExitCode.USAGE,
    "cloister.errors.Unreachable": ExitCode.UNREACHABLE,
    "cloister.errors.NotPermitted": ExitCode.NOT_PERMITTED,
    "cloister.errors.JobFailed": ExitCode.JOB,
    "cloister.errors.CoordinatorFault": ExitCode.BUG,
    "cloister_tasks.errors.BuildError": ExitCode.USAGE,
    "cloister_tasks.errors.InvalidSignature": ExitCode.USAGE,
    "cloister_tasks.errors.TaskError": ExitCode.TASK,
    "cloister_sandbox.errors.SandboxError": ExitCode.TASK,
    "cloister_privacy.envelope.BadCertificate": ExitCode.USAGE,
    "cloister_client.errors.ConfigError": ExitCode.USAGE,
    "cloister_client.errors.DataError": ExitCode.USAGE,
    "cloister_client.errors.IdentityError": ExitCode.USAGE,
    "cloister_client.errors.UnfitAssignment": ExitCode.USAGE,
    "cloister_client.errors.AssignmentFailure": ExitCode.TASK,
    "cloister_client.errors.Unreachable": ExitCode.UNREACHABLE,
    "cloister_client.errors.Rejected": ExitCode.NOT_PERMITTED,
    "cloister_coordinator.errors.ConfigurationError": ExitCode.USAGE,
    "cloister_coordinator.errors.StorageFailed": ExitCode.USAGE,
    "builtins.FileNotFoundError": ExitCode.USAGE,
    "builtins.FileExistsError": ExitCode.USAGE,
    "builtins.IsADirectoryError": ExitCode.USAGE,
    "builtins.NotADirectoryError": ExitCode.USAGE,
    "builtins.PermissionError": ExitCode.USAGE,
}
"""Exit code by class; the nearest ancestor of an error counts."""

_EXTRAS: Mapping[str, str] = {
    "pyarrow": "parquet",
    "ziglang": "author",
    "matplotlib": "simulate",
    "sklearn": "simulate",
    "alembic": "coordinator",
    "dp_accounting": "coordinator",
    "sqlalchemy": "coordinator",
    "grpc_health": "coordinator",
    "grpc_reflection": "coordinator",
    "torch": "compile",
}
"""Which extra brings a module that only one of them needs."""

_COMMAND_EXTRAS: Mapping[str, str] = {
    "client": "client",
    "coordinator": "coordinator",
    "job": "client",
    "op": "compile",
    "pki": "client",
    "privacy": "coordinator",
    "simulate": "simulate",
    "task": "author",
}
"""Which extra brings the modules that several need."""


def explain(error: Exception, command: str | None) -> tuple[str, ExitCode]:
    """The message for people, and the exit code; for anything unforeseen, that it is a bug."""
    if isinstance(error, ModuleNotFoundError):
        if (extra := _extra(error.name or "", command)) is not None:
            return f"this needs an extra: pip install 'cloister[{extra}]'", ExitCode.USAGE
        return _bug(error), ExitCode.BUG
    for ancestor in type(error).__mro__:
        code = CODES.get(f"{ancestor.__module__}.{ancestor.__qualname__}")
        if code is not None:
            return _words(error), code
    if isinstance(error, ValueError) and _raised_by_us(error):
        return _words(error), ExitCode.USAGE
    return _bug(error), ExitCode.BUG


def debugging(flag: bool) -> bool:
    """Whether tracebacks are wanted."""
    return flag or bool(os.environ.get("CLOISTER_DEBUG"))


def is_own(error: BaseException) -> bool:
    """Whether the command line's own parser raised it and reports it by itself."""
    ancestors = {ancestor.__name__ for ancestor in type(error).__mro__}
    return isinstance(error, typer.Exit | typer.Abort) or "ClickException" in ancestors


def _extra(module: str, command: str | None) -> str | None:
    """The extra a missing module comes with; None for one of our own."""
    root = module.partition(".")[0]
    if root.startswith("cloister"):
        return None
    return _EXTRAS.get(root) or _COMMAND_EXTRAS.get(command or "")


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _raised_by_us(error: Exception) -> bool:
    """A ValueError raised in our own code is the check of an argument; elsewhere it is a bug."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("cloister")


def _bug(error: Exception) -> str:
    return (
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a fault of cloister's own. Run `cloister --debug ...` for the details, and please"
        " report them."
    )
