"""The main job from end to end, step by step.

cloud up -> fleet and rules -> model imported, quantized, signed, pushed -> camera enrolled ->
model rolled out -> clip watched -> events and search answered -> figures taken.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from camsdk import assets
from camsdk.artifact import bundle, keys
from camsdk.cli.demo.cameras import CameraPlan, MemoryWatch, enrol, read_status, start_agent
from camsdk.cli.demo.clip import cut_clip, cut_picture, frame_count
from camsdk.cli.demo.figures import SMALL_KINDS, DemoFigures, Latency, Memory
from camsdk.cli.demo.h264 import EncodedClip, encode_clip
from camsdk.cli.demo.processes import CamctlProcess, wait_until
from camsdk.cli.demo.subscriber import Subscriber
from camsdk.cli.extras import demand
from camsdk.client import Client, Credentials, EventRecord, Model, Rollout, RolloutStatus
from camsdk.errors import AlreadyExists, DeadlineExceeded, InvalidInput, NotFound, Unavailable
from camsdk.vision.results import LINE_CROSSED

FLEET: Final = "park-a"
CAMERA: Final = "gate-1"
LIVE_CAMERA: Final = "gate-2"

_MARKER: Final = ".camctl-demo"
_IDLE_SETTLE_S: Final = 1.5
_STALL_S: Final = 60.0  # an agent that ships what is left needs seconds
_ROLLOUT_S: Final = 120.0
_PAGE: Final = 1000

Say = Callable[[str, int, int], None]
"""Progress: what is going on, how much is done, of how much (0: not known)."""


@dataclass(frozen=True)
class DemoOptions:
    """What to play.

    Attributes:
        out: Folder for everything that the demo leaves.
        video: Recording; None takes the pinned clip.
        rules: Rules file; None takes the clip's own.
        seconds: Play only the first seconds; None plays all.
        is_fast: As fast as it goes; then a second camera plays a part at real pace, since
            latency has a meaning only there.
        live_seconds: Of that second camera.
    """

    out: Path
    video: Path | None = None
    rules: Path | None = None
    seconds: float | None = None
    is_fast: bool = False
    live_seconds: float = 30.0


@dataclass(frozen=True)
class Watched:
    """What one camera's run gave.

    Attributes:
        plan: The camera.
        status: Figures that the agent left.
        memory: Of the agent.
    """

    plan: CameraPlan
    status: Mapping[str, Any]
    memory: Memory


@dataclass(frozen=True)
class DemoResult:
    """Figures, and what the contact sheet needs beside them."""

    figures: DemoFigures
    clip: Path
    rules_yaml: str
    events: tuple[EventRecord, ...]


def run_demo(options: DemoOptions, say: Say) -> DemoResult:
    """Runs the whole job; everything that it started has ended when it returns or raises.

    Raises:
        CamError: Whatever went wrong, in one sentence.
    """
    demand("sqlalchemy", "faiss", "onnx")
    video = options.video or assets.pull("vtest.avi", on_progress=_counter(say, "fetching clip"))
    frame_count(video)  # what is no video is said before anything is started
    _prepare_folder(options.out)
    started = time.monotonic()
    clip = video
    if options.seconds is not None:
        clip = cut_clip(video, options.out / f"clip{video.suffix}", options.seconds)
    rules_yaml = read_rules(options.rules)
    with _cloud(options.out, say) as client:
        client.create_fleet(FLEET, description="the demo's park")
        client.apply_rules(FLEET, rules_yaml)
        model = _make_model(client, options.out, say)
        with Subscriber(client, FLEET) as subscriber:
            watched, rollout = _deploy_and_watch(client, options, clip, model, say)
            live = watched if not options.is_fast else _watch_live(client, options, video, say)
            events = _all_events(client)
            delays_s = subscriber.delays_s(live.plan.device_id)
        h264 = encode_clip(clip, on_progress=_counter(say, "encoding the clip as H.264"))
        figures = _figures(
            client, watched, model=model, rollout=rollout, events=events, h264=h264,
            latency=Latency.of(delays_s), started=started, out=options.out,
        )  # fmt: skip
    return DemoResult(figures, clip, rules_yaml, events)


def _counter(say: Say, what: str) -> Callable[[int, int], None]:
    return lambda done, total: say(what, done, total)


def _prepare_folder(out: Path) -> None:
    """An empty folder; only what an earlier demo made is removed."""
    try:
        if out.exists() and any(out.iterdir()):
            if not (out / _MARKER).exists():
                raise InvalidInput(
                    f"{out} holds files that no demo made", "name another folder with --out"
                )
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARKER).touch()
    except OSError as error:
        raise InvalidInput(
            f"{out} cannot be used: {error.strerror}", "name another folder with --out"
        ) from error


def read_rules(path: Path | None) -> str:
    """Text of a rules file, or of the pinned clip's own.

    Raises:
        InvalidInput: The file cannot be read.
    """
    if path is None:
        return (resources.files("camsdk.cli") / "demo_rules.yaml").read_text("utf-8")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as rules") from error


@contextmanager
def _cloud(out: Path, say: Say) -> Iterator[Client]:
    say("starting the cloud", 0, 0)
    data = out / "cloud"
    arguments = ["serve", "--data", str(data), "--grpc", "127.0.0.1:0", "--json"]
    with CamctlProcess("cloud", arguments, out / "cloud.log") as process:
        ready = process.read_ready_line()
        credentials = Credentials.from_files(ready["admin_token_file"], ready["ca"])
        with Client(ready["api"], credentials=credentials, timeout_s=30.0) as client:
            yield client


def _make_model(client: Client, out: Path, say: Say) -> Model:
    """Import, quantize, sign, push: what the ``camctl model`` commands do."""
    # Here, because the importer needs onnx, which the plain install does not bring.
    from camsdk.compress import nanodet

    manifest, members = nanodet.build(on_progress=_counter(say, "importing and quantizing"))
    signing_key = keys.load_signing_key(out / "cloud" / "keys" / "signing.key")
    path = out / f"{manifest.name}-{manifest.version}.cam"
    path.write_bytes(bundle.pack(manifest, members, signing_key))
    try:
        return client.push_model(path)
    except AlreadyExists:
        return client.get_model(manifest.reference)


def _deploy_and_watch(
    client: Client, options: DemoOptions, clip: Path, model: Model, say: Say
) -> tuple[Watched, RolloutStatus]:
    pace = "fast" if options.is_fast else "realtime"
    plan = CameraPlan(CAMERA, clip, pace, options.out / CAMERA)
    say(f"enrolling {CAMERA}", 0, 0)
    enrol(client, FLEET, plan)
    with start_agent(plan) as agent:
        wait_until(lambda: _is_connected(client, plan, agent), 30.0, f"{CAMERA}'s connection")
        time.sleep(_IDLE_SETTLE_S)
        idle_bytes = sum(agent.rss_bytes().values())
        with MemoryWatch(agent) as watch:
            rollout = client.deploy(model.reference, fleet=FLEET)
            _wait_for_rollout(rollout, agent, say)
            _follow_to_end(agent, plan, say)
    return Watched(plan, read_status(plan), Memory.of(idle_bytes, watch.samples)), rollout.status


def _wait_for_rollout(rollout: Rollout, agent: CamctlProcess, say: Say) -> None:
    """Until it has ended; an agent that has given up says why, instead of a rollout that waits."""

    def has_ended() -> bool:
        agent.check_running()
        status = rollout.refresh()
        say(str(status), 0, 0)
        return status.state.has_ended

    wait_until(has_ended, _ROLLOUT_S, f"the end of rollout {rollout.rollout_id}")


def _watch_live(client: Client, options: DemoOptions, video: Path, say: Say) -> Watched:
    """A camera that enrols later: it gets the fleet's model by itself."""
    clip = cut_clip(video, options.out / f"live{video.suffix}", options.live_seconds)
    plan = CameraPlan(LIVE_CAMERA, clip, "realtime", options.out / LIVE_CAMERA)
    say(f"enrolling {LIVE_CAMERA}", 0, 0)
    enrol(client, FLEET, plan)
    with start_agent(plan) as agent, MemoryWatch(agent) as watch:
        _follow_to_end(agent, plan, say)
    return Watched(plan, read_status(plan), Memory.of(0, watch.samples))


