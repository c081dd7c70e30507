"""Counted bytes against the messages of rounds that were run."""

from __future__ import annotations

import pytest

from cloister_privacy.cost import CERTIFICATE_BYTES, Step, mask_bytes, steps, vector_bytes
from cloister_privacy.floors import Floors
from cloister_privacy.parameters import plan

from .cohort import NOW, Cohort, certificate, terms


@pytest.mark.parametrize(("members", "ring"), [(3, False), (12, False), (140, False), (60, True)])
def test_every_message_of_a_round_has_the_size(members: int, ring: bool) -> None:
    planned = plan(members, 0.0, 0.0, graph="ring" if ring else "complete")
    degree, threshold = planned.degree, planned.threshold
    told = terms(members, parameters=101, counters=3, ring=ring)
    floors = Floors(minimum_cohort=2, ring=ring)
    cohort = Cohort(members, told, layout=(degree, threshold), floors=floors)
    found = _run(cohort)
    vector = vector_bytes(101, told.encoding.ring_bits, 3)
    own = len(certificate(cohort.identities[0]))
    expected = steps(members, degree, threshold, vector, own)
    assert [(step.name, step.up) for step in expected] == [(step.name, step.up) for step in found]
    for counted, seen in zip(expected, found, strict=True):
        # certificates differ by a byte in their serial numbers, and so may their lengths'
        room = 4 * members if counted.name == "keys" else 0
        # neighbours' places are taken for the last ones; a number from 128 on takes 2 bytes
        room += degree if members > 128 else 0
        assert abs(counted.down - seen.down) <= room


def _run(cohort: Cohort) -> list[Step]:
    """What the first member sent and got in a whole round."""
    first = cohort.ids[0]
    client, server = cohort.clients[first], cohort.server
    ups, downs = [], []
    for member in cohort.ids:
        keys = cohort.clients[member].keys()
        server.take_keys(member, keys, NOW.timestamp())
        if member == first:
            ups.append(keys.ByteSize())
    roster = server.close_keys()
    downs.append(roster.ByteSize())
    for member in cohort.ids:
        dealing = cohort.clients[member].deal(roster, NOW.timestamp())
        server.take_dealing(member, dealing)
        if member == first:
            ups.append(dealing.ByteSize())
    server.close_dealings()
    downs.append(server.shares(first).ByteSize())
    cohort.mask()
    ups.append(len(cohort.received[first]))
    downs.append(cohort.survivors.ByteSize())
    for member in cohort.ids:
        confirmation = cohort.clients[member].confirm(cohort.survivors)
        server.take_confirmation(member, confirmation)
        if member == first:
            ups.append(confirmation.ByteSize())
    server.close_confirmations()
    confirmations = server.confirmations(first)
    downs.append(confirmations.ByteSize())
    ups.append(client.unmask(confirmations).ByteSize())
    names = ("keys", "shares", "masked vector", "confirmation", "unmasking")
    return [Step(*step) for step in zip(names, ups, [*downs, 0], strict=True)]


def test_a_typical_certificate_is_as_long_as_one() -> None:
    made = len(certificate(Cohort(3).identities[0]))  # named "ward"
    assert abs(made - CERTIFICATE_BYTES) < 16


def test_vectors_and_masks_by_hand() -> None:
    assert vector_bytes(1000, 26, 3) == 24 + 3250
    assert vector_bytes(0, 26, 3) == 24
    assert mask_bytes(1000, 32, 3, 9) == 10 * (24 + 4000)
    assert mask_bytes(1000, 33, 3, 9) == 10 * (24 + 8000)
