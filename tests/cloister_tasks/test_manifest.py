from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_protos import Kind, Role
from cloister_tasks import ENTRY_POINTS, Buffer, InvalidModule, Manifest, Module, build
from cloister_tasks.manifest import MAX_MANIFEST_BYTES

F32, F64, I32, I64, U8 = (np.dtype(d) for d in ("<f4", "<f8", "<i4", "<i8", "u1"))


def training(*extra: Buffer, **changes: object) -> Manifest:
    buffers = (
        Buffer("weight", Role.ROLE_PARAMETER, F32, (3, 2), 0),
        Buffer("bias", Role.ROLE_PARAMETER, F32, (3,), 24),
        Buffer("features", Role.ROLE_INPUT, F32, (8, 2), 64),
        *extra,
    )
    fields = {
        "name": "t",
        "kind": Kind.KIND_TRAINING,
        "memory_bytes": 65536,
        "entry_points": tuple(ENTRY_POINTS[Kind.KIND_TRAINING]),
        "buffers": {b.name: b for b in buffers},
        "variant": "scalar",
    }
    return Manifest(**{**fields, **changes})


def aggregation(*extra: Buffer, columns: int = 4, **changes: Buffer) -> Manifest:
    buffers = {
        "update": Buffer("update", Role.ROLE_UPDATE, F32, (8,), 0),
        "weight": Buffer("weight", Role.ROLE_WEIGHT, F64, (2,), 64),
        "model": Buffer("model", Role.ROLE_MODEL, F32, (columns,), 128),
        "total": Buffer("total", Role.ROLE_TOTAL, F64, (), 256),
        **{b.name: b for b in extra},
        **changes,
    }
    return Manifest(
        name="a",
        kind=Kind.KIND_AGGREGATION,
        memory_bytes=65536,
        entry_points=tuple(ENTRY_POINTS[Kind.KIND_AGGREGATION]),
        buffers=buffers,
        variant="scalar",
    )


def without(name: str) -> Manifest:
    manifest = aggregation()
    return replace(manifest, buffers={n: b for n, b in manifest.buffers.items() if n != name})


def masked(columns: int = 8, **changes: object) -> Manifest:
    """Of an aggregation of masked updates; buffers that are None are left out."""
    buffers = {
        "update": Buffer("update", Role.ROLE_UPDATE, U8, (64,), 0),
        "model": Buffer("model", Role.ROLE_MODEL, F32, (columns,), 128),
        "mask": Buffer("mask", Role.ROLE_MASK, U8, (8 * columns,), 256),
        **{name: b for name, b in changes.items() if isinstance(b, Buffer) or b is None},
    }
    flags = {name: flag for name, flag in changes.items() if isinstance(flag, bool)}
    return replace(
        aggregation(), buffers={n: b for n, b in buffers.items() if b is not None}, **flags
    )


def test_round_trip_is_exact_and_canonical():
    manifest = training(
        Buffer("lr", Role.ROLE_HYPERPARAMETER, F32, (), 40, "Step size"),
        description="µ: a line",
    )
    wire = manifest.to_json()
    again = Manifest.from_json(wire)
    assert again == manifest
    assert again.to_json() == wire
    assert json.loads(wire)["buffers"][0]["name"] == "weight"


def test_what_it_tells():
    manifest = training()
    assert manifest.capacity == 8
    assert manifest.parameter_count == 9
    block = manifest.block(Role.ROLE_PARAMETER)
    assert block is not None
    assert (block.offset, block.nbytes, block.size) == (0, 36, 9)
    assert manifest.block(Role.ROLE_FROZEN) is None
    assert [b.name for b in manifest.of(Role.ROLE_PARAMETER)] == ["weight", "bias"]
    with pytest.raises(ValueError, match="no block"):
        manifest.block(Role.ROLE_INPUT)
    with pytest.raises(TypeError):
        manifest.buffers["weight"] = manifest.buffers["bias"]  # type: ignore[index]
    assert aggregation().capacity == 0


def test_what_an_aggregation_says_of_itself():
    manifest = replace(aggregation(), linear=True, unweighted=True)
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert (again.linear, again.unweighted, again.masked) == (True, True, False)
    assert json.loads(manifest.to_json())["linear"] is True
    plain = aggregation()
    assert (plain.linear, plain.unweighted) == (False, False)
    assert "linear" not in json.loads(plain.to_json())
    hidden = masked()
    assert Manifest.from_json(hidden.to_json()) == hidden
    assert hidden.masked


