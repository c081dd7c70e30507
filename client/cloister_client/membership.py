"""One round of secure aggregation over the link: the protocol's steps, each asked until answered.

The protocol is `cloister_privacy.client`. What is secret in it lives in this process's memory alone
and is forgotten on every way out; a client that starts anew in mid-round has left that round.
"""

from __future__ import annotations

import math
import time

from cloister_client.certification import Certification
from cloister_client.desk import Work
from cloister_client.errors import GateError
from cloister_client.link import Link
from cloister_client.training import Outcome
from cloister_privacy.client import Client, Masked
from cloister_privacy.contribution import contribution, weight
from cloister_privacy.counters import (
    EVALUATED_ROWS,
    EXAMPLES,
    TRAINED_ROWS,
    UNCLIPPED,
    WEIGHT,
    Counters,
)
from cloister_privacy.errors import BadMessage
from cloister_privacy.keystream import Entropy
from cloister_privacy.terms import Terms
from cloister_protos import ExchangeRequest, ExchangeResponse, Ready, Shares

PAUSE_SECONDS = 0.1
"""Between an answer `wait` and the same question: a coordinator that never waits itself must not
keep this device busy."""


class Membership:
    """This device in one round: `join`, train, `mask`, report, `finish`; and `close` in any case.

    Args:
        work: the assignment; ended by its withdrawal or deadline.
        link: the way to the coordinator.
        certification: who this device is.
        parameters: elements of the task's model.
        metrics: names of the task's metrics, in the manifest's order.

    Raises:
        BelowFloor: the assignment offers less than the owner insists on.
    """

    def __init__(
        self,
        work: Work,
        link: Link,
        certification: Certification,
        parameters: int,
        metrics: list[str],
    ) -> None:
        assignment = work.assignment
        secure = assignment.secure
        self._work, self._link = work, link
        self._counters = Counters(metrics, secure.members, secure.private)
        self._terms = Terms.of(assignment, parameters, len(self._counters))
        self._client = Client(
            self._terms,
            certification.identity,
            certification.certificate,
            certification.trust,
            certification.config.floors,
        )
        self._shares = Shares()
        self.members = 0
        """In the roster, once joined."""
        self.threshold = 0
        """Members whose shares bring back a secret, once joined."""
        self.survivors = 0
        """Members whose vectors make up the sum, once finished."""

    def join(self) -> None:
        """Before training, so that members who leave while they train cost the others nothing.

        Raises:
            Aborted: what came from the coordinator cannot be right.
            Withdrawn, NotWanted, Rejected: the round goes on without this device.
        """
        roster = self._ask(self._request(keys=self._client.keys()), "roster").roster
        dealing = self._client.deal(roster, time.time())
        self.members, self.threshold = len(roster.members), roster.threshold
        self._shares = self._ask(self._request(dealing=dealing), "shares").shares

    def mask(self, outcome: Outcome, unclipped: bool) -> Masked:
        """What training gave, masked; its update (clipped already) is overwritten with zeros.

        Args:
            unclipped: whether the job's clipping norm left the update as it was.

        Raises:
            Aborted: what came from the coordinator cannot be right.
            GateError: a metric's sum is not finite, or too large.
        """
        values = self._values(outcome, unclipped)
        # errors leave the device: they name the metric, never its value
        for name in self._counters.names:
            if not math.isfinite(values.get(name, 0)):
                raise GateError(f"the sum of the metric {name!r} is not finite")
        try:
            vector = contribution(self._terms, self._counters, outcome.update, values, Entropy())
        except ValueError:
            raise GateError("a metric's sum is too large to be added to the others'") from None
        if outcome.update is not None:
            outcome.update[:] = 0
        return self._client.mask(self._shares, *vector)

    def finish(self) -> None:
        """Help to take the masks off the sum, once the report is acknowledged.

        Raises:
            Aborted: what came from the coordinator cannot be right; no share has left.
            Withdrawn, NotWanted, Rejected: the round goes on without this device.
        """
        told = self._ask(self._request(ready=Ready()), "survivors").survivors
        confirmation = self._client.confirm(told)
        self.survivors = len(told.survivors)
        step = self._request(confirmation=confirmation)
        unmasking = self._client.unmask(self._ask(step, "confirmations").confirmations)
        self._ask(self._request(unmasking=unmasking), "done")

    def close(self) -> None:
        """Forget all secrets."""
        self._client.abort()
        self._shares = Shares()

    def _values(self, outcome: Outcome, unclipped: bool) -> dict[str, float]:
        """The counters, by name."""
        counts = 0
        if outcome.update is not None:
            counts = weight(self._terms, self._work.assignment.weighting, outcome.examples)
        return {
            WEIGHT: counts,
            UNCLIPPED: unclipped,
            EXAMPLES: outcome.examples,
            TRAINED_ROWS: outcome.trained_rows,
            EVALUATED_ROWS: outcome.evaluated_rows,
            **{f"training {name}": total for name, total in outcome.training_sums.items()},
            **{f"evaluation {name}": total for name, total in outcome.evaluation_sums.items()},
        }

    def _ask(self, request: ExchangeRequest, expected: str) -> ExchangeResponse:
        """The answer to a step; the step is said again until there is one."""
        transport, interruptible = self._link.transport, self._work.interruptible
        while True:
            answer = self._link.persist(
                self._work, lambda: transport.exchange(request, interruptible)
            )
            kind = answer.WhichOneof("next")
            if kind == expected:
                self._work.check()
                return answer
            if kind != "wait":
                step = request.WhichOneof("step")
                raise BadMessage(f"the answer to {step} is {kind or 'none that is known here'}")
            self._work.pause(PAUSE_SECONDS)

    def _request(self, **step: object) -> ExchangeRequest:
        assignment_id = self._work.assignment.assignment_id
        return ExchangeRequest(assignment_id=assignment_id, **step)  # type: ignore[arg-type]


__all__ = ["PAUSE_SECONDS", "Masked", "Membership"]
