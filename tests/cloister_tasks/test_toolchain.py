from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from cloister_protos import DType, Kind, Role
from cloister_tasks import VARIANTS, BuildError, Module, Status, build, compile_c, toolchain

SOURCE = """
#include <cloister.h>
CLOISTER_TASK("own", "A task of one's own");
CLOISTER_PARAMETER(a, "First", 3, 7);
CLOISTER_PARAMETER(b, "Second", 33);
CLOISTER_NAMED_PARAMETER(c, "c.d", "Third", 2, 3, 4, 5);
CLOISTER_FROZEN(f, "Frozen", 5);
CLOISTER_FROZEN(g, "Frozen", 21);
CLOISTER_LOCAL(uint8_t, l, "Local", 3);
CLOISTER_OPTIMIZER(int8_t, o, "Optimizer", 3);
CLOISTER_INPUT(int64_t, x, "Rows", ROWS, 2);
CLOISTER_OUTPUT(int32_t, y, "Out", ROWS);
CLOISTER_HYPERPARAMETER(double, h, 0.25, "Number");
CLOISTER_METRIC(loss, "Loss");
CLOISTER_FAULT;
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { a[2][6] = (float)seed; return 0; }
CLOISTER_EXPORT(reset) int32_t reset(void) { CLOISTER_ZERO(o); fault = -1; return 0; }
CLOISTER_EXPORT(train) int32_t train(int32_t rows) { c[1][2][3][4] = h * rows; return 64; }
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) { return rows; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) { return rows; }
"""


def write(folder: Path, text: str = SOURCE, name: str = "own.c") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_macros_become_the_manifest(tmp_path, guest):
    data = compile_c(write(tmp_path), defines={"ROWS": 16})
    manifest = Module.parse(data).manifest
    assert (manifest.name, manifest.description) == ("own", "A task of one's own")
    assert manifest.kind == Kind.KIND_TRAINING
    assert manifest.variant == "simd128"
    assert manifest.capacity == 16
    found = {b.name: (b.role, b.dtype.str, b.shape) for b in manifest.buffers.values()}
    assert found == {
        "a": (Role.ROLE_PARAMETER, "<f4", (3, 7)),
        "b": (Role.ROLE_PARAMETER, "<f4", (33,)),
        "c.d": (Role.ROLE_PARAMETER, "<f4", (2, 3, 4, 5)),
        "f": (Role.ROLE_FROZEN, "<f4", (5,)),
        "g": (Role.ROLE_FROZEN, "<f4", (21,)),
        "l": (Role.ROLE_LOCAL, "|u1", (3,)),
        "o": (Role.ROLE_OPTIMIZER, "|i1", (3,)),
        "x": (Role.ROLE_INPUT, "<i8", (16, 2)),
        "y": (Role.ROLE_OUTPUT, "<i4", (16,)),
        "h": (Role.ROLE_HYPERPARAMETER, "<f8", ()),
        "loss": (Role.ROLE_METRIC, "<f8", ()),
        "fault": (Role.ROLE_FAULT, "<i8", ()),
    }
    assert list(manifest.buffers) == list(found)  # as declared
    g = guest(data)
    assert g["h"] == 0.25
    assert g["fault"] == -1
    assert (g("init", 5), g("train", 8)) == (0, 64)
    assert g["a"][2, 6] == 5
    assert g["c.d"][1, 2, 3, 4] == 2
    assert g.parameters.size == 21 + 33 + 120


def test_memory_is_no_larger_than_needed(tmp_path):
    module = Module.parse(compile_c(write(tmp_path), defines={"ROWS": 16}))
    assert module.memory.max_bytes == 2 * 65536  # the stack, and a page of data
    assert set(module.exports) == {"memory", "init", "reset", "train", "evaluate", "predict"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_builds_are_byte_identical_from_anywhere(tmp_path, variant, monkeypatch):
    first = compile_c(write(tmp_path / "here"), defines={"ROWS": 4}, variant=variant)
    elsewhere = write(tmp_path / "some" / "where else", name="own.c")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "fresh"))
    assert compile_c(elsewhere, defines={"ROWS": 4}, variant=variant) == first


