"""Streams go on after a lost connection: every event once, in order, whatever breaks."""

import itertools
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from camproto.v1 import api_pb2
from camsdk.client import Client, ExecutionState, RolloutState, RolloutStatus
from camsdk.errors import DeadlineExceeded, NotFound, ResourceExhausted, Unauthenticated
from support.fake_api import FakeCloud


def _take(stream: Iterator[object], count: int) -> list[object]:
    return list(itertools.islice(stream, count))


def test_events_from_now_on(cloud: FakeCloud, client: Client) -> None:
    cloud.add_event()
    stream = client.events()
    assert stream.cursor == 10
    cloud.add_event()
    cloud.add_event(kind="other")
    assert [event.cursor for event in _take(stream, 2)] == [20, 30]
    assert stream.cursor == 30


def test_stored_events_come_first_when_asked_for(cloud: FakeCloud, client: Client) -> None:
    for _ in range(4):
        cloud.add_event()
    first = cloud.state.events[0].event.timestamp_s
    assert [row.cursor for row in _take(client.events(after_cursor=20), 2)] == [30, 40]
    assert [row.cursor for row in _take(client.events(since=first + 1), 3)] == [20, 30, 40]
    assert [row.cursor for row in _take(client.events(after_cursor=0), 4)] == [10, 20, 30, 40]


def test_what_happens_while_the_connection_is_lost_is_not_lost(
    cloud: FakeCloud, client: Client
) -> None:
    stream = client.events()
    cloud.stop()
    cloud.add_event()
    cloud.add_event()
    cloud.start()
    cloud.add_event()
    assert [event.cursor for event in _take(stream, 3)] == [10, 20, 30]


def test_no_gap_and_no_duplicate_over_many_breaks(cloud: FakeCloud, client: Client) -> None:
    total = 300
    stream = client.events()

    def produce() -> None:
        for number in range(total):
            cloud.add_event()
            if number % 40 == 20:
                cloud.break_streams()
            if number == 150:
                cloud.stop()
                cloud.start()
            time.sleep(0.001)

    producer = threading.Thread(target=produce)
    producer.start()
    seen = [event.sequence for event in _take(stream, total)]
    producer.join()
    assert seen == list(range(1, total + 1))
    assert cloud.state.calls["TailEvents"] > 3


def test_a_repeated_event_is_handed_on_once(cloud: FakeCloud, client: Client) -> None:
    cloud.add_event()
    with cloud.state.changed:
        cloud.state.events.append(cloud.state.events[0])
    cloud.add_event()
    assert [row.event_id for row in _take(client.events(after_cursor=0), 2)] == [
        "cam-1/7/1",
        "cam-1/7/3",
    ]


def test_a_stream_ends_at_its_time(client: Client) -> None:
    start_s = time.monotonic()
    assert list(client.events(timeout_s=0.15)) == []
    assert 0.1 < time.monotonic() - start_s < 2.0


def test_a_stream_ends_at_its_time_without_a_cloud(cloud: FakeCloud, client: Client) -> None:
    stream = client.events(timeout_s=0.2)
    cloud.stop()
    assert list(stream) == []
    cloud.start()


@pytest.mark.parametrize("is_client", [True, False])
def test_closing_from_another_thread_ends_a_waiting_stream(
    cloud: FakeCloud, client: Client, is_client: bool
) -> None:
    stream = client.events()
    closer = threading.Timer(0.1, client.close if is_client else stream.close)
    closer.start()
    assert list(stream) == []
    closer.join()


def test_a_refusal_shows_at_once_and_is_not_retried(cloud: FakeCloud, client: Client) -> None:
    cloud.fail("ListEvents", Unauthenticated("revoked"))
    with pytest.raises(Unauthenticated, match="revoked"):
        client.events()
    stream = client.events()
    cloud.fail("TailEvents", Unauthenticated("expired"))
    with pytest.raises(Unauthenticated, match="expired"):
        next(stream)
    assert cloud.state.calls["TailEvents"] == 1


def test_a_slow_reader_goes_on_where_it_was(cloud: FakeCloud, client: Client) -> None:
    stream = client.events()
    cloud.add_event()
    assert next(stream).cursor == 10
    cloud.break_streams(ResourceExhausted("reads too slowly"))
    cloud.add_event()
    assert next(stream).cursor == 20
    cloud.fail("TailEvents", ResourceExhausted("too many streams"))
    cloud.break_streams()
    with pytest.raises(ResourceExhausted, match="too many"):
        next(stream)


@pytest.fixture
def rollout_cloud(cloud: FakeCloud, client: Client) -> FakeCloud:
    client.create_fleet("park-a")
    for name in ("cam-1", "cam-2", "cam-3"):
        cloud.add_device(name)
    return cloud


def _complete(rollout: api_pb2.Rollout) -> None:
    for execution in rollout.executions:
        execution.state = api_pb2.EXECUTION_STATE_SUCCEEDED
    rollout.state = api_pb2.ROLLOUT_STATE_COMPLETED


def test_waiting_for_a_rollout(rollout_cloud: FakeCloud, client: Client) -> None:
    rollout = client.deploy("detector:2", fleet="park-a", strategy="waves", wave_count=2)
    assert rollout.status.model_name == "detector:2"
    request = rollout_cloud.state.requests[-1]
    assert (request.strategy, request.wave_count) == (api_pb2.ROLLOUT_STRATEGY_WAVES, 2)
    seen: list[RolloutStatus] = []

    def progress(status: RolloutStatus) -> None:
        seen.append(status)
        if len(seen) == 1:
            rollout_cloud.change_rollout("r1", lambda row: setattr(row, "current_wave", 1))
        elif len(seen) == 2:
            rollout_cloud.break_streams()
            rollout_cloud.change_rollout("r1", _complete)

    final = rollout.wait(progress)
    assert final.state is RolloutState.COMPLETED
    assert [status.revision for status in seen] == [1, 2, 3]
    assert final.count_by_state == {ExecutionState.SUCCEEDED: 3}
    assert [len(wave) for wave in final.waves] == [1, 2]
    assert str(final) == ("detector:2 to park-a: completed, wave 2 of 2, 3 of 3 devices done")
    assert rollout.status is final


def test_waiting_is_bounded(rollout_cloud: FakeCloud, client: Client) -> None:
    rollout = client.deploy(fleet="park-a", needs_approval=True)
    with pytest.raises(DeadlineExceeded, match="still pending"):
        rollout.wait(timeout_s=0.15)


def test_an_aborted_rollout_is_a_result(rollout_cloud: FakeCloud, client: Client) -> None:
    rollout = client.deploy(fleet="park-a")
    assert rollout.pause().state is RolloutState.PAUSED
    assert rollout.resume().state is RolloutState.RUNNING
    assert rollout.abort().state is RolloutState.ABORTED
    assert rollout.wait().state is RolloutState.ABORTED
    assert rollout.refresh() == client.rollout("r1").status
    assert client.list_rollouts(fleet="park-a") == (rollout.status,)
    with pytest.raises(NotFound):
        client.rollout("r9")


def test_steering_is_not_repeated(rollout_cloud: FakeCloud, client: Client) -> None:
    rollout = client.deploy(fleet="park-a", needs_approval=True)
    assert rollout.approve().state is RolloutState.RUNNING
    rollout_cloud.fail("ControlRollout", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Exception, match="cannot be reached"):
        rollout.abort()
    assert rollout_cloud.state.calls["ControlRollout"] == 2
