"""Noise for differential privacy: Box and Muller of a known key stream, and what chance must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks import VARIANTS, compile_c

SIZE = 1 << 18

SOURCE = """
#include <cloister.h>
#include "gaussian_noise.h"
CLOISTER_TASK("noise", "Gaussian noise");
CLOISTER_PARAMETER(values, "Numbers", SIZE);
CLOISTER_INPUT(int32_t, key, "Eight words", 8);
CLOISTER_LOCAL(int32_t, nonce, "Three words", 3);
CLOISTER_HYPERPARAMETER(float, deviation, 1, "Of the noise");
CLOISTER_LOCAL(int32_t, words, "High, low", 2);
CLOISTER_EXPORT(train) int32_t train(int32_t n) {
    add_gaussian_noise(values, n, deviation, (const uint32_t *)key, (const uint32_t *)nonce);
    return 0;
}
CLOISTER_EXPORT(reset) int32_t reset(void) {
    values[0] = normal_radius((uint32_t)words[0], (uint32_t)words[1]);
    return 0;
}
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { return (int32_t)(seed * 0); }
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t n) { return n * 0; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) { return n * 0; }
"""


@pytest.fixture(scope="module")
def variants(guest, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "noise.c"
    path.write_text(SOURCE)
    build = {v: compile_c(path, variant=v, defines={"SIZE": SIZE}) for v in VARIANTS}
    return {variant: guest(data) for variant, data in build.items()}


def noise(instance, key: bytes, nonce: bytes, n: int, deviation: float = 1.0) -> np.ndarray:
    """f32[n]: noise added to zeros."""
    instance["values"] = 0
    instance["key"] = np.frombuffer(key, "<i4")
    instance["nonce"] = np.frombuffer(nonce, "<i4")
    instance["deviation"] = deviation
    assert instance("train", n) == 0
    assert not instance["values"][n:].any()
    return instance["values"][:n].copy()


def reference(key: bytes, nonce: bytes, n: int) -> np.ndarray:
    """f64[n]: the same by another ChaCha20 and float64."""
    cipher = Cipher(ChaCha20(key, bytes(4) + nonce), None)
    words = np.frombuffer(cipher.encryptor().update(bytes(8 * n + 64)), "<u4").astype(object)
    found = []
    for i in range((n + 1) // 2):
        high, low, turn = (int(w) for w in words[4 * i : 4 * i + 3])
        radius = math.sqrt(-2 * math.log((high * 2**32 + low + 0.5) * 2.0**-64))
        quadrant, rest = divmod(turn, 2**30)
        middle = rest - 2**30 if rest >= 2**29 else rest  # two's complement of 30 bits
        angle = math.pi / 2 * (quadrant + middle * 2.0**-30)
        found += [radius * math.sin(angle), radius * math.cos(angle)]
    return np.array(found[:n])


@settings(max_examples=30, deadline=None)
@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.integers(1, 100)
)
def test_numbers_are_box_muller_of_the_key_stream(variants, key, nonce, n):
    found = noise(variants["simd128"], key, nonce, n)
    np.testing.assert_allclose(found, reference(key, nonce, n), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_add_the_same(variants, variant):
    key, nonce = bytes(range(32)), bytes(range(12))
    found = noise(variants[variant], key, nonce, 5000)
    scalar = noise(variants["scalar"], key, nonce, 5000)
    np.testing.assert_array_equal(found.view("u4"), scalar.view("u4"))


@pytest.mark.parametrize(
    ("high", "low", "radius"),
    [
        (0, 0, math.sqrt(2 * 65 * math.log(2))),  # u = 2^-65
        (0xFFFFFFFF, 0xFFFFFFFF, math.sqrt(2 * 2.0**-65)),  # u = 1 - 2^-65
        (0x80000000, 0, math.sqrt(2 * math.log(2))),
        (0x7FFFFFFF, 0xFFFFFFFF, math.sqrt(2 * math.log(2))),
    ],
)
def test_the_radius_at_both_ends_and_in_the_middle(variants, high, low, radius):
    instance = variants["simd128"]
    instance["words"].view("<u4")[:] = high, low
    instance("reset")
    assert instance["values"][0] == pytest.approx(radius, rel=1e-6)


def test_noise_is_standard_normal_times_the_deviation(variants):
    key = bytes(range(1, 33))
    for number in range(4):
        nonce = bytes([number] * 12)
        x = noise(variants["simd128"], key, nonce, SIZE, 0.25).astype("f8") / 0.25
        deviation = 1 / math.sqrt(SIZE)  # of a mean of numbers with variance 1
        assert abs(x.mean()) < 4.5 * deviation
        assert abs((x**2).mean() - 1) < 4.5 * math.sqrt(2) * deviation
        assert abs((x**4).mean() - 3) < 4.5 * math.sqrt(96) * deviation
        edges = np.linspace(-4, 4, 81)
        below = np.array([0, *(math.erfc(-edge / math.sqrt(2)) / 2 for edge in edges), 1])
        observed, _ = np.histogram(x, np.concatenate([[-10], edges, [10]]))
        expected = np.diff(below) * SIZE
        statistic = ((observed - expected) ** 2 / expected).sum()
        assert abs(statistic - 81) < 4.5 * math.sqrt(2 * 81)
        assert abs(np.corrcoef(x[0::2], x[1::2])[0, 1]) < 4.5 * math.sqrt(2) * deviation


def test_another_bit_of_key_or_nonce_is_other_noise(variants):
    instance, key, nonce = variants["simd128"], bytearray(32), bytearray(12)
    first = noise(instance, bytes(key), bytes(nonce), 4096)
    for secret, size in ((key, 32), (nonce, 12)):
        for byte in range(0, size, 5):
            secret[byte] = 1
            other = noise(instance, bytes(key), bytes(nonce), 4096)
            secret[byte] = 0
            assert abs(np.corrcoef(first, other)[0, 1]) < 5 / math.sqrt(4096)
