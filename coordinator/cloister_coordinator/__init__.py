"""The service that runs rounds.

Layout
------
What is decided, pure:

- ``errors``            what can go wrong, and whose fault it is
- ``cohort``            who takes part in a round, with which seed
- ``schedule``          hyperparameters that change over a job
- ``round``             one round as a state machine
- ``job``               one job as a state machine: which round comes next
- ``outcome``           what a client hands in, checked

How updates become a model:

- ``blocks``            vectors read and written piece by piece
- ``chunks``            coordinates handed out piece by piece to parallel sandboxes
- ``aggregation``       the aggregation module at work
- ``ring_sum``          masked vectors added, their masks taken off
- ``fold``              from a closed round to its model version

What is kept:

- ``schema``            the tables; ``migrations`` their history, ``database`` how they are opened
- ``journal``           all writes, in order, several to a transaction
- ``ledger``            jobs, rounds and versions as statements; ``register`` clients
- ``blobs``             content-addressed files
- ``spool``             uploads on their way

What runs:

- ``resources``         what all jobs share
- ``roster``            clients that are checked in
- ``assignments``       what a member is told to do
- ``open_round``        a round under way
- ``desk``              where members hand in their work
- ``runner``            one job; ``coordinator`` all of them
- ``submission``        a job as it is submitted, checked; ``first_model`` what it begins with
- ``resume``            what an earlier process left

Who may call, and how:

- ``config``            how a coordinator is set up
- ``sessions``          enrolment and session tokens; ``operator_token`` the operator's
- ``answers``           errors as gRPC statuses
- ``client_service``    the client's side; ``operator_service`` the operator's
- ``records``           rows as messages; ``download`` blobs as chunks
- ``endpoint``          the gRPC server
- ``server``            from start to end; ``allocator`` how it keeps memory
- ``logs``              one line an event

The simulator drives ``cohort``, ``round`` and ``aggregation`` too, where neither gRPC nor a
database is installed: so what is exported here is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister_coordinator.config import CoordinatorConfig
    from cloister_coordinator.errors import ConfigurationError, CoordinatorError, StorageFailed
    from cloister_coordinator.server import serve

_HOMES = {
    "ConfigurationError": "errors",
    "CoordinatorConfig": "config",
    "CoordinatorError": "errors",
    "StorageFailed": "errors",
    "serve": "server",
}

__all__ = [
    "ConfigurationError",
    "CoordinatorConfig",
    "CoordinatorError",
    "StorageFailed",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
