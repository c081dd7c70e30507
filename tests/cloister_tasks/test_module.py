from __future__ import annotations

import hashlib
import pickle

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_protos import Kind, Role
from cloister_tasks import (
    ENTRY_POINTS,
    Buffer,
    ExternKind,
    InvalidModule,
    Manifest,
    Module,
    binary,
    build,
    with_manifest,
)
from cloister_tasks.contract import DTYPES

F32 = DTYPES[1]
MANIFEST = Manifest(
    name="t",
    kind=Kind.KIND_TRAINING,
    memory_bytes=65536,
    entry_points=tuple(ENTRY_POINTS[Kind.KIND_TRAINING]),
    buffers={
        "w": Buffer("w", Role.ROLE_PARAMETER, F32, (2,), 0),
        "x": Buffer("x", Role.ROLE_INPUT, F32, (2, 2), 8),
    },
    variant="scalar",
)
BODY = """
  (memory (export "memory") 1 1)
  (func (export "init") (param i64) (result i32) (i32.const 0))
  (func (export "reset") (result i32) (i32.const 0))
  (func (export "train") (param i32) (result i32) (i32.const 0))
  (func (export "evaluate") (param i32) (result i32) (i32.const 0))
  (func (export "predict") (param i32) (result i32) (i32.const 0))
"""


def wat(body: str, manifest: Manifest | None = MANIFEST) -> bytes:
    data = bytes(wasmtime.wat2wasm(f"(module {body})"))
    return with_manifest(data, manifest) if manifest else data


def refusal(data: bytes, **limits: int) -> InvalidModule:
    with pytest.raises(InvalidModule) as caught:
        Module.parse(data, **limits)
    return caught.value


def test_a_module_that_keeps_the_contract():
    data = wat(BODY)
    module = Module.parse(data)
    assert module.data == data
    assert module.digest == hashlib.sha256(data).digest()
    assert module.imports == ()
    assert module.memory.min_bytes == module.memory.max_bytes == 65536
    assert module.manifest == MANIFEST
    assert module.exports["train"].kind is ExternKind.FUNCTION
    assert module.exports["init"].signature == "(i64) -> i32"


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("import", '(import "env" "now" (func (result i64)))' + BODY),
        ("import", '(import "env" "m" (memory 1 1))'),
        ("memory", ""),
        ("memory", BODY.replace(" 1 1)", " 1)")),
        ("memory", BODY.replace(" 1 1)", " 1 2)")),
        ("memory", BODY.replace(" 1 1)", " 1 1 shared)")),
        ("memory", BODY.replace(" 1 1)", " i64 1 1)")),
        ("memory", BODY + "(memory 1 1)"),
        ("manifest", BODY.replace(" 1 1)", " 2 2)")),
        ("export", BODY.replace('(export "memory")', "")),
        ("export", BODY.replace('(export "memory")', '(export "heap")')),
        ("export", BODY.replace('(export "train")', '(export "fit")')),
        ("export", BODY.replace("(param i64)", "(param i32)")),
        ("export", BODY.replace('"predict") (param i32) (result i32) (i32.const 0)', '"predict")')),
        ("export", BODY.replace('(func (export "reset") (result i32) (i32.const 0))',
                                '(global (export "reset") i32 (i32.const 0))')),
        ("malformed", BODY + "(type (struct))"),
        ("too_large", BODY + f"(type (func (param {'i32 ' * 1001})))"),
    ],
)  # fmt: skip
def test_a_breach_of_the_contract_is_refused(reason, body):
    assert refusal(wat(body)).reason == reason


def test_a_manifest_is_needed_and_only_one():
    data = wat(BODY, None)
    assert refusal(data).reason == "manifest"
    parts = list(binary.sections(wat(BODY)))
    assert binary.custom_name(parts[-1]) == "cloister.manifest"
    assert refusal(binary.join([*parts, parts[-1]])).reason == "manifest"


def test_with_manifest_replaces():
    other = Manifest.from_json(MANIFEST.to_json().replace(b'"name":"t"', b'"name":"u"'))
    data = with_manifest(wat(BODY), other)
    assert Module.parse(data).manifest.name == "u"
    assert with_manifest(data, MANIFEST) == wat(BODY)


def test_limits_are_kept():
    data = wat(BODY)
    assert refusal(data, max_bytes=len(data) - 1).reason == "too_large"
    many = binary.join([*binary.sections(data), *[binary.custom("x", b"")] * 2000])
    assert refusal(many).reason == "too_large"
    long_name = binary.join([*binary.sections(data), binary.custom("x" * 2000, b"")])
    assert refusal(long_name).reason == "too_large"
    table = binary.Section(1, memoryview(bytes(2 << 20)))
    assert refusal(binary.join([table])).reason == "memory"
    rest = [s for s in binary.sections(data) if s.number != 1]
    assert refusal(binary.join([table, *rest])).reason == "too_large"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0asm",
        b"\0asm\x0d\0\1\0",  # a component
        b"\0asm\2\0\0\0",
        b"MZ" * 10,
        b"\0asm\1\0\0\0\1",
        b"\0asm\1\0\0\0\1\xff\xff\xff\xff\xff",
        b"\0asm\1\0\0\0\1\xff\xff\xff\xff\x0f",
        b"\0asm\1\0\0\0\x0e\0",
        b"\0asm\1\0\0\0\3\1\0\1\1\0",  # out of order
        b"\0asm\1\0\0\0\1\1\0\1\1\0",  # twice
        b"\0asm\1\0\0\0\0\2\1\xff",  # a section name that is not UTF-8
    ],
    ids=repr,
)
def test_what_is_no_module_is_malformed(data):
    assert refusal(data).reason == "malformed"


def test_sections_and_join_are_inverse():
    data = build("softmax-regression", features=3, classes=2)
    assert binary.join(binary.sections(data)) == data


@given(st.integers(0, 2**32 - 1))
def test_u32_is_read_as_written(value):
    reader = binary.Reader(memoryview(binary.u32(value)))
    assert reader.u32() == value
    assert reader.left == 0


def outcome(data: bytes) -> Module | InvalidModule:
    try:
        return Module.parse(data)
    except InvalidModule as e:
        return e


def parses_or_is_refused(data: bytes) -> None:
    found = outcome(data)
    if isinstance(found, Module):
        assert found.memory.min_bytes == found.manifest.memory_bytes
    else:
        assert len(str(found)) < 2000
        assert str(pickle.loads(pickle.dumps(found))) == str(found)


SAMPLE = wat(BODY)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(tail):
    parses_or_is_refused(tail)
    parses_or_is_refused(binary.MAGIC + tail)


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_damaged_modules_parse_or_are_refused(damage):
    data = bytearray(SAMPLE)
    for at, byte in damage:
        data[at] = byte
    parses_or_is_refused(bytes(data))


@given(st.integers(0, len(SAMPLE)), st.integers(0, len(SAMPLE)))
def test_truncated_modules_are_refused(start, stop):
    data = SAMPLE[:start] + SAMPLE[max(start, stop) :]
    parses_or_is_refused(data)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 5, 7, 12]), st.binary(max_size=40))))
def test_random_sections_parse_or_are_refused(parts):
    parses_or_is_refused(
        binary.join([binary.Section(number, memoryview(payload)) for number, payload in parts])
    )
