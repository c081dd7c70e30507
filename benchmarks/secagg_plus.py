"""The leading peer's secure aggregation at the same size: SecAgg+ as Flower 1.42 has it.

Its messages are semi-honest: no signatures, no confirmation. A mask comes from numpy's Mersenne
Twister with a seed of 32 bits, one 64-bit integer a value; keys are of SECP384R1; shares are of
GF(2^128), in Python's integers, and all that came are used. Where Flower can be imported its own
functions run; otherwise the same method by numpy alone, with shares of a field of a 521-bit prime,
which is kinder. It is called by `secure_aggregation.py` and prints one JSON object: with
`FLOWER_PYTHON` set to an interpreter that has Flower, that one runs it.

What is repeated alike, masks and shares above all, is timed a few times and multiplied.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

try:
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
        decrypt,
        encrypt,
        generate_shared_key,
    )
    from flwr.common.secure_aggregation.quantization import quantize
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    NAME = "flower"
except ImportError:
    NAME = "numpy"
    PRIME = (1 << 521) - 1

    def create_shares(secret: bytes, threshold: int, num: int) -> list[bytes]:
        """Shamir's, 64 bytes of the secret at a time."""
        pieces = [
            int.from_bytes(secret[at : at + 64], "little") for at in range(0, len(secret), 64)
        ]
        polynomials = [
            [p, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))] for p in pieces
        ]
        shares = []
        for x in range(1, num + 1):
            share = x.to_bytes(4, "little")
            for polynomial in polynomials:
                value = 0
                for coefficient in reversed(polynomial):
                    value = (value * x + coefficient) % PRIME
                share += value.to_bytes(66, "little")
            shares.append(share)
        return shares

    def combine_shares(shares: list[bytes]) -> bytes:
        """Lagrange's interpolation at 0; padded with zeros."""
        points = [int.from_bytes(share[:4], "little") for share in shares]
        secret = b""
        for at in range(4, len(shares[0]), 66):
            total = 0
            for x, share in zip(points, shares, strict=True):
                above = below = 1
                for other in points:
                    if other != x:
                        above, below = above * other % PRIME, below * (other - x) % PRIME
                value = int.from_bytes(share[at : at + 66], "little")
                total += value * above * pow(below, -1, PRIME)
            secret += (total % PRIME).to_bytes(66, "little")[:64]
        return secret

    def generate_shared_key(
        own: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePublicKey
    ) -> bytes:
        """Elliptic-curve Diffie-Hellman."""
        return own.exchange(ec.ECDH(), other)[:32]

    def encrypt(_: bytes, plaintext: bytes) -> bytes:
        """Left out."""
        return plaintext

    decrypt = encrypt

    def quantize(parameters: list[Any], clipping_range: float, target_range: int) -> list[Any]:
        """Stochastic rounding."""
        (values,) = parameters
        scaled = (np.clip(values, -clipping_range, clipping_range) + clipping_range) * (
            target_range / (2 * clipping_range)
        )
        return [np.floor(scaled + np.random.rand(len(values))).astype(np.int32)]

    def pseudo_rand_gen(seed: bytes, num_range: int, shapes: list[Any]) -> list[Any]:
        """A mask, by the Mersenne Twister."""
        seed32 = int(np.bitwise_xor.reduce(np.frombuffer(seed, "<u4")))
        generator = np.random.RandomState(seed32)
        return [generator.randint(0, num_range - 1, shape, dtype=np.int64) for shape in shapes]


def each(body: Callable[[], Any], times: int = 3) -> float:
    """Processor seconds of one repetition, the best of a few."""
    seconds = []
    for _ in range(times):
        began = time.process_time()
        body()
        seconds.append(time.process_time() - began)
    return min(seconds)


def measure(members: int, parameters: int, bits: int) -> dict[str, float]:
    """Processor time of a member and of the server, with a tenth gone after the dealing."""
    gone, threshold = members // 10, round(0.51 * members)
    staying, modulus = members - gone, 1 << bits
    own, other = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    peer = other.public_key()
    private = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    secret, seed = secrets.token_bytes(32), generate_shared_key(own, peer)
    update = np.random.default_rng(0).standard_normal(parameters, np.float32)
    total = np.zeros(parameters, np.int64)

    def mask() -> None:
        nonlocal total
        total = total - pseudo_rand_gen(seed, modulus, [(parameters,)])[0]

    def add() -> None:
        nonlocal total
        total = total + vector

    pair, key = secrets.token_bytes(500), generate_shared_key(own, peer)
    sealed = encrypt(key, pair)
    masking, agreeing = each(mask, 5), each(lambda: generate_shared_key(own, peer))
    dealing = each(lambda: create_shares(secret, threshold, members), 1)
    dealing += each(lambda: create_shares(private, threshold, members), 1)
    sealing = each(lambda: encrypt(key, pair)) + each(lambda: decrypt(key, sealed))
    quantizing = each(lambda: quantize([update], 3.0, 1 << 16))
    vector = (total % modulus).astype(np.int64)
    reducing = each(lambda: np.mod(total, modulus))
    seeds, keys = (create_shares(s, threshold, members)[:staying] for s in (secret, private))
    combining = staying * each(lambda: combine_shares(seeds), 1)
    combining += gone * each(lambda: combine_shares(keys), 1)
    client = (
        dealing
        + (members - 1) * (2 * agreeing + sealing)
        + members * masking
        + quantizing
        + reducing
    )
    masks = staying + gone * (members - 1)
    server = masks * masking + gone * (members - 1) * agreeing + staying * each(add) + reducing
    return {"client_ms": 1e3 * client, "server_s": server + combining, "masks_s": masks * masking}


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = measure(*(int(argument) for argument in sys.argv[1:]))
    print(json.dumps({"name": NAME, **found}))
