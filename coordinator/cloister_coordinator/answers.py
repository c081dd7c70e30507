"""Our errors as gRPC statuses: the one place where they are mapped.

Every error carries a ``google.rpc.Status`` with an ErrorInfo (a stable reason, domain
``cloister``) and, where there is something to do about it, a LocalizedMessage that says what.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from cloister_coordinator.errors import (
    Closed,
    Conflict,
    Exhausted,
    Forbidden,
    IllegalTransition,
    Invalid,
    NotFound,
    Refusal,
    StorageFailed,
    Unauthenticated,
)

DOMAIN = "cloister"

CODES: dict[type[Refusal], grpc.StatusCode] = {
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Closed: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Which status each refusal becomes."""

_log = logging.getLogger(__name__)
_S = TypeVar("_S")
_Q = TypeVar("_Q")
_A = TypeVar("_A")
_Context = grpc.aio.ServicerContext[Any, Any]
_Handler = Callable[[_S, _Q, _Context], Awaitable[_A]]


def answered(handler: _Handler[_S, _Q, _A]) -> _Handler[_S, _Q, _A]:
    """Make a handler answer with a status whatever it raises."""

    @functools.wraps(handler)
    async def answer(self: _S, request: _Q, context: _Context) -> _A:
        try:
            return await handler(self, request, context)
        except Refusal as e:
            await _abort(context, CODES[type(e)], e.reason, e.message, e.help_text)
        except StorageFailed:
            await _abort(
                context,
                grpc.StatusCode.UNAVAILABLE,
                "STORAGE_FAILED",
                "the coordinator could not make this durable and is ending",
                "Try again when it is back.",
            )
        except IllegalTransition as e:
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL", str(e), "")
        except Exception:
            incident = secrets.token_hex(4)
            _log.exception("a call failed", extra={"incident": incident})
            await _abort(
                context,
                grpc.StatusCode.INTERNAL,
                "INTERNAL",
                f"the coordinator failed; incident {incident}",
                "Its log says more.",
            )

    return answer


async def _abort(
    context: _Context, code: grpc.StatusCode, reason: str, message: str, help_text: str
) -> NoReturn:
    details = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)]
    if help_text:
        details.append(error_details_pb2.LocalizedMessage(locale="en", message=help_text))
        message = f"{message}. {help_text}"
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))
