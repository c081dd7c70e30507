"""The coordinator's side of secure aggregation: it relays, and learns the sum of the masks.

Members' messages in, what to tell them out; see `client` for the protocol. What a member sends is
checked when it comes, so that whoever errs is named and left out instead of everybody else leaving.
At the end the survivors' self-masks and the masks that members who dropped out left behind are
computed from revealed shares. Every secret that is brought back is held against what its owner
committed to, so a wrong sum is never given out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_privacy import shamir, statements
from cloister_privacy.agreement import KeyPair, derive
from cloister_privacy.certificate import BadCertificate, Trust
from cloister_privacy.errors import Misbehaved, OutOfStep, Unrecoverable
from cloister_privacy.graph import Graph
from cloister_privacy.keystream import add_masks
from cloister_privacy.parameters import plan
from cloister_privacy.shamir import SHARE_BYTES
from cloister_privacy.statements import (
    COMMITTED_BYTES,
    HASH_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
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
from cloister_protos import Graph as GraphKind


class Phase(Enum):
    """What members are sending."""

    KEYS = auto()
    DEALINGS = auto()
    VECTORS = auto()
    CONFIRMATIONS = auto()
    UNMASKINGS = auto()
    OVER = auto()


@dataclass(frozen=True)
class _Dealt:
    """What counts of a dealing; a message's field would be copied as a whole at every look."""

    sealed: bytes
    commitments: bytes
    seed_commitment: bytes


