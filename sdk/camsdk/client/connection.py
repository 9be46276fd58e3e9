"""Sending calls over gRPC, once for threads and once for asyncio.

Each call has one deadline for all its attempts. Only what is idempotent is sent again, and only
when the cloud could not be reached. Streams are resumed for as long as the caller listens.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from threading import Event
from typing import Any, TypeVar

import grpc
import grpc.aio

from camproto.v1 import api_pb2_grpc
from camsdk.client.calls import Call
from camsdk.client.credentials import CHANNEL_OPTIONS, Credentials, parse_endpoint
from camsdk.client.failures import RetryPolicy, error_of
from camsdk.client.resume import Resumable
from camsdk.errors import CamError, DeadlineExceeded, InvalidInput

T = TypeVar("T")


def _cam_error(error: grpc.RpcError, target: str) -> CamError:
    # Every error that a call raises is also its Call; the base class alone does not say so.
    call: Any = error
    trailing = [(str(key), value) for key, value in call.trailing_metadata() or ()]
    return error_of(call.code(), call.details() or "", trailing, target)


def _request(call: Call[T]) -> Any:
    return call.request() if callable(call.request) else call.request


class _Settings:
    """What both kinds of connection are made from."""

    def __init__(
        self, endpoint: str, credentials: Credentials, timeout_s: float, retry: RetryPolicy
    ) -> None:
        if timeout_s <= 0:
            raise InvalidInput(f"timeout_s is {timeout_s}", "give a positive number of seconds")
        self.target = parse_endpoint(endpoint)
        self.retry = retry
        self._credentials = credentials
        self._timeout_s = timeout_s

    def deadline_s(self, call: Call[T]) -> float:
        """On the monotonic clock."""
        return time.monotonic() + max(self._timeout_s, call.timeout_s or 0.0)


class Stop:
    """Ends one stream from any thread, whether it waits for a message or for its next attempt."""

    def __init__(self) -> None:
        self._event = Event()
        self._call: Any = None

    def is_set(self) -> bool:
        """Whether the stream has been told to end."""
        return self._event.is_set()

    def set(self) -> None:
        """Tells it."""
        self._event.set()
        if self._call is not None:
            self._call.cancel()

    def follow(self, call: Any) -> None:
        """The call that is to be cancelled: that of the newest connection."""
        self._call = call
        if self._event.is_set():
            call.cancel()

    def wait(self, pause_s: float) -> None:
        """Sleeps, but not beyond the end."""
        self._event.wait(pause_s)


class Connection(_Settings):
    """A channel for threads; safe to share among them.

    Args:
        endpoint: ``grpcs://host:port``.
        credentials: Token and trusted certificate.
        timeout_s: For each call, attempts and pauses included.
        retry: When to send again.
    """

    def __init__(
        self, endpoint: str, credentials: Credentials, timeout_s: float, retry: RetryPolicy
    ) -> None:
        super().__init__(endpoint, credentials, timeout_s, retry)
        self._channel = grpc.secure_channel(
            self.target, credentials.for_channel(), options=CHANNEL_OPTIONS
        )
        self._stub = api_pb2_grpc.CloudApiStub(self._channel)
        self.closed = Event()

    def send(self, call: Call[T]) -> T:
        """The call's result.

        Raises:
            CamError: What the cloud or gRPC said.
        """
        method = getattr(self._stub, call.method)
        deadline_s = self.deadline_s(call)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = method(_request(call), timeout=max(deadline_s - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                failure = _cam_error(error, self.target)
                pause_s = self.retry.delay_s(
                    attempt,
                    failure,
                    is_idempotent=call.is_idempotent,
                    remaining_s=deadline_s - time.monotonic(),
                )
                if pause_s is None or self.closed.wait(pause_s):
                    raise failure from error
            else:
                return call.parse(answer)

    def stream(self, state: Resumable[T], stop: "Stop", timeout_s: float | None) -> Iterator[T]:
        """The values of a stream, over as many connections as it takes.

        Args:
            state: Where the stream stands.
            stop: Ends it, from any thread.
            timeout_s: Ends it too; None for no end.

        Raises:
            CamError: What no new connection can mend.
        """
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        method = getattr(self._stub, state.method)
        while not (state.is_over or stop.is_set() or self.closed.is_set()):
            left_s = None if end_s is None else end_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            failure: CamError | None = None
            call = method(state.open_request(), timeout=left_s)
            stop.follow(call)
            try:
                for message in call:
                    value = state.take(message)
                    if value is not None:
                        yield value
            except grpc.RpcError as error:
                failure = _cam_error(error, self.target)
            finally:
                call.cancel()
            if _is_end(state, failure, stop.is_set() or self.closed.is_set(), left_s):
                return
            stop.wait(state.pause_s(failure))

    def close(self) -> None:
        """Ends every call and stream under way."""
        self.closed.set()
        self._channel.close()


class AsyncConnection(_Settings):
    """A channel for asyncio, to be used from the loop that made it. Arguments as ``Connection``."""

    def __init__(
        self, endpoint: str, credentials: Credentials, timeout_s: float, retry: RetryPolicy
    ) -> None:
        super().__init__(endpoint, credentials, timeout_s, retry)
        self._channel = grpc.aio.secure_channel(
            self.target, credentials.for_channel(), options=CHANNEL_OPTIONS
        )
        self._stub = api_pb2_grpc.CloudApiStub(self._channel)
        self._is_closed = False

    async def send(self, call: Call[T]) -> T:
        """As :meth:`Connection.send`."""
        method = getattr(self._stub, call.method)
        deadline_s = self.deadline_s(call)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await method(
                    _request(call), timeout=max(deadline_s - time.monotonic(), 0.001)
                )
            except grpc.RpcError as error:
                failure = _cam_error(error, self.target)
                pause_s = self.retry.delay_s(
                    attempt,
                    failure,
                    is_idempotent=call.is_idempotent,
                    remaining_s=deadline_s - time.monotonic(),
                )
                if pause_s is None or self._is_closed:
                    raise failure from error
                await asyncio.sleep(pause_s)
            else:
                return call.parse(answer)

    async def stream(self, state: Resumable[T], timeout_s: float | None) -> AsyncGenerator[T, None]:
        """As :meth:`Connection.stream`; cancelling the task or ``aclose`` ends it."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        method = getattr(self._stub, state.method)
        while not (state.is_over or self._is_closed):
            left_s = None if end_s is None else end_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            failure: CamError | None = None
            call = method(state.open_request(), timeout=left_s)
            try:
                async for message in call:
                    value = state.take(message)
                    if value is not None:
                        yield value
            except grpc.RpcError as error:
                failure = _cam_error(error, self.target)
            except asyncio.CancelledError:
                # Closing the channel looks the same from here as a cancelled task.
                task = asyncio.current_task()
                if not self._is_closed or (task is not None and task.cancelling()):
                    raise
            finally:
                call.cancel()
            if _is_end(state, failure, self._is_closed, left_s):
                return
            await asyncio.sleep(state.pause_s(failure))

    async def close(self) -> None:
        """Ends every call and stream under way."""
        self._is_closed = True
        await self._channel.close(None)


def _is_end(
    state: Resumable[T], failure: CamError | None, is_closed: bool, left_s: float | None
) -> bool:
    """Whether a stream is at its end: nothing more to come, closed here, or the time is up."""
    is_late = left_s is not None and isinstance(failure, DeadlineExceeded)
    return state.is_over or is_closed or is_late
