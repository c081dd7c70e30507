"""A round of secure aggregation: the real protocol, with fellow members beside the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from cloister_client.identity import Identity
from cloister_privacy.certificate import Authority, Trust
from cloister_privacy.client import Client
from cloister_privacy.counters import WEIGHT, Counters
from cloister_privacy.errors import OutOfStep
from cloister_privacy.floors import Floors
from cloister_privacy.keystream import Entropy
from cloister_privacy.packing import packed_bytes, unpack
from cloister_privacy.server import Server
from cloister_privacy.terms import Terms
from cloister_protos import (
    Assignment,
    Done,
    ExchangeRequest,
    ExchangeResponse,
    Graph,
    SecureAggregation,
    SecureTerms,
    Wait,
)

OURS = "the hospitals"
Lie = Callable[[ExchangeResponse, "MaskedRound"], None]


@cache
def authority(name: str = OURS, /) -> Authority:
    now = datetime.now(UTC)
    return Authority.create(name, now - timedelta(hours=1), now + timedelta(days=100))


def certificate(key: bytes, days: float = 90, of: str = OURS) -> bytes:
    """For a public key, DER."""
    signer = authority() if of == OURS else authority(of)
    return signer.sign(
        key, "ward", signer.certified.not_before, datetime.now(UTC) + timedelta(days=days)
    )


def secure_terms(**fields: Any) -> SecureTerms:
    """Of five members, three of which make a sum."""
    terms = SecureTerms(
        settings=SecureAggregation(
            graph=Graph.GRAPH_COMPLETE, value_bits=16, max_weight=64, step_seconds=20
        ),
        members=5,
        minimum=3,
    )
    terms.MergeFrom(SecureTerms(**fields))
    return terms


@dataclass
class Fellow:
    """Another member."""

    client_id: str
    client: Client
    tail: NDArray[np.uint64]
    body: NDArray[Any]
    """What it adds to the sum, in clear."""
    masked: bytes = b""


class MaskedRound:
    """What the scripted coordinator answers from; everybody else is always ready at once.

    Args:
        assignment: the device's.
        parameters: of the task.
        metrics: of the task.
        gone: for each step, the fellows (by number, from 0) that say nothing from there on.
    """

    def __init__(
        self,
        assignment: Assignment,
        parameters: int,
        metrics: Collection[str] = ("loss", "accuracy"),
        fellows: int = 4,
        gone: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        secure = assignment.secure
        self.assignment_id = assignment.assignment_id
        self.counters = Counters(list(metrics), secure.members, secure.private)
        self.terms = Terms.of(assignment, parameters, len(self.counters))
        self.lies: dict[str, Lie] = {}
        """By step: what is done to the answer."""
        self.waits: dict[str, int] = {}
        """By step: how often it is answered with `wait` first."""
        self.held = ""
        """The step that is never answered."""
        self.reached = threading.Event()
        """That step has come."""
        self.device = ""
        self.vector = b""
        self.accused: list[int] = []
        self.steps: list[str] = []
        """That the device took, without repetitions."""
        self._answers: dict[str, ExchangeResponse] = {}
        self._said: dict[str, ExchangeRequest] = {}
        self._gone = {step: set(who) for step, who in (gone or {}).items()}
        self._trust = Trust(authority().certificate)
        self._server = Server(self.terms, self._trust)
        self._lock = threading.Lock()
        rng = np.random.default_rng(5)
        self.fellows = [self._fellow(rng) for _ in range(fellows)]
        self._left = list(self.fellows)

    # The coordinator's part

    def exchange(self, request: ExchangeRequest, context: Any) -> ExchangeResponse:
        step = str(request.WhichOneof("step"))
        if step == self.held:
            self.reached.set()
            while context.is_active():
                threading.Event().wait(0.01)
            context.abort(grpc.StatusCode.CANCELLED, "gone")
        with self._lock:
            if self.waits.get(step, 0) > 0:
                self.waits[step] -= 1
                return ExchangeResponse(wait=Wait())
            if step not in self._answers:
                try:
                    self._answers[step] = getattr(self, f"_{step}")(getattr(request, step))
                except OutOfStep as error:
                    context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
                self._said[step] = request
                self.steps.append(step)
                if step in self.lies:
                    self.lies[step](self._answers[step], self)
            if self._said[step] != request:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this step is over")
            return self._answers[step]

    def take_vector(self, data: bytes, accused: Collection[int]) -> None:
        with self._lock:
            self.vector, self.accused = data, list(accused)
            self._server.take_vector(self.device, self.accused)

    def _keys(self, keys: Any) -> ExchangeResponse:
        self.device = self._id(keys.certificate)
        self._server.take_keys(self.device, keys, time.time())
        for fellow in self._still("keys"):
            self._server.take_keys(fellow.client_id, fellow.client.keys(), time.time())
        self.roster = self._server.close_keys()
        return ExchangeResponse(roster=self.roster)

    def _dealing(self, dealing: Any) -> ExchangeResponse:
        self._server.take_dealing(self.device, dealing)
        for fellow in self._still("dealing"):
            dealt = fellow.client.deal(self.roster, time.time())
            self._server.take_dealing(fellow.client_id, dealt)
        self._server.close_dealings()
        return ExchangeResponse(shares=self._server.shares(self.device))

    def _ready(self, _: Any) -> ExchangeResponse:
        for fellow in self._still("ready"):
            shares = self._server.shares(fellow.client_id)
            masked = fellow.client.mask(shares, fellow.tail.copy(), fellow.body.copy())
            fellow.masked = masked.data
            self._server.take_vector(fellow.client_id, masked.accused)
        self._survivors = self._server.close_vectors()
        return ExchangeResponse(survivors=self._survivors)

    def _confirmation(self, confirmation: Any) -> ExchangeResponse:
        self._server.take_confirmation(self.device, confirmation)
        for fellow in self._still("confirmation"):
            confirmed = fellow.client.confirm(self._survivors)
            self._server.take_confirmation(fellow.client_id, confirmed)
        self._server.close_confirmations()
        return ExchangeResponse(confirmations=self._server.confirmations(self.device))

    def _unmasking(self, unmasking: Any) -> ExchangeResponse:
        self._server.take_unmasking(self.device, unmasking)
        for fellow in self._still("unmasking"):
            told = self._server.confirmations(fellow.client_id)
            self._server.take_unmasking(fellow.client_id, fellow.client.unmask(told))
        return ExchangeResponse(done=Done())

    # What comes of it

    def of_the_device(self) -> tuple[dict[str, float], NDArray[np.int64]]:
        """The device's counters and integers: the sum of all less what the fellows put in."""
        tail_mask, body_mask = self._server.close_unmaskings()
        received = [fellow for fellow in self.fellows if fellow.masked]
        tail, body = -tail_mask, -body_mask
        for data in (self.vector, *(fellow.masked for fellow in received)):
            one, other = self._split(data)
            tail, body = tail + one, body + other
        for fellow in received:
            tail, body = tail - fellow.tail, body - fellow.body
        encoding = self.terms.encoding
        modulus = 1 << encoding.ring_bits
        ring = body.astype(np.uint64).astype(np.int64) % modulus
        signed = np.where(ring >= modulus // 2, ring - modulus, ring)
        return self.counters.decode(tail), signed

    @property
    def place(self) -> int:
        """The device's, in the roster."""
        return [self._id(keys.certificate) for keys in self.roster.members].index(self.device)

    def _split(self, data: bytes) -> tuple[NDArray[np.uint64], NDArray[Any]]:
        at, size, bits = 8 * self.terms.counters, self.terms.parameters, 0
        if size:
            bits = self.terms.encoding.ring_bits
            assert len(data) == at + packed_bytes(size, bits)
            return np.frombuffer(data[:at], "<u8"), unpack(data[at:], size, bits)
        return np.frombuffer(data, "<u8"), np.zeros(0, np.uint32)

    def _fellow(self, rng: np.random.Generator) -> Fellow:
        identity = Identity(Ed25519PrivateKey.generate())
        encoding = self.terms.encoding
        update = rng.uniform(-0.01, 0.01, self.terms.parameters).astype(np.float32)
        weight = int(rng.integers(1, encoding.max_weight + 1))
        client = Client(
            self.terms, identity, certificate(identity.public_key), self._trust, Floors()
        )
        return Fellow(
            identity.client_id,
            client,
            self.counters.encode({WEIGHT: weight}),
            encoding.encode(update, weight, Entropy()) if len(update) else np.zeros(0, np.uint32),
        )

    def _still(self, step: str) -> list[Fellow]:
        gone = self._gone.get(step, set())
        self._left = [f for f in self._left if self.fellows.index(f) not in gone]
        return self._left

    def _id(self, der: bytes) -> str:
        return self._trust.certified(der).client_id
