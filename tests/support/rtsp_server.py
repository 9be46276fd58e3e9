"""A camera for tests: a small RTSP server on loopback, over TCP (interleaved) and UDP.

It plays a clip round and round at its rate, and can do to a client what cameras and networks do:
fall silent with the connection open, drop connections, go away and come back on the same port,
flip bytes, lose packets, change resolution, refuse credentials, accept and never answer.

    with RtspServer(clip) as server:
        source = open_source(CameraSettings("cam", server.url))

RFC 2326 as far as FFmpeg needs it. One thread accepts, one a connection serves.
"""

import base64
import contextlib
import itertools
import random
import re
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from support import rtp
from support.clips import Clip

_REQUEST = re.compile(r"(?P<method>[A-Z_]+) (?P<url>\S+) RTSP/1\.0\r\n(?P<headers>.*)", re.DOTALL)


@dataclass
class Faults:
    """What goes wrong now. Read by all connections before each frame.

    Attributes:
        is_silent: Send nothing, keep the connection.
        is_mute: Answer no request.
        flip_share: Share of payload bytes of which one bit flips.
        loss_share: Share of packets that are never sent.
    """

    is_silent: bool = False
    is_mute: bool = False
    flip_share: float = 0.0
    loss_share: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def damage(self, payload: bytes) -> bytes:
        """The payload with flipped bits, its first two bytes (RTP's own headers) apart."""
        if not self.flip_share:
            return payload
        data = bytearray(payload)
        for position in range(2, len(data)):
            if self.rng.random() < self.flip_share:
                data[position] ^= 1 << self.rng.randrange(8)
        return bytes(data)

    def loses(self) -> bool:
        """Whether the next packet is lost."""
        return self.loss_share > 0 and self.rng.random() < self.loss_share