def test_the_whole_package_builds_the_same_elsewhere(tmp_path, monkeypatch):
    template = toolchain.PACKAGE / "templates" / "network.c"
    macros = {
        "TITLE": '"t"', "ABOUT": '"a"', "CAPACITY": 8, "LAYERS(LAYER)": 'LAYER(0,"",3,2)',
        "DEPTH": 1, "FEATURES": 3, "OUTPUTS": 2, "WIDEST": 2, "CLASSIFY": 1,
    }  # fmt: skip
    here = compile_c(template, defines=macros)
    copy = tmp_path / "copy"
    shutil.copytree(toolchain.PACKAGE, copy)
    monkeypatch.setattr(toolchain, "PACKAGE", copy)
    assert compile_c(copy / "templates" / "network.c", defines=macros) == here


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("return rows; }", "return rows }"), "expected ';'"),
        (("CLOISTER_EXPORT(predict)", ""), "predict"),
        (("CLOISTER_EXPORT(train)", ""), "train, summarize and fold"),
        (("int64_t seed", "int32_t seed"), "init(i64) -> i32"),
        (('"Loss"', '"Lo\\nss"'), "one line"),
        (('"c.d"', '"a"'), "same name"),
        (("CLOISTER_INPUT(int64_t, x", "CLOISTER_LOCAL(int64_t, x"), "ROLE_INPUT"),
        (('"own", ', '"o w n", '), "o w n"),
        (("int32_t, y", "int16_t, y"), "_Generic"),
    ],
)
def test_the_authors_mistakes_are_explained(tmp_path, change, says):
    assert change[0] in SOURCE
    with pytest.raises(BuildError, match=r"own\.c|source|buffers") as caught:
        compile_c(write(tmp_path, SOURCE.replace(*change)), defines={"ROWS": 4})
    assert says in str(caught.value)


def test_a_source_without_buffers_is_explained(tmp_path):
    source = write(tmp_path, "int x(void) { return 1; }")
    with pytest.raises(BuildError, match="declares no buffers"):
        compile_c(source)


def test_missing_parts_are_explained(tmp_path, monkeypatch):
    with pytest.raises(BuildError, match="no C file"):
        compile_c(tmp_path / "none.c")
    with pytest.raises(BuildError, match="unknown variant"):
        compile_c(write(tmp_path), variant="avx")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ziglang", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip install 'cloister\[author\]'"):
        compile_c(write(tmp_path))


def test_the_header_numbers_as_python_does():
    header = (toolchain.PACKAGE / "include" / "cloister.h").read_text()
    for name, value in Role.items():
        if value:
            assert f"CLOISTER_{name} = {value}" in header
    for value, flag in toolchain._HOLDS.items():
        assert f"CLOISTER_HOLDS_{flag.upper()} = {value}" in header
    for status in Status:
        spelled = f"CLOISTER_{status.name} = {status.value}"
        assert spelled in header
    types = ("float", "double", "int32_t", "int64_t", "uint8_t", "int8_t")
    assert ", ".join(f"{t}: {n}" for n, t in enumerate(types, 1)) in header
    assert len(types) == max(DType.values())


AGGREGATION = """
#include <cloister.h>
CLOISTER_TASK("nil", "Leaves the model as it is");
FLAGS
CLOISTER_MODEL(8);
BUFFERS
CLOISTER_EXPORT(reset) int32_t reset(int32_t columns) { return columns > 8; }
CLOISTER_EXPORT(fold) int32_t fold(int32_t rows, int32_t columns) { return rows + columns > 8; }
CLOISTER_EXPORT(finish) int32_t finish(int32_t columns) { return columns > 8; }
"""
PLAIN = "CLOISTER_UPDATE(8); CLOISTER_WEIGHT(1); CLOISTER_TOTAL;"


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("unweighted", [False, True])
def test_what_holds_for_an_aggregation_is_in_its_manifest(tmp_path, linear, unweighted):
    flags = "CLOISTER_LINEAR;" * linear + "CLOISTER_UNWEIGHTED;" * unweighted
    text = AGGREGATION.replace("FLAGS", flags).replace("BUFFERS", PLAIN)
    manifest = Module.parse(compile_c(write(tmp_path, text))).manifest
    assert (manifest.name, manifest.description) == ("nil", "Leaves the model as it is")
    assert (manifest.linear, manifest.unweighted) == (linear, unweighted)
    assert not manifest.masked


def test_masked_updates_are_packed(tmp_path):
    buffers = "CLOISTER_PACKED_UPDATE(100); CLOISTER_MASK(8);"
    text = AGGREGATION.replace("FLAGS", "").replace("BUFFERS", buffers)
    manifest = Module.parse(compile_c(write(tmp_path, text))).manifest
    found = {b.name: (b.role, b.dtype.str, b.shape) for b in manifest.buffers.values()}
    assert found["update"] == (Role.ROLE_UPDATE, "|u1", (100,))
    assert found["mask"] == (Role.ROLE_MASK, "|u1", (64,))
    assert manifest.masked


def test_a_task_is_not_linear(tmp_path):
    with pytest.raises(BuildError, match="only an aggregation"):
        compile_c(write(tmp_path, SOURCE + "CLOISTER_LINEAR;"), defines={"ROWS": 4})


def test_kinds_are_told_by_their_exports():
    assert Module.parse(build("summarize", features=2)).manifest.kind == Kind.KIND_SUMMARY
