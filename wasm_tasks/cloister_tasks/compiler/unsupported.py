"""What the compiler cannot do, said with the operator and the line of the model it came from."""

from __future__ import annotations

from itertools import pairwise

from torch.fx import Node

from cloister_tasks.errors import BuildError


class Unsupported(BuildError):
    """A model uses something the compiler has no kernel for; nothing was approximated instead."""

    def __init__(self, node: Node, reason: str):
        self.operator = str(node.target)
        self.place = place(node)
        where = f"\n{self.place}" if self.place else ""
        super().__init__(f"{self.operator}: {reason}{where}")


def place(node: Node) -> str:
    """The innermost line of code outside torch that led to a node, as a traceback shows it."""
    lines = (node.meta.get("stack_trace") or "").rstrip().split("\n")
    frames = [
        (header, code) for header, code in pairwise(lines) if header.lstrip().startswith("File ")
    ]
    own = [f for f in frames if "/torch/" not in f[0] and "/cloister_tasks/compiler/" not in f[0]]
    return "\n".join(own[-1]) if own else ""
