"""Build hook: generates the protobuf code and compiles the built-in WASM modules.

Runs at every `pip install` and `pip wheel`, editable or not; `make protos tasks` runs the same
functions in a checkout. Output lies beside its source, git-ignored, and is packed into the wheel.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script by make, without hatchling
    BuildHookInterface = object

ROOT = Path(__file__).parent


def generate_protos() -> None:
    """Generate messages, services and their type stubs beside the .proto files."""
    from grpc_tools import protoc

    sources = sorted((ROOT / "protos" / "cloister_protos").glob("*.proto"))
    services = [str(s) for s in sources if "\nservice " in s.read_text()]
    # pip puts the build's own tools on the PATH; run by make, they lie beside the interpreter.
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    plugin = shutil.which("protoc-gen-mypy_grpc", path=path)
    if plugin is None:
        raise RuntimeError("protoc-gen-mypy_grpc is missing: pip install mypy-protobuf")
    base = ["protoc", f"-I{ROOT / 'protos'}"]
    out = str(ROOT / "protos")
    messages = [*base, f"--python_out={out}", f"--pyi_out={out}", *map(str, sources)]
    stubs = [f"--plugin=protoc-gen-mypy_grpc={plugin}", f"--mypy_grpc_out={out}"]
    grpc = [*base, *stubs, f"--grpc_python_out={out}", *services]
    for command in (messages, grpc):
        if protoc.main(command) != 0:
            raise RuntimeError(f"protoc failed: {' '.join(command)}")


def build_modules() -> None:
    """Compile the built-in aggregations."""
    sys.path[:0] = [str(ROOT / "protos"), str(ROOT / "wasm_tasks")]
    from cloister_tasks.builtin import build_all

    build_all()


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]
    """What hatchling calls."""

    def initialize(self, _version: str, _build_data: dict[str, Any]) -> None:
        """Build everything that git does not hold."""
        generate_protos()
        build_modules()


if __name__ == "__main__":
    {"protos": generate_protos, "tasks": build_modules}[sys.argv[1]]()
