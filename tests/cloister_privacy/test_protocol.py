"""Whole rounds: the sum of the survivors, bit for bit, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_privacy.errors import OutOfStep, Unrecoverable
from cloister_privacy.floors import Floors
from cloister_privacy.server import Phase

from .cohort import Cohort, terms

PHASES = ("key", "deal", "mask", "confirm", "reveal")


def run(cohort: Cohort, gone: dict[str, list[str]]) -> None:
    for phase in PHASES:
        getattr(cohort, phase)(gone.get(phase, []))


@settings(max_examples=40)
@given(st.data())
def test_the_sum_of_the_survivors(data):
    count = data.draw(st.integers(2, 12), label="members")
    told = terms(
        count,
        parameters=data.draw(st.integers(0, 20), label="parameters"),
        counters=data.draw(st.integers(0, 3), label="counters"),
        value_bits=data.draw(st.sampled_from([2, 16, 24]), label="value bits"),
        max_weight=data.draw(st.sampled_from([1, 1 << 20]), label="most weight"),
    )
    cohort = Cohort(count, told)
    # Everybody leaves in a phase of its own or stays; a round needs more than half to the end.
    leaves = [data.draw(st.sampled_from([*PHASES, *["never"] * 9])) for _ in range(count)]
    gone = {
        phase: [m for m, p in zip(cohort.ids, leaves, strict=True) if p == phase]
        for phase in PHASES
    }
    try:
        run(cohort, gone)
        found = cohort.sums()
    except Unrecoverable:
        keyed = count - len(gone["key"])
        assert leaves.count("never") < max(2, keyed // 2 + 1)
        return
    assert found == cohort.expected(cohort.received)
    assert set(cohort.received) == {
        m for m, p in zip(cohort.ids, leaves, strict=True) if p in ("confirm", "reveal", "never")
    }


def test_thirty_percent_drop_out_over_all_steps():
    cohort = Cohort(30, terms(30, parameters=100, corrupt_fraction=0.1))
    ids = cohort.ids
    gone = {"deal": ids[:2], "mask": ids[7:12], "confirm": ids[20:21], "reveal": ids[28:29]}
    run(cohort, gone)
    survivors = [m for m in ids if m not in ids[:2] + ids[7:12]]
    assert cohort.sums() == cohort.expected(survivors)


def test_one_below_the_threshold_reveals_nothing():
    cohort = Cohort(9).until("reveal")
    threshold = cohort.roster.threshold
    assert threshold == 5
    cohort.reveal(gone=cohort.ids[threshold - 1 :])
    with pytest.raises(Unrecoverable, match="4 of 5 shares"):
        cohort.sums()
    assert cohort.server.phase is Phase.OVER


@pytest.mark.parametrize("phase", ["key", "deal", "mask", "confirm"])
def test_too_few_in_a_phase(phase):
    cohort = Cohort(9, terms(9, minimum=4)).until(phase)
    with pytest.raises(Unrecoverable, match="of at least"):
        getattr(cohort, phase)(gone=cohort.ids[3:])
    assert cohort.server.phase is Phase.OVER
    with pytest.raises(OutOfStep):
        cohort.server.close_vectors()


@pytest.mark.parametrize("drop", [0, 5])
def test_a_ring(drop):
    count, degree, threshold = 40, 20, 12
    told = terms(count, parameters=50, ring=True, minimum=20)
    floors = Floors(ring=True)
    cohort = Cohort(count, told, layout=(degree, threshold), floors=floors)
    # So small a ring has no 40 bits of security, which is for test_floors to see.
    object.__setattr__(cohort.floors, "check_graph", lambda *_: None)
    run(cohort, {"mask": cohort.ids[3 : 3 + drop]})
    assert cohort.sums() == cohort.expected(cohort.ids[:3] + cohort.ids[3 + drop :])


def test_metrics_alone():
    cohort = Cohort(4, terms(4, parameters=0, counters=6))
    run(cohort, {"mask": cohort.ids[:1]})
    assert cohort.sums() == cohort.expected(cohort.ids[1:])


def test_masks_are_uniform_and_never_the_same():
    cohort = Cohort(3, terms(3, parameters=20_000, counters=1)).until("confirm")
    again = Cohort(3, cohort.terms).until("confirm")
    seen = []
    for round_ in (cohort, again):
        for member in round_.ids:
            _, body = round_.split(round_.received[member])
            mask = (body - round_.bodies[member]) % (1 << round_.terms.encoding.ring_bits)
            seen.append(mask)
            # Six standard deviations of the mean of 20,000 uniform numbers.
            share = mask.mean() / (1 << round_.terms.encoding.ring_bits)
            assert abs(share - 0.5) < 6 * (1 / 12 / 20_000) ** 0.5
    for one in range(len(seen)):
        for other in range(one):
            equal = int(np.count_nonzero(seen[one] == seen[other]))
            assert equal < 40  # 20,000 / 2^17 are expected


def test_what_arrives_holds_nothing_of_the_vector():
    cohort = Cohort(3, terms(3, parameters=1000, counters=2))
    for member in cohort.ids:
        cohort.tails[member][:] = 0x4141414141414141
        cohort.bodies[member][:] = 0x4141
    cohort.until("confirm")
    for data in cohort.received.values():
        assert b"AAAAAAAA" not in data
