"""The gRPC server and what clients on the wire can rely on."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloister_coordinator.config import CoordinatorConfig
from cloister_coordinator.errors import ConfigurationError
from cloister_protos.services import (
    ClientServiceServicer,
    OperatorServiceServicer,
    add_ClientServiceServicer_to_server,
    add_OperatorServiceServicer_to_server,
)

SERVICES = ("cloister.v1.ClientService", "cloister.v1.OperatorService")
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A client that vanished without a word is noticed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping as often over streams that are silent for hours.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # Two coordinators on one port would share its clients by chance.
    ("grpc.so_reuseport", 0),
]

_log = logging.getLogger(__name__)


class Endpoint:
    """Serves the services, health checks and reflection on one port."""

    def __init__(
        self,
        config: CoordinatorConfig,
        client_service: ClientServiceServicer,
        operator_service: OperatorServiceServicer,
    ) -> None:
        self._config = config
        self._server = grpc.aio.server(options=_OPTIONS)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # not in the stubs
        add_ClientServiceServicer_to_server(client_service, self._server)
        add_OperatorServiceServicer_to_server(operator_service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> str:
        """Listen; the address with the port that was bound.

        Raises:
            ConfigurationError: the address is taken, or a certificate cannot be read.
        """
        address = self._config.address
        try:
            if self._config.plaintext:
                if not self._config.loopback:
                    _log.warning(
                        "PLAINTEXT BEYOND LOOPBACK: everybody on the way can read and alter all"
                        " that is said, tokens and models included",
                        extra={"address": address},
                    )
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, _credentials(self._config))
        except RuntimeError as e:
            raise ConfigurationError(f"cannot listen on {address}: {e}") from e
        await self._server.start()
        for name in ("", *SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return f"{address.rpartition(':')[0]}:{port}"

    async def drain(self) -> None:
        """Tell health checks that it is about to end."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those under way some seconds."""
        await self._server.stop(grace)


def _credentials(config: CoordinatorConfig) -> grpc.ServerCredentials:
    assert config.tls_key is not None
    assert config.tls_certificate is not None
    authority = _read(config.tls_client_ca) if config.tls_client_ca is not None else None
    return grpc.ssl_server_credentials(
        [(_read(config.tls_key), _read(config.tls_certificate))],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ConfigurationError(f"{path} cannot be read: {e}") from e
