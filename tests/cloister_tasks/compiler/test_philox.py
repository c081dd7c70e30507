"""The counter-based generator: published vectors, then what chance must look like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks import VARIANTS, compile_c

SIZE = 1 << 18

SOURCE = """
#pragma clang diagnostic error "-Wall"
#pragma clang diagnostic error "-Wextra"
#include <cloister.h>
#include "philox.h"
#ifdef __wasm_simd128__ /* a loop that clang cannot vectorise does not build */
#pragma clang diagnostic error "-Wpass-failed"
#define VECTORISED _Pragma("clang loop vectorize(enable)")
#else
#define VECTORISED
#endif
CLOISTER_TASK("philox", "Random numbers");
CLOISTER_PARAMETER(floats, "Numbers", SIZE);
CLOISTER_LOCAL(int32_t, words, "Words", SIZE);
CLOISTER_INPUT(int32_t, key, "Key, one or two words", 4);
CLOISTER_INPUT(int32_t, counter, "Counter, four words", 4);
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { /* the key of step counter[0] */
    words[0] = (int32_t)philox_key((uint64_t)seed, (uint32_t)counter[0]);
    return 0;
}
CLOISTER_EXPORT(reset) int32_t reset(void) { /* one block of each generator */
    struct philox2x32 two = philox2x32(key[0], counter[0], counter[1]);
    struct philox4x32 four = {{counter[0], counter[1], counter[2], counter[3]}};
    four = philox4x32(key[0], key[1], four);
    for (int i = 0; i < 2; i++) words[i] = (int32_t)two.word[i];
    for (int i = 0; i < 4; i++) words[2 + i] = (int32_t)four.word[i];
    return 0;
}
CLOISTER_EXPORT(train) int32_t train(int32_t n) {
    VECTORISED for (int i = 0; i < n; i++) words[i] = philox_u32(key[0], counter[1], i);
    return 0;
}
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t n) {
    VECTORISED for (int i = 0; i < n; i++) floats[i] = philox_uniform(key[0], counter[1], i);
    return 0;
}
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) {
    VECTORISED for (int i = 0; i < n; i++) floats[i] = philox_normal(key[0], counter[1], i);
    return 0;
}
"""


class Philox:
    """The generators of one variant."""

    def __init__(self, instance):
        self.instance = instance

    def _draw(self, function, buffer, key, stream, n):
        self.instance["key"].view("u4")[0] = key
        self.instance["counter"].view("u4")[1] = stream
        self.instance(function, n)
        return self.instance[buffer][:n].copy()

    def words(self, key, stream, n=SIZE):
        return self._draw("train", "words", key, stream, n).view("u4")

    def uniform(self, key, stream, n=SIZE):
        return self._draw("evaluate", "floats", key, stream, n)

    def normal(self, key, stream, n=SIZE):
        return self._draw("predict", "floats", key, stream, n)

    def key(self, seed, step):
        self.instance["counter"].view("u4")[0] = step
        self.instance("init", seed)
        return int(self.instance["words"].view("u4")[0])

    def blocks(self, counter, key):
        """Philox-2x32 of the first words, and Philox-4x32 of all."""
        self.instance["counter"].view("u4")[:] = counter
        self.instance["key"].view("u4")[: len(key)] = key
        self.instance("reset")
        words = self.instance["words"].view("u4")
        return words[:2].tolist(), words[2:6].tolist()


@pytest.fixture(scope="module")
def variants(guest, tmp_path_factory):
    path = tmp_path_factory.mktemp("philox") / "philox.c"
    path.write_text(SOURCE)
    build = {v: compile_c(path, variant=v, defines={"SIZE": SIZE}) for v in VARIANTS}
    return {variant: Philox(guest(data)) for variant, data in build.items()}


@pytest.fixture(scope="module")
def philox(variants):
    return variants["simd128"]


# kat_vectors of Random123, the authors' own implementation: counter, key, result.
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]
ONES = [0xFFFFFFFF] * 4
TWO = [
    ([0, 0], 0, [0xFF1DAE59, 0x6CD10DF2]),
    (ONES[:2], ONES[0], [0x2C3F628B, 0xAB4FD7AD]),
    (PI[:2], PI[2], [0xDD7CE038, 0xF62A4C12]),
]
FOUR = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (ONES, ONES[:2], [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (PI[:4], PI[4:], [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_known_answers(variants, variant):
    for counter, key, wanted in TWO:
        assert variants[variant].blocks([*counter, 0, 0], [key, 0])[0] == wanted
    for counter, key, wanted in FOUR:
        assert variants[variant].blocks(counter, key)[1] == wanted


u32 = st.integers(0, 2**32 - 1)


def reference(key: int, counter0: int, counter1: int) -> list[int]:
    """Philox-2x32-10 in Python's integers, after the paper."""
    for _ in range(10):
        high, low = divmod(counter0 * 0xD256D193, 2**32)
        counter0, counter1 = high ^ key ^ counter1, low
        key = (key + 0x9E3779B9) % 2**32
    return [counter0, counter1]


