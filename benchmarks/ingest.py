"""Frames per second and core through the gateway into the durable bus, against bare grpc.aio.

    python benchmarks/ingest.py [--streams 16] [--batches 400] [--rounds 3] [--json]

Three servers take the same batches (32 frames, 16 tracks each, a code for every tenth track and
frame) from the same client process over loopback with mTLS:

* ``echo``: a bare grpc.aio handler that reads each message and acknowledges every 16th; it keeps
  nothing. What any gRPC server in Python costs at least.
* ``gateway``: the product's gateway and bus, acknowledging what is synced to disk.
* ``cloud``: the same, with the analysis behind it, until every row is stored.

``frames/s per core`` is frames over the server process' own CPU seconds (all its threads), so it
does not depend on what else the machine does; ``frames/s`` is over wall time and does. Medians of
interleaved rounds.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

from camcloud.blobs import MemoryBlobs
from camcloud.bus import BusLimits, LogBus, SqliteJournal
from camcloud.data_plane import DataPlane
from camcloud.fleet.authority import CertificateAuthority
from camcloud.gateway import IngestServicer
from camcloud.listeners import DEVICE_OPTIONS, make_server
from camcloud.store import migrate
from camcloud.store.database import Database
from camcloud.vectors import FaissVectors
from camproto.v1 import device_pb2, device_pb2_grpc
from camsdk.vision.results import REFRESH, Embeddings, FrameResult, Tracks
from camsdk.wire import encode_batch

KINDS = ("echo", "gateway", "cloud")
FRAMES = 32
TRACKS = 16
ACK_EVERY = 16
WINDOW = 64
ENOUGH = BusLimits(batches=1 << 30, size_bytes=1 << 40)


@dataclass(frozen=True)
class Row:
    """One server.

    Attributes:
        frames_per_cpu_s: Frames over CPU seconds of the server process.
        frames_per_s: Frames over wall seconds.
        us_per_frame: CPU microseconds of the server process.
        ratio: ``frames_per_cpu_s`` against the bare handler's.
    """

    name: str
    frames_per_cpu_s: float
    frames_per_s: float
    us_per_frame: float
    ratio: float


def make_payload(seed: int) -> bytes:
    """A batch of people who walk straight on, as the codec packs it."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 600, (TRACKS, 2))
    speed = rng.uniform(-3, 3, (TRACKS, 2))
    track_id = np.arange(1, TRACKS + 1, dtype=np.int64)
    results = []
    for n in range(FRAMES):
        corner = start + speed * n + rng.normal(0, 0.5, (TRACKS, 2))
        xyxy = np.hstack([corner, corner + np.array([30, 80])]).astype(np.float32)
        scores = rng.uniform(0.5, 1, TRACKS).astype(np.float32)
        tracks = Tracks(track_id, xyxy, scores, np.zeros(TRACKS, np.int64), track_id[:0])
        coded = track_id[n % 10 :: 10] if n % 10 == 0 else track_id[:0]
        values = rng.normal(size=(coded.size, 128))
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        codes = np.rint(values / norms * 127).astype(np.int8)
        reasons = np.full(coded.size, REFRESH, np.uint8)
        embeddings = Embeddings(coded, codes, reasons)
        results.append(FrameResult(n, 1000 + n / 10, 768, 576, tracks, embeddings))
    return encode_batch(results, camera_id="gate", session=1, epoch=1, first_event_sequence=1)


def make_credentials(folder: Path) -> None:
    """Key and certificate of the server and of one device, signed by a CA of their own."""
    authority = CertificateAuthority.load_or_create(folder)
    server = authority.issue_server(["127.0.0.1", "localhost"])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    device = authority.issue_device(csr, device_id="bench-0", fleet="bench")
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for name, data in (
        ("server.key", server.key_pem),
        ("server.pem", server.chain_pem),
        ("device.key", key_pem),
        ("device.pem", device.pem),
        ("ca.pem", authority.ca_pem),
    ):
        (folder / name).write_bytes(data)


class Echo(device_pb2_grpc.DeviceGatewayServicer):
    """The bare handler."""

    @override
    async def Ingest(
        self, request_iterator: AsyncIterator[device_pb2.IngestRequest], context: object
    ) -> AsyncIterator[device_pb2.IngestResponse]:
        sequence = 0
        yield device_pb2.IngestResponse(credits=WINDOW)
        async for request in request_iterator:
            if request.HasField("batch"):
                sequence = request.batch.sequence
                if sequence % ACK_EVERY == 0:
                    yield device_pb2.IngestResponse(acked_sequence=sequence, credits=ACK_EVERY)
        yield device_pb2.IngestResponse(acked_sequence=sequence)


