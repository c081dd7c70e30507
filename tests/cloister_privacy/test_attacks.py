"""Attacks that take more than one message, or a member that helps the coordinator.

What a single wrong message leads to is in `test_client` and `test_server`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_privacy import statements
from cloister_privacy.client import Client, Step
from cloister_privacy.errors import (
    Aborted,
    BadRoster,
    BadSurvivors,
    BelowFloor,
    Misbehaved,
    OutOfStep,
    Unrecoverable,
)
from cloister_privacy.floors import Floors
from cloister_privacy.keystream import Entropy
from cloister_privacy.noise import honest_survivors
from cloister_privacy.parameters import complete_threshold
from cloister_privacy.statements import COMMITTED_BYTES, SEALED_BYTES
from cloister_privacy.terms import Terms
from cloister_protos import Assignment, Confirmations, Roster, Shares, Survivors, Training

from .cohort import LATER, NOW, Cohort, authority, certificate, terms

COUNT = 5


@pytest.fixture
def cohort() -> Cohort:
    return Cohort(COUNT)


def resign(cohort: Cohort, roster: Roster, place: int) -> None:
    """A member that colludes signs whatever keys its entry has."""
    keys = roster.members[place]
    keys.signature = cohort.identities[place].sign(statements.keys(cohort.terms, keys))


def holds_nothing(client: Client) -> bool:
    held = vars(client)
    return not any((held["_share_keys"], held["_mask_keys"], held["_held"], any(held["_seed"])))


# Quorums


@pytest.mark.parametrize("fraction", [0, 0.1, 0.2, 1 / 3, 0.49, 0.5])
def test_two_quorums_have_an_honest_member_in_common(fraction: float) -> None:
    """By counting: a coordinator shows two halves of the honest members two different rounds.

    Members that collude confirm both. An honest one confirms one set only, so both sets find a
    quorum only if the honest ones suffice for both; drop-outs only make them fewer.
    """
    for members in range(2, 200):
        corrupt = math.floor(fraction * members + 1e-9)
        threshold = complete_threshold(members, fraction)
        honest = members - corrupt
        needed = max(0, threshold - corrupt)  # honest ones, in each
        assert 2 * needed > honest
        # and those that collude bring back nothing by themselves
        assert corrupt < threshold
        # a sum has the vectors of so many honest ones: never that of one alone
        if members > 2:
            assert needed >= 2


@pytest.mark.parametrize("lower", [1, 2, 3])
def test_no_threshold_below_that_of_the_quorums_is_taken(lower: int) -> None:
    """A threshold of 4 is needed with one of five colluding; the coordinator asks for less."""
    told = terms(COUNT, corrupt_fraction=0.2)
    cohort = Cohort(COUNT, told)
    cohort.key()
    assert cohort.roster.threshold == 4
    cohort.roster.threshold = lower
    client = cohort.clients[cohort.ids[0]]
    with pytest.raises(BelowFloor, match="must take 4"):
        client.deal(cohort.roster, NOW.timestamp())
    assert holds_nothing(client)


def test_the_owners_corrupt_share_counts_where_the_job_has_a_smaller_one() -> None:
    told = terms(COUNT, corrupt_fraction=0.0)
    with pytest.raises(BelowFloor, match="must take 4"):
        Floors(minimum_cohort=2, corrupt_fraction=0.2).check_graph(told, COUNT, COUNT - 1, 3)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_views_of_the_dealers_are_never_confirmed_together(cohort: Cohort, split: int) -> None:
    """Some are told that the last member dealt, the others that it did not.

    Confirmations of the other view do not count, and without them a group is below its quorum.
    """
    cohort.key()
    cohort.deal()
    names = cohort.ids[:4]
    for place, member in enumerate(names):
        shares = cohort.server.shares(member)
        if place < split:
            del shares.dealers[4]
            shares.sealed = shares.sealed[:-SEALED_BYTES]
            shares.commitments = shares.commitments[:-COMMITTED_BYTES]
        client = cohort.clients[member]
        client.mask(shares, cohort.tails[member].copy(), cohort.bodies[member].copy())
    told = Survivors(survivors=range(4))
    signed = [cohort.clients[member].confirm(told).signature for member in names]
    alike = [range(split), range(split, 4)]
    revealing = 0
    for place, member in enumerate(names):
        group = alike[place >= split]
        if len(group) < cohort.roster.threshold:
            # with its own view's only, or filled up with the others'
            shown = group if place % 2 else range(4)
            signatures = b"".join(signed[p] for p in shown)
            with pytest.raises(BadSurvivors, match=r"not told of the same|confirmed the survivors"):
                cohort.clients[member].unmask(Confirmations(members=shown, signatures=signatures))
            assert holds_nothing(cohort.clients[member])
        else:
            revealing += 1
    assert revealing in (0, 3)


# The same keys twice


def test_keys_serve_one_roster(cohort: Cohort) -> None:
    """After one roster there is no other, whatever came of the first."""
    cohort.key()
    smaller = Roster()
    smaller.CopyFrom(cohort.roster)
    del smaller.members[4]
    smaller.degree = 3
    client = cohort.clients[cohort.ids[0]]
    client.deal(cohort.roster, NOW.timestamp())
    with pytest.raises(OutOfStep, match="not the step after DEALT"):
        client.deal(smaller, NOW.timestamp())
    assert client.step is Step.DEALT


def test_the_same_assignment_again_has_nothing_of_the_first(cohort: Cohort) -> None:
    """Other keys and another seed: no share of one attempt is one of the other."""
    again = Cohort(COUNT, cohort.terms)
    for one, other in zip(cohort.clients.values(), again.clients.values(), strict=True):
        first, second = one.keys(), other.keys()
        assert first.share_key != second.share_key
        assert first.mask_key != second.mask_key
        assert bytes(one._seed) != bytes(other._seed)


def test_rosters_of_their_own_for_two_groups_make_no_sum(cohort: Cohort) -> None:
    """Members of one round are shown rosters that differ in one: their masks do not cancel, and
    neither group can open what the other dealt."""
    cohort.key()
    smaller = Roster()
    smaller.CopyFrom(cohort.roster)
    del smaller.members[4]
    smaller.degree = 3
    sessions = []
    for place, member in enumerate(cohort.ids[:4]):
        client = cohort.clients[member]
        client.deal(smaller if place < 2 else cohort.roster, NOW.timestamp())
        sessions.append(client._session)
    assert sessions[0] == sessions[1] != sessions[2] == sessions[3]


# Keys of members that collude


def small_order(roster: Roster) -> None:
    roster.members[1].mask_key = bytes([1]) + bytes(31)


def small_order_share_key(roster: Roster) -> None:
    """The point of order 8 of RFC 7748's list, of which all multiples are known."""
    roster.members[1].share_key = bytes.fromhex(
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
    )


