"""What each exit code means."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `cloister` command."""

    OK = 0
    BUG = 1
    USAGE = 2
    TASK = 3
    UNREACHABLE = 4
    NOT_PERMITTED = 5
    JOB = 6
    INTERRUPTED = 130


MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.OK: "done; also a coordinator or client that was asked to stop",
    ExitCode.BUG: "a fault of cloister's own; please report it",
    ExitCode.USAGE: "wrong usage or bad input: an option, a file, a setting",
    ExitCode.TASK: "the task was refused, or failed in the sandbox",
    ExitCode.UNREACHABLE: "the coordinator does not answer",
    ExitCode.NOT_PERMITTED: "the coordinator does not permit it",
    ExitCode.JOB: "the job failed or was cancelled",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}
"""One line for each code; shown by `cloister --help`."""
