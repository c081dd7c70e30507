"""What an operator can ask of a coordinator, from Python.

::

    with Coordinator("127.0.0.1:8470", token=token) as coordinator:
        job = coordinator.submit(Path("digits.wasm"), rounds=20, cohort=8)
        job.wait()
        weights = job.model()
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cloister import blobs, environment, protection
from cloister.companion import first_blocks
from cloister.connection import Connection
from cloister.errors import NotFound
from cloister.job import Job
from cloister.job_spec import ModelSource, ModuleSource, check, load_module, vouched
from cloister.protection import DifferentialPrivacy, SecureAggregation
from cloister.schedules import ScheduleSource, read_schedules
from cloister_client.config import CoordinatorConfig
from cloister_client.training import settings
from cloister_protos import (
    Blob,
    ClientStatus,
    Cohort,
    Eligibility,
    GetJobRequest,
    JobSpec,
    ListClientsRequest,
    ListJobsRequest,
    SubmitJobRequest,
    Training,
)

_PAGE = 100


class Coordinator:
    """A coordinator seen by its operator; thread-safe, and to be closed. Connects when needed.

    :param address: "host:port" or "unix:/path".
    :param token: the operator token; the coordinator writes it to operator.token in its data
        folder.
    :param ca: PEM certificates to check the coordinator's against; left out: the public ones,
        or plaintext to a loopback address.
    :param certificate: PEM chain of this operator, where the coordinator asks for one; with
        `key`.
    :param insecure: plaintext even beyond loopback. Anyone on the way can read the token.
    :raises ConfigError: the settings contradict each other, or a file cannot be used.

    Every method raises OperatorError.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        insecure: bool = False,
    ) -> None:
        config = CoordinatorConfig(
            address, ca=ca, certificate=certificate, key=key, insecure=insecure
        )
        self._connection = Connection(config, token)
        self.address = address

    def submit(
        self,
        task: ModuleSource,
        *,
        rounds: int,
        cohort: int,
        name: str | None = None,
        aggregation: str | ModuleSource = "fedavg",
        minimum: int | None = None,
        over_selection: float = 1.0,
        round_deadline_seconds: float = 600.0,
        epochs: int = 1,
        hyperparameters: Mapping[str, float] | None = None,
        schedules: Mapping[str, ScheduleSource] | None = None,
        keep_order: bool = False,
        uniform_weights: bool | None = None,
        clip_norm: float | None = None,
        secure_aggregation: SecureAggregation | None = None,
        differential_privacy: DifferentialPrivacy | None = None,
        evaluate_every: int = 0,
        dataset: str = "",
        tags: Sequence[str] = (),
        seed: int = 0,
        initial_model: ModelSource | None = None,
        frozen: ModelSource | None = None,
        max_abandoned_rounds: int = 0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Upload what the coordinator lacks and start a job; the words are those of `simulate`.

        :param task: the task's WASM bytes, its path, the parsed module, or what
            `cloister.compile` gives. The signature file beside a path (`cloister task sign`)
            goes along.
        :param rounds: rounds to commit.
        :param cohort: updates that complete a round.
        :param name: for people; default the task's.
        :param aggregation: name of a built-in aggregation, or a module as for `task`.
        :param minimum: fewest updates a round commits with at its deadline; default 1, or under
            secure aggregation 3, or under differential privacy a majority of the cohort.
        :param over_selection: clients selected for each one of the cohort, for drop-outs.
        :param round_deadline_seconds: from selection to the deadline of a round.
        :param epochs: passes over each client's rows in a round.
        :param hyperparameters: values for the task's hyperparameters by name.
        :param schedules: hyperparameters that change from version to version, by name; see
            `cloister.schedules`.
        :param keep_order: visit rows as stored instead of in a seeded order.
        :param uniform_weights: count each update once instead of by its rows; the default only
            under differential privacy.
        :param clip_norm: largest L2 norm of an update; clients scale longer ones down to it.
        :param secure_aggregation: sum updates so that nobody sees a single one; needs a
            `clip_norm` and a linear aggregation.
        :param differential_privacy: noise on the sum; needs `secure_aggregation`.
        :param evaluate_every: evaluate every so many versions on the clients' evaluation
            rows; 0: never.
        :param dataset: only clients that offer a dataset of this name; default their only one.
        :param tags: only clients that carry all of these.
        :param seed: root of every random choice.
        :param initial_model: the first version; default: the .safetensors file that
            `cloister task compile` left beside a path, else the task's `init(seed)`.
        :param frozen: the frozen parameters of a task that has some; the same default.
        :param max_abandoned_rounds: rounds in a row that may come to nothing before the job
            fails; 0: the coordinator's default.
        :param idempotency_key: a second submission with it returns the first one's job.
        :raises InvalidModule: task or aggregation breaks the task contract.
        :raises UnfitAssignment: a hyperparameter the task does not have.
        """
        module, folding = (
            load_module(task, aggregation=False),
            load_module(aggregation, aggregation=True),
        )
        name = module.manifest.name if name is None else name
        if minimum is None:
            minimum = protection.default_minimum(cohort, secure_aggregation, differential_privacy)
        check(name, rounds, cohort, minimum, over_selection)
        training = Training(
            epochs=epochs, hyperparameters=dict(hyperparameters or {}), keep_order=keep_order
        )
        settings(module.manifest, training)
        changing = read_schedules(schedules or {}, module.manifest, rounds)
        spec = JobSpec(
            name=name,
            rounds=rounds,
            cohort=Cohort(target=cohort, minimum=minimum, over_selection=over_selection),
            round_deadline_seconds=round_deadline_seconds,
            training=training,
            evaluate_every=evaluate_every,
            eligibility=Eligibility(dataset=dataset, tags=tags),
            weighting=protection.default_weighting(uniform_weights, differential_privacy),
            seed=seed,
            max_abandoned_rounds=max_abandoned_rounds,
            schedules=changing,
        )
        protection.protect(spec, clip_norm, secure_aggregation, differential_privacy)
        protection.check(spec, module.manifest, folding.manifest)
        blocks = first_blocks(module, task, initial_model, frozen)
        spec.task.CopyFrom(vouched(self.put(module.data), task))
        spec.aggregation.CopyFrom(vouched(self.put(folding.data), aggregation))
        for field, block in zip((spec.initial_model, spec.frozen), blocks, strict=True):
            if block is not None:
                field.CopyFrom(self.put(block.data.cast("B")))
        request = SubmitJobRequest(spec=spec, idempotency_key=idempotency_key or uuid.uuid4().hex)
        stub = self._connection.stub
        return Job(self._connection, self._connection.call(stub.SubmitJob, request))

    def job(self, job_id: str) -> Job:
        """One job by its id. Raises NotFound."""
        stub = self._connection.stub
        return Job(
            self._connection, self._connection.call(stub.GetJob, GetJobRequest(job_id=job_id))
        )

    def find_job(self, text: str) -> Job:
        """One job by its id, the beginning of its id, or its name (then the newest).

        Raises NotFound, also when several ids begin so.
        """
        begun: list[Job] = []
        for job in self.jobs():
            if text in (job.id, job.name):
                return job
            if job.id.startswith(text):
                begun.append(job)
        if len(begun) == 1:
            return begun[0]
        found = f"{len(begun)} jobs begin with" if begun else "there is no job"
        raise NotFound(f"{found} {text!r}; `cloister job list` shows them")

    def jobs(self, limit: int | None = None) -> Iterator[Job]:
        """Jobs, newest first, fetched as they are consumed."""
        stub = self._connection.stub

        def pages() -> Iterator[Job]:
            after = ""
            while True:
                request = ListJobsRequest(limit=_PAGE, after=after)
                page = self._connection.call(stub.ListJobs, request).jobs
                yield from (Job(self._connection, status) for status in page)
                if len(page) < _PAGE:
                    return
                after = page[-1].job_id

        return islice(pages(), limit)

    def clients(self) -> Iterator[ClientStatus]:
        """The clients the coordinator knows, connected or not, in ascending order of id."""
        stub = self._connection.stub
        after = ""
        while True:
            request = ListClientsRequest(limit=_PAGE, after=after)
            page = self._connection.call(stub.ListClients, request).clients
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].client_id

    def put(self, data: bytes | memoryview) -> Blob:
        """Upload bytes in resumable chunks, as far as the coordinator lacks them."""
        return blobs.put(self._connection, data)

    def get(self, blob: Blob) -> bytes:
        """Download bytes by digest and size in resumable chunks; checked."""
        return bytes(blobs.get(self._connection, blob))

    def close(self) -> None:
        """Hang up; the jobs run on."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def submit(task: ModuleSource, **job: Any) -> Job:
    """Start a job on the coordinator that the environment names; see `Coordinator.submit`.

    :param job: the arguments of `Coordinator.submit`, such as `rounds` and `cohort`.
    :raises InvalidJob: there is no operator token to be found.
    """
    return environment.connect().submit(task, **job)