@pytest.mark.parametrize("lie", [small_order, small_order_share_key])
def test_points_of_small_order_that_the_coordinator_let_in(
    cohort: Cohort, lie: Callable[[Roster], None]
) -> None:
    """All would have the same secret with such a key, and anybody could compute it."""
    cohort.key()
    lie(cohort.roster)
    resign(cohort, cohort.roster, 1)
    client = cohort.clients[cohort.ids[0]]
    # a mask key is first used in the second step
    shares = Shares(
        dealers=range(COUNT),
        sealed=bytes(SEALED_BYTES * (COUNT - 1)),
        commitments=bytes(COMMITTED_BYTES * (COUNT - 1)),
    )

    def both_steps() -> None:
        client.deal(cohort.roster, NOW.timestamp())
        client.mask(shares, np.zeros(2, np.uint64), np.zeros(5, np.uint32))

    with pytest.raises(BadRoster, match="none of X25519"):
        both_steps()
    assert holds_nothing(client)


def test_a_key_of_another_member_in_another_spelling(cohort: Cohort) -> None:
    """X25519 ignores the highest bit: a colluding member takes another's key for its own.

    It never has the secrets that others share with that one: a mask is bound to the two
    identities as well.
    """
    cohort.key()
    mine, taken = cohort.roster.members[1], bytearray(cohort.roster.members[2].mask_key)
    taken[31] ^= 0x80
    mine.mask_key = bytes(taken)
    resign(cohort, cohort.roster, 1)
    client = cohort.clients[cohort.ids[0]]
    client.deal(cohort.roster, NOW.timestamp())
    found = dict(zip((1, 2, 3, 4), client._mask_signs([1, 2, 3, 4]), strict=True))
    assert len({key for key, _ in found.values()}) == 4


def test_a_renewed_certificate_in_place_of_the_one_sent(cohort: Cohort) -> None:
    """Of the same identity, and valid; its owner leaves, and the others sign another session."""
    cohort.key()
    before = statements.session(cohort.terms, cohort.roster)
    identity = cohort.identities[0]
    renewed = authority().sign(identity.public_key, "ward", NOW, LATER)
    assert renewed != certificate(identity)
    cohort.roster.members[0].certificate = renewed
    assert statements.session(cohort.terms, cohort.roster) != before
    with pytest.raises(BadRoster, match="not those it sent"):
        cohort.clients[cohort.ids[0]].deal(cohort.roster, NOW.timestamp())