@pytest.mark.parametrize(
    "name", ["0.weight", "layers.0.self_attn.in_proj_weight", "_", "7", "a" * 128]
)
def test_the_names_of_a_state_dict_are_names_of_buffers(name):
    manifest = training(Buffer(name, Role.ROLE_LOCAL, F32, (1,), 512))
    assert Manifest.from_json(manifest.to_json()).buffers[name].name == name


BREACHES = {
    "abi": lambda: training(abi=2),
    "name": lambda: training(name="-x"),
    "long name": lambda: training(name="x" * 65),
    "kind": lambda: training(kind=Kind.KIND_UNSPECIFIED),
    "unknown kind": lambda: training(kind=9),
    "variant": lambda: training(variant="avx"),
    "memory": lambda: training(memory_bytes=65535),
    "no memory": lambda: training(memory_bytes=0),
    "8 GiB": lambda: training(memory_bytes=1 << 33),
    "entry points": lambda: training(entry_points=("train",)),
    "double entry point": lambda: training(
        entry_points=("init", "reset", "train", "evaluate", "evaluate")
    ),
    "control character": lambda: training(description="a\x1b[2J"),
    "two lines": lambda: training(description="a\nb"),
    "long description": lambda: training(description="x" * 257),
    "buffer name": lambda: training(Buffer("a b", Role.ROLE_LOCAL, F32, (1,), 512)),
    "buffer name of a dot": lambda: training(Buffer(".a", Role.ROLE_LOCAL, F32, (1,), 512)),
    "long buffer name": lambda: training(Buffer("a" * 129, Role.ROLE_LOCAL, F32, (1,), 512)),
    "buffer without a name": lambda: training(Buffer("", Role.ROLE_LOCAL, F32, (1,), 512)),
    "line end in a buffer name": lambda: training(Buffer("a\n", Role.ROLE_LOCAL, F32, (1,), 512)),
    "dtype": lambda: training(Buffer("x", Role.ROLE_LOCAL, np.dtype("f2"), (1,), 512)),
    "big endian": lambda: training(Buffer("x", Role.ROLE_LOCAL, np.dtype(">f4"), (1,), 512)),
    "empty dimension": lambda: training(Buffer("x", Role.ROLE_LOCAL, F32, (0,), 512)),
    "nine dimensions": lambda: training(Buffer("x", Role.ROLE_LOCAL, F32, (1,) * 9, 512)),
    "unaligned": lambda: training(Buffer("x", Role.ROLE_LOCAL, F64, (1,), 516)),
    "past the end": lambda: training(Buffer("x", Role.ROLE_LOCAL, F32, (2,), 65532)),
    "negative": lambda: training(Buffer("x", Role.ROLE_LOCAL, F32, (1,), -4)),
    "huge": lambda: training(Buffer("x", Role.ROLE_LOCAL, F32, (2**32 - 1,) * 8, 512)),
    "overlap": lambda: training(Buffer("x", Role.ROLE_LOCAL, F32, (1,), 32)),
    "gap": lambda: training(Buffer("x", Role.ROLE_PARAMETER, F32, (1,), 40)),
    "frozen gap": lambda: training(
        Buffer("x", Role.ROLE_FROZEN, F32, (1,), 512), Buffer("y", Role.ROLE_FROZEN, F32, (1,), 520)
    ),
    "parameter of f64": lambda: training(Buffer("x", Role.ROLE_PARAMETER, F64, (1,), 512)),
    "vector of a number": lambda: training(Buffer("x", Role.ROLE_HYPERPARAMETER, F32, (2,), 512)),
    "metric of f32": lambda: training(Buffer("x", Role.ROLE_METRIC, F32, (), 512)),
    "two faults": lambda: training(
        Buffer("x", Role.ROLE_FAULT, I64, (), 512), Buffer("y", Role.ROLE_FAULT, I64, (), 520)
    ),
    "scalar input": lambda: training(Buffer("x", Role.ROLE_INPUT, F32, (), 512)),
    "other capacity": lambda: training(Buffer("x", Role.ROLE_OUTPUT, F32, (9,), 512)),
    "foreign role": lambda: training(Buffer("x", Role.ROLE_UPDATE, F32, (9,), 512)),
    "no role": lambda: training(Buffer("x", Role.ROLE_UNSPECIFIED, F32, (9,), 512)),
    "unknown role": lambda: training(Buffer("x", 77, F32, (9,), 512)),
    "no parameters": lambda: training(
        buffers={"features": Buffer("features", Role.ROLE_INPUT, F32, (8, 2), 64)}
    ),
    "misnamed": lambda: training(buffers={"a": Buffer("b", Role.ROLE_INPUT, F32, (8, 2), 64)}),
    "too many": lambda: training(
        *(Buffer(f"b{i}", Role.ROLE_LOCAL, F32, (), 512 + 4 * i) for i in range(4096))
    ),
    "no row fits": lambda: aggregation(columns=9),
    "two models": lambda: aggregation(Buffer("m2", Role.ROLE_MODEL, F32, (4,), 512)),
    "state of another size": lambda: aggregation(
        Buffer("state", Role.ROLE_SERVER_STATE, F32, (3,), 512)
    ),
    "parameters": lambda: aggregation(Buffer("p", Role.ROLE_PARAMETER, F32, (3,), 512)),
    "matrix of updates": lambda: aggregation(
        update=Buffer("update", Role.ROLE_UPDATE, F32, (2, 4), 0)
    ),
    "packed updates without a mask": lambda: aggregation(
        update=Buffer("update", Role.ROLE_UPDATE, U8, (64,), 0)
    ),
    "no weights": lambda: without("weight"),
    "no total": lambda: without("total"),
    "a mask on floats": lambda: masked(update=Buffer("update", Role.ROLE_UPDATE, F32, (16,), 0)),
    "a mask and weights": lambda: masked(
        weight=Buffer("weight", Role.ROLE_WEIGHT, F64, (2,), 1024)
    ),
    "a mask and a total": lambda: masked(total=Buffer("total", Role.ROLE_TOTAL, F64, (), 1024)),
    "a mask of another size": lambda: masked(mask=Buffer("mask", Role.ROLE_MASK, U8, (32,), 256)),
    "a mask of i64": lambda: masked(mask=Buffer("mask", Role.ROLE_MASK, I64, (8,), 256)),
    "a chunk that ends within a byte": lambda: masked(columns=7),
    "no packed row fits": lambda: masked(update=Buffer("update", Role.ROLE_UPDATE, U8, (63,), 0)),
    "a linear sum of masked updates": lambda: masked(linear=True),
    "a linear task": lambda: training(linear=True),
    "an unweighted task": lambda: training(unweighted=True),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_of_the_contract_is_refused(breach):
    with pytest.raises(InvalidModule) as caught:
        BREACHES[breach]()
    assert caught.value.reason == "manifest"
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"abi": 1, "abi": 1}',
        b'{"unknown": 1}',
        b'{"abi": "x"}',
        b'{"abi": 1e400}',
        b'{"abi": 99999999999999999999}',
        b'{"kind": "KIND_NONE"}',
        b'{"buffers": [{"name": "a"}]}',
        b'{"buffers": [{"name": "a", "dtype": 1}, {"name": "a", "dtype": 1}]}',
        b'{"buffers": [{"name": "a", "dtype": 99}]}',
        b'{"buffers": [{"offset": -1}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"buffers":' * 20_000,
        b'{"abi": ' + b"9" * 10_000 + b"}",
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(InvalidModule) as caught:
        Manifest.from_json(data)
    assert caught.value.reason == "manifest"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
