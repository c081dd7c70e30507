"""A member's side of secure aggregation: messages in, messages out.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning" (CCS 2017),
figure 4, with the steps against a malicious server; the sparse graph is that of Bell et al.,
"Secure single-server aggregation with (poly)logarithmic overhead" (CCS 2020).

The two rules: a member reveals a share of an owner's self-mask or of its mask key, never of both;
and it reveals anything only for survivors that enough members have confirmed with their signature.
Whatever goes wrong, its secrets are forgotten and it says no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cloister_privacy import shamir, statements
from cloister_privacy.agreement import KeyPair, derive, seal, unseal
from cloister_privacy.certificate import BadCertificate, Trust
from cloister_privacy.errors import BadMessage, BadRoster, BadSurvivors, OutOfStep
from cloister_privacy.floors import Floors
from cloister_privacy.graph import Graph
from cloister_privacy.keystream import Entropy, add_masks
from cloister_privacy.packing import pack
from cloister_privacy.shamir import SHARE_BYTES
from cloister_privacy.statements import (
    COMMITTED_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    SIGNATURE_BYTES,
    pieces,
)
from cloister_privacy.terms import Terms
from cloister_protos import (
    Confirmation,
    Confirmations,
    Dealing,
    Keys,
    Roster,
    Shares,
    Survivors,
    Unmasking,
)


class Signer(Protocol):
    """A device's identity."""

    @property
    def public_key(self) -> bytes:
        """Ed25519 public key, 32 bytes."""

    def sign(self, statement: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""


class Step(Enum):
    """Where a member stands."""

    NEW = auto()
    KEYED = auto()
    DEALT = auto()
    MASKED = auto()
    CONFIRMED = auto()
    DONE = auto()
    ABORTED = auto()


TRANSITIONS: dict[str, tuple[Step, Step]] = {
    "keys": (Step.NEW, Step.KEYED),
    "deal": (Step.KEYED, Step.DEALT),
    "mask": (Step.DEALT, Step.MASKED),
    "confirm": (Step.MASKED, Step.CONFIRMED),
    "unmask": (Step.CONFIRMED, Step.DONE),
}
"""From which step each call leads to which; all others raise OutOfStep and change nothing."""


@dataclass(frozen=True)
class Masked:
    """A vector that may leave."""

    data: bytes
    """The tail, 8 bytes a word, then the body, packed."""
    accused: tuple[int, ...]
    """Places in the roster of members whose shares for this one cannot be opened."""


class Client:
    """One member in one round; good for one sum.

    Args:
        terms: what it was told.
        signer: its identity.
        certificate: of that identity, DER.
        trust: in the authority whose certificates make a member.
        floors: what its owner insists on.

    Raises:
        BelowFloor: the terms offer less.
    """

    def __init__(
        self, terms: Terms, signer: Signer, certificate: bytes, trust: Trust, floors: Floors
    ) -> None:
        floors.check_terms(terms)
        self.step = Step.NEW
        self._terms, self._signer, self._trust, self._floors = terms, signer, trust, floors
        self._certificate = certificate
        self._share_keys: KeyPair | None = KeyPair.generate()
        self._mask_keys: KeyPair | None = KeyPair.generate()
        self._seed = bytearray(Entropy().bytes(KEY_BYTES))
        self._held: dict[int, bytes] = {}
        self._own: Keys | None = None

    def keys(self) -> Keys:
        """Step 0: this member's keys for the round."""
        with self._taking("keys"):
            assert self._share_keys is not None
            assert self._mask_keys is not None
            own = Keys(
                certificate=self._certificate,
                share_key=self._share_keys.public,
                mask_key=self._mask_keys.public,
            )
            own.signature = self._signer.sign(statements.keys(self._terms, own))
            self._own = own
            return own

    def deal(self, roster: Roster, now: float) -> Dealing:
        """Step 1: shares of this member's secrets, for the members of `roster`.

        Args:
            now: seconds since the Unix epoch; certificates have to be valid then.

        Raises:
            BadRoster: a member's keys, certificate or signature cannot be right.
            BelowFloor: too few members, or too sparse a graph or low a threshold.
        """
        with self._taking("deal"):
            self._read(roster, now)
            points = np.array([place + 1 for place in self._near], np.int64)
            assert self._mask_keys is not None
            shares = shamir.split(
                [bytes(self._seed), self._mask_keys.private],
                self._threshold,
                points,
                Entropy(),
            )
            pairs = np.concatenate(
                [shamir.encode(shares[:, 0]), shamir.encode(shares[:, 1])], axis=1
            )
            dealing = Dealing(seed_commitment=statements.seed_commitment(bytes(self._seed)))
            sealed, commitments = [], []
            for place, row in zip(self._near, pairs, strict=True):
                pair = row.tobytes()
                commitments.append(_commitments(pair))
                if place == self._place:
                    self._held[place] = pair
                else:
                    key = self._sealing_key(place, b"seal", self._place, place)
                    sealed.append(seal(key, pair, statements.sealed_to(self._place, place)))
            dealing.sealed = b"".join(sealed)
            dealing.commitments = b"".join(commitments)
            dealing.signature = self._signer.sign(statements.dealing(self._session, dealing))
            return dealing

    def mask(self, shares: Shares, tail: NDArray[np.uint64], body: NDArray[Any]) -> Masked:
        """Step 2: this member's vector, masked; `tail` and `body` are masked in place.

        Args:
            shares: what the others dealt to this member.
            tail: uint64 (counters,).
            body: integers modulo 2^ring_bits, (parameters,), of the encoding's dtype.

        Raises:
            BadMessage, BelowFloor: the dealers cannot be right, or are too few.
        """
        with self._taking("mask"):
            terms = self._terms
            assert len(tail) == terms.counters
            assert len(body) == terms.parameters
            self._dealers = self._places(shares.dealers, "the dealers")
            if self._place not in self._dealers:
                raise BadMessage("this member's dealing is left out")
            near = self._among(self._dealers)
            if len(near) < self._threshold or len(self._dealers) < self._minimum:
                raise BadMessage(f"{len(self._dealers)} members dealt, too few for a sum")
            accused = self._open(shares, [place for place in near if place != self._place])
            add_masks(tail, body, [(bytes(self._seed), 1), *self._mask_signs(near)])
            bits = terms.encoding.ring_bits if terms.parameters else 1
            packed = pack(body, bits) if terms.parameters else b""
            return Masked(tail.astype("<u8").tobytes() + packed, tuple(accused))

    def confirm(self, survivors: Survivors) -> Confirmation:
        """Step 3: this member's signature on who dealt and who survived.

        Raises:
            BadSurvivors: not a part of the dealers with this member in it, or too few.
        """
        with self._taking("confirm"):
            self._survivors = self._places(survivors.survivors, "the survivors")
            known = set(self._dealers)
            if not known.issuperset(self._survivors):
                raise BadSurvivors("a survivor dealt no shares")
            if self._place not in self._survivors:
                raise BadSurvivors("this member's vector is left out")
            if len(self._survivors) < self._minimum:
                raise BadSurvivors(f"{len(self._survivors)} survivors, of at least {self._minimum}")
            if len(self._among(self._survivors)) < self._threshold:
                raise BadSurvivors("fewer survivors than it takes to bring back a secret")
            return Confirmation(signature=self._signer.sign(self._survivor_statement))

    def unmask(self, confirmations: Confirmations) -> Unmasking:
        """Step 4: the shares by which the sum's masks can be taken off.

        Raises:
            BadSurvivors: not enough members confirmed the same dealers and survivors.
        """
        with self._taking("unmask"):
            places = self._places(confirmations.members, "those who confirmed")
            if len(confirmations.signatures) != SIGNATURE_BYTES * len(places):
                raise BadMessage("not one signature for each who confirmed")
            if not set(self._among(self._survivors)).issuperset(places):
                raise BadSurvivors("somebody confirmed who is no survivor near this member")
            if len(places) < self._threshold:
                raise BadSurvivors(
                    f"{len(places)} members confirmed the survivors, of {self._threshold}"
                )
            statement = self._survivor_statement
            for place, signature in zip(
                places, pieces(confirmations.signatures, SIGNATURE_BYTES), strict=True
            ):
                if not statements.signed(self._identities[place], signature, statement):
                    raise BadSurvivors(
                        f"{self._name(place)} was not told of the same dealers and survivors"
                    )
            alive = set(self._survivors)
            revealed, missing = [], []
            for place in self._among(self._dealers):
                pair = self._held.get(place)
                if pair is None:
                    missing.append(place)
                    revealed.append(bytes(SHARE_BYTES))
                elif place in alive:
                    revealed.append(pair[:SHARE_BYTES])
                else:
                    revealed.append(pair[SHARE_BYTES:])
            self._forget()
            return Unmasking(shares=b"".join(revealed), missing=missing)

    def abort(self) -> None:
        """Forget all secrets; nothing more can be said in this round."""
        if self.step is not Step.DONE:
            self.step = Step.ABORTED
        self._forget()

    # What the steps are made of

    @contextmanager
    def _taking(self, call: str) -> Iterator[None]:
        """One step, or the end of this member's part in the round."""
        before, after = TRANSITIONS[call]
        if self.step is not before:
            raise OutOfStep(f"{call} is not the step after {self.step.name}")
        try:
            yield
        except BaseException:
            self.abort()
            raise
        self.step = after

    def _read(self, roster: Roster, now: float) -> None:
        """Check a roster, and take it as that of this round."""
        members = roster.members
        if not 2 <= len(members) <= self._terms.secure.members:
            raise BadRoster(f"{len(members)} members, of at most {self._terms.secure.members}")
        self._floors.check_graph(self._terms, len(members), roster.degree, roster.threshold)
        self._threshold = roster.threshold
        self._minimum = max(self._terms.secure.minimum, self._floors.minimum_cohort)
        self._roster = members
        self._identities = [self._identity(place, now) for place in range(len(members))]
        ids = [statements.client_id(identity) for identity in self._identities]
        if any(a >= b for a, b in pairwise(ids)):
            raise BadRoster("the members are not in ascending order, each once")
        if self._signer.public_key not in self._identities:
            raise BadRoster("this member is not in it")
        self._place = self._identities.index(self._signer.public_key)
        if members[self._place] != self._own:
            raise BadRoster("this member's keys are not those it sent")
        keys = [key for member in members for key in (member.share_key, member.mask_key)]
        if len(set(keys)) != len(keys):
            raise BadRoster("a key occurs twice")
        self._session = statements.session(self._terms, roster)
        graph = Graph(len(members), roster.degree, self._session)
        self._near = sorted({self._place, *graph.neighbours(self._place)})
        for place in self._near:
            self._check_keys(place)

    def _identity(self, place: int, now: float) -> bytes:
        try:
            return self._trust.identity(self._roster[place].certificate, now)
        except BadCertificate as error:
            raise BadRoster(f"member {place} has no valid certificate: {error}") from error

    def _check_keys(self, place: int) -> None:
        keys = self._roster[place]
        if len(keys.share_key) != KEY_BYTES or len(keys.mask_key) != KEY_BYTES:
            raise BadRoster(f"{self._name(place)} has keys of another length")
        statement = statements.keys(self._terms, keys)
        if not statements.signed(self._identities[place], keys.signature, statement):
            raise BadRoster(
                f"{self._name(place)} did not sign these keys for what this member was told:"
                " another model, task or setting, or keys that are not its own"
            )

    def _open(self, shares: Shares, near: Sequence[int]) -> list[int]:
        """Keep the pairs that were dealt to this member; those whose pairs are no good."""
        if len(shares.sealed) != SEALED_BYTES * len(near):
            raise BadMessage("not one sealed pair of shares for each neighbour who dealt")
        if len(shares.commitments) != COMMITTED_BYTES * len(near):
            raise BadMessage("not one pair of commitments for each neighbour who dealt")
        accused = []
        for place, sealed, committed in zip(
            near,
            pieces(shares.sealed, SEALED_BYTES),
            pieces(shares.commitments, COMMITTED_BYTES),
            strict=True,
        ):
            key = self._sealing_key(place, b"seal", place, self._place)
            try:
                pair = unseal(key, sealed, statements.sealed_to(place, self._place))
            except ValueError:
                accused.append(place)
                continue
            if _commitments(pair) == committed:
                self._held[place] = pair
            else:
                accused.append(place)
        return accused

    def _mask_signs(self, near: Sequence[int]) -> list[tuple[bytes, int]]:
        """The keys of the masks shared with neighbours; the lower place adds, the other takes."""
        return [
            (
                self._agreed(self._mask_keys, self._roster[place].mask_key, b"mask", *pair),
                1 if self._place < place else -1,
            )
            for place in near
            if place != self._place
            for pair in [(min(place, self._place), max(place, self._place))]
        ]

    def _sealing_key(self, place: int, purpose: bytes, dealer: int, holder: int) -> bytes:
        peer = self._roster[place].share_key
        return self._agreed(self._share_keys, peer, purpose, dealer, holder)

    def _agreed(
        self, own: KeyPair | None, peer: bytes, purpose: bytes, first: int, second: int
    ) -> bytes:
        assert own is not None
        try:
            shared = own.exchange(peer)
        except ValueError as error:
            raise BadRoster("a key of a member is none of X25519") from error
        a, b = self._identities[first], self._identities[second]
        return derive(shared, self._session, purpose, a, b)

    def _places(self, found: Sequence[int], what: str) -> tuple[int, ...]:
        places = tuple(found)
        if any(a >= b for a, b in pairwise(places)) or (places and places[-1] >= len(self._roster)):
            raise BadMessage(f"{what} are not places of the roster in ascending order")
        return places

    def _among(self, places: Sequence[int]) -> list[int]:
        """Those of `places` that this member shares secrets with, itself included."""
        known = set(places)
        return [place for place in self._near if place in known]

    @property
    def _survivor_statement(self) -> bytes:
        return statements.survivors(self._session, self._dealers, self._survivors)

    def _name(self, place: int) -> str:
        return statements.client_id(self._identities[place])

    def _forget(self) -> None:
        self._seed[:] = bytes(len(self._seed))
        self._share_keys = self._mask_keys = None
        self._held.clear()


def _commitments(pair: bytes) -> bytes:
    return statements.share_commitment(pair[:SHARE_BYTES]) + statements.share_commitment(
        pair[SHARE_BYTES:]
    )


__all__ = ["Client", "Masked", "Signer", "Step"]