def _is_connected(client: Client, plan: CameraPlan, agent: CamctlProcess) -> bool:
    agent.check_running()
    try:
        return client.get_device(plan.device_id).is_connected
    except NotFound:
        return False


def _follow_to_end(
    agent: CamctlProcess, plan: CameraPlan, say: Say, stall_s: float = _STALL_S
) -> None:
    """Waits until the agent has read and shipped all, for as long as it gets on."""
    total, done, changed_s = frame_count(plan.source), -1, time.monotonic()
    while not agent.has_ended:
        before = done
        try:
            done = int(read_status(plan)["cameras"][0]["frame_count"])
        except (Unavailable, LookupError):
            done = 0
        if done != before:
            changed_s = time.monotonic()
        elif time.monotonic() - changed_s > stall_s:
            raise DeadlineExceeded(
                f"{plan.device_id} does not get on: frame {done} of {total} for {stall_s:.0f} s",
                f"its log is {agent.log_path}",
            )
        say(f"{plan.device_id} is watching", done, total)
        time.sleep(0.25)


def _all_events(client: Client) -> tuple[EventRecord, ...]:
    """Every stored event of the fleet, once the cloud has analysed what it took."""
    wait_until(lambda: client.status().bus_depth == 0, 30.0, "the analysis of all batches")
    events: list[EventRecord] = []
    cursor = 0
    while True:
        page = client.list_events(fleet=FLEET, limit=_PAGE, after_cursor=cursor)
        events.extend(page)
        cursor = page.next_cursor
        if not cursor:
            return tuple(events)