@settings(max_examples=50, deadline=None)
@given(key=u32, stream=u32)
def test_a_word_is_that_of_its_counter(philox, key, stream):
    words = philox.words(key, stream, 11)
    assert words.tolist() == [reference(key, index, stream)[0] for index in range(11)]
    np.testing.assert_array_equal(philox.uniform(key, stream, 11), (words >> 8) * 2.0**-24)


@settings(max_examples=50, deadline=None)
@given(key=u32, stream=u32)
def test_normal_is_box_muller_of_its_counter(philox, key, stream):
    wanted = []
    for index in range(11):
        first, second = reference(key, index, stream)
        radius = math.sqrt(-2 * math.log((first + 0.5) * 2.0**-32))
        quadrant, rest = divmod(second, 2**30)
        middle = rest - 2**30 if rest >= 2**29 else rest  # two's complement of 30 bits
        wanted.append(radius * math.sin(math.pi / 2 * (quadrant + middle * 2.0**-30)))
    np.testing.assert_allclose(philox.normal(key, stream, 11), wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("draw", ["words", "uniform", "normal"])
def test_variants_draw_the_same(variants, draw):
    scalar, *others = (getattr(p, draw)(7, 9) for p in variants.values())
    for other in others:
        np.testing.assert_array_equal(other.view("u4"), scalar.view("u4"))


def chi_square(observed: np.ndarray, expected: np.ndarray | float) -> float:
    """Standard deviations by which the statistic exceeds what chance would give."""
    statistic, freedom = ((observed - expected) ** 2 / expected).sum(), observed.size - 1
    return float((statistic - freedom) / math.sqrt(2 * freedom))


KEYS = (0, 1, 2, 0x80000000, 0xDEADBEEF)


@pytest.mark.parametrize("key", KEYS)
def test_uniform(philox, key):
    x = philox.uniform(key, 3)
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 4 / math.sqrt(12 * x.size)
    counts = np.bincount((x * 1024).astype(int), minlength=1024)
    assert abs(chi_square(counts, x.size / 1024)) < 4
    pairs = (x[0::2] * 32).astype(int) * 32 + (x[1::2] * 32).astype(int)  # neighbours together
    assert abs(chi_square(np.bincount(pairs, minlength=1024), x.size / 2048)) < 4


def test_every_bit_is_even(philox):
    words = philox.words(5, 0)
    ones = [int((words >> bit & 1).sum()) for bit in range(32)]
    assert max(abs(n - SIZE / 2) for n in ones) < 5 * math.sqrt(SIZE) / 2


def test_one_is_never_drawn(philox):
    largest = max(float(philox.uniform(key, stream).max()) for key in KEYS for stream in range(8))
    assert 1 - 2.0**-19 < largest <= 1 - 2.0**-24


def test_neighbouring_keys_and_streams_are_unrelated(philox):
    rows = [philox.uniform(key, stream) for key in (0, 1, 2, 3) for stream in (0, 1, 2, 3)]
    shifted = rows[0][1:], rows[0][:-1]
    related = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(related).max() < 5 / math.sqrt(SIZE)
    assert abs(np.corrcoef(*shifted)[0, 1]) < 5 / math.sqrt(SIZE)
    flipped = [philox.words(1 << bit, 0, 4096) ^ philox.words(0, 0, 4096) for bit in range(32)]
    changed = [np.unpackbits(x.view("u1")).mean() for x in flipped]  # half the bits, ideally
    assert max(abs(x - 0.5) for x in changed) < 5 * 0.5 / math.sqrt(32 * 4096)


def test_keys_of_neighbouring_seeds_and_steps_are_unrelated(philox):
    keys = np.array([[philox.key(seed, step) for step in range(64)] for seed in range(64)], "u4")
    assert np.unique(keys).size == keys.size
    for near in (keys[1:] ^ keys[:-1], keys[:, 1:] ^ keys[:, :-1]):
        share = np.unpackbits(np.ascontiguousarray(near).view("u1")).mean()
        assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(32 * near.size)
    assert philox.key(1, 0) != philox.key(1 << 32, 0)  # all 64 bits of a seed count


@pytest.mark.parametrize("key", KEYS)
def test_normal(philox, key):
    x = philox.normal(key, 1).astype("f8")
    assert np.abs(x).max() < 6.8
    deviation = 1 / math.sqrt(x.size)  # of a mean of numbers with variance 1
    assert abs(x.mean()) < 4 * deviation
    assert abs((x**2).mean() - 1) < 4 * math.sqrt(2) * deviation
    assert abs((x**3).mean()) < 4 * math.sqrt(15) * deviation
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96) * deviation
    edges = np.linspace(-4, 4, 81)
    below = np.array([0, *(math.erfc(-edge / math.sqrt(2)) / 2 for edge in edges), 1])
    observed, _ = np.histogram(x, np.concatenate([[-10], edges, [10]]))
    assert abs(chi_square(observed, np.diff(below) * x.size)) < 4
    assert abs(np.corrcoef(x[0::2], x[1::2])[0, 1]) < 4 * math.sqrt(2) * deviation