class RtspServer:
    """See the module.

    Args:
        clip: What it plays.
        credentials: ``user:password`` that clients must give by Basic authentication, or None.
        tls: Server side of ``rtsps``, or None.

    Attributes:
        faults: Change its fields at any time.
        connections: TCP connections accepted so far.
        first_sent_s: Monotonic times at which the first frame of each PLAY was sent.
    """

    def __init__(
        self,
        clip: Clip,
        credentials: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.faults = Faults()
        self.connections = 0
        self.first_sent_s: list[float] = []
        self.clip = clip
        self.credentials = credentials
        self._tls = tls
        self._port = 0
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Address with the credentials in it."""
        user = f"{self.credentials}@" if self.credentials else ""
        scheme = "rtsps" if self._tls else "rtsp"
        return f"{scheme}://{user}127.0.0.1:{self._port}/cam"

    def __enter__(self) -> "RtspServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after ``stop`` again on the same port."""
        self._stopping.clear()
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=16)
        self._port = self._listener.getsockname()[1]
        self._run(self._accept, self._listener)

    def stop(self) -> None:
        """Go away: nothing listens, nothing is connected."""
        self._stopping.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(timeout=5)
            assert not thread.is_alive(), f"{thread.name} does not end"
        self._threads.clear()

    def drop(self) -> None:
        """Break all connections; new ones are served."""
        for client in self._open[:]:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def switch(self, clip: Clip) -> None:
        """Play another clip from the next frame on, without telling anybody."""
        self.clip = clip

    def _run(self, target: Callable[[socket.socket], None], client: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(client,), name="rtsp-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), self._greet(client) as peer:
            self._open.append(peer)
            try:
                with contextlib.closing(_Connection(self, peer)) as connection:
                    connection.run(self._stopping)
            finally:
                self._open.remove(peer)

    def _greet(self, client: socket.socket) -> socket.socket:
        """The socket to talk through: after the handshake with TLS, else the client's own."""
        if self._tls is None:
            return client
        client.settimeout(5)  # of the handshake
        return self._tls.wrap_socket(client, server_side=True)


class _Connection:
    """One client: answers requests and, once it plays, sends frames when they are due."""

    def __init__(self, server: RtspServer, client: socket.socket) -> None:
        self._server = server
        self._client = client
        self._udp: socket.socket | None = None
        self._channel = 0
        self._buffer = b""
        self._is_playing = False
        self._is_first = True
        self._due_s = 0.0
        self._sequence = 1
        self._ticks = 0
        self._units = itertools.count()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self, stopping: threading.Event) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._client, selectors.EVENT_READ)
            while not stopping.is_set():
                wait_s = 0.05
                if self._is_playing:
                    wait_s = min(wait_s, max(0.0, self._due_s - time.monotonic()))
                if selector.select(wait_s):
                    received = self._client.recv(65536)
                    if not received:
                        return
                    self._buffer += received
                    self._answer_all()
                if self._is_playing and time.monotonic() >= self._due_s:
                    self._send_frame()

    def close(self) -> None:
        if self._udp is not None:
            self._udp.close()

    def _answer_all(self) -> None:
        while self._buffer:
            if self._buffer[0] == 0x24:  # interleaved RTCP of the client
                if len(self._buffer) < 4:
                    return
                (length,) = struct.unpack("!H", self._buffer[2:4])
                if len(self._buffer) < 4 + length:
                    return
                self._buffer = self._buffer[4 + length :]
                continue
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            self._buffer = rest
            if not self._server.faults.is_mute:
                self._answer(head.decode("ascii"))

    def _answer(self, head: str) -> None:
        match = _REQUEST.fullmatch(head)
        assert match is not None, head
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in match["headers"].split("\r\n"))
        }
        status, fields, body = "200 OK", {"CSeq": headers["cseq"]}, ""
        method = match["method"]
        if method != "OPTIONS" and not self._is_allowed(headers.get("authorization", "")):
            status, fields["WWW-Authenticate"] = "401 Unauthorized", 'Basic realm="camera"'
        elif method == "OPTIONS":
            fields["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
        elif method == "DESCRIBE":
            body = rtp.description(self._server.clip)
            fields["Content-Base"] = match["url"] + "/"
            fields["Content-Type"] = "application/sdp"
        elif method == "SETUP":
            fields["Transport"] = self._set_up(headers["transport"])
            fields["Session"] = "1;timeout=60"
        elif method == "PLAY":
            fields["Session"], fields["Range"] = "1", "npt=0.000-"
            self._is_playing, self._due_s = True, time.monotonic()
        lines = [f"RTSP/1.0 {status}", *(f"{name}: {text}" for name, text in fields.items())]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self._client.sendall("\r\n".join([*lines, "", body]).encode())

    def _is_allowed(self, authorization: str) -> bool:
        wanted = self._server.credentials
        if wanted is None:
            return True
        return authorization == "Basic " + base64.b64encode(wanted.encode()).decode()

    def _set_up(self, transport: str) -> str:
        ports = re.search(r"client_port=(\d+)-(\d+)", transport)
        if ports is None:
            return "RTP/AVP/TCP;unicast;interleaved=0-1"
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.connect(("127.0.0.1", int(ports[1])))
        own = self._udp.getsockname()[1]
        return f"RTP/AVP;unicast;client_port={ports[1]}-{ports[2]};server_port={own}-{own + 1}"

    def _send_frame(self) -> None:
        clip, faults = self._server.clip, self._server.faults
        self._due_s += 1.0 / clip.rate_hz
        self._ticks += rtp.CLOCK_HZ // clip.rate_hz
        unit = clip.access_units[next(self._units) % len(clip.access_units)]
        if faults.is_silent:
            return
        if self._is_first:
            self._is_first = False
            self._server.first_sent_s.append(time.monotonic())
        parts = list(rtp.payloads(clip, unit))
        for index, payload in enumerate(parts):
            self._sequence += 1
            if faults.loses():
                continue
            data = rtp.packet(
                faults.damage(payload),
                self._sequence,
                self._ticks,
                ssrc=0x1234,
                is_last=index == len(parts) - 1,
            )
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self._udp is not None:
            with contextlib.suppress(ConnectionRefusedError):  # nobody listens there any more
                self._udp.send(data)
        else:
            head = struct.pack("!BBH", 0x24, self._channel, len(data))
            self._client.sendall(head + data)
