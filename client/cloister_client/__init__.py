"""The agent beside the data: it decides, trains in the sandbox, and lets only updates out.

Layout
------
Who may do what here:

- ``config``        the device's TOML (``setting``: readers of single values)
- ``policy``        what the owner allows, as pure decisions
- ``identity``      the key this client is known by
- ``certification`` the certificate by which other members know it

Local data:

- ``tables``        CSV, NPZ and Parquet files as named columns
- ``dataset``       rows in the shape and dtype a task takes (``cast``: numbers, exactly)
- ``shuffle``       in which order rows are visited

One assignment:

- ``assignment``    bounds of what comes from outside
- ``executor``      from an assignment to its result
- ``training``      rows through the task in the sandbox
- ``gate``          what every update must pass to leave
- ``membership``    one round of secure aggregation

The way there and back:

- ``transport``     the calls to the coordinator (``credentials``, ``transfer``, ``backoff``)
- ``link``          calls that outlive a lost connection
- ``desk``          which assignments are open
- ``worker``        the thread that works them off
- ``agent``         all of it together

On disk: ``blob_cache``, ``local_state``, ``audit``, ``day_budget``. What can go wrong: ``errors``.
"""

from typing import TYPE_CHECKING, Any

from cloister_client.config import (
    ClientConfig,
    CoordinatorConfig,
    DataConfig,
    SecureConfig,
    load_config,
    parse_config,
)
from cloister_client.dataset import Dataset, load_dataset
from cloister_client.errors import (
    AssignmentFailure,
    ClientError,
    ConfigError,
    DataError,
    DigestMismatch,
    GateError,
    IdentityError,
    NotWanted,
    Rejected,
    RoundOutOfTime,
    SessionUnknown,
    TransportError,
    UnfitAssignment,
    Unreachable,
    Withdrawn,
)
from cloister_client.gate import Gate
from cloister_client.policy import Policy, weigh
from cloister_client.shuffle import row_order, row_orders
from cloister_client.training import Outcome, chunk_rows, settings, train

if TYPE_CHECKING:
    from cloister_client.agent import Agent, Summary, check, forget, identify, kept
    from cloister_client.identity import Identity

__all__ = [
    "Agent",
    "AssignmentFailure",
    "ClientConfig",
    "ClientError",
    "ConfigError",
    "CoordinatorConfig",
    "DataConfig",
    "DataError",
    "Dataset",
    "DigestMismatch",
    "Gate",
    "GateError",
    "Identity",
    "IdentityError",
    "NotWanted",
    "Outcome",
    "Policy",
    "Rejected",
    "RoundOutOfTime",
    "SecureConfig",
    "SessionUnknown",
    "Summary",
    "TransportError",
    "UnfitAssignment",
    "Unreachable",
    "Withdrawn",
    "check",
    "chunk_rows",
    "forget",
    "identify",
    "kept",
    "load_config",
    "load_dataset",
    "parse_config",
    "row_order",
    "row_orders",
    "settings",
    "train",
    "weigh",
]

_NETWORKED = {
    "Agent": "agent",
    "Summary": "agent",
    "check": "agent",
    "forget": "agent",
    "identify": "agent",
    "kept": "agent",
    "Identity": "identity",
}
"""Loaded at first use: a simulation shares the rest of this package and has no grpcio."""


def __getattr__(name: str) -> Any:
    if name not in _NETWORKED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_NETWORKED[name]}"), name)