async def serve(kind: str, folder: Path) -> None:
    """Serves until stdin ends; says where, and at the end what it cost."""
    data = Path(tempfile.mkdtemp(dir=folder))
    bus = LogBus(SqliteJournal(data / "bus.db"), ENOUGH)
    plane: DataPlane | None = None
    database = Database(data / "store.db")
    if kind == "cloud":
        migrate.upgrade(database)
        plane = DataPlane(database, bus, FaissVectors(data / "vectors"), MemoryBlobs())
        await plane.start()
    else:
        await bus.start()
    servicer = Echo() if kind == "echo" else IngestServicer(bus)
    server = make_server(None, DEVICE_OPTIONS)
    device_pb2_grpc.add_DeviceGatewayServicer_to_server(servicer, server)
    key, chain, ca = ((folder / n).read_bytes() for n in ("server.key", "server.pem", "ca.pem"))
    credentials = grpc.ssl_server_credentials([(key, chain)], ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    started = time.process_time()
    print(json.dumps({"port": port}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    if plane is not None:
        await plane.drained()
    print(json.dumps({"cpu_s": time.process_time() - started}), flush=True)
    await server.stop(0)
    await (plane or bus).stop()
    database.close()
    shutil.rmtree(data)


async def ship(folder: Path, port: int, streams: int, batches: int) -> None:
    """Sends every stream's batches as its credits allow, until all are acknowledged."""
    key, chain, ca = ((folder / n).read_bytes() for n in ("device.key", "device.pem", "ca.pem"))
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    payloads = [make_payload(seed) for seed in range(8)]
    requests = [
        device_pb2.IngestRequest(
            batch=device_pb2.PackedBatch(sequence=n, payload=payloads[n % len(payloads)])
        ).SerializeToString()
        for n in range(1, batches + 1)
    ]

    async def stream(epoch: int, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(
            "/camproto.v1.DeviceGateway/Ingest",
            request_serializer=None,
            response_deserializer=device_pb2.IngestResponse.FromString,
        )()
        hello = device_pb2.Hello(epoch=epoch, next_sequence=1)
        await call.write(device_pb2.IngestRequest(hello=hello).SerializeToString())
        sent, acked = 0, 0
        while acked < batches:
            answer = await call.read()
            assert answer is not grpc.aio.EOF
            acked = answer.acked_sequence
            for request in requests[sent : sent + answer.credits]:
                await call.write(request)
            sent = min(batches, sent + answer.credits)
            if sent == batches and acked < batches:
                await call.done_writing()
        call.cancel()

    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        await asyncio.gather(*(stream(n, channel) for n in range(1, streams + 1)))


def run_once(kind: str, folder: Path, streams: int, batches: int) -> tuple[float, float]:
    """CPU seconds of the server and wall seconds of the client."""
    command = [sys.executable, __file__, "--folder", str(folder)]
    with subprocess.Popen(
        [*command, "--serve", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        started = time.monotonic()
        options = ["--streams", str(streams), "--batches", str(batches)]
        subprocess.run([*command, "--ship", str(port), *options], check=True)
        wall_s = time.monotonic() - started
        server.stdin.write("\n")
        server.stdin.flush()
        cpu_s = json.loads(server.stdout.readline())["cpu_s"]
    return cpu_s, wall_s


def measure(streams: int, batches: int, rounds: int) -> list[Row]:
    """One row for each server."""
    frames = streams * batches * FRAMES
    runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as name:
        folder = Path(name)
        make_credentials(folder)
        for _ in range(rounds):
            for kind in KINDS:
                runs[kind].append(run_once(kind, folder, streams, batches))
    cpu_s = {kind: statistics.median(cpu for cpu, _ in runs[kind]) for kind in KINDS}
    wall_s = {kind: statistics.median(wall for _, wall in runs[kind]) for kind in KINDS}
    return [
        Row(
            name=kind,
            frames_per_cpu_s=frames / cpu_s[kind],
            frames_per_s=frames / wall_s[kind],
            us_per_frame=cpu_s[kind] / frames * 1e6,
            ratio=cpu_s["echo"] / cpu_s[kind],
        )
        for kind in KINDS
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--batches", type=int, default=400, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--ship", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        uvloop.run(serve(options.serve, options.folder))
        return
    if options.ship:
        uvloop.run(ship(options.folder, options.ship, options.streams, options.batches))
        return
    rows = measure(options.streams, options.batches, options.rounds)
    size_bytes = len(make_payload(0))
    if options.json:
        print(json.dumps({"batch_bytes": size_bytes, "rows": [asdict(row) for row in rows]}))
        return
    print(f"{options.streams} streams x {options.batches} batches of {FRAMES} frames,", end=" ")
    print(f"{size_bytes} bytes each, mTLS, loopback")
    print(f"{'':8} {'frames/s per core':>18} {'frames/s':>10} {'us/frame':>9} {'ratio':>6}")
    for row in rows:
        print(
            f"{row.name:8} {row.frames_per_cpu_s:18,.0f} {row.frames_per_s:10,.0f}"
            f" {row.us_per_frame:9.2f} {row.ratio:6.2f}"
        )


if __name__ == "__main__":
    main()
