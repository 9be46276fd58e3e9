"""Puts a guard around every call of a server, whatever its kind.

A guard is an asynchronous context manager: it may refuse before the handler runs, watch while it
runs and translate what it raises. An admission comes earlier: it sees the metadata alone, and of
whom it refuses no message is read.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio

from camcloud.api.errors import Context, abort_with
from camsdk.errors import CamError

Guard = Callable[[str, Context], AbstractAsyncContextManager[None]]
"""Called with the full method name, such as ``/camproto.v1.CloudApi/GetStatus``."""

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Admission = Callable[[str, Metadata], Awaitable[Guard]]
"""Called with method and metadata; gives the call's guard, or raises what it is refused with."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


class GuardInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs alone
    """Runs every handler within the guard that ``admit`` gives it."""

    def __init__(self, admit: Admission) -> None:
        self._admit = admit

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
            return handler
        method = handler_call_details.method
        try:
            guard = await self._admit(method, handler_call_details.invocation_metadata or ())
        except CamError as error:
            return _refusal(error)
        return _wrap(handler, method, guard)


def admit_all(guard: Guard) -> Admission:
    """Has every call run within ``guard``."""

    async def admit(_method: str, _metadata: Metadata) -> Guard:
        return guard

    return admit


def _refusal(error: CamError) -> Handler:
    """Of the kind that reads no request by itself, whatever the kind of the method."""

    async def refuse(_requests: Any, context: Context) -> None:
        await abort_with(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _wrap(handler: Handler, method: str, guard: Guard) -> Handler:
    make, behaviour = _kind(handler)
    if inspect.isasyncgenfunction(behaviour):
        # No generator: a call that is cancelled while it waits for a slow reader is then cancelled
        # within its guard, which tells the caller why. gRPC would send no status at all.
        async def stream(request: Any, context: Context) -> None:
            async with guard(method, context), aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    await context.write(response)

        wrapped: Callable[..., Any] = stream
    else:

        async def single(request: Any, context: Context) -> Any:
            async with guard(method, context):
                return await behaviour(request, context)

        wrapped = single
    new: Handler = make(
        wrapped,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return new


def _kind(handler: Handler) -> tuple[Callable[..., Handler], Callable[..., Any]]:
    table = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    make, behaviour = table[handler.request_streaming, handler.response_streaming]
    assert behaviour is not None, "a handler has the behaviour of its kind"
    return make, behaviour
