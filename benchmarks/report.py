"""What every benchmark prints: a table for people, and one JSON object on the last line.

Each program in this folder takes `--quick` (under a minute, fewer repetitions) and `--json` (only
the last line). Times move by a third between runs on a shared machine: read ratios within one
run, not seconds across runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass
class Report:
    """Figures of one benchmark, in the order they were measured."""

    title: str
    rows: list[tuple[str, float, str, str]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        name: str,
        value: float,
        meaning: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Record a figure; a bound, where one is promised, is printed beside it."""
        self.figures[name] = round(value, 4)
        bound = ""
        if at_most is not None:
            bound = f"<= {at_most:g} {'met' if value <= at_most else 'MISSED'}"
        if at_least is not None:
            bound = f">= {at_least:g} {'met' if value >= at_least else 'MISSED'}"
        self.rows.append((name, value, meaning, bound))

    def show(self, *, only_json: bool) -> None:
        """Print the table, then the JSON object on the last line."""
        if not only_json:
            table = Table("figure", title=self.title)
            table.add_column("value", justify="right")
            table.add_column("what")
            table.add_column("promised")
            for name, value, meaning, bound in self.rows:
                table.add_row(
                    name,
                    f"{value:,.4g}" if value < 1000 else f"{value:,.0f}",
                    escape(meaning),
                    bound,
                )
            Console(width=120).print(table)
        print(json.dumps(self.figures), flush=True)


def arguments(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the two flags every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="under a minute, fewer repetitions")
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    return parser.parse_args(argv)
