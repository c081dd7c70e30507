"""Members that err or lie: they are named, and never is there a wrong sum."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_privacy import shamir, statements
from cloister_privacy.errors import (
    Aborted,
    Misbehaved,
    Unrecoverable,
)
from cloister_privacy.keystream import Entropy
from cloister_privacy.shamir import SHARE_BYTES
from cloister_protos import Confirmation, Dealing, Keys, Unmasking

from .cohort import NOW, Cohort, certificate, terms

COUNT = 5


@pytest.fixture
def cohort() -> Cohort:
    return Cohort(COUNT)


def culprit(cohort: Cohort) -> str:
    return cohort.ids[1]


# Keys


def anothers_certificate(cohort: Cohort, keys: Keys) -> None:
    keys.certificate = certificate(cohort.identities[2])


def signed_for_other_terms(cohort: Cohort, keys: Keys) -> None:
    statement = statements.keys(terms(COUNT, base_version=9), keys)
    keys.signature = cohort.identities[1].sign(statement)


def of_small_order(cohort: Cohort, keys: Keys) -> None:
    keys.mask_key = bytes(32)
    keys.signature = cohort.identities[1].sign(statements.keys(cohort.terms, keys))


def short(cohort: Cohort, keys: Keys) -> None:
    keys.share_key = keys.share_key[:-1]


def no_certificate(cohort: Cohort, keys: Keys) -> None:
    keys.certificate = b"none"


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        (anothers_certificate, "another member's certificate"),
        (signed_for_other_terms, "did not sign its keys for this round's terms"),
        (of_small_order, "shares no secret"),
        (short, "another length"),
        (no_certificate, "no valid certificate"),
    ],
)
def test_keys_that_cannot_be_right(cohort, lie: Callable[[Cohort, Keys], None], fault) -> None:
    keys = cohort.clients[culprit(cohort)].keys()
    lie(cohort, keys)
    with pytest.raises(Misbehaved, match=fault) as caught:
        cohort.server.take_keys(culprit(cohort), keys, NOW.timestamp())
    assert caught.value.member == culprit(cohort)
    assert cohort.server.present == frozenset()
    # the others go on without it
    cohort.key(gone=[culprit(cohort)])
    for step in ("deal", "mask", "confirm", "reveal"):
        getattr(cohort, step)()
    assert cohort.sums() == cohort.expected(cohort.received)


# Dealings


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sealed": b"short"}, "another length"),
        ({"commitments": b""}, "another length"),
        ({"seed_commitment": b"s" * 31}, "another length"),
        ({"seed_commitment": b"s" * 32}, "did not sign"),
        ({"signature": b"s" * 64}, "did not sign"),
    ],
)
def test_dealings_that_cannot_be_right(cohort, change, fault) -> None:
    cohort.key()
    dealing = cohort.clients[culprit(cohort)].deal(cohort.roster, NOW.timestamp())
    for name, value in change.items():
        setattr(dealing, name, value)
    with pytest.raises(Misbehaved, match=fault) as caught:
        cohort.server.take_dealing(culprit(cohort), dealing)
    assert caught.value.member == culprit(cohort)


def deal_with(cohort: Cohort, change: Callable[[Dealing], None]) -> None:
    """All deal; one member's dealing is changed and signed by itself."""
    for place, member in enumerate(cohort.ids):
        dealing = cohort.clients[member].deal(cohort.roster, NOW.timestamp())
        if member == culprit(cohort):
            change(dealing)
            session = statements.session(cohort.terms, cohort.roster)
            statement = statements.dealing(session, dealing)
            dealing.signature = cohort.identities[place].sign(statement)
        cohort.server.take_dealing(member, dealing)
    cohort.server.close_dealings()


def rest(cohort: Cohort, *, without: bool) -> None:
    """Everything after the dealings, with or without the vector of the culprit."""
    cohort.mask(gone=[culprit(cohort)] if without else [])
    cohort.confirm()
    cohort.reveal()


@pytest.mark.parametrize("without", [False, True], ids=["it stays", "it leaves"])
def test_sealed_garbage_is_known_by_its_author(cohort, without: bool) -> None:
    """Nobody can open its shares: all say so, and without them there is no sum."""
    cohort.key()

    def garbage(dealing: Dealing) -> None:
        dealing.sealed = bytes(len(dealing.sealed))

    deal_with(cohort, garbage)
    rest(cohort, without=without)
    honest = [member for member in cohort.ids if member != culprit(cohort)]
    assert cohort.server.accusations == {culprit(cohort): honest}
    with pytest.raises(Unrecoverable) as caught:
        cohort.sums()
    assert list(caught.value.named) == [culprit(cohort)]
    assert "could not open" in caught.value.named[culprit(cohort)]


def test_shares_for_fewer_than_the_threshold_of_others_do_not_hinder(cohort) -> None:
    """Garbage for two members leaves three shares, which are enough; the two name it."""
    cohort.key()

    def garbage_for_two(dealing: Dealing) -> None:
        size = statements.SEALED_BYTES
        dealing.sealed = dealing.sealed[: 2 * size] + bytes(2 * size)

    deal_with(cohort, garbage_for_two)
    rest(cohort, without=False)
    assert cohort.server.accusations == {culprit(cohort): cohort.ids[3:]}
    assert cohort.sums() == cohort.expected(cohort.ids)


