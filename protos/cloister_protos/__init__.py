"""The words that clients, coordinator and tools share.

Layout
------
- ``task.proto``      what a WASM module says about itself (the manifest)
- ``job.proto``       jobs, rounds, model versions
- ``client.proto``    the client's side of the coordinator
- ``operator.proto``  the operator's side of the coordinator
- ``services``        stubs and servicers; the only part that needs grpcio

All code imports messages from here and services from :mod:`cloister_protos.services`, never
from the generated modules.
"""

from cloister_protos.client_pb2 import (
    Assignment,
    Cancellation,
    Capabilities,
    ChallengeRequest,
    ChallengeResponse,
    CheckInRequest,
    Chunk,
    DeclineRequest,
    DeclineResponse,
    DownloadRequest,
    EnrolRequest,
    EnrolResponse,
    Failure,
    Instruction,
    ReportRequest,
    ReportResponse,
    Result,
    UploadRequest,
    UploadResponse,
    Welcome,
)
from cloister_protos.job_pb2 import (
    Blob,
    Cohort,
    Eligibility,
    JobSpec,
    JobState,
    JobStatus,
    Member,
    MemberState,
    Metrics,
    ModelVersion,
    Module,
    RoundRecord,
    RoundState,
    Schedule,
    Training,
    Weighting,
)
from cloister_protos.operator_pb2 import (
    CancelJobRequest,
    ClientStatus,
    GetBlobRequest,
    GetJobRequest,
    JobEvent,
    ListClientsRequest,
    ListClientsResponse,
    ListJobsRequest,
    ListJobsResponse,
    ListModelVersionsRequest,
    ListModelVersionsResponse,
    PutBlobRequest,
    SubmitJobRequest,
    WatchJobRequest,
)
from cloister_protos.task_pb2 import Buffer, DType, Kind, Manifest, Role

MAX_CHUNK_BYTES = 2 * 1024 * 1024
"""Bytes of data in one Chunk, UploadRequest or PutBlobRequest; a larger one is refused."""

MAX_INLINE_BYTES = 256 * 1024
"""Bytes of a model or update carried inside an Assignment or Result; larger ones are chunked."""

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_INLINE_BYTES",
    "Assignment",
    "Blob",
    "Buffer",
    "CancelJobRequest",
    "Cancellation",
    "Capabilities",
    "ChallengeRequest",
    "ChallengeResponse",
    "CheckInRequest",
    "Chunk",
    "ClientStatus",
    "Cohort",
    "DType",
    "DeclineRequest",
    "DeclineResponse",
    "DownloadRequest",
    "Eligibility",
    "EnrolRequest",
    "EnrolResponse",
    "Failure",
    "GetBlobRequest",
    "GetJobRequest",
    "Instruction",
    "JobEvent",
    "JobSpec",
    "JobState",
    "JobStatus",
    "Kind",
    "ListClientsRequest",
    "ListClientsResponse",
    "ListJobsRequest",
    "ListJobsResponse",
    "ListModelVersionsRequest",
    "ListModelVersionsResponse",
    "Manifest",
    "Member",
    "MemberState",
    "Metrics",
    "ModelVersion",
    "Module",
    "PutBlobRequest",
    "ReportRequest",
    "ReportResponse",
    "Result",
    "Role",
    "RoundRecord",
    "RoundState",
    "Schedule",
    "SubmitJobRequest",
    "Training",
    "UploadRequest",
    "UploadResponse",
    "WatchJobRequest",
    "Weighting",
    "Welcome",
]
