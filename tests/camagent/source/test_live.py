"""Live cameras against a real RTSP server: case 4, reconnection, times, sessions, drops."""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from camagent.config import CameraSettings, Transport
from camagent.source import LiveSource, Presence, open_source
from camagent.source.live import MAX_PICTURES
from camsdk.errors import SourceError
from camsdk.vision.frames import Frame
from support.clips import Clip, encode, scene
from support.rtsp_server import RtspServer

TRANSPORTS = pytest.mark.parametrize(
    "transport", ["tcp", pytest.param("udp", marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return encode(scene(320, 240, 50), rate_hz=25)


@pytest.fixture
def server(clip: Clip) -> Iterator[RtspServer]:
    with RtspServer(clip) as running:
        yield running


@dataclass
class Viewer:
    """Reads a source in a thread and notes what comes, with the monotonic time of each."""

    source: LiveSource
    frames: list[tuple[float, Frame]] = field(default_factory=list)
    changes: list[tuple[float, Presence]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        for frame in self.source.frames(self.stop):
            self.frames.append((time.monotonic(), frame))
            self.order.append(str(frame.index))

    def note(self, presence: Presence) -> None:
        self.changes.append((time.monotonic(), presence))
        self.order.append("online" if presence.is_online else "offline")

    def wait(self, condition: Callable[["Viewer"], bool], timeout_s: float = 10.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition(self):
            assert time.monotonic() < deadline_s, f"waited in vain; saw {self.order[-40:]}"
            time.sleep(0.005)


@contextmanager
def viewing(settings: CameraSettings) -> Iterator[Viewer]:
    source = open_source(settings)
    assert isinstance(source, LiveSource)
    viewer = Viewer(source)
    source.subscribe(viewer.note)
    thread = threading.Thread(target=viewer.read)
    thread.start()
    try:
        yield viewer
    finally:
        viewer.stop.set()
        thread.join(timeout=10)
        assert not thread.is_alive()


def camera(server: RtspServer, transport: Transport = "tcp", **changes: Any) -> CameraSettings:
    return CameraSettings("cam", server.url, transport=transport, **changes)


def seen(count: int) -> Callable[[Viewer], bool]:
    return lambda viewer: len(viewer.frames) >= count


def told(count: int) -> Callable[[Viewer], bool]:
    return lambda viewer: len(viewer.changes) >= count


@TRANSPORTS
def test_plays_and_tells_that_it_is_online(server: RtspServer, transport: Transport) -> None:
    with viewing(camera(server, transport)) as viewer:
        viewer.wait(seen(10))
        assert viewer.source.is_online
        assert not viewer.source.is_recording
    assert viewer.order[:4] == ["online", "0", "1", "2"]
    first_s, frame = viewer.frames[0]
    assert frame.y.shape == (240, 320)
    assert first_s - server.first_sent_s[0] < 0.4
    assert abs(frame.timestamp_s - time.time()) < 5.0
    times = [frame.timestamp_s for _, frame in viewer.frames]
    assert all(b > a for a, b in pairwise(times))
    assert viewer.source.cpu_time_s > 0.0


@TRANSPORTS
def test_case_4_a_silent_camera_is_noticed_and_comes_back(
    server: RtspServer, transport: Transport
) -> None:
    with viewing(camera(server, transport, read_timeout_s=0.4)) as viewer:
        viewer.wait(seen(5))
        server.faults.is_silent = True
        silent_s = time.monotonic()
        viewer.wait(told(2))
        noticed_s, gone = viewer.changes[1]
        assert not gone.is_online
        assert "silent" in gone.reason
        assert 0.3 <= noticed_s - silent_s <= 0.8
        assert not viewer.source.is_online
        server.faults.is_silent = False
        returned_s = time.monotonic()
        viewer.wait(told(3))
        assert viewer.changes[2][0] - returned_s <= 1.0
        count = len(viewer.frames)
        viewer.wait(seen(count + 3))
        assert viewer.source.reconnects == 1


@pytest.mark.slow
@TRANSPORTS
def test_promise_dead_noticed_within_2_s_back_within_1_s(
    server: RtspServer, transport: Transport
) -> None:
    """The product's figures with its default settings."""
    with viewing(camera(server, transport)) as viewer:
        viewer.wait(seen(5))
        server.faults.is_silent = True
        silent_s = time.monotonic()
        viewer.wait(told(2))
        assert viewer.changes[1][0] - silent_s <= 2.0
        time.sleep(2.0)  # so that the backoff has grown
        server.faults.is_silent = False
        returned_s = time.monotonic()
        count = len(viewer.frames)
        viewer.wait(seen(count + 1))
        assert viewer.frames[count][0] - returned_s <= 1.0


@pytest.mark.slow
@TRANSPORTS
def test_a_camera_that_goes_away_and_returns(server: RtspServer, transport: Transport) -> None:
    with viewing(camera(server, transport)) as viewer:
        viewer.wait(seen(5))
        server.stop()
        gone_s = time.monotonic()
        viewer.wait(told(2))
        assert viewer.changes[1][0] - gone_s <= 0.5
        time.sleep(1.0)
        server.start()
        back_s = time.monotonic()
        viewer.wait(told(3))
        assert viewer.changes[2][0] - back_s <= 1.0
        viewer.wait(lambda v: v.order[-1] == "3")
    start = viewer.order.index("online", 1)
    assert viewer.order[start - 1 : start + 3] == ["offline", "online", "0", "1"]


@pytest.mark.slow
def test_each_connection_is_a_session_that_counts_from_zero(server: RtspServer) -> None:
    with viewing(camera(server)) as viewer:
        for round_ in range(1, 4):
            viewer.wait(told(2 * round_ - 1))
            viewer.wait(lambda v: v.order[-1] == "2")
            server.drop()
            viewer.wait(told(2 * round_))
        assert viewer.source.reconnects == 2
    text = " ".join(viewer.order)
    assert text.count("online 0 1 2") == 3
    assert text.count("offline online 0") == 2
    stamps = [presence.timestamp_s for _, presence in viewer.changes]
    assert stamps == sorted(stamps)


@pytest.mark.slow
def test_a_peer_that_accepts_and_never_answers(server: RtspServer) -> None:
    server.faults.is_mute = True
    with viewing(camera(server, open_timeout_s=0.3)) as viewer:
        time.sleep(1.0)
        assert viewer.order == []  # was never online, so is not told to have gone
        assert server.connections >= 2
        server.faults.is_mute = False
        viewer.wait(seen(2))


@pytest.mark.slow
def test_stop_is_noticed_at_once_even_in_silence(server: RtspServer) -> None:
    with viewing(camera(server)) as viewer:
        viewer.wait(seen(2))
        server.faults.is_silent = True
        stopped_s = time.monotonic()
    assert time.monotonic() - stopped_s <= 1.5


@pytest.mark.slow
def test_a_slow_pipeline_gets_the_newest_frames_and_the_rest_is_counted(
    server: RtspServer,
) -> None:
    source = open_source(camera(server))
    frames = source.frames()
    before = next(frames)
    time.sleep(1.0)  # 25 frames come meanwhile
    waiting = [next(frames) for _ in range(MAX_PICTURES)]
    frames.close()
    ages_s = [waiting[-1].timestamp_s - frame.timestamp_s for frame in (before, waiting[0])]
    assert ages_s[0] > 0.8
    assert ages_s[1] < 0.2
    assert 18 <= source.dropped_frames <= 30
    assert [frame.index for frame in waiting] == [1, 2]  # numbers have no gap


@pytest.mark.slow
def test_refused_credentials_are_not_tried_again_soon(
    clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    with RtspServer(clip, credentials="root:hunter2") as server:
        wrong = CameraSettings("cam", server.url.replace("hunter2", "letmein"))
        with caplog.at_level(logging.DEBUG), viewing(wrong) as viewer:
            time.sleep(1.0)
        assert viewer.frames == []
        assert server.connections == 1
        assert "refuses the credentials" in caplog.text
        assert "letmein" not in caplog.text
        with viewing(camera(server)) as viewer:
            viewer.wait(seen(1))


@dataclass
class Certificate:
    """Of a camera on loopback, signed by itself."""

    server: ssl.SSLContext
    pem_path: Path


def make_certificate(folder: Path, name: str) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now, hour = datetime.now(UTC), timedelta(hours=1)
    loopback = x509.IPAddress(ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    pem_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem_path, key_path)
    return Certificate(context, pem_path)


@pytest.mark.slow
def test_rtsps_and_whom_it_trusts(clip: Clip, tmp_path: Path) -> None:
    ours, other = make_certificate(tmp_path, "ours"), make_certificate(tmp_path, "other")
    with RtspServer(clip, tls=ours.server) as server:
        assert server.url.startswith("rtsps://")
        for trusted in ("", str(ours.pem_path)):
            with viewing(camera(server, tls_ca_file=trusted)) as viewer:
                viewer.wait(seen(3))
        with viewing(camera(server, tls_ca_file=str(other.pem_path))) as viewer:
            time.sleep(1.0)
            assert viewer.frames == []


@pytest.mark.slow
@TRANSPORTS
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_case_1_flipped_bytes_on_the_wire(codec: str, transport: Transport) -> None:
    with RtspServer(encode(scene(320, 240, 50), rate_hz=50, codec=codec)) as server:
        with viewing(camera(server, transport)) as viewer:
            viewer.wait(seen(10))
            server.faults.flip_share = 0.001
            viewer.wait(lambda v: sum(f.is_corrupt for _, f in v.frames) >= 3)
            server.faults.flip_share = 0.0
            count = len(viewer.frames)
            viewer.wait(lambda v: sum(not f.is_corrupt for _, f in v.frames[count:]) >= 20)
        assert viewer.order.count("online") == 1


@pytest.mark.slow
def test_lost_packets_do_not_end_it(clip: Clip) -> None:
    with RtspServer(clip) as server, viewing(camera(server, "udp")) as viewer:
        viewer.wait(seen(5))
        server.faults.loss_share = 0.1
        viewer.wait(seen(60))
        server.faults.loss_share = 0.0
        count = len(viewer.frames)
        viewer.wait(lambda v: sum(not f.is_corrupt for _, f in v.frames[count:]) >= 10)


@pytest.mark.slow
@TRANSPORTS
def test_case_3_a_change_of_resolution_on_the_wire(
    server: RtspServer, transport: Transport
) -> None:
    small = encode(scene(160, 120, 50), rate_hz=25)
    with viewing(camera(server, transport)) as viewer:
        viewer.wait(seen(5))
        server.switch(small)
        viewer.wait(lambda v: v.frames[-1][1].y.shape == (120, 160))
        viewer.wait(lambda v: v.frames[-1][1].y.shape == (120, 160) and len(v.frames) > 20)
    assert viewer.order.count("online") == 1


def test_two_readers_of_one_source_are_refused(server: RtspServer) -> None:
    source = open_source(camera(server))
    frames = source.frames()
    next(frames)
    with pytest.raises(SourceError, match="is being read"):
        next(source.frames())
    frames.close()
