from __future__ import annotations

import base64
import itertools
import logging
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from cloister_client import Agent, ConfigError, check, identify, membership, parse_config
from cloister_privacy.certificate import to_pem
from cloister_privacy.client import Client, Step
from cloister_privacy.counters import UNCLIPPED, WEIGHT
from cloister_privacy.keystream import Entropy
from cloister_protos import Assignment, ExchangeResponse, Graph, Training
from cloister_tasks import build, compile_c

from .masked_round import MaskedRound, authority, certificate, secure_terms
from .running import CLASSES, PARAMETERS, TOML, Running, write_data

SECTION = """
[secure_aggregation]
authority = "authority.pem"
certificate = "identity.crt"
required = false
"""


class Watched(Client):
    """Tells the test what is secret in it."""

    made: list[Watched]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert self._share_keys is not None
        assert self._mask_keys is not None
        seed = bytes(self._seed)
        self.secrets = [seed, self._share_keys.private, self._mask_keys.private]
        self.made.append(self)

    @property
    def forgot(self) -> bool:
        held = (self._share_keys, self._mask_keys, *self._held.values(), *filter(None, self._seed))
        return not any(held)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    Watched.made = []
    monkeypatch.setattr(membership, "Client", Watched)
    return Watched.made


Start = Callable[..., Running]


