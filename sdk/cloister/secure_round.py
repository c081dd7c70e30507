"""Secure aggregation of a simulation's rounds: all members and the coordinator in one process.

Every message of the protocol is made and checked by the cores that a deployment runs; only the wire
between them is missing. Authority and identities are made for the simulation and forgotten with it.
The keys of a round are as random as on a device: the sum depends on none of them, so a simulation
repeats.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from cloister.gathering import Exit, Gathered, Report
from cloister.history import Score
from cloister.local_states import room
from cloister_client.identity import Identity
from cloister_coordinator.blocks import ArrayBlocks, PackedArray
from cloister_coordinator.protection import counters, secure_terms
from cloister_coordinator.secure_sum import SecureSum, central_noise
from cloister_privacy.certificate import Authority, Trust
from cloister_privacy.client import Client
from cloister_privacy.contribution import contribution, weight
from cloister_privacy.counters import EXAMPLES, TRAINED_ROWS, UNCLIPPED, WEIGHT
from cloister_privacy.errors import Unrecoverable
from cloister_privacy.floors import Floors
from cloister_privacy.keystream import Entropy
from cloister_privacy.packing import packed_bytes
from cloister_privacy.server import Server
from cloister_privacy.terms import Terms
from cloister_protos import Assignment, Blob, JobSpec, Role, Training
from cloister_protos import Module as ModuleMessage
from cloister_sandbox import SandboxPool
from cloister_tasks import Module

F32 = NDArray[np.float32]

_BEGIN, _END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC)
_NOW = _BEGIN.timestamp()
"""There is no clock in a simulation: it is always the same moment."""
_FLOORS = Floors(minimum_cohort=2, ring=True)
"""What a simulated device insists on: what the job promises, and no more."""


class SecureRounds:
    """See Gatherings.

    Args:
        spec: a checked job.
        pool: where sandboxes come from.
        workers: sandboxes at once.
    """

    steps = (Exit.KEYS, Exit.VECTOR, Exit.CONFIRMATION, Exit.UNMASKING)

    def __init__(
        self,
        spec: JobSpec,
        task: Module,
        aggregation: Module,
        pool: SandboxPool,
        workers: int,
    ) -> None:
        self.spec = spec
        self.terms = secure_terms(spec)
        self.counters = counters(self.terms, task.manifest)
        self.parameters = task.manifest.parameter_count
        self.sum = SecureSum(pool, workers)
        self._task, self._aggregation = task, aggregation
        metrics = task.manifest.of(Role.ROLE_METRIC)
        self._training_sums = [f"training {buffer.name}" for buffer in metrics]
        authority = Authority.create("a simulation", _BEGIN, _END)
        self.trust = Trust(authority.certificate)

        @cache
        def identity(client: str) -> tuple[Identity, bytes]:
            """Of a virtual client, with its certificate; made when first asked for.

            It follows from the seed, and so does the order of the roster.
            """
            key = self.entropy(0, client).bytes(32)
            made = Identity(Ed25519PrivateKey.from_private_bytes(key))
            return made, authority.sign(made.public_key, "virtual client", _BEGIN, _END)

        self.identity = identity

    def begin(
        self, number: int, version: int, model: F32, training: Training, clip_norm: float
    ) -> SecureRound:
        """See Gatherings."""
        blob = Blob(digest=hashlib.sha256(model.astype("<f4").data).digest(), size=model.nbytes)
        assignment = Assignment(
            job_id="simulation",
            round=number,
            base_version=version,
            task=_module(self._task),
            aggregation=_module(self._aggregation),
            model=blob,
            training=training,
            weighting=self.spec.weighting,
            clip_norm=clip_norm,
            secure=self.terms,
        )
        terms = Terms.of(assignment, self.parameters, len(self.counters))
        return SecureRound(self, terms, number)

    def counts(self, report: Report, weight: int) -> dict[str, float]:
        """The counters of a report, by name."""
        return {
            WEIGHT: weight,
            UNCLIPPED: report.unclipped,
            EXAMPLES: report.examples,
            TRAINED_ROWS: report.trained_rows,
            **dict(zip(self._training_sums, report.sums.tolist(), strict=True)),
        }

    def score(self, sums: Mapping[str, float]) -> Score:
        """The metrics in counters' sums; empty under differential privacy."""
        if self.terms.private:
            return Score(0, {})
        found = np.array([sums[name] for name in self._training_sums])
        return Score.of(self._task.manifest, found, int(sums[TRAINED_ROWS]))

    def entropy(self, number: int, client: str) -> Entropy:
        """What a client rounds and makes noise with; or the coordinator, which is "".

        A device, and a real coordinator, take it from the operating system. Here it follows from
        the seed, so that a simulation can be repeated.
        """
        words = struct.pack("<2Q", self.spec.seed, number) + client.encode()
        return Entropy(hashlib.sha256(b"cloister simulation v1\0" + words).digest())


