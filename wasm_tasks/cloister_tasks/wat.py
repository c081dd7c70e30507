"""From the WASM text format to a module with its manifest.

The only part of this package that needs ``wasmtime``; not imported with the package.
"""

from __future__ import annotations

from pathlib import Path

import wasmtime

from cloister_tasks.errors import BuildError, InvalidModule
from cloister_tasks.manifest import Manifest
from cloister_tasks.module import Module, with_manifest


def compile_wat(source: Path, manifest: Path | None = None) -> bytes:
    """Build a module from a ``.wat`` file.

    Args:
        source: the text; its memory is exported and fixed, its buffers lie where it puts them.
        manifest: JSON of ``cloister.v1.Manifest``; without one the text carries it itself, as
            ``(@custom "cloister.manifest" "...")``.

    Raises:
        BuildError: a file is missing, the text does not parse, or the module breaks the contract.
    """
    try:
        data = bytes(wasmtime.wat2wasm(source.read_text()))
        if manifest is not None:
            data = with_manifest(data, Manifest.from_json(manifest.read_bytes()))
        return Module.parse(data).data
    except (OSError, UnicodeDecodeError) as e:
        raise BuildError(f"cannot read {source.name}: {e}") from e
    except wasmtime.WasmtimeError as e:
        raise BuildError(f"{source.name} is no valid WASM text:\n{e}") from e
    except InvalidModule as e:
        raise BuildError(f"{source.name} builds, but breaks the task contract: {e}") from e