class Server:
    """One round's secure aggregation.

    Phases follow each other in the order of `Phase`; each `close` method ends one, by the driver's
    clock or because everybody has sent. Events of another phase raise OutOfStep and change nothing.

    Args:
        terms: what all members are told.
        trust: in the authority whose certificates make a member.
        layout: from the number of members to their neighbours and threshold; by default, what the
            terms ask for.
    """

    def __init__(
        self, terms: Terms, trust: Trust, layout: Callable[[int], tuple[int, int]] | None = None
    ) -> None:
        self.phase = Phase.KEYS
        self.accusations: dict[str, list[str]] = {}
        """Members whose shares could not be opened, with those who say so."""
        self._terms, self._trust = terms, trust
        self._layout = layout or partial(_layout, terms)
        self._probe = KeyPair.generate()
        self._keys: dict[str, Keys] = {}
        self._identities: dict[str, bytes] = {}
        self._dealings: dict[int, _Dealt] = {}
        self._survivors: set[int] = set()
        self._confirmations: dict[int, bytes] = {}
        self._revealed: dict[int, dict[int, bytes]] = {}

    @property
    def present(self) -> frozenset[str]:
        """Client ids of those whose part in the running phase has come."""
        parts: Mapping[Phase, Iterable[int]] = {
            Phase.DEALINGS: self._dealings,
            Phase.VECTORS: self._survivors,
            Phase.CONFIRMATIONS: self._confirmations,
            Phase.UNMASKINGS: self._revealed,
        }
        if self.phase is Phase.KEYS:
            return frozenset(self._keys)
        return frozenset(self._ids[place] for place in parts.get(self.phase, ()))

    # Keys

    def take_keys(self, member: str, keys: Keys, now: float) -> None:
        """Step 0. `now` is in seconds since the Unix epoch.

        Raises:
            Misbehaved: no valid certificate of this member, or not signed for these terms.
        """
        self._expect(Phase.KEYS)
        try:
            identity = self._trust.identity(keys.certificate, now)
        except BadCertificate as error:
            raise Misbehaved(member, f"has no valid certificate: {error}") from error
        if statements.client_id(identity) != member:
            raise Misbehaved(member, "sent another member's certificate")
        if len(keys.share_key) != KEY_BYTES or len(keys.mask_key) != KEY_BYTES:
            raise Misbehaved(member, "sent keys of another length")
        try:
            for key in (keys.share_key, keys.mask_key):
                self._probe.exchange(key)
        except ValueError as error:
            raise Misbehaved(member, "sent a key that shares no secret") from error
        if not statements.signed(identity, keys.signature, statements.keys(self._terms, keys)):
            raise Misbehaved(member, "did not sign its keys for this round's terms")
        self._keys[member] = keys
        self._identities[member] = identity

    def close_keys(self) -> Roster:
        """Who takes part.

        Raises:
            Unrecoverable: too few.
        """
        self._expect(Phase.KEYS)
        self._ids = sorted(self._keys)
        count, least = len(self._ids), max(2, self._terms.secure.minimum)
        if count < least:
            self.phase = Phase.OVER
            raise Unrecoverable(f"{count} of at least {least} members sent keys")
        try:
            degree, threshold = self._layout(count)
        except ValueError as error:
            self.phase = Phase.OVER
            raise Unrecoverable(str(error)) from error
        self._threshold = threshold
        self._places = {member: place for place, member in enumerate(self._ids)}
        self.roster = Roster(
            members=[self._keys[member] for member in self._ids],
            degree=degree,
            threshold=threshold,
        )
        self._session = statements.session(self._terms, self.roster)
        graph = Graph(count, degree, self._session)
        self._near = [sorted({p, *graph.neighbours(p)}) for p in range(count)]
        self.phase = Phase.DEALINGS
        return self.roster

    # Dealings

    def take_dealing(self, member: str, dealing: Dealing) -> None:
        """Step 1.

        Raises:
            Misbehaved: another length than asked for, or not signed by this member.
        """
        self._expect(Phase.DEALINGS)
        place = self._place(member)
        near = len(self._near[place])
        dealt = _Dealt(dealing.sealed, dealing.commitments, dealing.seed_commitment)
        if (
            len(dealt.sealed) != SEALED_BYTES * (near - 1)
            or len(dealt.commitments) != COMMITTED_BYTES * near
            or len(dealt.seed_commitment) != HASH_BYTES
        ):
            raise Misbehaved(member, "dealt shares of another length or number")
        statement = statements.dealing(self._session, dealing)
        if not statements.signed(self._identities[member], dealing.signature, statement):
            raise Misbehaved(member, "did not sign its dealing")
        self._dealings[place] = dealt

    def close_dealings(self) -> None:
        """Who deals, deals now.

        Raises:
            Unrecoverable: too few.
        """
        self._expect(Phase.DEALINGS)
        self._enough(self._dealings, "dealt shares")
        self._dealers = sorted(self._dealings)
        self.phase = Phase.VECTORS

    def shares(self, member: str) -> Shares:
        """What was dealt to a member that dealt itself."""
        holder = self._place(member)
        sealed, commitments = [], []
        for dealer in self._near[holder]:
            dealt = self._dealings.get(dealer)
            if dealt is None or dealer == holder:
                continue
            at = self._index(dealer, holder)
            commitments.append(_record(dealt.commitments, at, COMMITTED_BYTES))
            at -= dealer < holder  # nothing is sealed to oneself
            sealed.append(_record(dealt.sealed, at, SEALED_BYTES))
        return Shares(
            dealers=self._dealers,
            sealed=b"".join(sealed),
            commitments=b"".join(commitments),
        )

    # Vectors

    def take_vector(self, member: str, accused: Sequence[int]) -> None:
        """Step 2: a member's masked vector has come, which is kept elsewhere.

        Raises:
            Misbehaved: it dealt no shares, or accuses who dealt it none.
        """
        self._expect(Phase.VECTORS)
        place = self._place(member)
        if place not in self._dealings:
            raise Misbehaved(member, "sent a vector without dealing shares")
        accusing = set(accused)
        if not accusing <= self._dealings.keys() & set(self._near[place]) - {place}:
            raise Misbehaved(member, "accuses members that dealt it nothing")
        self._survivors.add(place)
        for dealer in sorted(accusing):
            accusers = self.accusations.setdefault(self._ids[dealer], [])
            if member not in accusers:  # it may say so twice
                accusers.append(member)

    def close_vectors(self) -> Survivors:
        """Whose vectors make up the sum.

        Raises:
            Unrecoverable: too few.
        """
        self._expect(Phase.VECTORS)
        self._enough(self._survivors, "sent their vectors")
        self.phase = Phase.CONFIRMATIONS
        return Survivors(survivors=sorted(self._survivors))

    # Confirmations

    def take_confirmation(self, member: str, confirmation: Confirmation) -> None:
        """Step 3.

        Raises:
            Misbehaved: its signature is on something else.
        """
        self._expect(Phase.CONFIRMATIONS)
        place = self._place(member)
        statement = statements.survivors(self._session, self._dealers, sorted(self._survivors))
        signature = confirmation.signature
        if place not in self._survivors or not statements.signed(
            self._identities[member], signature, statement
        ):
            raise Misbehaved(member, "did not confirm the survivors it was told of")
        self._confirmations[place] = signature

    def close_confirmations(self) -> None:
        """Those who confirmed may be asked for shares.

        Raises:
            Unrecoverable: too few.
        """
        self._expect(Phase.CONFIRMATIONS)
        self._enough(self._confirmations, "confirmed the survivors")
        self.phase = Phase.UNMASKINGS

    def confirmations(self, member: str) -> Confirmations:
        """What a member needs to see before it reveals shares."""
        near = [p for p in self._near[self._place(member)] if p in self._confirmations]
        return Confirmations(
            members=near, signatures=b"".join(self._confirmations[place] for place in near)
        )

    # Unmaskings

    def take_unmasking(self, member: str, unmasking: Unmasking) -> None:
        """Step 4.

        Raises:
            Misbehaved: another number of shares than asked for.
        """
        self._expect(Phase.UNMASKINGS)
        place = self._place(member)
        owners = [owner for owner in self._near[place] if owner in self._dealings]
        if place not in self._confirmations or (
            len(unmasking.shares) != SHARE_BYTES * len(owners)
            or not set(unmasking.missing) <= set(owners)
        ):
            raise Misbehaved(member, "revealed another number of shares than it was asked for")
        missing = set(unmasking.missing)
        self._revealed[place] = {
            owner: share
            for owner, share in zip(owners, pieces(unmasking.shares, SHARE_BYTES), strict=True)
            if owner not in missing
        }

    def close_unmaskings(self) -> tuple[NDArray[np.uint64], NDArray[Any]]:
        """Everything that masks the sum of the survivors' vectors; takes its time.

        Returns:
            The masks of the tail, uint64 (counters,), and of the body, (parameters,), to be taken
            from the sums; the body's in the encoding's dtype.

        Raises:
            Unrecoverable: too few shares, or wrong ones; who is to blame is named.
        """
        self._expect(Phase.UNMASKINGS)
        self.phase = Phase.OVER
        self._named: dict[str, str] = {}
        secrets = self._bring_back()
        keys: list[tuple[bytes, int]] = []
        for owner, secret in secrets.items():
            if owner in self._survivors:
                keys.append((secret, 1))
            else:
                keys += self._left_behind(owner, KeyPair.from_private(secret))
        terms = self._terms
        tail = np.zeros(terms.counters, np.uint64)
        dtype = terms.encoding.dtype if terms.parameters else np.dtype(np.uint32)
        body = np.zeros(terms.parameters, dtype)
        add_masks(tail, body, keys)
        return tail, body

    def _left_behind(self, owner: int, mask_keys: KeyPair) -> list[tuple[bytes, int]]:
        """Masks that survivors share with a member that dropped out, as they applied them."""
        found = []
        for place in self._near[owner]:
            if place == owner or place not in self._survivors:
                continue
            low, high = min(owner, place), max(owner, place)
            shared = mask_keys.exchange(self.roster.members[place].mask_key)
            a, b = (self._identities[self._ids[p]] for p in (low, high))
            key = derive(shared, self._session, b"mask", a, b)
            found.append((key, 1 if place == low else -1))
        return found

    def _bring_back(self) -> dict[int, bytes]:
        """The secret of every dealer: its seed if it survived, else its mask key."""
        held = {
            owner: [p for p, found in self._revealed.items() if owner in found]
            for owner in self._dealers
        }
        groups: dict[tuple[int, ...], list[int]] = {}
        for owner, holders in held.items():
            if len(holders) < self._threshold:
                self._give_up(owner, len(holders))
            groups.setdefault(tuple(sorted(holders)[: self._threshold]), []).append(owner)
        secrets: dict[int, bytes] = {}
        for together, owners in groups.items():
            for owner, secret in zip(owners, self._combine(together, owners), strict=True):
                if secret is None or not self._is_secret(owner, secret):
                    secret = self._second_try(owner, held[owner])
                secrets[owner] = secret
        return dict(sorted(secrets.items()))

    def _combine(self, holders: Sequence[int], owners: Sequence[int]) -> list[bytes | None]:
        """Secrets by the shares of these holders; None: they do not make up one."""
        data = np.frombuffer(
            b"".join(self._revealed[p][owner] for owner in owners for p in holders), np.uint8
        ).reshape(len(owners), len(holders), SHARE_BYTES)
        points = np.array(holders, np.int64) + 1
        try:
            shares = shamir.decode(data.reshape(-1, SHARE_BYTES))
            limbs = shamir.combine_many(points, shares.reshape(len(owners), len(holders), -1))
            return [shamir.to_bytes(row) for row in limbs]
        except ValueError:
            if len(owners) == 1:
                return [None]
            return [self._combine(holders, [owner])[0] for owner in owners]

    def _is_secret(self, owner: int, secret: bytes) -> bool:
        if owner in self._survivors:
            return statements.seed_commitment(secret) == self._dealings[owner].seed_commitment
        return KeyPair.from_private(secret).public == self.roster.members[owner].mask_key

    def _second_try(self, owner: int, holders: Sequence[int]) -> bytes:
        """With shares that are what the owner committed to; whoever revealed others is named."""
        good = []
        which = 0 if owner in self._survivors else 1
        for place in holders:
            committed = _record(
                self._dealings[owner].commitments, self._index(owner, place), COMMITTED_BYTES
            )
            wanted = committed[which * HASH_BYTES : (which + 1) * HASH_BYTES]
            if statements.share_commitment(self._revealed[place][owner]) == wanted:
                good.append(place)
            else:
                self._named[self._ids[place]] = "revealed another share than it was dealt"
        if len(good) < self._threshold:
            self._give_up(owner, len(good))
        (secret,) = self._combine(sorted(good)[: self._threshold], [owner])
        if secret is None or not self._is_secret(owner, secret):
            self._named[self._ids[owner]] = "dealt shares that do not make up its secret"
            raise Unrecoverable(f"{self._ids[owner]} dealt inconsistent shares", self._named)
        return secret

    def _give_up(self, owner: int, shares: int) -> None:
        member = self._ids[owner]
        accusers = self.accusations.get(member, [])
        # One accuser may lie. Only as many as are too many by themselves are taken at their word:
        # in a complete graph of n, (n - c) / 2, which is more than collude if c < n / 3.
        if len(self._near[owner]) - len(accusers) < self._threshold:
            self._named[member] = f"{len(accusers)} members could not open its shares"
        raise Unrecoverable(
            f"{shares} of {self._threshold} shares of {member}'s secret were revealed",
            self._named,
        )

    # What the phases share

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise OutOfStep(f"members are sending {self.phase.name}, not {phase.name}")

    def _place(self, member: str) -> int:
        place = self._places.get(member)
        if place is None:
            raise Misbehaved(member, "is not in the roster")
        return place

    def _index(self, dealer: int, holder: int) -> int:
        """Which of a dealer's records is for this holder."""
        return bisect_left(self._near[dealer], holder)

    def _enough(self, places: Iterable[int], what: str) -> None:
        """Whether a sum can come of so many, near every dealer.

        Raises:
            Unrecoverable: not so; the phase is over.
        """
        known = set(places)
        least = max(self._terms.secure.minimum, self._threshold)
        fault = ""
        if len(known) < least:
            fault = f"{len(known)} of at least {least} members {what}"
        elif self.roster.degree < len(self._ids) - 1:
            for dealer in self._dealings:
                near = len(known.intersection(self._near[dealer]))
                if near < self._threshold:
                    fault = f"{near} of {self._threshold} members near {self._ids[dealer]} {what}"
        if fault:
            self.phase = Phase.OVER
            raise Unrecoverable(fault)


def _layout(terms: Terms, members: int) -> tuple[int, int]:
    """Neighbours and threshold of so many members."""
    settings = terms.secure.settings
    chosen = plan(
        members,
        settings.corrupt_fraction,
        settings.drop_out_fraction,
        graph="ring" if settings.graph == GraphKind.GRAPH_RING else "complete",
    )
    return chosen.degree, chosen.threshold


def _record(data: bytes, at: int, size: int) -> bytes:
    return data[at * size : (at + 1) * size]


__all__ = ["Phase", "Server"]
