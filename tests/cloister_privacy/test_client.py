"""Lies of a coordinator: a member leaves with the reason, and before any share has left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cloister_privacy.certificate import Authority
from cloister_privacy.client import Client, Step
from cloister_privacy.errors import BadMessage, BadRoster, BadSurvivors, BelowFloor, OutOfStep
from cloister_privacy.floors import Floors
from cloister_privacy.terms import Terms
from cloister_protos import Blob, Confirmations, Keys, Roster, Shares, Survivors, Training

from .cohort import LATER, NOW, Cohort, certificate, terms

COUNT = 5


@pytest.fixture
def cohort() -> Cohort:
    return Cohort(COUNT)


def victim(cohort: Cohort) -> Client:
    return cohort.clients[cohort.ids[0]]


def gone_without_a_word(client: Client) -> None:
    """Nothing can be had from it any more, and it holds no secret."""
    assert client.step is Step.ABORTED
    for call in (
        client.keys,
        lambda: client.deal(Roster(), 0),
        lambda: client.mask(Shares(), np.zeros(2, np.uint64), np.zeros(5, np.uint32)),
        lambda: client.confirm(Survivors()),
        lambda: client.unmask(Confirmations()),
    ):
        with pytest.raises(OutOfStep):
            call()
    held = vars(client)
    assert held["_share_keys"] is None
    assert held["_mask_keys"] is None
    assert not any(held["_seed"])
    assert not held["_held"]


def test_a_step_out_of_order_changes_nothing(cohort):
    client = victim(cohort)
    with pytest.raises(OutOfStep, match="confirm is not the step after NEW"):
        client.confirm(Survivors())
    assert client.step is Step.NEW
    cohort.until("confirm")
    with pytest.raises(OutOfStep):
        client.mask(Shares(), np.zeros(2, np.uint64), np.zeros(5, np.uint32))
    assert client.step is Step.MASKED


def test_secrets_are_gone_after_the_last_step(cohort):
    cohort.until("end")
    held = vars(victim(cohort))
    assert held["_share_keys"] is None
    assert not any(held["_seed"])
    assert not held["_held"]
    with pytest.raises(OutOfStep):
        victim(cohort).unmask(Confirmations())


# The roster


def other_keys(roster: Roster) -> None:
    """The coordinator puts its own keys into a member's entry (a man in the middle)."""
    roster.members[1].mask_key = bytes(range(32))


def swapped(roster: Roster) -> None:
    first = Keys()
    first.CopyFrom(roster.members[1])
    roster.members[1].CopyFrom(roster.members[2])
    roster.members[2].CopyFrom(first)


def twice(roster: Roster) -> None:
    roster.members[1].CopyFrom(roster.members[2])


def no_certificate(roster: Roster) -> None:
    roster.members[1].certificate = b"\x30\x00"


def another_of_mine(roster: Roster) -> None:
    roster.members[0].share_key = roster.members[1].share_key


def short_key(roster: Roster) -> None:
    roster.members[1].mask_key = b"short"


def keys_of_another_member(roster: Roster) -> None:
    """One member's keys under another's name: its masks would be shared with the wrong one."""
    roster.members[1].share_key = roster.members[2].share_key
    roster.members[1].mask_key = roster.members[2].mask_key


def without_the_victim(roster: Roster) -> None:
    del roster.members[0]
    roster.degree -= 1


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (other_keys, "did not sign these keys"),
        (swapped, "ascending order"),
        (twice, "ascending order"),
        (no_certificate, "no valid certificate"),
        (another_of_mine, "not those it sent"),
        (short_key, "another length"),
        (keys_of_another_member, "a key occurs twice"),
        (without_the_victim, "not in it"),
        (lambda r: r.members.extend(list(r.members)), "10 members, of at most 5"),
        (lambda r: r.members.__delitem__(slice(1, None)), "1 members"),
    ],
)
def test_a_roster_that_cannot_be_right(cohort, lie: Callable[[Roster], object], reason):
    cohort.key()
    lie(cohort.roster)
    with pytest.raises(BadRoster, match=reason):
        victim(cohort).deal(cohort.roster, NOW.timestamp())
    gone_without_a_word(victim(cohort))


def test_a_member_of_another_authority(cohort):
    """A coordinator that makes up members needs the authority's signature for each of them."""
    cohort.key()
    identity = cohort.identities[1]
    other = Authority.create("the hospitals", NOW, LATER)
    cohort.roster.members[1].certificate = other.sign(identity.public_key, "ward", NOW, LATER)
    with pytest.raises(BadRoster, match="no valid certificate"):
        victim(cohort).deal(cohort.roster, NOW.timestamp())
    gone_without_a_word(victim(cohort))


def test_a_certificate_of_the_past(cohort):
    cohort.key()
    with pytest.raises(BadRoster, match="no valid certificate"):
        victim(cohort).deal(cohort.roster, NOW.timestamp() + 365 * 86400)


