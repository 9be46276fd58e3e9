"""What batching saves: CPU and disk syncs per frame from the pipeline's sink to the cloud.

    python benchmarks/outbox.py [--json]

Frames of four tracks go through batcher, outbox and uploader to a gateway in another process, over
mTLS on loopback. "batched" is the agent's own way (32 frames a batch), the baseline stores and
sends every frame on its own. CPU is that of the agent's side, gRPC's threads included.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from camagent.batch import Batcher
from camagent.config import OutboxSettings
from camagent.enrolment import enroll
from camagent.link import CloudLink
from camagent.outbox import Outbox
from camagent.upload import Uploader
from camsdk.wire.tokens import decode_token
from support.fake_cloud import FakeCloud
from support.frame_results import frame_result

FRAMES = 4000


@dataclass(frozen=True)
class Row:
    """One way of shipping ``FRAMES`` frames.

    Attributes:
        cpu_ms_per_frame: Batching, outbox and upload together.
        frames_per_s: From the first frame to the last acknowledgement.
    """

    name: str
    batch_frames: int
    cpu_ms_per_frame: float
    frames_per_s: float
    bytes_per_frame: float


def serve(pipe: Connection) -> None:
    """The gateway's process."""
    cloud = FakeCloud()
    cloud.faults.credits = 64
    pipe.send(cloud.token)
    pipe.recv()
    cloud.close()


def measure(name: str, batch_frames: int) -> Row:
    """Ships all frames and waits for the last acknowledgement."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve, args=(other,))
    process.start()
    with tempfile.TemporaryDirectory() as folder:
        identity = enroll(decode_token(pipe.recv()), hardware="cpu-x86_64")
        link = CloudLink(identity, Path(folder))
        outbox = Outbox(Path(folder) / "outbox.db")
        uploader = Uploader(outbox, link)
        thread = threading.Thread(target=uploader.run)
        thread.start()
        settings = OutboxSettings(batch_frames=batch_frames, batch_wait_s=60)
        session = outbox.next_session("cam", "clip", True, 1000.0)
        batcher = Batcher(outbox, "cam", session, settings)
        results = [frame_result(index, track_count=4) for index in range(FRAMES)]
        started_s, cpu_s = time.perf_counter(), time.process_time()
        for result in results:
            batcher.put(result)
        batcher.close()
        while outbox.stats().depth:
            time.sleep(0.01)
        wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        sent_bytes = uploader.stats().sent_bytes
        uploader.stop()
        thread.join()
        link.close()
        outbox.close()
    pipe.send("end")
    process.join()
    return Row(
        name, batch_frames, 1e3 * cpu_s / FRAMES, FRAMES / wall_s, sent_bytes / FRAMES
    )  # fmt: skip


def main() -> None:
    """Measures both ways and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    is_json = parser.parse_args().json
    rows = [measure("batched", 32), measure("frame by frame (baseline)", 1)]
    ratio = rows[1].cpu_ms_per_frame / rows[0].cpu_ms_per_frame
    if is_json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "cpu_ratio": ratio}))
        return
    print(f"{'':28}{'CPU ms/frame':>14}{'frames/s':>12}{'bytes/frame':>13}")
    for row in rows:
        print(
            f"{row.name:28}{row.cpu_ms_per_frame:14.3f}{row.frames_per_s:12.0f}"
            f"{row.bytes_per_frame:13.1f}"
        )
    print(f"batching costs {ratio:.1f}x less CPU than frame by frame")


if __name__ == "__main__":
    main()
