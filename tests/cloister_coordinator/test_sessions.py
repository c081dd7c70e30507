from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister_coordinator.errors import Exhausted, Unauthenticated
from cloister_coordinator.sessions import CONTEXT, MAX_NONCES, NONCE_SECONDS, Sessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def enrol(sessions: Sessions, key: Ed25519PrivateKey) -> tuple[str, str]:
    public = key.public_key().public_bytes_raw()
    nonce = sessions.challenge(public)
    return sessions.enrol(public, nonce, key.sign(CONTEXT + nonce), "")


def test_a_token_names_its_client_until_the_next_enrolment() -> None:
    sessions, key = Sessions("", 10), Ed25519PrivateKey.generate()
    client_id, token = enrol(sessions, key)
    assert sessions.client(f"Bearer {token}") == client_id
    again, newer = enrol(sessions, key)
    assert again == client_id
    assert sessions.client(f"Bearer {newer}") == client_id
    with pytest.raises(Unauthenticated):
        sessions.client(f"Bearer {token}")


def test_tokens_are_not_kept() -> None:
    sessions = Sessions("", 10)
    _, token = enrol(sessions, Ed25519PrivateKey.generate())
    assert token not in repr(vars(sessions))


def test_a_nonce_is_good_once_and_for_a_minute() -> None:
    clock, key = Clock(), Ed25519PrivateKey.generate()
    sessions, public = Sessions("", 10, clock), key.public_key().public_bytes_raw()
    nonce = sessions.challenge(public)
    sessions.enrol(public, nonce, key.sign(CONTEXT + nonce), "")
    with pytest.raises(Unauthenticated):
        sessions.enrol(public, nonce, key.sign(CONTEXT + nonce), "")
    nonce = sessions.challenge(public)
    clock.now = NONCE_SECONDS + 1
    with pytest.raises(Unauthenticated):
        sessions.enrol(public, nonce, key.sign(CONTEXT + nonce), "")


def test_a_nonce_is_for_the_key_that_asked() -> None:
    sessions, key = Sessions("", 10), Ed25519PrivateKey.generate()
    nonce = sessions.challenge(bytes(32))
    with pytest.raises(Unauthenticated):
        sessions.enrol(key.public_key().public_bytes_raw(), nonce, key.sign(CONTEXT + nonce), "")


def test_what_strangers_can_make_it_keep_is_bounded() -> None:
    sessions = Sessions("", 1)
    for _ in range(MAX_NONCES + 10):
        sessions.challenge(bytes(32))
    assert len(sessions._nonces) == MAX_NONCES
    first = Ed25519PrivateKey.generate()
    enrol(sessions, first)
    with pytest.raises(Exhausted, match="1 clients"):
        enrol(sessions, Ed25519PrivateKey.generate())
    enrol(sessions, first)