def test_keys_of_an_earlier_round_do_not_count(cohort):
    earlier = Cohort(COUNT, terms(COUNT, base_version=7))
    earlier.key()
    cohort.key()
    cohort.roster.members[1].CopyFrom(earlier.roster.members[1])
    with pytest.raises(BadRoster, match="did not sign these keys"):
        victim(cohort).deal(cohort.roster, NOW.timestamp())


@pytest.mark.parametrize(
    "different",
    [
        {"model": Blob(digest=b"m" * 32, size=20)},
        {"task": {"blob": Blob(digest=b"t" * 32, size=20)}},
        {"aggregation": {"blob": Blob(digest=b"a" * 32, size=20)}},
        {"frozen": Blob(digest=b"f" * 32, size=20)},
        {"training": Training(hyperparameters={"learning_rate": 0.0})},
        {"base_version": 3},
        {"round": 9},
        {"job_id": "other"},
        {"dataset": "other"},
        {"evaluate": True},
        {"weighting": 2},
    ],
    ids=lambda d: next(iter(d)),
)
def test_who_was_told_something_else_is_no_member(different):
    """Pasquini et al. 2022: another model, or another way to train, for one member."""
    told = {"round": 1, **different}
    base = terms(COUNT)
    lied = terms(COUNT, **told)
    assert lied.digest != base.digest
    cohort = Cohort(COUNT, base, different={0: lied})
    for member in cohort.ids[1:]:
        cohort.server.take_keys(member, cohort.clients[member].keys(), NOW.timestamp())
    mine = victim(cohort).keys()
    roster = cohort.server.close_keys()
    roster.members.insert(0, mine)
    roster.degree, roster.threshold = COUNT - 1, 3
    for member in cohort.ids:
        with pytest.raises(BadRoster, match="another model, task or setting"):
            cohort.clients[member].deal(roster, NOW.timestamp())


def test_settings_are_part_of_the_terms():
    base = terms(COUNT)
    others = [
        terms(COUNT, value_bits=17),
        terms(COUNT, max_weight=2),
        terms(COUNT, minimum=3),
        terms(COUNT + 1),
        terms(COUNT, corrupt_fraction=0.25),
        terms(COUNT, ring=True),
        terms(COUNT, parameters=6),
        terms(COUNT, counters=3),
        terms(COUNT, clip_norm=2.0),
    ]
    assert len({t.digest for t in (base, *others)}) == len(others) + 1


# Floors


@pytest.mark.parametrize(
    ("floors", "told", "reason"),
    [
        (Floors(minimum_cohort=4), {"minimum": 3}, "over 3 members; this device wants at least 4"),
        (Floors(minimum_cohort=2, corrupt_fraction=0.3), {"corrupt_fraction": 0.1}, "assumes 0.3"),
        (Floors(minimum_cohort=2), {"ring": True}, "sparse graph"),
        (Floors(minimum_cohort=2, noise_multiplier=1), {"private": True}, "wants at least 1"),
        (Floors(minimum_cohort=2, noise_multiplier=1), {}, "no exact metrics may be summed"),
    ],
)
def test_terms_below_a_floor(floors, told, reason):
    with pytest.raises(BelowFloor, match=reason):
        Cohort(COUNT, terms(COUNT, **told), floors=floors)


def test_noise_counts_that_of_the_fewest_honest_survivors():
    told = terms(20, minimum=10, corrupt_fraction=0.2)
    # 10 survivors, 4 of the 20 may collude: 6 x variance = (0.5 x 32768 steps)^2.
    told.secure.private = True
    told.secure.noise_variance = (0.5 * 32768) ** 2 / 6
    Floors(noise_multiplier=0.5).check_terms(told)
    with pytest.raises(BelowFloor, match=r"noise is 0\.5 clipping norms"):
        Floors(noise_multiplier=0.51).check_terms(told)


@pytest.mark.parametrize(
    ("degree", "threshold", "reason"),
    [(4, 2, "must take 3"), (4, 6, "must take 3"), (3, 3, "not all of 5"), (4, 0, "must take 3")],
)
def test_a_graph_below_the_floor(cohort, degree, threshold, reason):
    cohort.key()
    cohort.roster.degree, cohort.roster.threshold = degree, threshold
    with pytest.raises(BelowFloor, match=reason):
        victim(cohort).deal(cohort.roster, NOW.timestamp())
    gone_without_a_word(victim(cohort))


def test_a_roster_smaller_than_the_floor():
    cohort = Cohort(COUNT, terms(COUNT, minimum=2), floors=Floors(minimum_cohort=2))
    cohort.key(gone=cohort.ids[2:])
    client = Client(
        terms(COUNT, minimum=3),
        cohort.identities[0],
        certificate(cohort.identities[0]),
        cohort.trust,
        Floors(minimum_cohort=3),
    )
    client.keys()
    with pytest.raises(BelowFloor, match="2 members, of at least 3"):
        client.deal(cohort.roster, NOW.timestamp())


