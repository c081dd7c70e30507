from __future__ import annotations

import pytest

from cloister_coordinator.roster import Connection, Need, Roster
from cloister_protos import Capabilities, Instruction


@pytest.mark.parametrize(
    ("need", "met"),
    [
        (Need("", frozenset(), 100), True),
        (Need("", frozenset({"a"}), 100), True),
        (Need("x", frozenset({"a", "b"}), 0), True),
        (Need("y", frozenset(), 0), False),
        (Need("", frozenset({"c"}), 0), False),
        (Need("", frozenset(), 101), False),
    ],
)
def test_needs(need: Need, met: bool) -> None:
    offer = Capabilities(memory_bytes=100, datasets=["x"], tags=["a", "b"])
    assert need.met_by(offer) == met
    offer.datasets.append("z")
    if not need.dataset:
        assert not need.met_by(offer), "which of the two?"


async def test_the_newest_stream_is_the_clients() -> None:
    roster = Roster()
    first, second = Connection("c", Capabilities()), Connection("c", Capabilities())
    roster.arrive(first)
    roster.arrive(second)
    assert await first.next() is None
    assert not roster.leave(first)
    assert "c" in roster
    roster.send("c", Instruction)
    roster.send("stranger", Instruction)
    assert await second.next() is Instruction
    assert roster.leave(second)
    assert "c" not in roster
