from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_sandbox import (
    Crashed,
    OutOfMemory,
    OutOfTime,
    Refused,
    SandboxError,
    Trap,
    Trapped,
    messages,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
KINDS = st.sampled_from(["trapped", "out_of_time", "refused", "out_of_memory", "crashed", "odd"])


@given(st.text(max_size=20), JSON)
def test_packets_come_back(word: str, content: object) -> None:
    packet = messages.pack(word, content)
    again = messages.unpack(packet)
    assert messages.pack(*again) == packet


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_a_value_error(packet: bytes) -> None:
    try:
        word, _ = messages.unpack(packet)
    except ValueError:
        return
    assert isinstance(word, str)


@pytest.mark.parametrize("packet", [b"[" * 60_000, b'["a",' * 10_000, b"", b'["a"]', b"[1,2]"])
def test_hostile_packets(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r"nested|no message|Expecting"):
        messages.unpack(packet)


def test_a_packet_too_long_is_not_made() -> None:
    with pytest.raises(ValueError, match="at most 65536"):
        messages.pack("run", "x" * messages.MAX_BYTES)


@pytest.mark.parametrize(
    "error",
    [
        Trapped(Trap.UNREACHABLE, "train"),
        OutOfTime("run", "wall", 2.5),
        Refused("memory", "too much"),
        OutOfMemory("none left"),
        Crashed("the engine failed"),
    ],
)
def test_errors_come_back(error: SandboxError) -> None:
    word, content = messages.unpack(messages.pack_error(error))
    again = messages.read_error(content)
    assert word == "failed"
    assert type(again) is type(error)
    assert vars(again) == vars(error)


@given(JSON | st.tuples(KINDS, JSON).map(list) | st.tuples(KINDS, JSON, JSON).map(list))
def test_no_child_can_make_us_raise_anything_else(content: object) -> None:
    try:
        error = messages.read_error(content)
    except (ValueError, TypeError):
        return
    assert isinstance(error, SandboxError)
    assert len(error.message) <= 400
    assert error.message.isprintable()
