from __future__ import annotations

import asyncio
import datetime
import logging
import sqlite3
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cloister_coordinator.config import CoordinatorConfig
from cloister_coordinator.errors import ConfigurationError, StorageFailed
from cloister_coordinator.server import serve
from cloister_protos import ChallengeRequest
from cloister_protos.services import ClientServiceStub

from .conftest import Site
from .loopback import SECONDS, Client, Operator, served


async def test_health_and_reflection(site: Site) -> None:
    channel = site.operator.channel
    for service in ("", "cloister.v1.ClientService", "cloister.v1.OperatorService"):
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=SECONDS
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {s.name for s in (await call.read()).list_services_response.service}
    assert {"cloister.v1.ClientService", "cloister.v1.OperatorService"} <= names
    call.cancel()


async def test_one_coordinator_a_folder(config: CoordinatorConfig) -> None:
    async with served(config):
        with pytest.raises(ConfigurationError, match="another coordinator"):
            await serve(config)


async def test_a_port_in_use_is_a_configuration_error(config: CoordinatorConfig) -> None:
    async with served(config) as address:
        other = replace(config, data_dir=config.data_dir / "other", address=address)
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await serve(other)


async def test_a_restart_goes_on_with_everything(config: CoordinatorConfig) -> None:
    async with served(config) as address:
        operator, client = Operator(address, config.data_dir), Client(address, 0)
        status = await operator.submit_noop(4, 1, rounds=3)
        await client.check_in()
        work = await client.assignment()
        await client.report(work, await client.result(work, np.ones(4, np.float32)))
        work = await client.assignment()
        ended = client.stream
    assert await ended.read() is grpc.aio.EOF  # the stream was closed in good order
    await client.close()
    await operator.close()
    async with served(config) as address:
        operator, client = Operator(address, config.data_dir), Client(address, 0)
        await client.check_in(work.assignment_id)
        await client.report(work, await client.result(work, np.ones(4, np.float32)))
        await client.work(lambda _, model: np.ones(4, np.float32), 1)
        assert (await operator.end(status.job_id)).version == 3
        assert (await operator.model(status.job_id)).tolist() == [3, 3, 3, 3]
        await client.close()
        await operator.close()


async def test_members_that_do_not_come_back_after_a_restart_are_lost(
    config: CoordinatorConfig,
) -> None:
    async with served(replace(config, reconnect_grace_seconds=60)) as address:
        operator, client = Operator(address, config.data_dir), Client(address, 0)
        status = await operator.submit_noop(4, 1, max_abandoned_rounds=1)
        await client.check_in()
        await client.assignment()
        await client.close()
        await operator.close()
    async with served(replace(config, restart_grace_seconds=0.0)) as address:
        operator = Operator(address, config.data_dir)
        (record,) = await operator.rounds(status.job_id)
        assert record.members[0].reason == "it did not come back after a restart"
        await operator.close()


async def test_cancelling_the_task_ends_it_in_good_order(config: CoordinatorConfig) -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(config, ready=ready.set_result))
    await ready
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with served(config):
        pass


async def test_storage_that_gives_out_ends_the_coordinator(
    config: CoordinatorConfig, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{config.data_dir / 'elsewhere.db'}"

    async def break_it() -> None:
        async with served(replace(config, database_url=url)) as address:
            client = Client(address, 0)
            with sqlite3.connect(config.data_dir / "elsewhere.db") as database:
                database.execute("DROP TABLE client")
            database.close()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.enrol()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            await client.close()

    with pytest.raises(StorageFailed, match="could not go on"):
        await break_it()
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls(config: CoordinatorConfig, tmp_path: Path, mutual: bool) -> None:
    cert, key = certificate(tmp_path)
    settings = replace(
        config,
        address="localhost:0",
        tls_certificate=cert,
        tls_key=key,
        tls_client_ca=cert if mutual else None,
    )
    async with served(settings) as address:
        target = f"localhost:{address.rpartition(':')[2]}"
        root = cert.read_bytes()
        anonymous = grpc.ssl_channel_credentials(root)
        known = grpc.ssl_channel_credentials(root, key.read_bytes(), root)
        for credentials, admitted in ((anonymous, not mutual), (known, True)):
            async with grpc.aio.secure_channel(target, credentials) as channel:
                stub = ClientServiceStub(channel)
                call = stub.Challenge(ChallengeRequest(public_key=bytes(32)), timeout=SECONDS)
                if admitted:
                    assert len((await call).nonce) == 32
                else:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call