def test_a_commitment_to_another_seed_is_known_by_its_author(cohort) -> None:
    cohort.key()

    def another_seed(dealing: Dealing) -> None:
        dealing.seed_commitment = statements.seed_commitment(b"another seed".ljust(32))

    deal_with(cohort, another_seed)
    rest(cohort, without=False)
    with pytest.raises(Unrecoverable, match="inconsistent shares") as caught:
        cohort.sums()
    assert list(caught.value.named) == [culprit(cohort)]


@pytest.mark.parametrize("without", [False, True], ids=["it stays", "it leaves"])
def test_shares_of_no_one_secret_are_known_by_their_author(
    cohort, monkeypatch: pytest.MonkeyPatch, without: bool
) -> None:
    """Points of a polynomial of too high a degree: every set of holders finds another secret."""
    cohort.key()
    split = shamir.split

    def inconsistent(secrets, threshold, points, entropy):  # type: ignore[no-untyped-def]
        return split(secrets, len(points), points, entropy)

    liar = cohort.clients[culprit(cohort)]
    honest = type(liar).deal
    for member in cohort.ids:
        with monkeypatch.context() as patch:
            if member == culprit(cohort):
                patch.setattr(shamir, "split", inconsistent)
            dealing = honest(cohort.clients[member], cohort.roster, NOW.timestamp())
        cohort.server.take_dealing(member, dealing)
    cohort.server.close_dealings()
    rest(cohort, without=without)
    with pytest.raises(Unrecoverable, match="inconsistent shares") as caught:
        cohort.sums()
    assert list(caught.value.named) == [culprit(cohort)]


# Vectors and confirmations


def test_accusations_of_those_who_dealt_nothing(cohort) -> None:
    cohort.until("mask")
    with pytest.raises(Misbehaved, match="dealt it nothing"):
        cohort.server.take_vector(culprit(cohort), [1])
    with pytest.raises(Misbehaved, match="dealt it nothing"):
        cohort.server.take_vector(culprit(cohort), [COUNT])


def test_a_vector_without_shares(cohort) -> None:
    cohort.key()
    cohort.deal(gone=[culprit(cohort)])
    with pytest.raises(Misbehaved, match="without dealing shares"):
        cohort.server.take_vector(culprit(cohort), ())
    with pytest.raises(Misbehaved, match="not in the roster"):
        cohort.server.take_vector("a stranger", ())


def test_a_signature_on_other_survivors(cohort) -> None:
    cohort.until("confirm")
    with pytest.raises(Misbehaved, match="did not confirm"):
        cohort.server.take_confirmation(culprit(cohort), Confirmation(signature=bytes(64)))


def test_a_confirmation_of_somebody_without_a_vector(cohort) -> None:
    cohort.until("mask")
    absent = culprit(cohort)
    cohort.mask(gone=[absent])
    session = statements.session(cohort.terms, cohort.roster)
    statement = statements.survivors(session, range(COUNT), [0, 2, 3, 4])
    signature = cohort.identities[1].sign(statement)
    with pytest.raises(Misbehaved, match="did not confirm"):
        cohort.server.take_confirmation(absent, Confirmation(signature=signature))


# Unmaskings


def reveal_with(cohort: Cohort, change: Callable[[Unmasking], None]) -> None:
    for member in cohort.ids:
        if member not in cohort.received:
            continue
        unmasking = cohort.clients[member].unmask(cohort.server.confirmations(member))
        if member == culprit(cohort):
            change(unmasking)
        cohort.server.take_unmasking(member, unmasking)


def random_shares(unmasking: Unmasking) -> None:
    limbs = Entropy().uint32(16 * COUNT).reshape(COUNT, 16) % 65536
    unmasking.shares = shamir.encode(limbs).tobytes()


def not_canonical(unmasking: Unmasking) -> None:
    unmasking.shares = b"\xff" * len(unmasking.shares)


@pytest.mark.parametrize("lie", [random_shares, not_canonical])
@pytest.mark.parametrize("gone", [False, True], ids=["all there", "one gone"])
def test_wrong_shares_are_left_out_and_their_author_named(cohort, lie, gone: bool) -> None:
    """Four of five good shares are enough: the sum is right all the same."""
    cohort.until("mask")
    cohort.mask(gone=cohort.ids[4:] if gone else [])
    cohort.confirm()
    reveal_with(cohort, lie)
    assert cohort.sums() == cohort.expected(cohort.received)


def test_too_many_wrong_shares_and_all_authors_are_named(cohort) -> None:
    cohort.until("reveal")
    liars = cohort.ids[:3]
    for member in cohort.ids:
        unmasking = cohort.clients[member].unmask(cohort.server.confirmations(member))
        if member in liars:
            random_shares(unmasking)
        cohort.server.take_unmasking(member, unmasking)
    with pytest.raises(Unrecoverable, match="2 of 3 shares") as caught:
        cohort.sums()
    assert set(caught.value.named) == set(liars)


