"""A cohort under secure aggregation in one process, with everybody's processor time and bytes.

Every message is made by the real core of a client and taken by the real core of a coordinator, and
goes between them as bytes; there is no wire. A coordinator's part depends on nothing random of its
own, so it can be repeated with the messages of one round. A member's cannot, so several are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister_client.identity import Identity
from cloister_coordinator.blocks import ArrayBlocks, PackedArray
from cloister_coordinator.secure_sum import SecureSum
from cloister_privacy import statements
from cloister_privacy.certificate import Authority, Trust
from cloister_privacy.client import Client
from cloister_privacy.counters import WEIGHT, Counters
from cloister_privacy.floors import Floors
from cloister_privacy.keystream import Entropy
from cloister_privacy.packing import packed_bytes
from cloister_privacy.server import Server
from cloister_privacy.terms import Terms
from cloister_protos import (
    Assignment,
    ExchangeRequest,
    ExchangeResponse,
    Graph,
    SecureAggregation,
    SecureTerms,
    Training,
)

BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
VALUE_BITS, MAX_WEIGHT = 16, 1024
FRACTION = 0.1
"""Of the members: as many drop out once they have dealt shares, and as many may collude."""
METRICS = ("loss", "correct")
ASSIGNMENT = "0" * 32

Ask = Callable[[str, int, bytes], bytes]
"""A member's message for a step, given its place and the coordinator's answer to its last one."""


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    members: int
    parameters: int
    ring: bool = False

    @property
    def name(self) -> str:
        """In the names of figures."""
        size = self.parameters
        short = f"{size // 10**6}m" if size % 10**6 == 0 else f"{size // 1000}k"
        return f"{'ring_' if self.ring else ''}n{self.members}_d{short}"


@dataclass
class Clock:
    """Processor seconds by step, in the order in which steps first occurred."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Add what the body takes."""
        began = time.process_time()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.process_time() - began

    @property
    def total(self) -> float:
        """Of all steps."""
        return sum(self.seconds.values())


@dataclass
class Traffic:
    """Bytes of one member by step."""

    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)


class Member:
    """One member's part, timed from the bytes that come to those that go."""

    def __init__(self, cohort: Cohort, place: int, trust: Trust) -> None:
        self.clock, self.traffic = Clock(), Traffic()
        self._cohort, self._trust = cohort, trust
        self._identity, self._certificate = cohort.people[place]
        self.weight = 1 + 37 * place % MAX_WEIGHT

    def say(self, step: str, answer: bytes) -> bytes:
        """This step's message; `answer` came to the one before."""
        message: bytes = getattr(self, f"_{step}")(answer)
        self.traffic.down[step], self.traffic.up[step] = len(answer), len(message)
        return message

    def _keys(self, _: bytes) -> bytes:
        cohort = self._cohort
        with self.clock.of("keys"):
            self._client = Client(
                cohort.terms,
                self._identity,
                self._certificate,
                self._trust,
                Floors(minimum_cohort=cohort.minimum, corrupt_fraction=FRACTION, ring=True),
            )
            return request(keys=self._client.keys())

    def _dealing(self, answer: bytes) -> bytes:
        with self.clock.of("roster, dealing"):
            roster = ExchangeResponse.FromString(answer).roster
            return request(dealing=self._client.deal(roster, NOW))

    def _vector(self, answer: bytes) -> bytes:
        cohort = self._cohort
        with self.clock.of("encoding"):
            tail = cohort.counters.encode({WEIGHT: self.weight})
            body = cohort.terms.encoding.encode(cohort.update, self.weight, Entropy())
        with self.clock.of("shares, masks, packing"):
            shares = ExchangeResponse.FromString(answer).shares
            masked = self._client.mask(shares, tail, body)
        assert not masked.accused
        return masked.data

    def _confirmation(self, answer: bytes) -> bytes:
        with self.clock.of("confirming"):
            survivors = ExchangeResponse.FromString(answer).survivors
            return request(confirmation=self._client.confirm(survivors))

    def _unmasking(self, answer: bytes) -> bytes:
        with self.clock.of("confirmations, unmasking"):
            confirmations = ExchangeResponse.FromString(answer).confirmations
            return request(unmasking=self._client.unmask(confirmations))


