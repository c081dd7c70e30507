"""The module that adds masked vectors, against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_protos import Kind, Role
from cloister_tasks import VARIANTS, BuildError, Module, Status, builtin
from cloister_tasks.builtin import ring_sum

WIDTHS = range(2, 63)


@pytest.fixture(scope="module", autouse=True)
def _built(build_cache):
    """Built at installation; here, so that the tests never run against a stale build."""
    folder = build_cache / "ring_sum"
    folder.mkdir(exist_ok=True)
    source = builtin.PACKAGE / "aggregations" / "ring_sum.c"
    (folder / "ring_sum.wasm").write_bytes(builtin.compile_c(source))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "_FOLDER", folder)
        yield


@pytest.fixture(scope="module")
def shared(guest, _built):
    """One instance for many sums, as the coordinator has it; its update buffer full of noise."""
    g = guest(ring_sum())
    g["update"] = np.random.default_rng(7).integers(0, 256, g["update"].size, np.uint8)
    return g


def pack(values, bits, padding=0):
    """Little-endian bits; above them, in the last byte, any padding."""
    size = -(-len(values) * bits // 8)
    number = sum(value << (k * bits) for k, value in enumerate(values))
    number |= padding << (len(values) * bits)
    return (number & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def signed(value, bits):
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def wanted(vectors, masks, bits, step):
    columns = [signed(sum(c[:-1]) - c[-1], bits) for c in zip(*vectors, masks, strict=True)]
    return np.array([np.float32(float(v) * step) for v in columns], np.float32)


def put(g, rows):
    """Write packed rows one after the other; what is behind them stays."""
    data = np.frombuffer(b"".join(rows), np.uint8)
    g["update"][: len(data)] = data


def add(g, rows, masks, bits, step=1.0, groups=None):
    """One chunk from packed rows; `groups` are the rows of each call of `fold`."""
    columns, first = len(masks), 0
    g["bits"], g["step"] = bits, step
    assert g("reset", columns) == 0
    for count in groups or [len(rows)]:
        put(g, rows[first : first + count])
        assert g("fold", count, columns) == 0
        first += count
    assert first == len(rows)
    words = np.array(masks, "<u4" if bits <= 32 else "<u8").view(np.uint8)
    g["mask"][: len(words)] = words
    status = g("finish", columns)
    return status or g["model"][:columns].copy()


def some(bits, columns, rows, seed):
    """Vectors with the least and the largest values among them, and masks of whole words."""
    rng = np.random.default_rng([bits, columns, rows, seed])
    top = (1 << bits) - 1
    corners = [0, 1, top, top >> 1, (top >> 1) + 1]
    vectors = [
        [corners[x % 5] if x < 40 else int(x * 0x9E3779B97F4A7C15) & top for x in row]
        for row in rng.integers(0, 1000, (rows, columns)).tolist()
    ]
    word = 32 if bits <= 32 else 64
    masks = rng.integers(0, 1 << word, columns, np.uint64).tolist()
    return vectors, masks


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 203])
def test_every_width(shared, columns):
    for bits in WIDTHS:
        vectors, masks = some(bits, columns, 5, 0)
        found = add(shared, [pack(v, bits) for v in vectors], masks, bits, 0.37)
        assert found.tobytes() == wanted(vectors, masks, bits, 0.37).tobytes(), bits


@st.composite
def sums(draw):
    bits, columns = draw(st.sampled_from(WIDTHS)), draw(st.integers(1, 90))
    groups = draw(st.lists(st.integers(0, 4), max_size=4))
    value = st.integers(0, (1 << bits) - 1)
    vectors = [
        draw(st.lists(value, min_size=columns, max_size=columns)) for _ in range(sum(groups))
    ]
    word = st.integers(0, (1 << (32 if bits <= 32 else 64)) - 1)
    masks = draw(st.lists(word, min_size=columns, max_size=columns))
    padding = draw(st.integers(0, 127))
    step = draw(st.sampled_from([1.0, 2.0**-20, 1e-3, 3.7e5]))
    return bits, vectors, masks, groups, padding, step


@settings(max_examples=150, deadline=None)
@given(sums())
def test_against_pythons_integers(shared, case):
    bits, vectors, masks, groups, padding, step = case
    rows = [pack(v, bits, padding) for v in vectors]
    found = add(shared, rows, masks, bits, step, groups)
    assert found.tobytes() == wanted(vectors, masks, bits, step).tobytes()


@pytest.mark.parametrize("bits", [2, 21, 32, 59, 62])
def test_a_full_chunk_in_a_full_buffer(shared, bits):
    columns = shared["model"].size
    width = columns * bits // 8
    rows = min(shared["update"].size // width, 5)
    data = np.random.default_rng(bits).integers(0, 256, (rows, width), np.uint8)
    places = np.arange(bits, dtype=np.uint64)
    total = np.zeros(columns, np.uint64)
    for row in data:
        ones = np.unpackbits(row, bitorder="little").reshape(columns, bits).astype(np.uint64)
        total += (ones << places).sum(axis=1, dtype=np.uint64)
    masks = np.arange(columns, dtype=np.uint64)
    left = np.uint64(64 - bits)
    values = ((total - masks) << left).view(np.int64) >> left.view(np.int64)
    found = add(shared, [row.tobytes() for row in data], masks.tolist(), bits, 0.5)
    assert found.tobytes() == (values * 0.5).astype(np.float32).tobytes()


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_last_bytes_of_the_buffer_are_a_row_like_any_other(shared, bits):
    """A row that ends where the buffer does is read without the bytes behind it."""
    size, columns = shared["update"].size, 40
    width = columns * bits // 8
    vectors, masks = some(bits, columns, 1, 1)
    rows = size // width
    shared["update"][:] = 0
    shared["update"][(rows - 1) * width : rows * width] = np.frombuffer(
        pack(vectors[0], bits), np.uint8
    )
    shared["bits"], shared["step"] = bits, 1
    shared["mask"][:] = 255  # what lies behind the buffer
    assert shared("reset", columns) == 0
    assert shared("fold", rows, columns) == 0
    words = np.array(masks, "<u4" if bits <= 32 else "<u8").view(np.uint8)
    shared["mask"][: len(words)] = words
    assert shared("finish", columns) == 0
    expected = wanted(vectors, masks, bits, 1.0)
    assert shared["model"][:columns].tobytes() == expected.tobytes()


def test_by_hand(shared):
    # 3 bits each: 1, 2, 7 and 4, 0, 1; without masks of 1, 1, 3: 4, 1, 5, of which 4 and 5 are < 0
    rows = [bytes([0b11010001, 0b1]), bytes([0b01000100, 0b0])]
    assert add(shared, rows, [1, 1, 3], 3, 0.5).tolist() == [-2, 0.5, -1.5]


def test_nothing_is_added_to_nothing(shared):
    assert add(shared, [], [5, 0], 8).tolist() == [-5, 0]


def test_a_reset_forgets(shared):
    first = add(shared, [pack([9, 9], 8)], [0, 0], 8)
    again = add(shared, [pack([1, 2], 8)], [0, 0], 8)
    assert (first.tolist(), again.tolist()) == ([9, 9], [1, 2])


def test_variants_agree_bit_for_bit(guest):
    source = builtin.PACKAGE / "aggregations" / "ring_sum.c"
    guests = [guest(builtin.compile_c(source, variant=variant)) for variant in VARIANTS]
    for bits in (2, 13, 24, 32, 33, 59, 62):
        vectors, masks = some(bits, 101, 3, 2)
        rows = [pack(v, bits) for v in vectors]
        found = {add(g, rows, masks, bits, 0.1).tobytes() for g in guests}
        assert found == {wanted(vectors, masks, bits, 0.1).tobytes()}


def test_capacities_are_kept(shared):
    columns, size = shared["model"].size, shared["update"].size
    big = 2**31 - 1
    for bits in (2, 24, 62):
        shared["bits"], shared["step"] = bits, 1
        rows = size // (columns * bits // 8)
        before = shared.memory.copy()
        for call in (
            ("reset", columns + 1),
            ("reset", -1),
            ("reset", -(2**31)),
            ("fold", rows + 1, columns),
            ("fold", 1, columns + 1),
            ("fold", 1, big),
            ("fold", big, 1),
            ("fold", big, big),
            ("fold", -1, 1),
            ("fold", 1, -1),
            ("fold", -(2**31), -(2**31)),
            ("finish", columns + 1),
            ("finish", -1),
        ):
            assert shared(*call) == Status.TOO_MANY, (bits, call)
        assert np.array_equal(shared.memory, before)
        assert shared("fold", big, 0) == Status.OK
        assert shared("fold", rows, columns) == Status.OK


@pytest.mark.parametrize("bits", [-(2**31), -1, 0, 1, 63, 64, 65, 2**31 - 1])
def test_a_width_out_of_range_is_refused(shared, bits):
    shared["bits"], shared["step"] = bits, 1
    assert shared("reset", 8) == 0
    assert shared("fold", 1, 8) == Status.VALUE
    assert shared("finish", 8) == Status.VALUE


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_a_step_out_of_range_is_refused(shared, step):
    shared["bits"], shared["step"] = 8, step
    assert shared("finish", 1) == Status.VALUE


def test_a_result_past_f32_is_not_finite(shared):
    assert add(shared, [pack([1, 100, 1], 8)], [0, 0, 0], 8, 1e37) == Status.NOT_FINITE


def test_what_it_says_of_itself():
    manifest = Module.parse(ring_sum()).manifest
    assert manifest.kind == Kind.KIND_AGGREGATION
    assert manifest.masked
    assert not manifest.linear
    assert not manifest.of(Role.ROLE_WEIGHT)


def test_an_installation_without_builds_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "_FOLDER", tmp_path)
    with pytest.raises(BuildError, match="make tasks"):
        ring_sum()