PROTO = st.fixed_dictionaries(
    {},
    optional={
        "abi": st.just(1) | JSON,
        "name": st.just("t") | JSON,
        "kind": st.sampled_from(["KIND_TRAINING", 2, 99]) | JSON,
        "memoryBytes": st.sampled_from([65536, "65536"]) | JSON,
        "entryPoints": st.just(["init", "reset", "train", "evaluate", "predict"]) | JSON,
        "variant": st.just("scalar") | JSON,
        "buffers": JSON
        | st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from("abc"), "dtype": st.integers(0, 7)},
                optional={
                    "role": st.integers(-1, 17) | JSON,
                    "shape": st.lists(st.integers(-1, 2**32)) | JSON,
                    "offset": st.integers(-1, 2**64) | JSON,
                },
            )
        ),
    },
)


@settings(max_examples=300)
@given(st.binary() | (JSON | PROTO).map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_in_gives_a_manifest_or_invalid_module(data):
    try:
        manifest = Manifest.from_json(data)
    except InvalidModule:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_blocks_of_a_real_task_follow_each_other():
    manifest = Module.parse(build("perceptron", features=5, hidden=(3, 7), classes=2)).manifest
    block = manifest.block(Role.ROLE_PARAMETER)
    assert block is not None
    assert block.offset % 64 == 0
    assert block.size == 5 * 3 + 3 + 3 * 7 + 7 + 7 * 2 + 2
    assert replace(manifest, name="other") != manifest
