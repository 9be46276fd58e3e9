"""``Uploader``: the outbox's batches to the cloud, in order, over one bidirectional stream.

A stream begins with a Hello. The cloud answers with what it has and with credits; each batch costs
one credit, so a slow cloud slows the device instead of filling its own memory, and what waits waits
in the outbox. Acks are cumulative and sent only once durable. After any break the device resumes
behind the last ack; what the cloud sees twice it ignores by its cursor.

A number that is missing in the outbox was dropped by the outbox's rule. The device then waits for
the acks, ends the stream, and begins one whose Hello says so.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import grpc

from camagent.link import Backoff, CloudLink
from camagent.outbox import Outbox
from camproto.v1 import device_pb2
from camsdk.errors import CamError, DataCorrupted, Unauthenticated, Unavailable

_log = logging.getLogger(__name__)

_READ_AHEAD: Final = 16  # batches read from the outbox at once: about a MB at most
_FAREWELL_S: Final = 2.0  # how long a stop waits for the last acks


@dataclass(frozen=True)
class UploadStats:
    """Figures since the agent's start.

    Attributes:
        is_connected: Whether the cloud has answered on the present stream.
        reconnects: Streams that were opened after the first.
        sent_batches, sent_bytes: Payloads, repetitions included.
        acked_sequence: Last batch known to be durable in the cloud.
    """

    is_connected: bool = False
    reconnects: int = 0
    sent_batches: int = 0
    sent_bytes: int = 0
    acked_sequence: int = 0


class _Stream:
    """One Ingest stream: what was sent on it and what may still be sent.

    gRPC's own thread pulls :meth:`requests`, the uploader's thread feeds :meth:`take`; both and the
    outbox's listener meet at ``changed``.
    """

    def __init__(self, outbox: Outbox, link: CloudLink, changed: threading.Condition) -> None:
        self._outbox = outbox
        self._link = link
        self._generation = link.generation
        self._changed = changed
        self._hello = device_pb2.Hello(epoch=outbox.epoch, next_sequence=outbox.oldest_sequence)
        self._credits = 0
        self._next = self._hello.next_sequence
        self._is_closing = False
        self.acked = 0
        self.is_welcome = False
        self.sent_batches = 0
        self.sent_bytes = 0

    def requests(self) -> Iterator[device_pb2.IngestRequest]:
        """What goes to the cloud; ends when this stream has to."""
        yield device_pb2.IngestRequest(hello=self._hello)
        while True:
            limit = self._wait_for_credit()
            for batch in self._outbox.pending(self._next - 1, limit) if limit else ():
                if batch.sequence != self._next:
                    self._close_when_acked()
                    break
                packed = device_pb2.PackedBatch(sequence=batch.sequence, payload=batch.payload)
                with self._changed:
                    self._next += 1
                    self._credits -= 1
                    self.sent_batches += 1
                    self.sent_bytes += len(batch.payload)
                yield device_pb2.IngestRequest(batch=packed)
            if self._is_closing:
                return

    def take(self, response: device_pb2.IngestResponse) -> None:
        """An answer of the cloud: acks, and credits on top of those it gave before.

        Raises:
            DataCorrupted: it acknowledges what was never made; the outbox has begun a new epoch.
            ResourceExhausted: the disk fails.
        """
        with self._changed:
            self.is_welcome = True
            self._credits += response.credits
            self.acked = response.acked_sequence
            self._next = max(self._next, response.acked_sequence + 1)
            self._changed.notify_all()
        try:
            self._outbox.acked(response.acked_sequence)
        except DataCorrupted:
            self._outbox.restart_epoch()
            raise

    def close(self) -> None:
        """Sends nothing further; the cloud answers what it has and ends the stream."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def _wait_for_credit(self) -> int:
        """Waits until something may be sent; returns how many, 0 when the stream is to end."""
        with self._changed:
            self._changed.wait_for(self._is_ready)
            if self._link.generation != self._generation:
                self._is_closing = True
            return 0 if self._is_closing else min(self._credits, _READ_AHEAD)

    def _is_ready(self) -> bool:
        if self._is_closing or self._link.generation != self._generation:
            return True
        return self._credits > 0 and self._outbox.last_sequence >= self._next

    def _close_when_acked(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self.acked >= self._next - 1)
            self._is_closing = True


class Uploader:
    """Ships an outbox until stopped; :meth:`run` is the body of its thread."""

    def __init__(self, outbox: Outbox, link: CloudLink) -> None:
        self._outbox = outbox
        self._link = link
        self._changed = threading.Condition()
        self._is_stopping = False
        self._stream: _Stream | None = None
        self._call: grpc.Call | None = None
        self._past = UploadStats(reconnects=-1)
        outbox.subscribe(self.wake)

    def run(self) -> None:
        """Streams, and after each break waits and streams again, until :meth:`stop`."""
        backoff = Backoff()
        while not self._is_stopping:
            try:
                self._run_stream(backoff)
            except CamError as error:
                # A refused device hears of it from the shadow, which has the same certificate.
                is_told = isinstance(error, Unauthenticated) or not backoff.is_news(error)
                level = logging.DEBUG if is_told else logging.WARNING
                _log.log(level, "upload waits: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopping, backoff.next_s())

    def stop(self) -> None:
        """Ends the stream after the acks of what has been sent, or after two seconds."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            stream = self._stream
        if stream is not None:
            stream.close()
        with self._changed:
            self._changed.wait_for(lambda: self._stream is None, _FAREWELL_S)
            if self._call is not None:
                self._call.cancel()  # type: ignore[no-untyped-call] # so in grpc-stubs

    def wake(self) -> None:
        """Has the stream look again: a batch was committed, or the link has a new channel."""
        with self._changed:
            self._changed.notify_all()

    def stats(self) -> UploadStats:
        """Figures of now."""
        with self._changed:
            stream, past = self._stream, self._past
            if stream is None:
                return replace(past, reconnects=max(0, past.reconnects))
            return replace(_add(past, stream), is_connected=stream.is_welcome)

    def _run_stream(self, backoff: Backoff) -> None:
        """One stream from Hello to its end.

        Raises:
            CamError: it broke.
        """
        stream = _Stream(self._outbox, self._link, self._changed)
        call = self._link.gateway().Ingest(stream.requests())
        with self._changed:
            self._stream, self._call = stream, call
        if self._is_stopping:
            stream.close()
        try:
            for response in call:
                stream.take(response)
                backoff.reset()
        except grpc.RpcError as error:
            if not self._is_stopping:
                raise self._link.explain(error) from error
        else:
            if not stream.is_welcome:
                raise Unavailable("the cloud ended the stream without a word")
        finally:
            stream.close()
            call.cancel()  # type: ignore[no-untyped-call] # so in grpc-stubs
            with self._changed:
                self._past = _add(self._past, stream)
                self._stream = self._call = None
                self._changed.notify_all()


def _add(past: UploadStats, stream: _Stream) -> UploadStats:
    return UploadStats(
        reconnects=past.reconnects + 1,
        sent_batches=past.sent_batches + stream.sent_batches,
        sent_bytes=past.sent_bytes + stream.sent_bytes,
        acked_sequence=max(past.acked_sequence, stream.acked),
    )
