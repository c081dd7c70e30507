"""A Python in which torch is not installed."""

import subprocess
import sys

_PROLOGUE = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""
_COMMAND = """
from cloister.__main__ import main
sys.argv = ['cloister', *sys.argv[1:]]
main()
"""


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program there."""
    return subprocess.run(
        [sys.executable, "-c", _PROLOGUE + program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def cloister(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command there."""
    return run(_COMMAND, *words)
