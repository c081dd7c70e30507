"""`cloister task inspect`: everything a module says about itself, checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.output import Json, results, write_json

if TYPE_CHECKING:
    from cloister_protos import Kind, Role
    from cloister_tasks import Manifest, Module

EPILOG = """
Examples:

  cloister task inspect digits.wasm

  cloister task inspect digits.wasm --json

  cloister task inspect fedavg                  a built-in aggregation
"""


def inspect(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK.wasm", help="A task or aggregation; or fedavg, median or sum."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show a module's manifest, memory, digest, exports and signature."""
    from cloister_tasks import AGGREGATIONS, Module, aggregation

    data = aggregation(task) if task in AGGREGATIONS else Path(task).read_bytes()
    module = Module.parse(data)
    publisher = _publisher(Path(task), module)
    if as_json:
        write_json(_document(module, publisher))
        return
    _show(module, publisher)


def _publisher(path: Path, module: Module) -> str:
    """Public key of who vouches for it in a signature file beside it; empty: nobody."""
    from cloister.job_spec import vouched
    from cloister_protos import Blob

    return vouched(Blob(digest=module.digest, size=len(module.data)), path).publisher.hex()


def _show(module: Module, publisher: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    manifest, out = module.manifest, results()
    head = Table(title=f"{manifest.name}", show_header=False)
    exports = (
        f"{escape(name)}{f' {export.signature}' if export.signature else ''}"
        for name, export in module.exports.items()
    )
    for name, value in {
        "description": escape(manifest.description) or "-",
        "kind": _kind(manifest.kind),
        "task contract": f"ABI {manifest.abi}",
        "variant": manifest.variant,
        "module": f"{len(module.data):,} bytes",
        "SHA-256": module.digest.hex(),
        "publisher": publisher or "unsigned",
        "memory": f"{manifest.memory_bytes:,} bytes ({manifest.memory_bytes / (1 << 20):.2f} MiB),"
        " exact: minimum = maximum",
        "parameters": f"{manifest.parameter_count:,}",
        **_updates(manifest),
        "imports": ", ".join(module.imports) or "none",
        "exports": "\n".join(exports),
    }.items():
        head.add_row(name, value)
    out.print(head, highlight=False)
    table = Table("buffer", "role", "dtype", "shape", "offset", "bytes", "description")
    for buffer in manifest.buffers.values():
        table.add_row(
            buffer.name,
            _role(buffer.role),
            buffer.dtype.name,
            " x ".join(map(str, buffer.shape)) or "scalar",
            f"{buffer.offset:,}",
            f"{buffer.nbytes:,}",
            escape(buffer.description),
        )
    out.print(table, highlight=False)


def _updates(manifest: Manifest) -> dict[str, str]:
    """What an aggregation needs of the updates, in words; nothing of a task."""
    from cloister_protos import Kind

    if manifest.kind != Kind.KIND_AGGREGATION:
        return {}
    if manifest.masked:
        return {"updates": "masked: it adds them, for the coordinator's own use"}
    need = "only their sum: fit for secure aggregation" if manifest.linear else "single ones"
    return {"updates": need, "weights": "left aside" if manifest.unweighted else "by each update's"}


def _document(module: Module, publisher: str) -> dict[str, Any]:
    manifest = module.manifest
    return {
        "name": manifest.name,
        "description": manifest.description,
        "kind": _kind(manifest.kind),
        "abi": manifest.abi,
        "variant": manifest.variant,
        "bytes": len(module.data),
        "digest": module.digest.hex(),
        "publisher": publisher,
        "memory_bytes": manifest.memory_bytes,
        "parameters": manifest.parameter_count,
        "linear": manifest.linear,
        "unweighted": manifest.unweighted,
        "masked": manifest.masked,
        "imports": list(module.imports),
        "exports": {name: export.signature for name, export in module.exports.items()},
        "buffers": [
            {
                "name": buffer.name,
                "role": _role(buffer.role),
                "dtype": buffer.dtype.name,
                "shape": list(buffer.shape),
                "offset": buffer.offset,
                "bytes": buffer.nbytes,
                "description": buffer.description,
            }
            for buffer in manifest.buffers.values()
        ],
    }


def _kind(kind: Kind) -> str:
    from cloister_protos import Kind

    return Kind.Name(kind).removeprefix("KIND_").lower()


def _role(role: Role) -> str:
    from cloister_protos import Role

    return Role.Name(role).removeprefix("ROLE_").lower().replace("_", " ")
