"""How errors travel: the deliberate ones by their table, all others without their details.

A failed call carries ``cam-reason`` (the stable code of :data:`camsdk.errors.WIRE_ERRORS`) in its
trailing metadata and, when the error's message is public, ``cam-message-bin`` and ``cam-hint-bin``
(UTF-8) beside the status' details, so that a client can build the very same exception again.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from camsdk.errors import WIRE_ERRORS, CamError, InternalError, WireError

REASON_KEY = "cam-reason"
MESSAGE_KEY = "cam-message-bin"
HINT_KEY = "cam-hint-bin"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""Of any call; the messages' types do not matter to who lets it in."""

_LOG = logging.getLogger(__name__)


def wire_error(error: CamError) -> WireError:
    """The row of the nearest class that the table knows."""
    for ancestor in type(error).__mro__:
        if ancestor in WIRE_ERRORS:
            return WIRE_ERRORS[ancestor]
    return WIRE_ERRORS[InternalError]


async def abort_with(context: Context, error: CamError) -> NoReturn:
    """Ends the call with what ``error`` means on the wire."""
    row = wire_error(error)
    status = grpc.StatusCode[row.grpc_status]
    if not row.is_message_public:
        await context.abort(status, row.public, ((REASON_KEY, row.reason),))
    metadata = (
        (REASON_KEY, row.reason),
        (MESSAGE_KEY, error.message.encode()),
        (HINT_KEY, error.hint.encode()),
    )
    await context.abort(status, str(error), metadata)


@asynccontextmanager
async def map_errors(method: str, context: Context) -> AsyncIterator[None]:
    """A call's outermost frame: nothing but mapped errors leaves it."""
    try:
        yield
    except CamError as error:
        if not wire_error(error).is_message_public:
            _LOG.exception("%s failed", method)
        await abort_with(context, error)
    except (grpc.aio.AbortError, grpc.aio.UsageError):
        raise
    except Exception:  # noqa: BLE001 - outermost frame of a call: gRPC would send the details out
        _LOG.exception("%s failed", method)
        await abort_with(context, InternalError("unexpected failure"))