@pytest.mark.parametrize(
    "change",
    [
        {"shares": b""},
        {"shares": bytes(SHARE_BYTES * (COUNT + 1))},
        {"missing": [COUNT + 7]},
    ],
)
def test_unmaskings_that_cannot_be_right(cohort, change) -> None:
    cohort.until("reveal")
    unmasking = cohort.clients[culprit(cohort)].unmask(cohort.server.confirmations(culprit(cohort)))
    for name, value in change.items():
        unmasking.ClearField(name)
        unmasking.MergeFrom(Unmasking(**{name: value}))
    with pytest.raises(Misbehaved, match="another number of shares"):
        cohort.server.take_unmasking(culprit(cohort), unmasking)


# All of it at once


STEPS = ("keys", "roster", "dealing", "shares", "masked", "survivors", "confirmation")
AFTER = ("confirmations", "unmasking")


def mutated(message: Message, data: st.DataObject) -> Message:
    """The same message with some of its bytes changed, cut or doubled."""
    content = bytearray(message.SerializeToString())
    kind = data.draw(st.sampled_from(["flip", "cut", "double"]), label="kind")
    at = data.draw(st.integers(0, max(0, len(content) - 1)), label="at")
    if kind == "flip" and content:
        content[at] ^= data.draw(st.integers(1, 255), label="bits")
    elif kind == "cut":
        del content[at : at + data.draw(st.integers(1, 64), label="bytes")]
    else:
        content += content[at:]
    other = type(message)()
    try:
        other.ParseFromString(bytes(content))
    except (DecodeError, ValueError):
        return copy.deepcopy(message)
    return other


@settings(max_examples=150)
@given(st.data())
def test_any_changed_message_gives_the_right_sum_or_none(data) -> None:
    """One message of one member, or to one member, is changed on its way."""
    cohort = Cohort(4, terms(4, parameters=3, counters=1))
    where = data.draw(st.sampled_from([*STEPS, *AFTER]), label="step")
    victim = data.draw(st.sampled_from(cohort.ids), label="member")

    def through(step: str, member: str, message: Message) -> Message:
        return mutated(message, data) if (step, member) == (where, victim) else message

    server, out = cohort.server, set()

    def each(step: Callable[[str], None]) -> None:
        for member in cohort.ids:
            if member not in out:
                try:
                    step(member)
                except (Aborted, Misbehaved):
                    out.add(member)

    def keys(member: str) -> None:
        message = through("keys", member, cohort.clients[member].keys())
        server.take_keys(member, message, NOW.timestamp())

    def deal(member: str) -> None:
        roster = through("roster", member, server.roster)
        dealing = cohort.clients[member].deal(roster, NOW.timestamp())
        server.take_dealing(member, through("dealing", member, dealing))

    def mask(member: str) -> None:
        shares = through("shares", member, server.shares(member))
        tail, body = cohort.tails[member].copy(), cohort.bodies[member].copy()
        masked = cohort.clients[member].mask(shares, tail, body)
        accused = masked.accused
        if (where, victim) == ("masked", member):
            accused = tuple(data.draw(st.lists(st.integers(0, 9)), label="accused"))
        server.take_vector(member, accused)
        cohort.received[member] = masked.data

    def confirm(member: str) -> None:
        told = through("survivors", member, survivors)
        confirmation = cohort.clients[member].confirm(told)
        server.take_confirmation(member, through("confirmation", member, confirmation))

    def reveal(member: str) -> None:
        told = through("confirmations", member, server.confirmations(member))
        unmasking = cohort.clients[member].unmask(told)
        server.take_unmasking(member, through("unmasking", member, unmasking))

    try:
        each(keys)
        server.close_keys()
        each(deal)
        server.close_dealings()
        each(mask)
        survivors = server.close_vectors()
        each(confirm)
        server.close_confirmations()
        each(reveal)
        found = cohort.sums()
    except (Aborted, Misbehaved, Unrecoverable):
        return
    assert found == cohort.expected(cohort.received)


def test_a_dealer_set_of_its_own_for_one_member(cohort) -> None:
    """Told of fewer dealers, a member masks otherwise and signs otherwise: no share is had."""
    cohort.until("mask")
    for member in cohort.ids:
        shares = cohort.server.shares(member)
        if member == cohort.ids[0]:
            del shares.dealers[4]
            shares.sealed = shares.sealed[: -statements.SEALED_BYTES]
            shares.commitments = shares.commitments[: -statements.COMMITTED_BYTES]
        masked = cohort.clients[member].mask(
            shares, cohort.tails[member].copy(), cohort.bodies[member].copy()
        )
        cohort.server.take_vector(member, masked.accused)
    survivors = cohort.server.close_vectors()
    with pytest.raises(Aborted, match="a survivor dealt no shares"):
        cohort.clients[cohort.ids[0]].confirm(survivors)
