"""The law of resumption: whatever breaks and repeats, each event comes out once and in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camproto.v1 import api_pb2
from camsdk.client import EventFilter, EventPage, RetryPolicy
from camsdk.client.messages import event_record
from camsdk.client.resume import RolloutWatch, Tail
from camsdk.errors import CamError, ResourceExhausted, Unauthenticated, Unavailable

RETRY = RetryPolicy()


def _message(cursor: int) -> api_pb2.EventRecord:
    return api_pb2.EventRecord(cursor=cursor, event_id=f"cam/1/{cursor}")


@given(
    log=st.lists(st.integers(1, 1000), unique=True).map(sorted),
    cuts=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=12),
    start=st.integers(0, 1000),
)
def test_each_event_once_and_in_order(
    log: list[int], cuts: list[tuple[int, int]], start: int
) -> None:
    """Each connection gives some events and breaks; a careless cloud repeats a few before them."""
    tail = Tail(EventFilter(), start, RETRY)
    seen: list[int] = []
    for length, overlap in [*cuts, (len(log), 0)]:
        after = tail.open_request().after_cursor  # type: ignore[attr-defined] # a TailEventsRequest
        begin = max(sum(cursor <= after for cursor in log) - overlap, 0)
        for cursor in log[begin : begin + length + overlap]:
            event = tail.take(_message(cursor))
            if event is not None:
                seen.append(event.cursor)
        assert tail.pause_s(Unavailable("broken")) > 0
    assert seen == [cursor for cursor in log if cursor > start]


def test_from_now_on_is_fixed_once() -> None:
    tail = Tail(EventFilter(), None, RETRY)
    tail.started(EventPage((event_record(_message(7)),), 0))
    assert tail.cursor == 7
    tail.started(EventPage((event_record(_message(9)),), 0))
    assert tail.cursor == 7
    empty = Tail(EventFilter(), None, RETRY)
    empty.started(EventPage((), 0))
    assert empty.read(_message(1)) is not None


def test_pauses_grow_and_start_small_again() -> None:
    tail = Tail(EventFilter(), 0, RETRY)
    assert max(tail.pause_s(None) for _ in range(12)) > 1.0
    tail.take(_message(1))
    assert tail.pause_s(Unavailable("away")) <= RETRY.first_delay_s


@pytest.mark.parametrize("error", [Unauthenticated("revoked"), ResourceExhausted("no room")])
def test_what_another_connection_cannot_mend_is_raised(error: CamError) -> None:
    tail = Tail(EventFilter(), 0, RETRY)
    tail.open_request()
    with pytest.raises(type(error)):
        tail.pause_s(error)


def test_a_rollout_is_over_when_it_has_ended() -> None:
    watch = RolloutWatch("r1", RETRY)
    running = api_pb2.Rollout(revision=1, state=api_pb2.ROLLOUT_STATE_RUNNING)
    assert watch.take(running) is not None
    assert watch.take(running) is None
    assert not watch.is_over
    assert watch.take(api_pb2.Rollout(revision=2, state=api_pb2.ROLLOUT_STATE_ABORTED)) is not None
    assert watch.is_over
