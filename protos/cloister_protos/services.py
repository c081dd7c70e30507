"""The gRPC services: stubs to call them, servicers to implement them. Needs grpcio."""

from cloister_protos.client_pb2_grpc import (
    ClientServiceServicer,
    ClientServiceStub,
    add_ClientServiceServicer_to_server,
)
from cloister_protos.operator_pb2_grpc import (
    OperatorServiceServicer,
    OperatorServiceStub,
    add_OperatorServiceServicer_to_server,
)

__all__ = [
    "ClientServiceServicer",
    "ClientServiceStub",
    "OperatorServiceServicer",
    "OperatorServiceStub",
    "add_ClientServiceServicer_to_server",
    "add_OperatorServiceServicer_to_server",
]
