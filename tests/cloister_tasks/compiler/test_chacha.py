"""ChaCha20 in the guest: the vector of its RFC, and another implementation."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks import VARIANTS, compile_c

SOURCE = """
#include <cloister.h>
#include "chacha.h"
CLOISTER_TASK("chacha", "Key stream");
CLOISTER_PARAMETER(nothing, "Tasks have parameters", 1);
CLOISTER_LOCAL(int32_t, words, "Four blocks", 64);
CLOISTER_INPUT(int32_t, key, "Eight words", 8);
CLOISTER_LOCAL(int32_t, counter, "Counter, then nonce", 4);
CLOISTER_EXPORT(reset) int32_t reset(void) {
    const uint32_t *from = (const uint32_t *)counter;
    chacha20((uint32_t(*)[16])words, (const uint32_t *)key, from[0], from + 1);
    return 0;
}
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { return (int32_t)(seed * 0); }
CLOISTER_EXPORT(train) int32_t train(int32_t n) { return n * 0; }
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t n) { return n * 0; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) { return n * 0; }
"""


@pytest.fixture(scope="module")
def variants(guest, tmp_path_factory):
    path = tmp_path_factory.mktemp("chacha") / "chacha.c"
    path.write_text(SOURCE)
    return {variant: guest(compile_c(path, variant=variant)) for variant in VARIANTS}


def blocks(instance, key: bytes, counter: int, nonce: bytes) -> bytes:
    """Four blocks of the key stream."""
    instance["key"] = np.frombuffer(key, "<i4")
    instance["counter"].view("<u4")[0] = counter
    instance["counter"][1:] = np.frombuffer(nonce, "<i4")
    assert instance("reset") == 0
    return bytes(instance["words"].tobytes())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_block_of_rfc_8439(variants, variant):
    """Section 2.3.2."""
    found = blocks(
        variants[variant], bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000")
    )
    assert found[:64].hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


@settings(max_examples=50, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**32 - 5),
    st.binary(min_size=12, max_size=12),
)
def test_blocks_are_those_of_another_implementation(variants, key, counter, nonce):
    cipher = Cipher(ChaCha20(key, counter.to_bytes(4, "little") + nonce), None)
    assert blocks(variants["simd128"], key, counter, nonce) == cipher.encryptor().update(bytes(256))