def test_one_identity_with_two_certificates_is_one_member() -> None:
    wider = Cohort(COUNT, terms(COUNT + 1))
    wider.key()
    double = wider.roster.members.add()
    double.CopyFrom(wider.roster.members[4])
    double.certificate = authority().sign(wider.identities[4].public_key, "other", NOW, LATER)
    wider.roster.degree, wider.roster.threshold = COUNT, 4
    with pytest.raises(BadRoster, match="ascending order, each once"):
        wider.clients[wider.ids[0]].deal(wider.roster, NOW.timestamp())


def test_fields_that_nobody_knows_change_nothing(cohort: Cohort) -> None:
    """A coordinator marks one member's roster with a field of its own: it is not looked at."""
    cohort.key()
    marked = Roster()
    marked.ParseFromString(cohort.roster.SerializeToString() + b"\xfa\x3f\x04mark")
    assert marked.SerializeToString() != cohort.roster.SerializeToString()
    assert statements.session(cohort.terms, marked) == statements.session(
        cohort.terms, cohort.roster
    )


# Shares on their way


def swap_first_two(data: bytes, size: int) -> bytes:
    return data[size : 2 * size] + data[:size] + data[2 * size :]


def commitments_swapped(shares: Shares) -> None:
    shares.commitments = swap_first_two(shares.commitments, COMMITTED_BYTES)


def sealed_swapped(shares: Shares) -> None:
    shares.sealed = swap_first_two(shares.sealed, SEALED_BYTES)


def both_swapped(shares: Shares) -> None:
    commitments_swapped(shares)
    sealed_swapped(shares)


@pytest.mark.parametrize("lie", [commitments_swapped, sealed_swapped, both_swapped])
def test_shares_under_another_dealers_name_are_not_kept(
    cohort: Cohort, lie: Callable[[Shares], None]
) -> None:
    """Else a seed's share could be had under the name of one whose mask key is asked for."""
    cohort.until("mask")
    shares = cohort.server.shares(cohort.ids[0])
    lie(shares)
    member = cohort.ids[0]
    client = cohort.clients[member]
    masked = client.mask(shares, cohort.tails[member].copy(), cohort.bodies[member].copy())
    assert masked.accused == (1, 2)
    assert set(client._held) == {0, 3, 4}


def test_what_was_sealed_in_an_earlier_round_cannot_be_opened(cohort: Cohort) -> None:
    earlier = Cohort(COUNT, cohort.terms).until("mask").server.shares(cohort.ids[0])
    cohort.until("mask")
    member = cohort.ids[0]
    masked = cohort.clients[member].mask(
        earlier, cohort.tails[member].copy(), cohort.bodies[member].copy()
    )
    assert masked.accused == (1, 2, 3, 4)


def test_a_share_is_not_opened_for_another_holder(cohort: Cohort) -> None:
    cohort.until("mask")
    member = cohort.ids[0]
    of_another = cohort.server.shares(cohort.ids[1])
    masked = cohort.clients[member].mask(
        of_another, cohort.tails[member].copy(), cohort.bodies[member].copy()
    )
    assert set(masked.accused) == {1, 2, 3, 4}


# Accusations


def test_a_false_accusation_blames_nobody(cohort: Cohort) -> None:
    """One liar accuses an honest member, again and again; then too few reveal shares."""
    cohort.until("mask")
    liar, honest = cohort.ids[4], 0
    for member in cohort.ids:
        masked = cohort.clients[member].mask(
            cohort.server.shares(member), cohort.tails[member].copy(), cohort.bodies[member].copy()
        )
        cohort.received[member] = masked.data
        for _ in range(3):
            cohort.server.take_vector(member, [honest] if member == liar else masked.accused)
    assert cohort.server.accusations == {cohort.ids[honest]: [liar]}
    cohort.survivors = cohort.server.close_vectors()
    cohort.confirm()
    cohort.reveal(gone=cohort.ids[2:])
    with pytest.raises(Unrecoverable, match="2 of 3 shares") as caught:
        cohort.sums()
    assert caught.value.named == {}


def test_who_dealt_nothing_cannot_be_accused(cohort: Cohort) -> None:
    cohort.key()
    cohort.deal(gone=[cohort.ids[0]])
    with pytest.raises(Misbehaved, match="dealt it nothing"):
        cohort.server.take_vector(cohort.ids[1], [0])


def test_shares_withheld_end_the_round_and_no_more(cohort: Cohort) -> None:
    """Two of five claim to hold nothing: three are left, and the sum is right."""
    cohort.until("reveal")
    for member in cohort.ids:
        unmasking = cohort.clients[member].unmask(cohort.server.confirmations(member))
        if member in cohort.ids[3:]:
            unmasking.missing[:] = range(COUNT)
        cohort.server.take_unmasking(member, unmasking)
    assert cohort.sums() == cohort.expected(cohort.ids)


# Terms


