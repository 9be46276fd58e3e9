"""Progress in a log: seldom, and with the time that is left."""

import errno
from pathlib import Path

import pytest

from camsdk.cli.drafts import Lines, check_suffix, report, write_out
from camsdk.cli.output import Output
from camsdk.cli.pace import Pace
from camsdk.errors import InvalidInput
from support.small_detector import small_detector


def test_a_log_has_a_line_at_most_every_30_seconds() -> None:
    now, told = [100.0], list[str]()
    lines = Lines(told.append, "compressing", lambda: now[0])
    lines.phase("quantize")
    for second in range(0, 61, 10):
        now[0] = 100.0 + second
        lines(second, 500)
    lines.phase("train")
    now[0] = 400.0
    lines(300, 600)  # perhaps by a run before
    now[0] = 430.0
    lines(330, 600)
    assert told == [
        "compressing: quantize, 6%, about 8 min left",
        "compressing: quantize, 12%, about 7 min left",
        "compressing: train, 50%",
        "compressing: train, 55%, about 4 min left",
    ]


def test_time_left_is_that_of_what_this_run_has_done() -> None:
    now, told = [0.0], list[str]()
    lines = Lines(told.append, "compressing", lambda: now[0])
    lines(800, 1000)  # by the run that was killed
    now[0] = 40.0
    lines(800, 1000)
    now[0] = 80.0
    lines(900, 1000)
    assert told == ["compressing, 80%", "compressing, 90%, about 80 s left"]


def test_a_phase_tells_no_time_before_it_has_moved_or_beyond_what_it_said() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace(0.0)
    now[0] = 10.0
    pace(0.1)
    assert pace.left_s() == pytest.approx(90)
    pace.phase()
    assert pace.left_s() is None
    now[0] = 20.0
    pace(0.5)  # by the run that was killed
    assert pace.left_s() is None
    now[0] = 30.0
    pace(0.5)
    assert pace.left_s() is None
    now[0] = 40.0
    pace(0.7)
    assert pace.left_s() == pytest.approx(0.3 * 30 / 0.3)  # of all that was seen done
    now[0] = 75.0
    assert pace.left_s() is None
    pace(1.0)
    assert pace.left_s() is None


def test_what_signs_is_told_with_where_its_key_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(Output(is_json=False), small_detector(), Path("x.cam"), {})
    told = capsys.readouterr().err
    assert "camctl model sign x.cam" in told
    assert "the key that camctl serve makes" in told
    report(Output(is_json=False), small_detector(), Path("my net.cam"), {})
    told = capsys.readouterr().err
    assert "camctl model compress 'my net.cam', or camctl model sign 'my net.cam' (" in told


def test_files_are_of_the_kinds_that_are_written() -> None:
    check_suffix(Path("a.b/x.onnx"), ".cam", ".onnx")
    for name, ending in (("x.json", "ends in .json"), ("a.cam/x", "has no suffix")):
        with pytest.raises(InvalidInput, match=ending) as caught:
            check_suffix(Path(name), ".cam")
        assert "ends in .cam" in caught.value.hint


def test_what_was_there_stays_when_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.cam"
    write_out(path, b"before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InvalidInput, match="No space left"):
        write_out(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