class SecureRound:
    """See Gathering.

    Args:
        rounds: of one simulation.
        terms: what all members are told.
        number: of this round.
    """

    def __init__(self, rounds: SecureRounds, terms: Terms, number: int) -> None:
        self._rounds, self._terms, self._number = rounds, terms, number
        self._server = Server(terms, rounds.trust)
        self._clients: dict[str, Client] = {}
        self._vectors: dict[str, NDArray[np.uint8]] = {}

    def join(self, exits: Mapping[str, Exit]) -> None:
        """See Gathering: members exchange keys and deal their shares."""
        self._exits = exits
        with self._naming():
            self._join(exits)

    def _join(self, exits: Mapping[str, Exit]) -> None:
        server, trust = self._server, self._rounds.trust
        for member in exits:
            if exits[member] > Exit.KEYS:
                identity, certificate = self._rounds.identity(member)
                client = Client(self._terms, identity, certificate, trust, _FLOORS)
                server.take_keys(identity.client_id, client.keys(), _NOW)
                self._clients[member] = client
        roster = server.close_keys()
        for member, client in self._clients.items():
            server.take_dealing(self._id(member), client.deal(roster, _NOW))
        server.close_dealings()
        self._room = room(len(self._clients), self._vector_bytes)

    def hand_in(self, member: str, report: Report) -> None:
        """See Gathering: encode the update and the counters, mask them, and hand them in."""
        rounds, terms = self._rounds, self._terms
        entropy = rounds.entropy(self._number, member)
        counts = weight(terms, rounds.spec.weighting, report.examples)
        values = rounds.counts(report, counts)
        vector = contribution(terms, rounds.counters, report.update, values, entropy)
        shares = self._server.shares(self._id(member))
        masked = self._clients[member].mask(shares, *vector)
        self._server.take_vector(self._id(member), masked.accused)
        # in a file when they are large, as updates are
        kept = self._room[len(self._vectors)]
        kept[:] = np.frombuffer(masked.data, np.uint8)
        self._vectors[member] = kept

    def gather(self) -> Gathered:
        """See Gathering: members confirm each other and reveal shares, and the masks come off."""
        with self._naming():
            return self._gather()

    def _gather(self) -> Gathered:
        server, rounds, terms = self._server, self._rounds, self._terms
        survivors = server.close_vectors()
        for member in self._left(Exit.CONFIRMATION):
            server.take_confirmation(self._id(member), self._clients[member].confirm(survivors))
        server.close_confirmations()
        for member in self._left(Exit.UNMASKING):
            told = server.confirmations(self._id(member))
            server.take_unmasking(self._id(member), self._clients[member].unmask(told))
        masks = server.close_unmaskings()
        privacy, entropy = rounds.spec.differential_privacy, rounds.entropy(self._number, "")
        central_noise(privacy, terms, rounds.counters, *masks, entropy)
        vectors = [PackedArray(vector) for vector in self._vectors.values()]
        total = np.empty(terms.parameters, np.float32)
        sums = rounds.sum.open(terms, rounds.counters, vectors, *masks, ArrayBlocks(total))
        clipped = 0 if terms.secure.private else len(vectors) - int(sums[UNCLIPPED])
        return Gathered([total], np.ones(1), sums[WEIGHT], rounds.score(sums), clipped, sums)

    def _left(self, step: Exit) -> list[str]:
        """Members with a vector that take this step."""
        return [member for member in self._vectors if self._exits[member] > step]

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Whoever is to blame is called as in the simulation."""
        try:
            yield
        except Unrecoverable as error:
            text = str(error)
            for member in self._clients:
                text = text.replace(self._id(member), member)
            raise Unrecoverable(text) from error

    def _id(self, member: str) -> str:
        """What the protocol calls a member: by its key."""
        return self._rounds.identity(member)[0].client_id

    @property
    def _vector_bytes(self) -> int:
        terms = self._terms
        return 8 * terms.counters + packed_bytes(terms.parameters, terms.encoding.ring_bits)


def _module(module: Module) -> ModuleMessage:
    return ModuleMessage(blob=Blob(digest=module.digest, size=len(module.data)))