def test_few_bits_do_not_get_around_the_noise_that_an_owner_wants() -> None:
    """With 2 bits the norm is 2 steps, and a million parameters round to hundreds of them."""
    private = terms(20, minimum=10, parameters=1_000_000, value_bits=2, private=True)
    private.secure.noise_variance = 2.0**2 / 10  # of all: one clipping norm
    with pytest.raises(BelowFloor, match=r"rounded to 2 bits an update may have 2\d\d"):
        Floors(noise_multiplier=1.0).check_terms(private)
    enough = private.encoding.sensitivity(1_000_000)
    private.secure.noise_variance = enough**2 / 10
    Floors(noise_multiplier=1.0).check_terms(private)
    # as usual: rounding to 16 bits is next to nothing
    usual = terms(20, minimum=10, parameters=1_000_000, private=True)
    usual.secure.noise_variance = 2.0**30 / 10
    Floors(noise_multiplier=1.0).check_terms(usual)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise_variance": 0.0}, "noise is 0"),
        ({"members": 1 << 12, "minimum": 10}, "noise is 0"),
        ({"count_variance": math.nan}, "number of unclipped"),
        ({"count_variance": 1.0}, "number of unclipped"),
        ({"private": False}, "no exact metrics"),
    ],
)
def test_noise_that_is_not_there(change: dict[str, float], reason: str) -> None:
    """The more members a round may have, the more of them may collude."""
    private = terms(20, minimum=10, corrupt_fraction=0.2, private=True)
    private.secure.noise_variance = 2.0**30 / 6
    floors = Floors(corrupt_fraction=0.2, noise_multiplier=1.0)
    floors.check_terms(private)
    for name, value in change.items():
        setattr(private.secure, name, value)
    with pytest.raises(BelowFloor, match=reason):
        floors.check_terms(private)


def test_a_share_that_is_no_number_is_below_any() -> None:
    with pytest.raises(BelowFloor, match="assumed to collude"):
        Floors(minimum_cohort=2).check_terms(terms(COUNT, corrupt_fraction=math.nan))


@given(
    st.integers(2, 1000),
    st.integers(2, 1000),
    st.sampled_from([0.0, 0.1, 0.25, 0.5]),
)
def test_noise_is_counted_for_no_more_than_are_honest(
    members: int, minimum: int, fraction: float
) -> None:
    """Whoever of the fewest survivors may collude is not counted on."""
    honest = honest_survivors(minimum, members, fraction)
    assert honest <= max(0, minimum - int(fraction * members + 1e-9))


@pytest.mark.parametrize(
    "change",
    [
        {"noise_variance": 1.0},
        {"count_variance": 1.0},
        {"central_variance": 1.0},
        {"private": True},
    ],
    ids=lambda c: next(iter(c)),
)
def test_noise_is_part_of_the_terms(change: dict[str, float]) -> None:
    base = terms(COUNT)
    told = Assignment(job_id="job", round=1, training=Training(epochs=1), clip_norm=1.0)
    told.secure.CopyFrom(base.secure)
    assert Terms.of(told, 5, 2).digest == base.digest
    for name, value in change.items():
        setattr(told.secure, name, value)
    assert Terms.of(told, 5, 2).digest != base.digest


@settings(max_examples=60)
@given(
    clip_norm=st.sampled_from([1.2e-38, 1e-30, 1e-3, 1.0, 1e30, 3e38]),
    value_bits=st.sampled_from([2, 16, 24]),
    max_weight=st.sampled_from([1, 1024, 1 << 20]),
    members=st.integers(2, 5000),
)
def test_no_setting_makes_the_largest_sum_wrap_around(
    clip_norm: float, value_bits: int, max_weight: int, members: int
) -> None:
    """All members with the longest update and most weight; in Python's own integers."""
    encoding = terms(
        members, value_bits=value_bits, max_weight=max_weight, clip_norm=clip_norm
    ).encoding
    for sign in (1, -1):
        update = np.array([sign * clip_norm], np.float32)
        one = int(encoding.encode(update, max_weight, Entropy(bytes(32)))[0])
        modulus = 1 << encoding.ring_bits
        wrapped = np.array([members * one % modulus], encoding.dtype)
        exact = members * max_weight * sign * (1 << value_bits - 1)
        found = float(encoding.decode(wrapped)[0]) / encoding.step
        assert abs(found - exact) <= members * max_weight + abs(exact) * 1e-6


# What a coordinator can make a member do


def test_a_roster_longer_than_the_terms_say_is_not_looked_at(cohort: Cohort) -> None:
    """Nobody checks the signatures of more members than the owner's client agreed to."""
    cohort.key()
    cohort.roster.members.extend(list(cohort.roster.members) * 1000)
    client = cohort.clients[cohort.ids[0]]
    with pytest.raises(Aborted, match="5005 members, of at most 5"):
        client.deal(cohort.roster, NOW.timestamp())
