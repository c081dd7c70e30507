"""What can go wrong, and whose fault it is.

::

    PrivacyError
    ├── Aborted                 this client leaves the round; no share of a secret has left
    │   ├── BelowFloor          what is asked for is less than the device's owner insists on
    │   ├── BadRoster           keys, certificates or signatures that cannot be right
    │   ├── BadSurvivors        a set of survivors that cannot be right, or not agreed upon
    │   └── BadMessage          what came from the coordinator has no valid form
    ├── BadCertificate          no valid identity certificate of the authority (certificate)
    ├── OutOfStep               our own bug: a step out of order, or a second time
    ├── Misbehaved              one member is at fault, and named (server)
    └── Unrecoverable           the sum cannot be had: too few members are left (server)

`Aborted` and its kinds are the client's answers to a coordinator that lies or errs: it wipes its
secrets and has nothing more to say in that round.
"""

from __future__ import annotations


class PrivacyError(Exception):
    """Base of everything this package raises."""


class Aborted(PrivacyError):
    """This client leaves the round."""

    kind = "aborted"
    """The failure's kind, as it is reported to the coordinator."""


class BelowFloor(Aborted):
    """The round offers less protection than the device's owner insists on."""

    kind = "below_floor"


class BadRoster(Aborted):
    """The members' keys cannot be right; the message says which and why."""

    kind = "bad_roster"


class BadSurvivors(Aborted):
    """The survivors cannot be right, or the members were not told of the same ones."""

    kind = "bad_survivors"


class BadMessage(Aborted):
    """A message of the coordinator has no valid form."""

    kind = "bad_message"


class OutOfStep(PrivacyError):
    """A step out of order: a mistake of whoever drives the protocol."""


class Misbehaved(PrivacyError):
    """What a member sent cannot be right; the member is named.

    Attributes:
        member: its client id.
    """

    def __init__(self, member: str, fault: str) -> None:
        super().__init__(f"{member}: {fault}")
        self.member = member
        self.fault = fault


class Unrecoverable(PrivacyError):
    """The masks cannot be taken off, so nothing comes of the round and nothing is revealed.

    Attributes:
        named: members who are to blame, by client id, with what they did; may be empty.
    """

    def __init__(self, message: str, named: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.named = dict(named or {})
