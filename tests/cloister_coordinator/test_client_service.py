"""What clients may and may not do, over real gRPC."""

from __future__ import annotations

import asyncio
import hashlib

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cloister_protos import (
    Blob,
    ChallengeRequest,
    CheckInRequest,
    DownloadRequest,
    EnrolRequest,
    ListClientsRequest,
    MemberState,
    ReportRequest,
    Result,
    UploadRequest,
)

from .conftest import Site, Start, refused
from .loopback import Client, blob_of

LARGE = 100_000
"""Parameters of a model that does not go inline."""


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The ErrorInfo of a rich status."""
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "cloister"
            return info.reason
    raise AssertionError("no ErrorInfo")


async def test_the_session_is_the_only_key(site: Site) -> None:
    client = await site.client(0, check_in=False)
    for metadata in ((), (("authorization", "Bearer 00"),)):
        client.metadata = metadata
        error = await refused(client.call("Report", ReportRequest(assignment_id="a/1/b")))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert reason_of(error) == "NO_SESSION"
        stream = client.stub.CheckIn(CheckInRequest(), metadata=metadata)
        assert (await refused(stream.read())).code() == grpc.StatusCode.UNAUTHENTICATED
    await client.enrol()
    first = client.metadata
    await client.enrol()
    assert client.id == hashlib.sha256(client.public_key).hexdigest()[:32]
    client.metadata = first  # the newer session replaced it
    error = await refused(client.call("Report", ReportRequest(assignment_id="a/1/b")))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_enrolment_takes_the_key_and_the_join_token(start: Start) -> None:
    site = await start(join_token="open sesame")
    client = await site.client(0, check_in=False)
    for token in ("", "wrong"):
        error = await refused(client.enrol(token))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        assert reason_of(error) == "BAD_JOIN_TOKEN"
    nonce = (await client.call("Challenge", ChallengeRequest(public_key=client.public_key))).nonce
    request = EnrolRequest(public_key=client.public_key, nonce=nonce, signature=bytes(64))
    assert reason_of(await refused(client.call("Enrol", request))) == "BAD_SIGNATURE"
    assert reason_of(await refused(client.call("Enrol", request))) == "BAD_NONCE"
    short = client.call("Challenge", ChallengeRequest(public_key=b"short"))
    assert reason_of(await refused(short)) == "BAD_KEY"
    await client.enrol("open sesame")


async def test_a_client_touches_only_its_own_work(site: Site) -> None:
    await site.operator.submit_noop(4, 1)
    owner = await site.client(0)
    work = await owner.assignment()
    other = await site.client(1)
    for name, request in (
        ("Report", ReportRequest(assignment_id=work.assignment_id, result=Result())),
        ("Upload", UploadRequest(assignment_id=work.assignment_id)),
    ):
        error = await refused(other.call(name, request))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(await refused(other.download(work, work.model.digest))) == "NOT_YOURS"
    secret = blob_of(b"secret")
    await site.operator.put(b"secret")
    assert reason_of(await refused(owner.download(work, secret.digest))) == "NOT_YOURS"
    for name in ("", "x", "a/b/c", "a/1", "a/99999999999/c", f"nothing/1/{owner.id}"):
        error = await refused(owner.call("Report", ReportRequest(assignment_id=name)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    unknown = ReportRequest(assignment_id=f"nothing/1/{owner.id}", result=Result())
    assert (await refused(owner.call("Report", unknown))).code() == grpc.StatusCode.NOT_FOUND


async def test_a_download_goes_on_where_it_broke(site: Site) -> None:
    await site.operator.submit_noop(LARGE, 1)
    client = await site.client(0)
    work = await client.assignment()
    assert work.inline_model == b""
    whole = await client.download(work, work.model.digest)
    assert blob_of(whole) == work.model
    assert await client.download(work, work.model.digest, 399_000) == whole[399_000:]
    assert await client.download(work, work.model.digest, len(whole)) == b""
    error = await refused(client.download(work, work.model.digest, len(whole) + 1))
    assert reason_of(error) == "BAD_OFFSET"


async def test_an_upload_goes_on_where_it_broke(site: Site) -> None:
    status = await site.operator.submit_noop(LARGE, 1, rounds=1)
    client = await site.client(0)
    work = await client.assignment()
    content = np.arange(LARGE, dtype="<f4").tobytes()
    blob = blob_of(content)

    async def upload(offset: int, data: bytes) -> int:
        request = UploadRequest(
            assignment_id=work.assignment_id, blob=blob, offset=offset, data=data
        )
        return int((await client.call("Upload", request)).received)

    assert await upload(0, b"") == 0
    assert await upload(0, content[:4000]) == 4000
    assert await upload(8000, content[8000:9000]) == 4000  # a gap is ignored
    assert await upload(0, content[:4000]) == 4000  # so is what is there
    early = ReportRequest(
        assignment_id=work.assignment_id,
        result=Result(examples=1, trained_rows=1, update=blob),
    )
    assert await upload(4000, content[4000:]) == len(content)
    assert await upload(0, b"") == len(content)
    await client.call("Report", early)
    await site.operator.end(status.job_id)
    assert (await site.operator.model(status.job_id)).tobytes() == content


@pytest.mark.parametrize("digest", [bytes(32), b"short", b"x" * 100_000, b""], ids=len)
async def test_a_report_without_its_upload_is_refused(site: Site, digest: bytes) -> None:
    status = await site.operator.submit_noop(LARGE, 1, max_abandoned_rounds=1)
    client = await site.client(0)
    work = await client.assignment()
    update = Blob(digest=digest, size=4 * LARGE)
    error = await refused(client.report(work, Result(examples=1, trained_rows=1, update=update)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (record,) = await site.operator.rounds(status.job_id)
    assert record.members[0].state == MemberState.MEMBER_STATE_FAILED


async def test_what_was_uploaded_is_what_was_announced(site: Site) -> None:
    await site.operator.submit_noop(LARGE, 1, rounds=1)
    client = await site.client(0)
    work = await client.assignment()
    request = UploadRequest(
        assignment_id=work.assignment_id,
        blob=Blob(digest=bytes(32), size=4 * LARGE),
        data=bytes(4 * LARGE),
    )
    assert reason_of(await refused(client.call("Upload", request))) == "DIGEST_MISMATCH"
    request.data = b""
    assert (await client.call("Upload", request)).received == 0
    request.data = bytes(7)
    assert reason_of(await refused(client.call("Upload", request))) == "BAD_CHUNK"
    request.blob.size = 4
    assert reason_of(await refused(client.call("Upload", request))) == "BAD_UPDATE"


@pytest.mark.parametrize("parameters", [4, LARGE], ids=["inline", "uploaded"])
async def test_numbers_that_are_none_are_the_clients_fault(site: Site, parameters: int) -> None:
    status = await site.operator.submit_noop(parameters, 1, max_abandoned_rounds=1)
    client = await site.client(0)
    work = await client.assignment()
    update = np.full(parameters, np.inf, np.float32)

    async def hand_in() -> None:
        await client.report(work, await client.result(work, update))

    error = await refused(hand_in())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "UPDATE_NOT_FINITE"
    assert "learning rate" in (error.details() or "")
    (record,) = await site.operator.rounds(status.job_id)
    assert record.members[0].state == MemberState.MEMBER_STATE_FAILED
    assert "not finite" in record.members[0].reason


async def test_a_report_can_be_repeated_but_not_changed(site: Site) -> None:
    status = await site.operator.submit_noop(4, 2, rounds=1)
    clients = [await site.client(i) for i in range(2)]
    work = [await client.assignment() for client in clients]
    request = ReportRequest(
        assignment_id=work[0].assignment_id,
        result=await clients[0].result(work[0], np.ones(4, np.float32)),
    )
    await asyncio.gather(*(clients[0].call("Report", request) for _ in range(3)))
    other = ReportRequest()
    other.CopyFrom(request)
    other.result.examples = other.result.trained_rows = 9
    assert reason_of(await refused(clients[0].call("Report", other))) == "ROUND_CLOSED"
    await clients[1].report(work[1], await clients[1].result(work[1], np.ones(4, np.float32)))
    await site.operator.end(status.job_id)
    await clients[0].call("Report", request)  # the round is over, and this was part of it
    assert (await site.operator.model(status.job_id)).tolist() == [1, 1, 1, 1]


async def test_a_client_that_comes_back_is_told_its_work_again(start: Start) -> None:
    site = await start(reconnect_grace_seconds=60)
    await site.operator.submit_noop(4, 1)
    client = await site.client(0)
    work = await client.assignment()
    client.stream.cancel()
    await client.check_in()
    assert (await client.assignment()).assignment_id == work.assignment_id
    client.stream.cancel()
    old = work.assignment_id.replace("/1/", "/7/")
    await client.check_in(work.assignment_id, old)
    told = await client.next()  # not the assignment: the client said it works on it
    assert told.cancellation.assignment_id == old
    await client.report(work, await client.result(work, np.ones(4, np.float32)))
    assert (await client.assignment()).round == 2


async def test_a_lost_member_may_still_report(site: Site) -> None:
    status = await site.operator.submit_noop(4, 2, rounds=1)
    clients = [await site.client(i) for i in range(2)]
    work = [await client.assignment() for client in clients]
    clients[0].stream.cancel()
    while (await listed(site))[clients[0].id]:
        await asyncio.sleep(0)
    for client, a in zip(clients, work, strict=True):
        await client.report(a, await client.result(a, np.ones(4, np.float32)))
    (record,) = await site.operator.rounds(status.job_id)
    assert {m.state for m in record.members} == {MemberState.MEMBER_STATE_REPORTED}


async def listed(site: Site) -> dict[str, bool]:
    """Whether each known client is connected."""
    response = await site.operator.call("ListClients", ListClientsRequest())
    return {client.client_id: client.connected for client in response.clients}


async def test_a_newer_stream_replaces_the_older(site: Site) -> None:
    client = await site.client(0)
    older = client.stream
    await client.check_in()
    assert await older.read() is grpc.aio.EOF
    assert await listed(site) == {client.id: True}


async def test_capabilities_are_bounded(site: Site) -> None:
    client = await site.client(0, check_in=False)
    for offer in ({"tags": ["x"] * 65}, {"datasets": ["x" * 65]}, {"software": "\n"}):
        bad = Client(site.address, 1, **offer)
        site.stack.push_async_callback(bad.close)
        await bad.enrol()
        stream = bad.stub.CheckIn(
            CheckInRequest(capabilities=bad.capabilities), metadata=bad.metadata
        )
        assert (await refused(stream.read())).code() == grpc.StatusCode.INVALID_ARGUMENT
    await client.enrol()
    request = DownloadRequest(assignment_id="x" * 100_000)
    stream = client.stub.Download(request, metadata=client.metadata)
    assert (await refused(stream.read())).code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_is_told_which_of_the_jobs_it_keeps_have_ended(site: Site) -> None:
    ended = await site.operator.submit_noop(4, 1, rounds=1)
    client = await site.client(0)
    work = await client.assignment()
    assert work.base_version == 0
    await client.report(work, await client.result(work, np.ones(4, np.float32)))
    await site.operator.end(ended.job_id)
    running = await site.operator.submit_noop(4, 2)
    jobs = [ended.job_id, running.job_id, "unknown"]
    stream = client.stub.CheckIn(CheckInRequest(kept_jobs=jobs), metadata=client.metadata)
    welcome = (await stream.read()).welcome
    assert list(welcome.ended_jobs) == [ended.job_id, "unknown"]
    stream.cancel()
    many = CheckInRequest(kept_jobs=["x"] * 1001)
    stream = client.stub.CheckIn(many, metadata=client.metadata)
    assert reason_of(await refused(stream.read())) == "TOO_MANY"


async def test_assignments_name_the_version_they_start_from(site: Site) -> None:
    await site.operator.submit_noop(4, 1, rounds=3)
    client = await site.client(0)
    for version in range(3):
        work = await client.assignment()
        assert work.base_version == version
        await client.report(work, await client.result(work, np.ones(4, np.float32)))