class Cohort:
    """Members with certificates of one authority, all with the same update and other weights.

    Args:
        setting: of the round.
        total: takes the masks off.
    """

    def __init__(self, setting: Setting, total: SecureSum) -> None:
        self.setting, self._sum = setting, total
        members = setting.members
        self.minimum = members // 2
        self.authority = Authority.create("the hospitals", BEGIN, END)
        made = (Identity(Ed25519PrivateKey.generate()) for _ in range(members))
        identities = sorted(made, key=lambda identity: identity.client_id)
        self.people = [
            (identity, self.authority.sign(identity.public_key, "a ward", BEGIN, END))
            for identity in identities
        ]
        told = SecureTerms(
            settings=SecureAggregation(
                graph=Graph.GRAPH_RING if setting.ring else Graph.GRAPH_COMPLETE,
                corrupt_fraction=FRACTION,
                drop_out_fraction=FRACTION,
                value_bits=VALUE_BITS,
                max_weight=MAX_WEIGHT,
                step_seconds=20,
            ),
            members=members,
            minimum=self.minimum,
        )
        self.counters = Counters(METRICS, members, private=False)
        self.terms = Terms.of(
            Assignment(
                job_id="job", round=1, training=Training(epochs=1), clip_norm=1.0, secure=told
            ),
            setting.parameters,
            len(self.counters),
        )
        update = np.random.default_rng(0).standard_normal(setting.parameters, np.float32)
        self.update = update / np.float32(1.001 * np.linalg.norm(update.astype(np.float64)))
        self.payload = packed_bytes(setting.parameters, self.terms.encoding.ring_bits)
        every = round(1 / FRACTION)
        self._staying = [place for place in range(members) if place % every != every - 1]
        self._trust = Trust(self.authority.certificate)
        self._said: dict[tuple[str, int], bytes] = {}

    def record(self, timed: int) -> list[Member]:
        """Run one round and keep the members' messages.

        Members that are not timed take the others' signatures for good: their messages are the same
        and come sooner.

        Args:
            timed: members that are, each with certificates it has seen before.
        """
        measured = {place: Member(self, place, self._warm()) for place in self._staying[-timed:]}
        others = {
            place: Member(self, place, self._trust)
            for place in range(self.setting.members)
            if place not in measured
        }

        def ask(step: str, place: int, answer: bytes) -> bytes:
            if place in measured:
                message = measured[place].say(step, answer)
            else:
                with mock.patch.object(statements, "signed", return_value=True):
                    message = others[place].say(step, answer)
            self._said[step, place] = message
            return message

        weights = {place: member.weight for place, member in (measured | others).items()}
        self._weight = sum(weights[place] for place in self._staying)
        self._serve(ask)
        return list(measured.values())

    def replay(self) -> Clock:
        """The coordinator's part with the messages of that round."""
        return self._serve(lambda step, place, _: self._said[step, place])

    def cold(self) -> float:
        """Processor seconds for certificates that were never seen, more than for seen ones."""
        trust, seconds = Trust(self.authority.certificate), []
        for _ in range(2):
            began = time.process_time()
            for _, certificate in self.people:
                trust.identity(certificate, NOW)
            seconds.append(time.process_time() - began)
        return seconds[0] - seconds[1]

    def _warm(self) -> Trust:
        trust = Trust(self.authority.certificate)
        for _, certificate in self.people:
            trust.identity(certificate, NOW)
        return trust

    def _serve(self, ask: Ask) -> Clock:
        """All that the coordinator does, timed between the bytes that come and go."""
        clock, server = Clock(), Server(self.terms, self._trust)
        everybody, staying = range(self.setting.members), self._staying
        ids = [identity.client_id for identity, _ in self.people]
        for place in everybody:
            said = ask("keys", place, b"")
            with clock.of("keys"):
                server.take_keys(ids[place], ExchangeRequest.FromString(said).keys, NOW)
        with clock.of("keys"):
            roster = server.close_keys()
        for place in everybody:
            with clock.of("rosters"):
                answer = response(roster=roster)
            said = ask("dealing", place, answer)
            with clock.of("dealings"):
                server.take_dealing(ids[place], ExchangeRequest.FromString(said).dealing)
        with clock.of("dealings"):
            server.close_dealings()
        vectors = []
        for place in everybody:
            with clock.of("shares"):
                answer = response(shares=server.shares(ids[place]))
            if place in staying:
                vectors.append(PackedArray(ask("vector", place, answer)))
                with clock.of("vectors"):
                    server.take_vector(ids[place], ())
        with clock.of("vectors"):
            survivors = server.close_vectors()
        for place in staying:
            with clock.of("survivors"):
                answer = response(survivors=survivors)
            said = ask("confirmation", place, answer)
            with clock.of("confirmations"):
                confirmation = ExchangeRequest.FromString(said).confirmation
                server.take_confirmation(ids[place], confirmation)
        with clock.of("confirmations"):
            server.close_confirmations()
        for place in staying:
            with clock.of("confirmations"):
                answer = response(confirmations=server.confirmations(ids[place]))
            said = ask("unmasking", place, answer)
            with clock.of("unmaskings"):
                server.take_unmasking(ids[place], ExchangeRequest.FromString(said).unmasking)
        with clock.of("secrets, masks"):
            masks = server.close_unmaskings()
        found = np.empty(self.setting.parameters, np.float32)
        with clock.of("sum"):
            sums = self._sum.open(self.terms, self.counters, vectors, *masks, ArrayBlocks(found))
        self._check(sums, found)
        return clock

    def _check(self, sums: dict[str, float], found: np.ndarray[Any, Any]) -> None:
        """The sum is right: rounding moves each of its parts by less than a step."""
        assert sums[WEIGHT] == self._weight
        wanted = self.update.astype(np.float64) * self._weight
        most = len(self._staying) * self.terms.encoding.step + 1e-6 * np.abs(wanted).max()
        assert np.abs(found - wanted).max() < most


def request(**step: Any) -> bytes:
    """A member's message as it travels."""
    return ExchangeRequest(assignment_id=ASSIGNMENT, **step).SerializeToString()


def response(**answer: Any) -> bytes:
    """The coordinator's."""
    return ExchangeResponse(**answer).SerializeToString()
