"""What the agent and its model's process say to each other: frames over a socket pair, and the
layout of the memory that they share.

A frame is its size (4 bytes, little endian) and as many bytes. The agent does not trust the other
end: sizes are bounded, replies are checked, and every wait has a deadline.

Tensors go through one anonymous memory file: the input at offset 0, the outputs from ``limit`` on.
It has no name, so nothing is left behind however either process ends, and it is sealed against
shrinking, so the model's process cannot make the agent fault.
"""

import fcntl
import os
import socket
import struct
import time
from typing import Final

from camsdk.errors import DataCorrupted, DeadlineExceeded, Unavailable

MAX_REPLY_BYTES: Final = 1 << 16
_INTEGERS: Final = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES: Final = frozenset(("bool", "float16", "float32", "float64", *_INTEGERS))
"""Of tensors that may be passed."""

_SIZE: Final = struct.Struct("<I")
_READ_BYTES: Final = 1 << 16
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Channel:
    """Frames over one end of a socket pair. Not safe for use by two threads at once."""

    def __init__(self, end: socket.socket, max_frame_bytes: int) -> None:
        self._socket = end
        self._max_frame_bytes = max_frame_bytes
        self._received = bytearray()
        self.has_left_unread = False
        """Whether the other end was gone before it had read all that was sent to it."""

    def send(self, payload: bytes, timeout_s: float | None = None) -> None:
        """Send one frame.

        Raises:
            DeadlineExceeded: The other end did not take it in time.
            Unavailable: The other end is gone.
        """
        self._socket.settimeout(timeout_s)
        try:
            if len(payload) < _READ_BYTES:
                self._socket.sendall(_SIZE.pack(len(payload)) + payload)
            else:
                self._socket.sendall(_SIZE.pack(len(payload)))
                self._socket.sendall(payload)
        except TimeoutError as error:
            raise DeadlineExceeded("the other process did not read in time") from error
        except OSError as error:
            self.has_left_unread = True
            raise Unavailable("the other process is gone") from error

    def receive(self, timeout_s: float | None = None) -> bytes:
        """Wait for one frame.

        Raises:
            DeadlineExceeded: It did not come in time.
            Unavailable: The other end is gone.
            DataCorrupted: It is longer than allowed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._fill(_SIZE.size, deadline)
        (size,) = _SIZE.unpack_from(self._received)
        if size > self._max_frame_bytes:
            raise DataCorrupted(f"a frame of {size} bytes is over {self._max_frame_bytes}")
        end = _SIZE.size + size
        self._fill(end, deadline)
        payload = bytes(memoryview(self._received)[_SIZE.size : end])
        del self._received[:end]
        return payload

    def close(self) -> None:
        """Close this end; the other sees the end of the stream."""
        self._socket.close()

    def _fill(self, size: int, deadline: float | None) -> None:
        while len(self._received) < size:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise DeadlineExceeded("the other process did not answer in time")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(max(_READ_BYTES, size - len(self._received)))
            except TimeoutError as error:
                raise DeadlineExceeded("the other process did not answer in time") from error
            except OSError as error:
                # unix(7): a peer that closes with unread data resets; else the stream just ends.
                self.has_left_unread = isinstance(error, ConnectionResetError)
                raise Unavailable("the other process is gone") from error
            if not data:
                raise Unavailable("the other process is gone")
            self._received += data


def make_shared_memory(size_bytes: int) -> int:
    """A descriptor of an anonymous, zeroed memory file of fixed size. Pages cost when touched."""
    descriptor = os.memfd_create("camagent-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
