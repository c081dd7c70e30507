"""Federated learning in which training code runs in a sandbox beside the data.

Layout
------
Simulation, in one process:

- ``simulation``   `simulate`: a job's rounds by the cores a deployment runs
- ``simulated_rounds``  one of them: who is there, what becomes of it
- ``gathering``    the sum of a round's updates, in clear; ``secure_round``: by secure aggregation
- ``privacy_ledger``  what a simulation spends of its privacy budget
- ``fleet``        many virtual clients in few sandboxes
- ``datasets``     data to simulate with
- ``partition``    how rows are spread over clients
- ``history``      what a simulation returns (``plot`` draws it)

Operating a coordinator:

- ``operator``     `Coordinator`, `submit`: what an operator can ask for
- ``job``          one job: follow it, stop it, fetch its models
- ``job_spec``     from what an operator means to the words of the wire (``job_file``: from TOML;
  ``schedules``: hyperparameters that change)
- ``protection``   secure aggregation and differential privacy, as one asks for them
- ``environment``  which coordinator is meant when nobody says
- ``connection``   the calls; ``blobs``: bytes in resumable chunks
- ``rehearsal``    a task on local data without a coordinator
- ``tensors``      a model's blocks as named tensors, in memory and in files (``safetensors``: one
  of the formats; ``companion``: the file beside a task with what its training begins with)
- ``pytorch``      a model as PyTorch knows it: state_dict, ONNX
- ``compilation``  a factory's model as a task; ``computation``: one operator in a sandbox
- ``vouching``     a publisher's signature in a file beside the module
- ``errors``       what can go wrong there
- ``deployment``   a coordinator and clients as real processes on this machine

The command line is in ``commands``.

Everything named in ``__all__`` is loaded at first use, so that importing the package is quick
and needs no extra.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister.errors import OperatorError
    from cloister.history import History
    from cloister.job import Job
    from cloister.operator import Coordinator, submit
    from cloister.protection import AdaptiveClipping, DifferentialPrivacy, SecureAggregation
    from cloister.simulation import Client, simulate
    from cloister_client.dataset import Dataset
    from cloister_tasks import Module, build
    from cloister_tasks.compiler import compile  # noqa: A004 - it is what it does

__all__ = [
    "AdaptiveClipping",
    "Client",
    "Coordinator",
    "Dataset",
    "DifferentialPrivacy",
    "History",
    "Job",
    "Module",
    "OperatorError",
    "SecureAggregation",
    "build",
    "compile",
    "simulate",
    "submit",
]

_HOMES = {
    "AdaptiveClipping": "cloister.protection",
    "Client": "cloister.simulation",
    "Coordinator": "cloister.operator",
    "Dataset": "cloister_client.dataset",
    "DifferentialPrivacy": "cloister.protection",
    "History": "cloister.history",
    "Job": "cloister.job",
    "Module": "cloister_tasks",
    "OperatorError": "cloister.errors",
    "SecureAggregation": "cloister.protection",
    "build": "cloister_tasks",
    "compile": "cloister_tasks.compiler",
    "simulate": "cloister.simulation",
    "submit": "cloister.operator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