def _search(
    client: Client, clip: Path, out: Path, events: tuple[EventRecord, ...]
) -> dict[str, Any]:
    """Who is where: a picture of the first person over the line, looked for on all cameras."""
    crossed = (e for e in events if e.kind == LINE_CROSSED and e.camera_id == CAMERA and e.xyxy)
    query = next(crossed, None)
    if query is None or query.xyxy is None:
        return {"event": None, "image": None, "method": "", "hits": []}
    image = cut_picture(clip, query.frame_index, query.xyxy, out / "person.jpg")
    found = client.search(image=image, top_k=5, fleet=FLEET)
    return {
        "event": query.event_id,
        "image": str(image),
        "method": found.method,
        "hits": [asdict(hit) for hit in found],
    }


def _figures(
    client: Client,
    watched: Watched,
    *,
    model: Model,
    rollout: RolloutStatus,
    events: tuple[EventRecord, ...],
    h264: EncodedClip,
    latency: Latency,
    started: float,
    out: Path,
) -> DemoFigures:
    device_id = watched.plan.device_id
    camera = watched.status["cameras"][0]
    frames, calls = int(camera["frame_count"]), int(camera["detector_calls"])
    own = [event for event in events if event.device_id == device_id]
    crossings = Counter(e.attributes["direction"] for e in own if e.kind == LINE_CROSSED)
    shipped = dict(client.ingest_stats(device=device_id).bytes_by_kind)
    small = sum(shipped.get(kind, 0) for kind in SMALL_KINDS)
    without_s = watched.status["agent_cpu_s"] - camera["detect_cpu_s"]
    with_s = watched.status["agent_cpu_s"] + watched.status["runtime_cpu_s"]
    devices = client.list_devices(fleet=FLEET)
    return DemoFigures(
        frames=frames,
        detector_calls_per_frame=round(calls / max(frames, 1), 3),
        cpu_ms_per_frame_without_detector=round(1e3 * without_s / max(frames, 1), 3),
        cpu_ms_per_frame_with_detector=round(1e3 * with_s / max(frames, 1), 2),
        entries={"in": crossings["in"], "out": crossings["out"]},
        events_by_kind=dict(Counter(event.kind for event in own)),
        bytes_by_kind=shipped,
        h264=h264,
        ratio_to_h264=round(h264.size_bytes / max(small, 1), 1),
        ratio_to_h264_all=round(h264.size_bytes / max(sum(shipped.values()), 1), 1),
        latency=latency,
        reconnects=int(camera["reconnects"]),
        dropped_frames=int(camera["dropped_frames"]),
        memory=watched.memory,
        model={
            "reference": model.reference,
            "digest": model.digest,
            "metrics": model.manifest.get("metrics", {}),
        },
        model_digest_by_device={d.device_id: d.reported.running_digest for d in devices},
        rollout={
            "rollout_id": rollout.rollout_id,
            "state": str(rollout.state),
            "executions": {row.device_id: str(row.state) for row in rollout.executions},
        },
        search=_search(client, watched.plan.source, out, events),
        duration_s=round(time.monotonic() - started, 1),
        files={"folder": str(out), "cloud_data": str(out / "cloud")},
    )
