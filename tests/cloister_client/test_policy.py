from dataclasses import replace
from pathlib import Path

import pytest

from cloister_client.config import SecureConfig
from cloister_client.errors import ConfigError
from cloister_client.policy import Policy, weigh
from cloister_protos import Assignment, Blob, Graph, Module, SecureAggregation, SecureTerms

TASK, OTHER, KEY = b"t" * 32, b"o" * 32, b"k" * 32
ANY = Policy(any_task=True)


def decide(
    policy: Policy,
    *,
    publisher: bytes = b"",
    signed: bool = False,
    dataset: str = "",
    datasets: tuple[str, ...] = ("d",),
    seconds_today: float = 0.0,
    terms: SecureTerms | None = None,
    secure: SecureConfig | None = None,
) -> str | None:
    assignment = Assignment(
        task=Module(blob=Blob(digest=TASK), publisher=publisher),
        aggregation=Module(blob=Blob(digest=OTHER)),
        dataset=dataset,
        clip_norm=1.0,
        secure=terms,
    )
    return weigh(
        policy,
        assignment,
        signed=signed,
        datasets=datasets,
        seconds_today=seconds_today,
        secure=secure,
    )


def test_a_policy_that_allows_nothing_is_an_error_that_tells_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"publishers = .* `digests = .* `any_task = true`"):
        Policy()


@pytest.mark.parametrize(
    ("policy", "publisher", "signed", "reason"),
    [
        (ANY, b"", False, None),
        (ANY, KEY, True, None),
        (ANY, KEY, False, "signature is not valid"),
        (Policy(digests=frozenset([TASK])), b"", False, None),
        (Policy(digests=frozenset([OTHER])), b"", False, "unsigned and its digest is not"),
        (Policy(digests=frozenset([OTHER])), KEY, True, "publisher is not on"),
        (Policy(publishers=frozenset([KEY])), KEY, True, None),
        (Policy(publishers=frozenset([KEY])), KEY, False, "signature is not valid"),
        (Policy(publishers=frozenset([KEY])), OTHER, True, "publisher is not on"),
        (Policy(publishers=frozenset([KEY])), b"", False, "unsigned"),
        (Policy(publishers=frozenset([KEY]), digests=frozenset([TASK])), b"", False, None),
    ],
)
def test_tasks(policy: Policy, publisher: bytes, signed: bool, reason: str | None) -> None:
    answer = decide(policy, publisher=publisher, signed=signed)
    assert answer is None if reason is None else reason in str(answer)


def test_aggregations() -> None:
    assert decide(replace(ANY, aggregations=frozenset([OTHER]))) is None
    assert "aggregation" in str(decide(replace(ANY, aggregations=frozenset([TASK]))))
    assert "aggregation" in str(decide(replace(ANY, aggregations=frozenset())))


def test_datasets() -> None:
    assert decide(ANY, dataset="d") is None
    assert "no dataset 'e'" in str(decide(ANY, dataset="e"))
    assert decide(ANY, datasets=("d", "e"), dataset="e") is None
    assert "has 2" in str(decide(ANY, datasets=("d", "e")))


def test_day_budget() -> None:
    policy = replace(ANY, seconds_per_day=10.0)
    assert decide(policy, seconds_today=9.9) is None
    assert "used up" in str(decide(policy, seconds_today=10.0))


def test_limits() -> None:
    limits = Policy(any_task=True, memory_mb=2, seconds_per_round=3, cpu_seconds=1).limits()
    assert (limits.memory_bytes, limits.run_seconds, limits.cpu_seconds) == (2 * 2**20, 3, 1)


SECURE = SecureConfig(Path("authority.pem"), Path("identity.crt"))
NOISE = 0.5 * 2**7
"""Standard deviation, in steps, of half a clipping norm with 8 bits."""


def offer(
    graph: Graph = Graph.GRAPH_COMPLETE, max_weight: int = 1, **fields: object
) -> SecureTerms:
    settings = SecureAggregation(
        graph=graph, value_bits=8, max_weight=max_weight, corrupt_fraction=0.25
    )
    return SecureTerms(**{"settings": settings, "members": 20, "minimum": 9, **fields})


def test_nothing_leaves_in_clear_where_masks_are_required() -> None:
    assert "in clear" in str(decide(ANY, secure=SECURE))
    assert decide(ANY, secure=replace(SECURE, required=False)) is None
    assert decide(ANY, secure=SECURE, terms=offer()) is None


def test_masks_that_are_not_set_up() -> None:
    assert r"[secure_aggregation]" in str(decide(ANY, terms=offer()))


@pytest.mark.parametrize(
    ("wanted", "terms", "reason"),
    [
        ({"minimum_cohort": 9}, offer(), None),
        ({"minimum_cohort": 10}, offer(), "over 9 members"),
        ({"corrupt_fraction": 0.25}, offer(), None),
        ({"corrupt_fraction": 0.3}, offer(), "collude"),
        ({}, offer(Graph.GRAPH_RING), "sparse graph"),
        ({"ring": True}, offer(Graph.GRAPH_RING), None),
        # 9 - 5 of those that make a sum are honest: four times the variance of one
        ({"noise_multiplier": 0.5}, offer(noise_variance=NOISE**2 / 4, private=True), None),
        ({"noise_multiplier": 0.5}, offer(noise_variance=NOISE**2 / 5, private=True), "noise is"),
        ({"noise_multiplier": 0.5}, offer(noise_variance=NOISE**2), "no exact metrics"),
        (
            {"noise_multiplier": 0.5},
            offer(max_weight=2, noise_variance=NOISE**2, private=True),
            "count for more than 1",
        ),
    ],
)
def test_floors(wanted: dict[str, object], terms: SecureTerms, reason: str | None) -> None:
    answer = decide(ANY, secure=replace(SECURE, **wanted), terms=terms)
    assert answer is None if reason is None else reason in str(answer)