@pytest.fixture
def start(coordinator: Any, tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []
    write_data(tmp_path)

    def start(
        section: str = SECTION, data: str = "d.csv", policy: str = "", days: int = 90
    ) -> Running:
        policy = f"any_task = true\n{policy}"
        text = TOML.replace("d.csv", data).format(port=coordinator.port, policy=policy) + section
        config = parse_config(text, tmp_path)
        key = identify(config).public_key
        (tmp_path / "identity.crt").write_bytes(to_pem(certificate(key, days)))
        (tmp_path / "authority.pem").write_bytes(to_pem(authority().certificate))
        running.append(Running(coordinator, config))
        coordinator.checked_in()
        return running[-1]

    yield start
    coordinator.masked = None
    for one in running:
        one.join()


def begin(agent: Running, assignment: Assignment, **script: Any) -> MaskedRound:
    """Assign it, in a round that goes as scripted."""
    parameters = script.pop("parameters", PARAMETERS)
    attributes = {name: script.pop(name) for name in ("lies", "waits", "held") if name in script}
    masked = MaskedRound(assignment, parameters, **script)
    for name, value in attributes.items():
        setattr(masked, name, value)
    agent.coordinator.masked = masked
    agent.coordinator.assign(assignment)
    return masked


def masked_assignment(agent: Running, secure: Any = None, **fields: Any) -> Assignment:
    terms = secure_terms() if secure is None else secure
    return agent.assignment(**{"clip_norm": 0.5, "secure": terms, **fields})


def result_of(agent: Running, assignment: Assignment) -> Any:
    answer = agent.coordinator.answer()
    assert answer.assignment_id == assignment.assignment_id
    return answer.result


def in_clear(agent: Running, **fields: Any) -> Any:
    """The same work without masks: training gives the same bits again."""
    agent.coordinator.masked = None
    return agent.answer_to(agent.assignment(**{"clip_norm": 0.5, **fields})).result


def steps_of(masked: MaskedRound, update: NDArray[np.float32], weight: int) -> NDArray[np.float64]:
    """An update as the integers are before they are rounded."""
    exact: NDArray[np.float64] = update.astype(np.float64) * weight / masked.terms.encoding.step
    return exact


def at_work(agent: Running) -> None:
    """It takes the next assignment as if nothing had been."""
    assert in_clear(agent).examples


def test_the_sum_is_what_members_put_in(
    start: Start, coordinator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cloister_client")
    agent = start()
    plain = in_clear(agent, evaluate=True)
    update = np.frombuffer(plain.inline_update, "<f4")
    assignment = masked_assignment(agent, evaluate=True)
    masked = begin(agent, assignment, waits={"keys": 2, "ready": 1, "unmasking": 1})
    result = result_of(agent, assignment)
    assert agent.wait_for("summed")["survivors"] == 5
    counters, integers = masked.of_the_device()
    assert np.abs(integers - steps_of(masked, update, plain.examples)).max() < 1
    loss = {f"training {name}": value for name, value in plain.training_sums.items()}
    loss |= {f"evaluation {name}": value for name, value in plain.evaluation_sums.items()}
    rows = {name: getattr(plain, name) for name in ("examples", "trained_rows", "evaluated_rows")}
    assert counters == pytest.approx(
        {WEIGHT: plain.examples, UNCLIPPED: 1, **rows, **loss}, abs=2**-20
    )
    # and nothing else is told
    assert not result.accused
    result.ClearField("inline_update")
    assert not result.ListFields()
    (line,) = (r.getMessage() for r in caplog.records if "masked" in r.getMessage())
    assert "trained" in line
    assert "masked among 5 members" in line
    mine = assignment.assignment_id
    audit = [line for line in agent.audit() if line.get("assignment") == mine]
    asked, reported, _ = audit
    assert (asked["secure"], reported["masked"]) == (True, True)
    assert (reported["members"], reported["threshold"]) == (5, 3)
    at_work(agent)


@pytest.mark.parametrize("step", ["dealing", "ready", "confirmation", "unmasking"])
def test_fellows_drop_out(start: Start, step: str) -> None:
    agent = start()
    plain = in_clear(agent)
    assignment = masked_assignment(agent)
    masked = begin(agent, assignment, gone={step: [0, 2]})
    result_of(agent, assignment)
    agent.wait_for("summed")
    counters, integers = masked.of_the_device()
    update = np.frombuffer(plain.inline_update, "<f4")
    assert np.abs(integers - steps_of(masked, update, plain.examples)).max() < 1
    assert counters[WEIGHT] == plain.examples


@pytest.mark.parametrize(
    ("norm", "own", "unclipped"), [(1e-3, None, 0), (1e3, None, 1), (0.01, 1e-3, 1)]
)
def test_the_shorter_clipping_norm_holds(
    start: Start, norm: float, own: float | None, unclipped: int
) -> None:
    """What the owner clips anyway is not clipped by the job."""
    agent = start(policy=f"clip_norm = {own}" if own else "")
    plain = np.frombuffer(in_clear(agent, clip_norm=norm).inline_update, "<f4")
    shortest = min(norm, own or norm)
    assert np.linalg.norm(plain) <= shortest * (1 + 1e-6)
    if norm < 1:
        assert np.linalg.norm(plain) == pytest.approx(shortest, rel=1e-6)
    secure = secure_terms()
    secure.settings.max_weight = 3
    assignment = masked_assignment(agent, secure, clip_norm=norm)
    masked = begin(agent, assignment)
    result_of(agent, assignment)
    agent.wait_for("summed")
    counters, integers = masked.of_the_device()
    assert np.abs(integers - steps_of(masked, plain, 3)).max() < 1
    assert (counters[WEIGHT], counters[UNCLIPPED]) == (3, unclipped)


def test_an_evaluation_is_summed_too(start: Start) -> None:
    agent = start()
    only = {"training": None, "evaluate": True}
    plain = in_clear(agent, **only)
    assignment = masked_assignment(agent, **only)
    masked = begin(agent, assignment)
    result = result_of(agent, assignment)
    assert len(result.inline_update) == 8 * len(masked.counters)
    agent.wait_for("summed")
    counters, integers = masked.of_the_device()
    assert integers.size == 0
    assert (counters[WEIGHT], counters[UNCLIPPED]) == (0, 0)
    assert counters["evaluated_rows"] == plain.evaluated_rows > 0
    loss = plain.evaluation_sums["loss"]
    assert counters["evaluation loss"] == pytest.approx(loss, abs=2**-20)


def test_statistics_are_summed_too(start: Start) -> None:
    agent = start()
    task = build("summarize", features=4, bins=3, capacity=64)
    size = 4 * (3 + 3)
    work = {"task": task, "model": bytes(4 * size), "clip_norm": 1000.0}
    plain = np.frombuffer(in_clear(agent, **work).inline_update, "<f4")
    secure = secure_terms()
    secure.settings.max_weight = 1
    assignment = masked_assignment(agent, secure, **work)
    masked = begin(agent, assignment, parameters=size, metrics=())
    result_of(agent, assignment)
    agent.wait_for("summed")
    _, integers = masked.of_the_device()
    assert np.abs(integers - steps_of(masked, plain, 1)).max() < 1
    assert plain.max() > 1


@pytest.mark.parametrize("noisy", [False, True])
def test_large_vectors_are_uploaded_with_their_noise(
    start: Start, coordinator: Any, tmp_path: Path, noisy: bool
) -> None:
    features = 100_000
    size = features * CLASSES + CLASSES
    x = np.random.default_rng(1).standard_normal((6, features), dtype=np.float32)
    np.savez(tmp_path / "wide.npz", x=x, y=np.arange(6) % 2)
    agent = start(data="wide.npz")
    work = {
        "task": build("softmax-regression", features=features, classes=CLASSES, capacity=4),
        "model": bytes(4 * size),
        "inline_model": b"",
        "training": Training(epochs=1, hyperparameters={"batch_size": 4.0}),
    }
    in_clear(agent, **work)
    update = np.frombuffer(coordinator.uploads["j/1/c"], "<f4")
    variance = 400.0 if noisy else 0.0
    secure = secure_terms(
        private=noisy, noise_variance=variance, count_variance=1e8 if noisy else 0.0
    )
    secure.settings.max_weight = 1
    assignment = masked_assignment(agent, secure, **work)
    masked = begin(agent, assignment, parameters=size)
    result = result_of(agent, assignment)
    assert not result.inline_update
    assert result.update.size == len(coordinator.uploads[assignment.assignment_id])
    agent.wait_for("summed")
    counters, integers = masked.of_the_device()
    rest = integers - steps_of(masked, update, 1)
    if noisy:
        # rounding adds a variance of 1/4 at most; 200,002 draws tell it to 2 percent at 6 sigma
        assert variance * 0.98 < rest.var() < (variance + 0.25) * 1.02
        assert abs(rest.mean()) < 6 * np.sqrt(variance / size)
        # 10,000 steps on a count of 0 or 1024: not as it was, to a chance of 1 in 12,000
        assert counters[UNCLIPPED] not in (0, 1)
        assert abs(counters[UNCLIPPED]) < 120
        assert set(counters) == {WEIGHT, UNCLIPPED}
    else:
        assert np.abs(rest).max() < 1


def test_without_noise_of_its_own_the_count_is_not_told(start: Start) -> None:
    """Where members do not trust the coordinator with a sum, no exact one is released."""
    agent = start()
    secure = secure_terms(private=True, noise_variance=9.0)
    secure.settings.max_weight = 1
    assignment = masked_assignment(agent, secure, clip_norm=1e3)
    masked = begin(agent, assignment)
    result_of(agent, assignment)
    agent.wait_for("summed")
    counters, _ = masked.of_the_device()
    assert counters == {WEIGHT: 1, UNCLIPPED: 0}


def test_a_fellow_whose_shares_cannot_be_opened_is_accused(start: Start) -> None:
    def spoil(answer: ExchangeResponse, masked: MaskedRound) -> None:
        sealed = bytearray(answer.shares.sealed)
        sealed[0] ^= 1
        answer.shares.sealed = bytes(sealed)

    agent = start()
    assignment = masked_assignment(agent)
    masked = begin(agent, assignment, lies={"dealing": spoil})
    result = result_of(agent, assignment)
    assert list(result.accused) == [0 if masked.place else 1]
    agent.wait_for("summed")
    counters, _ = masked.of_the_device()
    assert counters[WEIGHT] > 0


# A coordinator that lies


def stranger(answer: ExchangeResponse, masked: MaskedRound) -> None:
    key = masked.fellows[0].client._signer.public_key
    at = 0 if masked.place else 1
    answer.roster.members[at].certificate = certificate(key, of="somebody else")


def expired(answer: ExchangeResponse, masked: MaskedRound) -> None:
    key = masked.fellows[0].client._signer.public_key
    at = 0 if masked.place else 1
    answer.roster.members[at].certificate = certificate(key, days=-0.01)


def other_keys(answer: ExchangeResponse, masked: MaskedRound) -> None:
    at = 0 if masked.place else 1
    answer.roster.members[at].mask_key = bytes(range(32))


def without_me(answer: ExchangeResponse, masked: MaskedRound) -> None:
    del answer.roster.members[masked.place]
    answer.roster.degree -= 1


def fewer_neighbours(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.roster.degree = 2


def fewer_shares(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.roster.threshold = 2


def fewer_members(answer: ExchangeResponse, masked: MaskedRound) -> None:
    del answer.roster.members[2:]
    answer.roster.degree, answer.roster.threshold = 1, 2


def nothing(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.Clear()


def done(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.Clear()
    answer.done.SetInParent()


def dealers_without_me(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.shares.dealers.remove(masked.place)


def few_dealers(answer: ExchangeResponse, masked: MaskedRound) -> None:
    other = 0 if masked.place else 1
    del answer.shares.dealers[:]
    answer.shares.dealers.extend(sorted([masked.place, other]))


def short_shares(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.shares.sealed = answer.shares.sealed[:-1]


@pytest.mark.parametrize(
    ("step", "lie", "kind"),
    [
        ("keys", stranger, "bad_roster"),
        ("keys", expired, "bad_roster"),
        ("keys", other_keys, "bad_roster"),
        ("keys", without_me, "bad_roster"),
        ("keys", fewer_neighbours, "below_floor"),
        ("keys", fewer_shares, "below_floor"),
        ("keys", fewer_members, "below_floor"),
        ("keys", nothing, "bad_message"),
        ("keys", done, "bad_message"),
        ("dealing", dealers_without_me, "bad_message"),
        ("dealing", few_dealers, "bad_message"),
        ("dealing", short_shares, "bad_message"),
        ("dealing", nothing, "bad_message"),
    ],
)
def test_a_lie_before_the_vector_is_a_failure(
    start: Start, clients: list[Watched], step: str, lie: Any, kind: str
) -> None:
    agent = start()
    assignment = masked_assignment(agent)
    masked = begin(agent, assignment, lies={step: lie})
    answer = agent.coordinator.answer()
    assert answer.failure.kind == kind, answer
    assert masked.steps == ["keys", "dealing"][: ["keys", "dealing"].index(step) + 1]
    assert not masked.vector
    assert clients[0].forgot
    at_work(agent)


def survivors_without_me(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.survivors.survivors.remove(masked.place)


def few_survivors(answer: ExchangeResponse, masked: MaskedRound) -> None:
    other = 0 if masked.place else 1
    del answer.survivors.survivors[:]
    answer.survivors.survivors.extend(sorted([masked.place, other]))


def unknown_survivor(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.survivors.survivors.append(7)


def one_survivor_less(answer: ExchangeResponse, masked: MaskedRound) -> None:
    """Other survivors than those that the others are told of."""
    answer.survivors.survivors.remove(0 if masked.place else 1)


def few_confirmations(answer: ExchangeResponse, masked: MaskedRound) -> None:
    del answer.confirmations.members[2:]
    answer.confirmations.signatures = answer.confirmations.signatures[:128]


def forged_confirmation(answer: ExchangeResponse, masked: MaskedRound) -> None:
    answer.confirmations.signatures = bytes(64) + answer.confirmations.signatures[64:]


@pytest.mark.parametrize(
    ("step", "lie", "kind"),
    [
        ("ready", survivors_without_me, "bad_survivors"),
        ("ready", few_survivors, "bad_survivors"),
        ("ready", unknown_survivor, "bad_message"),
        ("ready", done, "bad_message"),
        ("confirmation", few_confirmations, "bad_survivors"),
        ("confirmation", forged_confirmation, "bad_survivors"),
        ("confirmation", nothing, "bad_message"),
    ],
)
def test_after_a_lie_about_survivors_no_share_leaves(
    start: Start, clients: list[Watched], step: str, lie: Any, kind: str
) -> None:
    agent = start()
    assignment = masked_assignment(agent)
    masked = begin(agent, assignment, lies={step: lie})
    result_of(agent, assignment)
    assert agent.wait_for("aborted")["kind"] == kind
    assert masked.steps[-1] == step
    assert clients[0].forgot
    at_work(agent)  # and it has said nothing more: this is the next answer that comes


def test_two_survivor_sets_are_noticed(start: Start, clients: list[Watched]) -> None:
    """The device is told of one survivor less than the others, who confirm theirs."""

    class TwoFaced(MaskedRound):
        def _confirmation(self, confirmation: Any) -> ExchangeResponse:
            for fellow in self.fellows:
                signed = fellow.client.confirm(self.told)
                self._server.take_confirmation(fellow.client_id, signed)
            self._server.close_confirmations()
            return ExchangeResponse(confirmations=self._server.confirmations(self.device))

        def _ready(self, ready: Any) -> ExchangeResponse:
            answer = super()._ready(ready)
            self.told = type(self._survivors)(survivors=self._survivors.survivors)
            one_survivor_less(answer, self)
            gone = 0 if self.place else 1
            self.lies["confirmation"] = lambda answer, _: leave_out(answer, gone)
            return answer

    def leave_out(answer: ExchangeResponse, place: int) -> None:
        confirmations = answer.confirmations
        at = list(confirmations.members).index(place)
        signatures = bytearray(confirmations.signatures)
        del signatures[64 * at : 64 * at + 64]
        confirmations.members.remove(place)
        confirmations.signatures = bytes(signatures)

    agent = start()
    assignment = masked_assignment(agent)
    agent.coordinator.masked = masked = TwoFaced(assignment, PARAMETERS)
    coordinator = agent.coordinator
    coordinator.assign(assignment)
    result_of(agent, assignment)
    assert agent.wait_for("aborted")["kind"] == "bad_survivors"
    assert "not told of the same" in agent.wait_for("aborted")["reason"]
    assert masked.steps[-1] == "confirmation"
    assert clients[0].forgot


# Ways out


@pytest.mark.parametrize("step", ["keys", "dealing", "ready", "confirmation", "unmasking"])
def test_a_member_that_waits_can_be_called_off(
    start: Start, coordinator: Any, clients: list[Watched], step: str
) -> None:
    agent = start()
    assignment = masked_assignment(agent)
    masked = begin(agent, assignment, held=step)
    assert masked.reached.wait(20)
    coordinator.cancel(assignment.assignment_id)
    assert "cancelled" in agent.wait_for("dropped")["reason"]
    assert clients[0].forgot
    assert clients[0].step in (Step.ABORTED, Step.DONE)
    if step in ("ready", "confirmation", "unmasking"):
        result_of(agent, assignment)
    at_work(agent)


def test_the_deadline_ends_waiting(start: Start, clients: list[Watched]) -> None:
    agent = start()
    assignment = masked_assignment(agent, deadline_seconds=1.0)
    begin(agent, assignment, held="dealing")
    assert "deadline passed" in agent.wait_for("dropped")["reason"]
    assert clients[0].forgot


def test_stopping_in_mid_round_leaves_it_for_good(
    start: Start, coordinator: Any, clients: list[Watched]
) -> None:
    agent = start()
    assignment = masked_assignment(agent)
    masked = begin(agent, assignment, held="ready")
    assert masked.reached.wait(20)
    result_of(agent, assignment)
    agent.join()
    assert clients[0].forgot
    # after a restart it has other keys, which come too late
    agent = start()
    agent.assignment()  # its number is the other one's
    coordinator.masked = masked
    coordinator.assign(assignment)
    agent.wait_for("dropped", 2)
    at_work(agent)
    reasons = [line["reason"] for line in agent.audit() if line["event"] == "dropped"]
    assert "shutting down" in reasons[0]
    assert "this step is over" in reasons[1]
    assert all(client.forgot for client in clients)


def test_a_round_that_is_over_is_dropped(
    start: Start, coordinator: Any, clients: list[Watched]
) -> None:
    agent = start()
    coordinator.assign(masked_assignment(agent))  # nobody knows of a round
    assert "no such round" in agent.wait_for("dropped")["reason"]
    assert clients[0].forgot
    at_work(agent)


def test_steps_are_said_again_on_a_breaking_line(start: Start, coordinator: Any) -> None:
    agent = start()
    coordinator.faults = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED] * 2
    assignment = masked_assignment(agent)
    masked = begin(agent, assignment)
    result_of(agent, assignment)
    agent.wait_for("summed")
    assert masked.of_the_device()[0][WEIGHT] > 0


def test_training_that_fails_forgets_too(start: Start, clients: list[Watched]) -> None:
    agent = start()
    faulty = Training(epochs=1, hyperparameters={"speed": 1.0})
    for training in (faulty, Training(epochs=5, hyperparameters={"learning_rate": 1e38})):
        assignment = masked_assignment(agent, training=training)
        masked = begin(agent, assignment)
        failure = agent.coordinator.answer().failure
        assert failure.kind == ("refused" if training is faulty else "gate")
        assert masked.steps == ["keys", "dealing"]
    assert len(clients) == 2
    assert all(client.forgot for client in clients)


ODD = """
#include <cloister.h>
CLOISTER_TASK("odd", "Changes nothing, and its loss is odd");
CLOISTER_PARAMETER(weight, "One", 1);
CLOISTER_INPUT(float, features, "Not looked at", 64, 4);
CLOISTER_METRIC(loss, "Odd");
CLOISTER_FAULT;
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { return seed != seed; }
CLOISTER_EXPORT(reset) int32_t reset(void) { return 0; }
CLOISTER_EXPORT(train) int32_t train(int32_t rows) { loss = VALUE; return rows < 0; }
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) { return rows < 0; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) { return rows < 0; }
"""


@pytest.mark.parametrize(
    ("value", "message"),
    [('__builtin_nan("")', "'training loss' is not finite"), ("1234567e50", "too large")],
)
def test_metrics_that_make_no_sum_stay_here(
    start: Start, tmp_path: Path, clients: list[Watched], value: str, message: str
) -> None:
    source = tmp_path / "odd.c"
    source.write_text(ODD.replace("VALUE", value))
    task = compile_c(source)
    agent = start()
    for private in (False, True):
        secure = secure_terms(private=private)
        assignment = masked_assignment(agent, secure, task=task, model=bytes(4))
        begin(agent, assignment, parameters=1, metrics=["loss"])
        answer = agent.coordinator.answer()
        if private:  # then it is not summed
            assert answer.result.inline_update
        else:
            assert answer.failure.kind == "gate"
            assert message in agent.wait_for("failed")["reason"]
            assert "only the kind" in answer.failure.message
            assert clients[0].forgot


SAYS = """
#include <cloister.h>
CLOISTER_TASK("says", "Fails with what it sees");
CLOISTER_PARAMETER(weight, "One", 1);
CLOISTER_INPUT(float, features, "Told in its failure", 64, 4);
CLOISTER_METRIC(loss, "None");
CLOISTER_FAULT;
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { return seed != seed; }
CLOISTER_EXPORT(reset) int32_t reset(void) { return 0; }
CLOISTER_EXPORT(train) int32_t train(int32_t rows) {
    fault = *(int32_t *)&features[0][1];
    return rows > 0 ? *(int32_t *)&features[0][0] : 0;
}
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) { return rows < 0; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) { return rows < 0; }
"""


def test_a_task_says_nothing_by_failing(start: Start, coordinator: Any, tmp_path: Path) -> None:
    """Its status and row may be any bits of the data: only the owner gets to see them."""
    source = tmp_path / "says.c"
    source.write_text(SAYS)
    task = compile_c(source)
    agent = start()
    assignment = masked_assignment(agent, task=task, model=bytes(4))
    begin(agent, assignment, parameters=1, metrics=["loss"])
    secret = agent.coordinator.answer().failure
    assert (secret.kind, "only the kind" in secret.message) == ("faulted", True)
    assert not any(digit in secret.message for digit in "0123456789")
    reason = agent.wait_for("failed")["reason"]
    coordinator.masked = None
    clear = agent.answer_to(agent.assignment(task=task, model=bytes(4))).failure
    assert clear.message == reason
    assert any(digit in reason for digit in "123456789")


# What the owner wants


def test_what_leaves_in_clear_is_declined_where_masks_are_required(start: Start) -> None:
    agent = start(SECTION.replace("required = false", ""))
    assert "nothing leaves this device in clear" in agent.answer_to(agent.assignment()).reason
    assignment = masked_assignment(agent)
    begin(agent, assignment)
    assert result_of(agent, assignment).inline_update


def test_without_the_section_masks_are_declined(start: Start) -> None:
    agent = start("")
    assert "adds the section" in agent.answer_to(masked_assignment(agent)).reason


def test_what_is_below_a_floor_is_declined(start: Start) -> None:
    agent = start(SECTION + "minimum_cohort = 4\ncorrupt_fraction = 0.2")
    wanted = secure_terms(minimum=4)
    assert "at least 4" in agent.answer_to(masked_assignment(agent)).reason
    assert "collude" in agent.answer_to(masked_assignment(agent, wanted)).reason
    wanted.settings.corrupt_fraction = 0.2
    wanted.settings.graph = Graph.GRAPH_RING
    assert "sparse graph" in agent.answer_to(masked_assignment(agent, wanted)).reason


def test_the_certificates_end_is_announced(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cloister_client")
    agent = start(days=3)
    at_work(agent)
    assert "certificate for secure aggregation ends at" in caplog.text
    caplog.clear()
    agent.join()
    at_work(start())
    assert "certificate" not in caplog.text


def test_a_certificate_of_another_key_is_told_before_anything_is_sent(
    coordinator: Any, tmp_path: Path
) -> None:
    write_data(tmp_path)
    text = TOML.format(port=coordinator.port, policy="any_task = true") + SECTION
    config = parse_config(text, tmp_path)
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    (tmp_path / "authority.pem").write_bytes(to_pem(authority().certificate))
    (tmp_path / "identity.crt").write_bytes(to_pem(certificate(other)))
    with pytest.raises(ConfigError, match="not made yet"):
        check(config)
    with pytest.raises(ConfigError, match="but this device is client"):
        Agent(config).run(threading.Event())
    assert coordinator.enrolments == 0
    key = identify(config).public_key
    (tmp_path / "identity.crt").write_bytes(to_pem(certificate(key)))
    assert check(config).certification is not None


# What stays secret


def test_nothing_is_told_in_clear(start: Start, coordinator: Any) -> None:
    agent = start()
    plain = in_clear(agent, evaluate=True)
    coordinator.received.clear()
    assignment = masked_assignment(agent, evaluate=True)
    begin(agent, assignment)
    result_of(agent, assignment)
    agent.wait_for("summed")
    told = b"".join(coordinator.received)
    pieces = [plain.inline_update[at : at + 8] for at in range(0, 4 * PARAMETERS, 8)]
    sums = [*plain.training_sums.values(), *plain.evaluation_sums.values()]
    pieces += [struct.pack("<d", total) for total in sums]
    pieces += [struct.pack("<Q", round(total * 2**20)) for total in sums]
    # and the integers before they were masked
    encoding = MaskedRound(assignment, PARAMETERS).terms.encoding
    update = np.frombuffer(plain.inline_update, "<f4")
    ring = encoding.encode(update, plain.examples, Entropy())
    pieces += [ring[at : at + 2].tobytes() for at in range(0, PARAMETERS, 2)]
    assert not [piece for piece in pieces if piece in told]


def test_no_secret_is_written_down(
    start: Start,
    coordinator: Any,
    clients: list[Watched],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    agent = start()
    for lies in ({}, {"dealing": short_shares}, {"keys": stranger}, {"ready": few_survivors}):
        assignment = masked_assignment(agent)
        begin(agent, assignment, lies=lies)
        coordinator.answer()
    agent.wait_for("aborted")
    at_work(agent)
    agent.join()
    assert len(clients) == 4
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    lines = [record.getMessage().encode() for record in caplog.records]
    lines += [str(record.exc_text).encode() for record in caplog.records]
    written = b"\n".join([*files, *lines, *coordinator.received])
    forms = (bytes, lambda s: s.hex().encode(), base64.b64encode, lambda s: repr(s).encode())
    secrets = itertools.chain.from_iterable(client.secrets for client in clients)
    found = [form(secret) for secret in secrets for form in forms if form(secret) in written]
    assert not found
