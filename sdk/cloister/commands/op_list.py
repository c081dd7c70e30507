"""`cloister op list`: which operators there are, and in which types."""

from __future__ import annotations

from cloister.commands.output import Json, results, write_json

EPILOG = """
Examples:

  cloister op list

  cloister op list --json

Under each type of the inputs stands the type of the result. Inputs named indices are INT32, those
named condition BOOL; what ends in ? may be left out. Integers wrap around: INT8 modulo 256.
"""


def show(as_json: Json = False) -> None:
    """List operators, their inputs and attributes, and the types they are there for."""
    from cloister_tasks.compiler.library import DTYPES, OPERATORS

    if as_json:
        write_json(
            {
                "dtypes": list(DTYPES),
                "operators": [
                    {
                        "name": operator.name,
                        "signature": operator.signature,
                        "description": operator.about,
                        "results": dict(operator.results),
                    }
                    for operator in OPERATORS.values()
                ],
            }
        )
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("operator", *DTYPES, "inputs and attributes", "what it gives")
    for operator in OPERATORS.values():
        types = (operator.results.get(dtype, "-") for dtype in DTYPES)
        table.add_row(operator.name, *types, escape(operator.signature), escape(operator.about))
    results().print(table, highlight=False)
