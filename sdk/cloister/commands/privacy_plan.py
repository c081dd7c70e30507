"""`cloister privacy plan`: parameters of secure aggregation, and what a member pays for it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.output import Json, results, write_json

if TYPE_CHECKING:
    from cloister_privacy.cost import Step
    from cloister_privacy.parameters import Plan, Shape

EPILOG = """
Examples:

  cloister privacy plan --members 100 --corrupt 0.1

  cloister privacy plan --members 5000 --graph ring --drop-outs 0.1 --parameters 1000000

Bytes are those of the protocol's messages while everybody is there; the task and the model, and
what carries a message, come on top.
"""

_METRICS = ("loss", "accuracy")
"""What a task usually measures; each takes two words of a vector."""


class GraphName(StrEnum):
    """Who shares secrets with whom."""

    auto = "auto"
    complete = "complete"
    ring = "ring"


def plan(
    members: Annotated[int, typer.Option(min=2, max=65_536, help="Of a round.")],
    corrupt: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of them that may collude.")
    ] = 0.0,
    drop_outs: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of them that may drop out.")
    ] = 0.0,
    graph: Annotated[
        GraphName, typer.Option(help="Who shares secrets with whom; auto: complete up to 1000.")
    ] = GraphName.auto,
    parameters: Annotated[int, typer.Option(min=0, help="Of the model.")] = 100_000,
    value_bits: Annotated[
        int, typer.Option(min=2, max=24, help="Bits of a coordinate, its sign included.")
    ] = 16,
    max_weight: Annotated[int, typer.Option(min=1, help="Most that one update counts for.")] = 1,
    security_bits: Annotated[
        int, typer.Option(min=1, max=256, help="A ring fails to hide with a chance of 2^-this.")
    ] = 40,
    correctness_bits: Annotated[
        int, typer.Option(min=1, max=256, help="A ring fails to sum with a chance of 2^-this.")
    ] = 30,
    as_json: Json = False,
) -> None:
    """Find the graph and threshold for a cohort, and count what a round costs each member."""
    from cloister_privacy import cost
    from cloister_privacy.counters import Counters
    from cloister_privacy.encoding import Encoding
    from cloister_privacy.parameters import plan as planned_for

    shape: Shape = graph.value
    planned = planned_for(members, corrupt, drop_outs, security_bits, correctness_bits, shape)
    encoding = Encoding(1.0, value_bits, max_weight, members)
    counters = len(Counters(_METRICS, members, private=False))
    vector = cost.vector_bytes(parameters, encoding.ring_bits, counters)
    steps = cost.steps(members, planned.degree, planned.threshold, vector)
    masks = cost.mask_bytes(parameters, encoding.ring_bits, counters, planned.degree)
    document = _document(planned, steps, encoding.ring_bits, masks, vector, parameters)
    if as_json:
        write_json(document)
        return
    _show(document)
    typer.echo("\n".join(_assumed(planned)))


def _document(
    planned: Plan, steps: tuple[Step, ...], ring_bits: int, masks: int, vector: int, parameters: int
) -> dict[str, Any]:
    up = sum(step.up for step in steps)
    return {
        "members": planned.members,
        "graph": "complete" if planned.complete else "ring",
        "degree": planned.degree,
        "threshold": planned.threshold,
        "corrupt": planned.corrupt,
        "drop_outs": planned.drop_outs,
        "survivors_needed": planned.threshold if planned.complete else None,
        "security_bits": None if planned.complete else planned.security_bits,
        "correctness_bits": None if planned.complete else planned.correctness_bits,
        "parameters": parameters,
        "ring_bits": ring_bits,
        "masks": planned.degree + 1,
        "mask_bytes": masks,
        "vector_bytes": vector,
        "steps": [{"name": s.name, "up_bytes": s.up, "down_bytes": s.down} for s in steps],
        "up_bytes": up,
        "down_bytes": sum(step.down for step in steps),
        "upload_over_vector": up / vector,
        "upload_over_float32": up / (4 * parameters) if parameters else None,
    }


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    out = results()
    head = Table(title=f"secure aggregation of {document['members']:,} members", show_header=False)
    complete = document["graph"] == "complete"
    over = document["upload_over_float32"]
    for name, value in {
        "graph": "complete: everybody with everybody"
        if complete
        else f"ring: everybody with its {document['degree']} nearest, in random order",
        "degree": f"{document['degree']:,} neighbours",
        "threshold": f"{document['threshold']:,} of {document['degree'] + 1:,} shares",
        "security": "by counting, for certain" if complete else f"{document['security_bits']} bits",
        "correctness": f"if {document['threshold']:,} members stay"
        if complete
        else f"{document['correctness_bits']} bits",
        "ring of integers": f"{document['ring_bits']} bits",
        "masks": f"{document['masks']:,}, {document['mask_bytes'] / 1e6:,.2f} MB of key stream",
        "upload": f"{document['up_bytes']:,} bytes,"
        f" {document['upload_over_vector']:.3f} times the packed vector"
        + (f" and {over:.3f} times a plain update of float32" if over else ""),
    }.items():
        head.add_row(name, value)
    out.print(head, highlight=False)
    table = Table("step", "bytes up", "bytes down")
    for step in document["steps"]:
        table.add_row(step["name"], f"{step['up_bytes']:,}", f"{step['down_bytes']:,}")
    table.add_row("altogether", f"{document['up_bytes']:,}", f"{document['down_bytes']:,}")
    out.print(table, highlight=False)


def _assumed(planned: Plan) -> list[str]:
    """What the parameters rest on, in words."""
    lines = [
        f"Assumed: of {planned.members:,} members at most {planned.corrupt:,} collude with the"
        f" coordinator, and at most {planned.drop_outs:,} drop out."
    ]
    if planned.complete:
        return [
            *lines,
            "The coordinator may break the protocol in any way: it learns no more than one sum.",
        ]
    return [
        *lines,
        "The coordinator follows the protocol, and who colludes or drops out is independent of the"
        " order on the ring. Each device's owner has to accept a ring.",
    ]
