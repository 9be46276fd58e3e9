import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camagent.runtimes.channel import Channel, make_shared_memory
from camsdk.errors import DataCorrupted, DeadlineExceeded, Unavailable

LIMIT = 1 << 20


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    first, second = (Channel(end, LIMIT) for end in socket.socketpair())
    yield first, second
    first.close()
    second.close()


@given(st.lists(st.binary(max_size=2000), max_size=8))
def test_frames_arrive_whole_and_in_order(payloads: list[bytes]) -> None:
    near, far = (Channel(end, LIMIT) for end in socket.socketpair())
    for payload in payloads:
        near.send(payload, 1)
    assert [far.receive(1) for _ in payloads] == payloads
    near.close()
    far.close()


def test_a_frame_larger_than_any_buffer(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    payload = os.urandom(LIMIT)
    sender = threading.Thread(target=near.send, args=(payload, 5))
    sender.start()
    assert far.receive(5) == payload
    sender.join()


def test_frames_that_come_in_pieces() -> None:
    raw, end = socket.socketpair()
    channel = Channel(end, LIMIT)
    stream = struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0) + struct.pack("<I", 1) + b"d"

    def trickle() -> None:
        for index in range(len(stream)):
            raw.sendall(stream[index : index + 1])
            time.sleep(0.001)

    sender = threading.Thread(target=trickle)
    sender.start()
    assert [channel.receive(2) for _ in range(3)] == [b"abc", b"", b"d"]
    sender.join()
    raw.close()
    channel.close()


def test_a_frame_over_the_limit_is_refused_before_it_is_read(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    near._socket.sendall(struct.pack("<I", LIMIT + 1))
    with pytest.raises(DataCorrupted, match="over"):
        far.receive(1)


def test_deadlines(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    start_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        far.receive(0.05)
    near._socket.sendall(struct.pack("<I", 100) + b"a part of it")
    with pytest.raises(DeadlineExceeded):
        far.receive(0.05)
    with pytest.raises(DeadlineExceeded):
        near.send(bytes(LIMIT), 0.05)
    assert time.monotonic() - start_s < 1


def test_a_trickle_does_not_extend_the_deadline(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    near._socket.sendall(struct.pack("<I", 1000))
    is_over = threading.Event()

    def trickle() -> None:
        while not is_over.wait(0.01):
            near._socket.sendall(b"x")

    sender = threading.Thread(target=trickle)
    sender.start()
    start_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        far.receive(0.1)
    assert time.monotonic() - start_s < 0.5
    is_over.set()
    sender.join()


def test_the_end_of_the_other_side_and_whether_it_had_read_all(
    pair: tuple[Channel, Channel],
) -> None:
    near, far = pair
    near.send(b"question")
    assert far.receive(1) == b"question"
    far.close()
    with pytest.raises(Unavailable):
        near.receive(1)
    assert not near.has_left_unread
    with pytest.raises(Unavailable):
        near.send(b"another")
    assert near.has_left_unread


def test_an_end_with_an_unread_question(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    near.send(b"question")
    far.close()
    with pytest.raises(Unavailable):
        near.receive(1)
    assert near.has_left_unread


def test_shared_memory_has_no_name_and_cannot_shrink() -> None:
    descriptor = make_shared_memory(1 << 16)
    try:
        with mmap.mmap(descriptor, 1 << 16) as memory:
            assert memory[:16] == bytes(16)
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 0)
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 1 << 17)
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.slow
def test_the_process_imports_little() -> None:
    """Before a model is checked nothing of the model's world is loaded, and never what is heavy."""
    code = "import camagent.runtimes.cpu_worker, sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    loaded = set(result.stdout.split())
    assert not loaded & {"numpy", "onnxruntime", "onnx", "torch", "cv2", "av", "grpc", "pydantic"}
