"""What a member of a cohort is told to do."""

from __future__ import annotations

import time

from cloister_coordinator.cohort import client_seed
from cloister_coordinator.errors import Invalid
from cloister_coordinator.job import Plan
from cloister_coordinator.protection import secure_terms
from cloister_coordinator.roster import Message
from cloister_coordinator.schedule import training_at
from cloister_protos import (
    MAX_INLINE_BYTES,
    Assignment,
    Blob,
    Cancellation,
    Instruction,
    JobSpec,
    Training,
)


def assignment_id(job_id: str, number: int, client_id: str) -> str:
    """The name of one client's work in one round."""
    return f"{job_id}/{number}/{client_id}"


def parse_assignment_id(text: str) -> tuple[str, int, str]:
    """Job id, round number and client id.

    Raises:
        Invalid: it is no such name.
    """
    job_id, _, rest = text[:200].partition("/")
    number, _, client_id = rest.partition("/")
    if not (job_id and client_id and number.isascii() and number.isdigit() and len(number) < 10):
        raise Invalid("BAD_ASSIGNMENT_ID", "the assignment id is not <job>/<round>/<client>")
    return job_id, int(number), client_id


def template(
    job_id: str, spec: JobSpec, plan: Plan, model: Blob, content: bytes, clip_norm: float
) -> Assignment:
    """What is the same for the whole cohort; ``content`` is the model if it goes inline."""
    assert len(content) <= MAX_INLINE_BYTES
    return Assignment(
        job_id=job_id,
        job_name=spec.name,
        round=plan.number,
        task=spec.task,
        aggregation=spec.aggregation,
        model=model,
        inline_model=content,
        frozen=spec.frozen if spec.HasField("frozen") else None,
        training=None if plan.evaluation_only else _training(spec, plan),
        evaluate=plan.evaluate,
        dataset=spec.eligibility.dataset,
        weighting=spec.weighting,
        base_version=plan.base_version,
        clip_norm=clip_norm,
        secure=secure_terms(spec) if spec.HasField("secure_aggregation") else None,
    )


def _training(spec: JobSpec, plan: Plan) -> Training:
    return training_at(spec.training, spec.schedules, plan.base_version, spec.rounds)


def assign(shared: Assignment, client_id: str, seed: int, deadline: float) -> Message:
    """One client's assignment; ``deadline`` in seconds since the epoch."""

    def make() -> Instruction:
        instruction = Instruction(assignment=shared)
        own = instruction.assignment
        own.assignment_id = assignment_id(shared.job_id, shared.round, client_id)
        own.seed = client_seed(seed, shared.round, client_id)
        own.deadline_seconds = max(0.0, deadline - time.time())
        return instruction

    return make


def cancel(name: str, reason: str) -> Message:
    """That an assignment is no longer wanted."""
    return lambda: Instruction(cancellation=Cancellation(assignment_id=name, reason=reason))
