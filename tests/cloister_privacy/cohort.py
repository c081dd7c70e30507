"""A cohort whose members and coordinator talk to each other in one process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from cloister_privacy import statements
from cloister_privacy.certificate import Authority, Trust
from cloister_privacy.client import Client
from cloister_privacy.floors import Floors
from cloister_privacy.packing import packed_bytes, unpack
from cloister_privacy.parameters import complete_threshold
from cloister_privacy.server import Server
from cloister_privacy.terms import Terms
from cloister_protos import Assignment, Graph, SecureAggregation, SecureTerms, Training

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=30)


class Identity:
    """A device's key, as the client package has it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.client_id = statements.client_id(self.public_key)

    def sign(self, statement: bytes) -> bytes:
        return self._key.sign(statement)


@cache
def authority() -> Authority:
    return Authority.create("the hospitals", NOW, LATER)


@cache
def identities(count: int) -> tuple[Identity, ...]:
    """In ascending order of client id."""
    made = [Identity(Ed25519PrivateKey.generate()) for _ in range(count)]
    return tuple(sorted(made, key=lambda identity: identity.client_id))


@cache
def certificate(identity: Identity) -> bytes:
    return authority().sign(identity.public_key, "ward", NOW, LATER)


def terms(
    members: int,
    *,
    parameters: int = 5,
    counters: int = 2,
    minimum: int = 2,
    value_bits: int = 16,
    max_weight: int = 1,
    corrupt_fraction: float = 0.0,
    ring: bool = False,
    private: bool = False,
    **assignment: Any,
) -> Terms:
    """What the members are told; further fields go into their assignment."""
    told = Assignment(job_id="job", round=1, training=Training(epochs=1), clip_norm=1.0)
    told.MergeFrom(Assignment(**assignment))
    told.secure.CopyFrom(
        SecureTerms(
            settings=SecureAggregation(
                graph=Graph.GRAPH_RING if ring else Graph.GRAPH_COMPLETE,
                corrupt_fraction=corrupt_fraction,
                value_bits=value_bits,
                max_weight=max_weight,
                step_seconds=20,
            ),
            members=members,
            minimum=minimum,
            private=private,
        )
    )
    return Terms.of(told, parameters, counters)


class Cohort:
    """Members with vectors of small numbers, and their coordinator."""

    def __init__(
        self,
        count: int,
        told: Terms | None = None,
        *,
        layout: tuple[int, int] | None = None,
        floors: Floors | None = None,
        different: Mapping[int, Terms] | None = None,
    ) -> None:
        self.terms = told if told is not None else terms(count)
        self.floors = floors if floors is not None else Floors(minimum_cohort=2)
        self.trust = Trust(authority().certificate)
        self.identities = identities(count)
        self.ids = [identity.client_id for identity in self.identities]
        self.clients = {
            identity.client_id: Client(
                (different or {}).get(place, self.terms),
                identity,
                certificate(identity),
                self.trust,
                self.floors,
            )
            for place, identity in enumerate(self.identities)
        }
        corrupt = self.terms.secure.settings.corrupt_fraction

        def usual(members: int) -> tuple[int, int]:
            return members - 1, complete_threshold(members, corrupt)

        self.server = Server(self.terms, self.trust, (lambda _: layout) if layout else usual)
        rng = np.random.default_rng(count)
        encoding = self.terms.encoding
        self.tails = {
            member: rng.integers(0, 1 << 40, self.terms.counters, np.uint64) for member in self.ids
        }
        self.bodies = {
            member: rng.integers(
                0, 1 << encoding.ring_bits, self.terms.parameters, np.uint64
            ).astype(encoding.dtype)
            for member in self.ids
        }
        self.received: dict[str, bytes] = {}

    # One phase at a time; `gone` are members that say nothing in it.

    def key(self, gone: Collection[str] = ()) -> None:
        for member in self._left(gone):
            self.server.take_keys(member, self.clients[member].keys(), NOW.timestamp())
        self.roster = self.server.close_keys()

    def deal(self, gone: Collection[str] = ()) -> None:
        for member in self._left(gone):
            dealing = self.clients[member].deal(self.roster, NOW.timestamp())
            self.server.take_dealing(member, dealing)
        self.server.close_dealings()

    def mask(self, gone: Collection[str] = ()) -> None:
        for member in self._left(gone):
            masked = self.clients[member].mask(
                self.server.shares(member), self.tails[member].copy(), self.bodies[member].copy()
            )
            self.received[member] = masked.data
            self.server.take_vector(member, masked.accused)
        self.survivors = self.server.close_vectors()

    def confirm(self, gone: Collection[str] = ()) -> None:
        for member in self._left(gone):
            self.server.take_confirmation(member, self.clients[member].confirm(self.survivors))
        self.server.close_confirmations()

    def reveal(self, gone: Collection[str] = ()) -> None:
        for member in self._left(gone):
            unmasking = self.clients[member].unmask(self.server.confirmations(member))
            self.server.take_unmasking(member, unmasking)

    def until(self, phase: str) -> Cohort:
        """Everything before a phase, with everybody there."""
        for name in ("key", "deal", "mask", "confirm", "reveal"):
            if name == phase:
                return self
            getattr(self, name)()
        return self

    def sums(self) -> tuple[list[int], list[int]]:
        """The sums of tails and bodies, from what was received and the masks."""
        tail_mask, body_mask = self.server.close_unmaskings()
        bits = self.terms.encoding.ring_bits
        tails, bodies = zip(*(self.split(data) for data in self.received.values()), strict=True)
        tail = sum(tails, np.zeros_like(tail_mask)) - tail_mask
        body = sum(bodies, np.zeros_like(body_mask)) - body_mask
        return tail.tolist(), [value % (1 << bits) for value in body.tolist()]

    def expected(self, members: Iterable[str]) -> tuple[list[int], list[int]]:
        """The same in Python's own integers."""
        members = list(members)
        bits = self.terms.encoding.ring_bits
        tails = [self.tails[member].tolist() for member in members]
        bodies = [self.bodies[member].tolist() for member in members]
        return (
            [sum(column) % (1 << 64) for column in zip(*tails, strict=True)],
            [sum(column) % (1 << bits) for column in zip(*bodies, strict=True)],
        )

    def split(self, data: bytes) -> tuple[NDArray[np.uint64], NDArray[Any]]:
        size, bits = self.terms.parameters, self.terms.encoding.ring_bits
        at = 8 * self.terms.counters
        assert len(data) == at + packed_bytes(size, bits)
        return np.frombuffer(data[:at], "<u8"), unpack(data[at:], size, bits)

    def _left(self, gone: Collection[str]) -> list[str]:
        for member in gone:
            self.clients.pop(member, None)
        return [member for member in self.ids if member in self.clients]
