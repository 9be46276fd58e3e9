"""agent.yaml: what is read, and that each mistake is named."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from camagent.config import (
    AgentConfig,
    CameraSettings,
    OutboxSettings,
    RuntimeSettings,
    UpdateSettings,
)
from camagent.config_file import load_config, parse_config
from camsdk.errors import InvalidInput

GOOD = """
data_dir: state
rules: rules.yaml
exit_when_finished: true
cameras:
  - id: gate-1
    source: clip.avi
    pace: fast
    start_time_s: 1700000000
  - {id: gate-2, source: "rtsp://user:secret@10.0.0.2/stream", transport: udp}
runtime: {kind: cpu, threads: 2, infer_deadline_s: 1, memory_limit_mib: 512}
update: {canary_deadline_s: 3, trial_frames: 20}
outbox: {batch_wait_s: 0.1}
"""


def test_reads_all_groups(tmp_path: Path) -> None:
    config = parse_config(GOOD, tmp_path)
    assert config.data_dir == tmp_path / "state"
    assert config.rules == tmp_path / "rules.yaml"
    first, second = config.cameras
    assert first.source == str(tmp_path / "clip.avi")
    assert first.start_time_s == 1_700_000_000.0
    assert second.source == "rtsp://user:secret@10.0.0.2/stream"
    assert config.runtime.infer_deadline_s == 1.0
    assert config.update.trial_frames == 20
    assert config.exit_when_finished


def test_source_is_not_in_the_repr(tmp_path: Path) -> None:
    assert "secret" not in repr(parse_config(GOOD, tmp_path))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("pace: fast", "pace: slow"), "pace"),
        (("id: gate-2", "id: gate-1"), "twice"),
        (("id: gate-2", "id: ../gate"), "camera id"),
        (("trial_frames: 20", "trial_frames: many"), "trial_frames"),
        (("threads: 2", "threads: true"), "threads"),
        (("threads: 2", "threads: 0"), "threads"),
        (("threads: 2", "thread: 2"), "thread"),
        (("data_dir: state", ""), "data_dir"),
        (("data_dir: state", "data_dir: 7"), "data_dir"),
        (("cameras:", "others:"), "cameras"),
        (("kind: cpu", "kind: npu"), "kind"),
        (("data_dir: state", "data_dir: [state"), "YAML"),
    ],
)
def test_a_mistake_is_named(change: tuple[str, str], word: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=word):
        parse_config(GOOD.replace(*change), tmp_path)


@pytest.mark.parametrize(
    ("change", "guess"),
    [
        (("source: clip.avi", "sorce: clip.avi"), "source"),
        (("id: gate-1", "ids: gate-1"), "id"),
        (("data_dir: state", "datadir: state"), "data_dir"),
        (("trial_frames", "trial_frame"), "trial_frames"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(
    change: tuple[str, str], guess: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_config(GOOD.replace(*change), tmp_path)
    assert caught.value.hint.startswith(f"did you mean {guess}? known are ")
    assert "camera_id" not in caught.value.hint, "the file calls it id"


def test_a_name_like_no_other_gets_the_list_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_config(GOOD.replace("pace: fast", "zzz: 1"), tmp_path)
    assert caught.value.hint.startswith("known are allow_http, detect_every, id, ")


def test_a_camera_without_a_name_is_told_the_word_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"camera \?: id is missing"):
        parse_config(GOOD.replace("id: gate-2, ", ""), tmp_path)


@pytest.mark.parametrize(
    ("mode", "source", "is_warned"),
    [
        (0o644, "rtsp://user:hush@10.0.0.2/stream", True),
        (0o644, "rtsp://10.0.0.2/stream?token=hush", True),
        (0o640, "rtsp://user:hush@10.0.0.2/stream", False),
        (0o644, "rtsp://10.0.0.2/stream", False),
        (0o644, "clip@home.avi", False),
    ],
)
def test_credentials_that_others_may_read_are_worth_one_warning(
    mode: int,
    source: str,
    is_warned: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "agent.yaml"
    camera = f"{{id: gate-3, source: '{source}'}}"
    path.write_text(f"data_dir: .\ncameras: [{camera}, {camera.replace('gate-3', 'gate-4')}]\n")
    path.chmod(mode)
    load_config(path)
    expected = [f"others may read a camera's credentials in {path}: chmod 600 it"]
    assert [record.getMessage() for record in caplog.records] == (expected if is_warned else [])


@pytest.mark.parametrize(
    "broken",
    [
        "source: rtsp://user:secret@10.0.0.2/a: b",
        "source: 'rtsp://user:secret@10.0.0.2/a",
        "source: [rtsp://user:secret@10.0.0.2/a]",
        "source: rtsp://user:secret@10.0.0.2/a\n    transport: !!timestamp 2020-13-45",
    ],
)
def test_no_mistake_quotes_a_password(broken: str, tmp_path: Path) -> None:
    text = GOOD.replace("source: clip.avi", broken)
    assert text != GOOD
    with pytest.raises(InvalidInput) as caught:
        parse_config(text, tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("start", [".nan", ".inf", "-1"])
def test_a_start_that_is_no_time_is_refused(start: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="start_time_s"):
        parse_config(GOOD.replace("1700000000", start), tmp_path)


def test_aliases_are_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\nb: [*a, *a]\n"
    with pytest.raises(InvalidInput, match="line 2 uses a YAML alias"):
        parse_config(bomb, tmp_path)


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--config"):
        load_config(tmp_path / "none.yaml")


def test_an_oversized_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidInput, match="1 MiB"):
        load_config(path)


def test_the_documented_file_holds_the_defaults(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    camera = CameraSettings("gate-1", str(tmp_path / "clip.avi"))
    assert parse_config(text, tmp_path) == AgentConfig(tmp_path / "data", (camera,))
    documented = set(re.findall(r"[\w]+(?=:)", text))
    for group in (AgentConfig, CameraSettings, RuntimeSettings, UpdateSettings, OutboxSettings):
        assert {field.name for field in fields(group)} - {"camera_id"} <= documented
