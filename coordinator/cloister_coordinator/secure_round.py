"""Secure aggregation of a round under way: members' steps, answered when all have taken them.

The protocol is `cloister_privacy.server`; here it meets clock and calls. Its state is in memory
only: keys and shares of a round are of no use to a coordinator that comes back after a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Collection

from cloister_coordinator.errors import Closed, Invalid
from cloister_privacy.counters import Counters
from cloister_privacy.errors import Misbehaved, Unrecoverable
from cloister_privacy.packing import packed_bytes
from cloister_privacy.server import Phase, Server
from cloister_privacy.terms import Terms
from cloister_protos import Done, ExchangeRequest, ExchangeResponse, Survivors, Wait

WAIT_SECONDS = 20.0
"""After so long a call is answered with `wait`, and the member asks again."""
SETTLING_STEPS = 3
"""Steps that follow the deadline for vectors: survivors, confirmations, and one to spare."""

_STEPS = {
    "keys": Phase.KEYS,
    "dealing": Phase.DEALINGS,
    "ready": Phase.VECTORS,
    "confirmation": Phase.CONFIRMATIONS,
    "unmasking": Phase.UNMASKINGS,
}
_SAID = {
    Phase.KEYS: "sent no keys in time",
    Phase.DEALINGS: "dealt no shares in time",
}
"""What is held against a member that is late while the round collects."""

_log = logging.getLogger(__name__)


class SecureRound:
    """One round's secure aggregation; belongs to one event loop.

    A member that repeats a step (its connection was lost) gets the same answer. One that is late
    with keys or shares has failed; later ones are merely not waited for.

    Args:
        server: the protocol, at its beginning.
        terms: what all members are told.
        counters: what is summed beside the update.
        outstanding: members that may still send a vector, but for those known to be gone.
        failed: called with a member that has failed, and why.
        over: called with the reason when there can be no sum.
    """

    def __init__(
        self,
        server: Server,
        terms: Terms,
        counters: Counters,
        *,
        outstanding: Callable[[], Collection[str]],
        failed: Callable[[str, str], None],
        over: Callable[[str], None],
    ) -> None:
        self.terms, self.counters = terms, counters
        self._outstanding, self._failed, self._over = outstanding, failed, over
        self._server = server
        self._seconds = terms.secure.settings.step_seconds
        self._said: dict[tuple[str, Phase], bytes] = {}
        self._gone: set[str] = set()
        self._vectors: set[str] = set()
        self._answered = {phase: asyncio.Event() for phase in _STEPS.values()}
        self._confirmed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._survivors = Survivors()
        self._end = ""

    @property
    def vector_bytes(self) -> int:
        """Bytes of a masked vector."""
        terms = self.terms
        body = packed_bytes(terms.parameters, terms.encoding.ring_bits) if terms.parameters else 0
        return 8 * terms.counters + body

    def begin(self) -> None:
        """The members have been told."""
        self._watch()

    def end(self, reason: str) -> None:
        """Nothing more is taken, and whoever waits is told so."""
        if self._end:
            return
        self._end = reason or "the round is over"
        if self._timer is not None:
            self._timer.cancel()
        for event in (*self._answered.values(), self._confirmed):
            event.set()

    # What members do

    async def exchange(self, member: str, request: ExchangeRequest) -> ExchangeResponse:
        """A member's step, and what it is told when all have taken it.

        Raises:
            Misbehaved: the step cannot be right.
            Closed: it comes too late, or the round is over.
            Invalid: it comes too early, or is none.
        """
        step = request.WhichOneof("step")
        if step is None:
            raise Invalid("NO_STEP", "the exchange has no step")
        phase = _STEPS[step]
        if phase is Phase.UNMASKINGS and (self._end or self._answered[phase].is_set()):
            return ExchangeResponse(done=Done())  # others' shares were enough
        self._gone.discard(member)
        self._take(member, phase, request)
        self.review()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._answered[phase].wait()
        except TimeoutError:
            return ExchangeResponse(wait=Wait())
        return self._answer(member, phase)

    def vector(self, member: str, accused: Collection[int]) -> None:
        """A member's masked vector has come.

        Raises:
            Misbehaved: it cannot be right.
            Invalid: it comes before its time.
        """
        if self._server.phase in (Phase.KEYS, Phase.DEALINGS):
            raise Invalid("OUT_OF_STEP", "a vector came before shares were dealt")
        self._server.take_vector(member, list(accused))
        self._vectors.add(member)

    def needs(self, member: str) -> bool:
        """Whether a member that has reported is still needed."""
        return not self._end and member in self._vectors

    def gone(self, member: str) -> None:
        """A member's connection is lost; nobody waits for it."""
        self._gone.add(member)
        self.review()

    def review(self) -> None:
        """End the running step if nobody is left whose part in it may come."""
        while not self._end and not self._awaited():
            if not self._close():
                return

    # What the round does

    async def confirmed(self) -> None:
        """Fix the survivors; returns once enough of them have confirmed each other.

        Raises:
            Unrecoverable: too few.
        """
        self._survivors = self._server.close_vectors()
        self._next(Phase.VECTORS)
        self.review()
        await self._confirmed.wait()
        self._check()

    async def revealed(self) -> Server:
        """Let survivors reveal shares; the protocol, ready to bring back the masks.

        Raises:
            Unrecoverable: the round has ended.
        """
        self._check()
        self._next(Phase.CONFIRMATIONS)
        self.review()
        await self._answered[Phase.UNMASKINGS].wait()
        self._check()
        return self._server

    def _check(self) -> None:
        if self._end:
            raise Unrecoverable(self._end)

    # Steps

    def _take(self, member: str, phase: Phase, request: ExchangeRequest) -> None:
        """Take a step in its phase; one that was taken already is left at that."""
        said = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        if self._said.get((member, phase)) == said:
            return
        server = self._server
        if phase is Phase.VECTORS and not self._end:
            if member not in self._vectors:
                raise Invalid("OUT_OF_STEP", "the vector has not come")
            return
        if self._end or self._answered[phase].is_set():
            raise Closed(
                "STEP_OVER",
                "this step of the round is over",
                "Drop the work; the next assignment comes by itself.",
            )
        if server.phase is not phase:
            raise Invalid("OUT_OF_STEP", f"members are sending {server.phase.name.lower()} now")
        match phase:
            case Phase.KEYS:
                server.take_keys(member, request.keys, time.time())
            case Phase.DEALINGS:
                server.take_dealing(member, request.dealing)
            case Phase.CONFIRMATIONS:
                server.take_confirmation(member, request.confirmation)
            case Phase.UNMASKINGS:
                server.take_unmasking(member, request.unmasking)
        self._said[member, phase] = said

    def _answer(self, member: str, phase: Phase) -> ExchangeResponse:
        if phase is not Phase.UNMASKINGS and self._end:
            raise Closed("ROUND_CLOSED", self._end, "Drop the work.")
        server = self._server
        match phase:
            case Phase.KEYS:
                return ExchangeResponse(roster=server.roster)
            case Phase.DEALINGS:
                return ExchangeResponse(shares=server.shares(member))
            case Phase.VECTORS:
                return ExchangeResponse(survivors=self._survivors)
            case Phase.CONFIRMATIONS:
                return ExchangeResponse(confirmations=server.confirmations(member))
            case _:
                return ExchangeResponse(done=Done())

    def _awaited(self) -> set[str]:
        """Whose part in the running step may still come."""
        server = self._server
        match server.phase:
            case Phase.KEYS | Phase.DEALINGS:
                due = set(self._outstanding())
            case Phase.CONFIRMATIONS:
                due = set(self._vectors)
            case Phase.UNMASKINGS:
                due = {member for member, phase in self._said if phase is Phase.CONFIRMATIONS}
            case _:
                return {""}  # vectors are ended by the round
        return due - server.present - self._gone

    def _close(self) -> bool:
        """End the running step; whether another follows that may be over, too."""
        phase = self._server.phase
        try:
            match phase:
                case Phase.KEYS:
                    self._server.close_keys()
                case Phase.DEALINGS:
                    self._server.close_dealings()
                case Phase.CONFIRMATIONS:
                    self._server.close_confirmations()
                    if self._timer is not None:
                        self._timer.cancel()
                    self._confirmed.set()
                    return False
                case Phase.UNMASKINGS:
                    self._next(phase)
                    return False
        except Unrecoverable as error:
            self.end(str(error))
            self._over(str(error))
            return False
        self._next(phase)
        return True

    def _next(self, phase: Phase) -> None:
        """Answer everybody's step, and begin the next one."""
        self._answered[phase].set()
        if self._timer is not None:
            self._timer.cancel()
        if phase in (Phase.KEYS, Phase.VECTORS, Phase.CONFIRMATIONS):
            self._watch()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._expire, self._server.phase)

    def _expire(self, phase: Phase) -> None:
        """A step's time is up."""
        if self._end or self._server.phase is not phase:
            return
        for member in self._awaited():
            if phase in _SAID:
                self._failed(member, _SAID[phase])
            else:
                self._gone.add(member)
        self.review()


__all__ = ["SETTLING_STEPS", "WAIT_SECONDS", "Misbehaved", "SecureRound"]
