"""Settings of one agent: frozen, grouped by concern, each checked when it is made.

Read once (``config_file``), then passed; nothing below reads the environment or the file again.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from camsdk.errors import InvalidInput

Pace = Literal["realtime", "fast"]
Transport = Literal["tcp", "udp"]

_CAMERA_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MAX_CAMERAS: Final = 64  # one thread each
_MAX_START_TIME_S: Final = 1 << 34  # the year 2514; NaN is no number of seconds either


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidInput(f"{name} is {value!r}", f"choose from {', '.join(choices)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {value}", f"give {low} to {high}")


@dataclass(frozen=True)
class CameraSettings:
    """One camera.

    Attributes:
        camera_id: Lower-case name, unique within the agent.
        source: Path of a recording, or an ``rtsp://`` URL. May hold credentials: never logged.
        pace: Of a recording: as it was taken, or as fast as the machine can.
        start_time_s: Capture time of a recording's first frame, seconds since the Unix epoch;
            None takes the time of the first opening and keeps it for the session.
        detect_every: Detector sees at most each n-th frame; 1, as the gate already saves calls.
        transport: Of RTSP media; TCP, as it crosses routers and loses nothing.
        open_timeout_s: Until the first frame; 5 s, as cameras wake slowly.
        read_timeout_s: Between two frames, after which the stream counts as dead; 1.8 s, so that
            it is noticed within 2 s. Longer for a camera that sends less than a frame a second.
        max_backoff_s: Longest pause between two attempts to reconnect; 0.5 s, so that a camera is
            back within 1 s after it answers.
        allow_http: Whether ``http`` and ``https`` sources are accepted.
        tls_ca_file: PEM file of whoever signed the certificate of an ``rtsps`` or ``https`` camera;
            empty accepts any certificate, since most cameras sign their own.
        is_repeated: Read a finished recording again, as a new session, at each start of the agent.
            False: what has been shipped to its end is done.
    """

    camera_id: str
    source: str = field(repr=False)
    pace: Pace = "realtime"
    start_time_s: float | None = None
    detect_every: int = 1
    transport: Transport = "tcp"
    open_timeout_s: float = 5.0
    read_timeout_s: float = 1.8
    max_backoff_s: float = 0.5
    allow_http: bool = False
    tls_ca_file: str = ""
    is_repeated: bool = False

    def __post_init__(self) -> None:
        if not _CAMERA_ID.fullmatch(self.camera_id):
            raise InvalidInput(
                f"camera id {self.camera_id!r} is not valid",
                "use 1 to 63 lower-case letters, digits, dots, dashes and underscores",
            )
        if not self.source:
            raise InvalidInput(f"camera {self.camera_id!r} has no source", "give a file or a URL")
        if self.start_time_s is not None:
            _check_range("start_time_s", self.start_time_s, 0, _MAX_START_TIME_S)
        _check_choice("pace", self.pace, get_args(Pace))
        _check_choice("transport", self.transport, get_args(Transport))
        _check_range("detect_every", self.detect_every, 1, 1000)
        for name in ("open_timeout_s", "read_timeout_s", "max_backoff_s"):
            _check_range(name, getattr(self, name), 0.05, 300)


@dataclass(frozen=True)
class RuntimeSettings:
    """How artifacts run on this device.

    Attributes:
        kind: Runtime; also the first half of the hardware name that the device reports.
        threads: Of one inference; 1, as cameras already run side by side.
        load_deadline_s: Longest time to load a model before its process is killed.
        infer_deadline_s: Longest inference before the process is killed.
        memory_limit_mib: Address space of the model's process.
    """

    kind: Literal["cpu"] = "cpu"
    threads: int = 1
    load_deadline_s: float = 20.0
    infer_deadline_s: float = 2.0
    memory_limit_mib: int = 1024

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, ("cpu",))
        _check_range("threads", self.threads, 1, 64)
        _check_range("load_deadline_s", self.load_deadline_s, 0.1, 600)
        _check_range("infer_deadline_s", self.infer_deadline_s, 0.01, 60)
        _check_range("memory_limit_mib", self.memory_limit_mib, 64, 65536)


@dataclass(frozen=True)
class UpdateSettings:
    """How a new artifact earns its place.

    Attributes:
        canary_deadline_s: For all reference inputs together, loading apart.
        trial_frames: Live inferences without a failure that make an artifact good.
        trial_max_s: A trial of a quiet camera ends well after this long without a failure.
        max_latency_ms: A live inference's median above this fails the trial; generous, since a
            detector that is merely slow still sees.
        max_trial_starts: An agent that dies this often during one trial gives the artifact up.
    """

    canary_deadline_s: float = 10.0
    trial_frames: int = 50
    trial_max_s: float = 10.0
    max_latency_ms: float = 1000.0
    max_trial_starts: int = 3

    def __post_init__(self) -> None:
        _check_range("canary_deadline_s", self.canary_deadline_s, 0.001, 600)
        _check_range("trial_frames", self.trial_frames, 1, 1_000_000)
        _check_range("trial_max_s", self.trial_max_s, 0.1, 86400)
        _check_range("max_latency_ms", self.max_latency_ms, 0.001, 60000)
        _check_range("max_trial_starts", self.max_trial_starts, 1, 100)


@dataclass(frozen=True)
class OutboxSettings:
    """What waits on disk for the cloud.

    Attributes:
        max_bytes: Of waiting batches; 256 MiB hold days of one busy camera's boxes.
        batch_frames: Frames of a full batch; 32, from where the cost per frame falls no further.
        batch_wait_s: Longest wait of a frame without event for its batch; an event waits not. 2 s
            make batches of 20 frames at 10 frames/s, which take half the bytes and CPU of batches
            of two; boxes without an event are for looking back, and nobody waits for them.
    """

    max_bytes: int = 256 << 20
    batch_frames: int = 32
    batch_wait_s: float = 2.0

    def __post_init__(self) -> None:
        _check_range("max_bytes", self.max_bytes, 64 << 10, 1 << 40)
        _check_range("batch_frames", self.batch_frames, 1, 4096)
        _check_range("batch_wait_s", self.batch_wait_s, 0.0, 60)


@dataclass(frozen=True)
class AgentConfig:
    """All settings of one agent.

    Attributes:
        data_dir: Identity, outbox and artifacts; private to the agent.
        cameras: At least one.
        rules: Rules file used until the cloud sends rules, or None.
        exit_when_finished: Leave with code 0 once every camera is a recording read to its end, no
            update is under way and the outbox is empty.
        status_file: JSON of the figures, rewritten each second, or None.
        report_interval_s: Longest silence towards the cloud.
        recordings_wait_for_model: A recording starts only when an artifact runs: it can wait, and
            frames read without a detector would be lost to it. Live video never waits.
    """

    data_dir: Path
    cameras: tuple[CameraSettings, ...]
    rules: Path | None = None
    runtime: RuntimeSettings = RuntimeSettings()
    update: UpdateSettings = UpdateSettings()
    outbox: OutboxSettings = OutboxSettings()
    exit_when_finished: bool = False
    status_file: Path | None = None
    report_interval_s: float = 5.0
    recordings_wait_for_model: bool = True

    def __post_init__(self) -> None:
        _check_range("number of cameras", len(self.cameras), 1, _MAX_CAMERAS)
        _check_range("report_interval_s", self.report_interval_s, 0.05, 3600)
        ids = [camera.camera_id for camera in self.cameras]
        for camera_id in ids:
            if ids.count(camera_id) > 1:
                raise InvalidInput(f"camera id {camera_id!r} is used twice", "rename one of them")