# Shares


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda s: s.dealers.remove(0), "left out"),
        (lambda s: s.dealers.append(9), "not places of the roster"),
        (lambda s: s.dealers.append(0), "not places of the roster"),
        (lambda s: s.__setattr__("sealed", s.sealed[:-1]), "sealed pair"),
        (lambda s: s.__setattr__("commitments", s.commitments + b"x"), "commitments"),
        (lambda s: s.ClearField("dealers"), "left out"),
        (lambda s: s.dealers.__delitem__(slice(2, None)), "too few for a sum"),
    ],
)
def test_shares_that_cannot_be_right(cohort, lie: Callable[[Shares], object], reason):
    cohort.until("mask")
    shares = cohort.server.shares(cohort.ids[0])
    lie(shares)
    with pytest.raises(BadMessage, match=reason):
        victim(cohort).mask(shares, np.zeros(2, np.uint64), np.zeros(5, np.uint32))
    gone_without_a_word(victim(cohort))


# Survivors


@pytest.mark.parametrize(
    ("survivors", "error", "reason"),
    [
        ([1, 2, 3, 4], BadSurvivors, "left out"),
        ([0], BadSurvivors, "1 survivors, of at least 2"),
        ([0, 1], BadSurvivors, "fewer survivors than it takes"),
        ([0, 1, 1, 2], BadMessage, "ascending"),
        ([0, 1, 9], BadMessage, "not places"),
    ],
)
def test_survivors_that_cannot_be_right(cohort, survivors, error, reason):
    cohort.until("confirm")
    with pytest.raises(error, match=reason):
        victim(cohort).confirm(Survivors(survivors=survivors))
    gone_without_a_word(victim(cohort))


def test_a_survivor_that_dealt_nothing(cohort):
    cohort.until("deal")
    cohort.deal(gone=[cohort.ids[3]])
    cohort.mask()
    with pytest.raises(BadSurvivors, match="dealt no shares"):
        victim(cohort).confirm(Survivors(survivors=[0, 1, 2, 3, 4]))


def test_different_survivors_for_different_members(cohort):
    """The attack that malicious servers are about: one owner's both secrets, from two groups."""
    cohort.until("confirm")
    told = [Survivors(survivors=[0, 1, 2]), Survivors(survivors=[0, 1, 2, 3, 4])]
    signed = {}
    for place, member in enumerate(cohort.ids):
        if place < 3:
            signed[place] = cohort.clients[member].confirm(told[place > 0]).signature
        else:
            signed[place] = cohort.clients[member].confirm(told[1]).signature
    for places in ([0, 1, 2], [0, 1]):
        cohort_of_three = Confirmations(
            members=places, signatures=b"".join(signed[p] for p in places)
        )
        client = cohort.clients[cohort.ids[0 if len(places) == 3 else 1]]
        with pytest.raises(BadSurvivors, match=r"not told of the same|of 3"):
            client.unmask(cohort_of_three)
        gone_without_a_word(client)


def test_confirmations_of_an_earlier_round_do_not_count(cohort):
    earlier = Cohort(COUNT).until("reveal")
    old = earlier.server.confirmations(earlier.ids[0])
    cohort.until("reveal")
    with pytest.raises(BadSurvivors, match="not told of the same"):
        victim(cohort).unmask(old)
    gone_without_a_word(victim(cohort))


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (lambda c: c.members.append(7), BadMessage),
        (lambda c: c.__setattr__("signatures", c.signatures[:-64]), BadMessage),
        (lambda c: c.__setattr__("signatures", bytes(len(c.signatures))), BadSurvivors),
    ],
)
def test_confirmations_that_cannot_be_right(cohort, lie, error):
    cohort.until("reveal")
    told = cohort.server.confirmations(cohort.ids[0])
    lie(told)
    with pytest.raises(error):
        victim(cohort).unmask(told)
    gone_without_a_word(victim(cohort))


def test_one_signature_many_times_is_one(cohort):
    cohort.until("reveal")
    told = cohort.server.confirmations(cohort.ids[0])
    first = told.signatures[:64]
    again = Confirmations(members=[0, 0, 0], signatures=first * 3)
    with pytest.raises(BadMessage, match="ascending"):
        victim(cohort).unmask(again)


def test_never_both_shares_of_one_owner(cohort):
    """Survivors' seeds and the others' mask keys; nothing else leaves, and only once."""
    cohort.until("mask")
    held = dict(vars(victim(cohort))["_held"])
    assert held
    cohort.mask(gone=[cohort.ids[4]])
    pairs = dict(vars(victim(cohort))["_held"])
    cohort.confirm()
    revealed = victim(cohort).unmask(cohort.server.confirmations(cohort.ids[0])).shares
    for place in range(COUNT):
        share = revealed[place * 34 : place * 34 + 34]
        seed, key = pairs[place][:34], pairs[place][34:]
        assert share == (key if place == 4 else seed)


def test_terms_without_training_have_no_body():
    told = terms(COUNT)
    assert isinstance(told, Terms)
    assert told.parameters == 5
