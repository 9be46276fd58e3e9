"""Resuming a stream after a lost connection: no gap, no duplicate.

The event log is ordered by cursor. Whoever remembers the cursor of the last event that was handed
on can ask for what follows it, from any connection. "From now on" therefore means: after the
newest event there is, looked up once, before the stream is opened. Asking the cloud to start "now"
at each reconnection would lose what happened while there was none. A rollout has its revision for
the same purpose.

Pure state, shared by the synchronous and the asynchronous client: they open streams and sleep,
this decides with what and how long.
"""

import logging
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from camproto.v1 import api_pb2
from camsdk.client import messages
from camsdk.client.calls import Call, EventFilter, list_events
from camsdk.client.failures import RetryPolicy
from camsdk.client.results import EventPage, EventRecord
from camsdk.client.rollouts import RolloutStatus
from camsdk.errors import CamError, ResourceExhausted, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")


class Resumable(Generic[T]):
    """Where a stream stands, and how to go on.

    Attributes:
        method: Name of the streaming call.
        is_over: Whether there is nothing more to come.
    """

    method: str
    is_over: bool = False

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self._failures = 0
        self._has_progressed = False

    def open_request(self) -> Message:
        """As :meth:`request`, for a connection that is opened now."""
        self._has_progressed = False
        return self.request()

    def request(self) -> Message:
        """What to ask for on a new connection."""
        raise NotImplementedError

    def read(self, message: Any) -> T | None:
        """The message's value, or None if it was handed on before."""
        raise NotImplementedError

    def take(self, message: Any) -> T | None:
        """As :meth:`read`; the connection works, so the next pause starts small again."""
        self._failures = 0
        self._has_progressed = True
        return self.read(message)

    def pause_s(self, error: CamError | None) -> float:
        """Seconds to wait before the next connection. Attempts never end: the caller's time may.

        Args:
            error: What ended the last connection; None if the cloud closed it.

        Raises:
            CamError: ``error``, if another connection would end the same way.
        """
        if error is not None and not self._may_go_on(error):
            raise error
        self._failures += 1
        pause_s = self._retry.pause_s(self._failures)
        log.warning(
            "%s interrupted (%s), going on in %.1f s",
            self.method,
            error.message if error else "closed by the cloud",
            pause_s,
        )
        return pause_s

    def _may_go_on(self, error: CamError) -> bool:
        # The cloud ends a stream whose reader is slow, instead of buffering without bound. What it
        # could not send is stored, so the reader goes on from there. A cloud that has no room for
        # another stream says the same before the first message: that is for the caller to know.
        is_slow = isinstance(error, ResourceExhausted) and self._has_progressed
        return is_slow or isinstance(error, Unavailable)


class Tail(Resumable[EventRecord]):
    """A stream of events.

    Args:
        where: Which events.
        cursor: Position after which to start; None for "from now on", see :meth:`started`.
        retry: Pauses between connections.
    """

    method = "TailEvents"

    def __init__(self, where: EventFilter, cursor: int | None, retry: RetryPolicy) -> None:
        super().__init__(retry)
        self._where = where
        self._cursor = cursor

    @property
    def cursor(self) -> int:
        """Position of the last event that was handed on."""
        return self._cursor or 0

    def start_call(self) -> Call[EventPage]:
        """The look-up of the newest event: gives "now", and proves address and credentials."""
        return list_events(self._where, 1, 0, newest_first=True)

    def started(self, newest: EventPage) -> None:
        """Fixes the start, if the caller has named none."""
        if self._cursor is None:
            self._cursor = newest.events[0].cursor if newest.events else 0

    def request(self) -> api_pb2.TailEventsRequest:
        """Everything after the last event that was handed on, then live."""
        return api_pb2.TailEventsRequest(filter=self._where.to_message(), after_cursor=self.cursor)

    def read(self, message: api_pb2.EventRecord) -> EventRecord | None:
        """The event, if it is news."""
        if message.cursor <= self.cursor:
            return None
        self._cursor = message.cursor
        return messages.event_record(message)


class RolloutWatch(Resumable[RolloutStatus]):
    """The states of one rollout, until it has ended."""

    method = "WatchRollout"

    def __init__(self, rollout_id: str, retry: RetryPolicy) -> None:
        super().__init__(retry)
        self._rollout_id = rollout_id
        self._revision = -1

    def request(self) -> api_pb2.GetRolloutRequest:
        """Its state now, then every change."""
        return api_pb2.GetRolloutRequest(rollout_id=self._rollout_id)

    def read(self, message: api_pb2.Rollout) -> RolloutStatus | None:
        """The state, if it is news."""
        if message.revision <= self._revision:
            return None
        self._revision = message.revision
        status = messages.rollout_status(message)
        self.is_over = status.state.has_ended
        return status
