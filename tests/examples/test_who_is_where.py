"""Who-is-where asks for every picture and prints who was seen by which camera, and when."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from camproto.v1 import api_pb2
from support.fake_api import START_S, FakeCloud

from .conftest import EXAMPLES, load

example = load("who_is_where")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "ann.png"
    path.write_bytes(b"\x89PNG")
    return path


@pytest.fixture
def seen(cloud: FakeCloud) -> FakeCloud:
    for number, (camera, similarity) in enumerate([("gate", 0.9), ("yard", 0.95), ("roof", 0.3)]):
        cloud.state.hits.append(
            api_pb2.AppearanceHit(
                device_id="cam-1",
                camera_id=camera,
                track_id=number,
                similarity=similarity,
                first_timestamp_s=START_S + 60 * number,
                last_timestamp_s=START_S + 60 * number + 30,
            )
        )
    return cloud


def test_a_table_the_latest_first(
    seen: FakeCloud, data_dir: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main([str(picture), "cam-1/7/3", "--data", str(data_dir)]) == 0
    printed = capsys.readouterr()
    heading, *rows = printed.out.splitlines()
    assert heading.split() == list(example.COLUMNS)
    assert [row.split()[:2] for row in rows] == [
        ["ann", "yard"],
        ["ann", "gate"],
        ["cam-1/7/3", "yard"],
        ["cam-1/7/3", "gate"],
    ]
    assert "hsv-stripes-128" in printed.err
    image, event = sorted(seen.state.requests, key=lambda request: request.event_id)
    assert image.image == b"\x89PNG"
    assert event.event_id == "cam-1/7/3"


def test_json_and_filters(
    seen: FakeCloud, data_dir: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(picture), "--data", str(data_dir), "--json", "--min-similarity", "0.2"]
    assert example.main([*arguments, "--since-minutes", "5", "--fleet", "park-a"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["method"] == "hsv-stripes-128"
    assert [row["camera_id"] for row in body["sightings"]] == ["roof", "yard", "gate"]
    request = seen.state.requests[-1]
    assert request.fleet == "park-a"
    assert request.since_s > START_S


def test_nobody_and_errors(
    cloud: FakeCloud,
    data_dir: Path,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert example.main([str(picture), "--data", str(data_dir)]) == 0
    assert capsys.readouterr().out == "seen nowhere\n"
    assert example.main([str(tmp_path / "missing.png"), "--data", str(data_dir)]) == 1
    assert "missing.png cannot be read" in capsys.readouterr().err
    assert example.main([str(picture), "--data", str(tmp_path / "nowhere")]) == 1
    assert "camctl serve" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_script(seen: FakeCloud, data_dir: Path, picture: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "who_is_where.py"), str(picture)]
    done = subprocess.run(
        [*command, "--data", str(data_dir)], check=True, capture_output=True, text=True, timeout=60
    )
    assert "yard" in done.stdout
