"""Frames come out in order, whole, and calibration never meets evaluation."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from camsdk.compress.clips import count_frames, read_frames, split_clip, split_groups
from camsdk.errors import InvalidInput, SourceError
from support.clips import still, write_video


def make_clip(path: Path, count: int) -> Path:
    """64x48 at 10 frames a second; frame i has luma 30 + 5 i everywhere."""
    pictures = [next(still(64, 48, 1, 30 + 5 * index)) for index in range(count)]
    return write_video(path, pictures, codec="mpeg4")


def test_chosen_frames_are_the_right_ones(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", 12)
    assert count_frames(clip) == 12
    decoded: list[int] = []
    frames = list(read_frames(clip, [7, 2, 3], decoded.append))
    assert [frame.index for frame in frames] == [2, 3, 7]
    assert [frame.timestamp_s for frame in frames] == pytest.approx([0.2, 0.3, 0.7])
    assert [float(frame.y.mean()) for frame in frames] == pytest.approx([40, 45, 65], abs=2)
    assert (frames[0].width, frames[0].height, frames[0].u.shape) == (64, 48, (24, 32))
    assert decoded == list(range(1, 9))  # no further than needed


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", 5)
    with pytest.raises(SourceError, match="ends before frame 5"):
        list(read_frames(clip, [1, 5]))
    (tmp_path / "no.avi").write_bytes(b"no video")
    for path in (tmp_path / "no.avi", tmp_path / "gone.avi"):
        with pytest.raises(SourceError, match="cannot be opened"):
            count_frames(path)


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "2026-01-01T10:00:00.avi", 3)
    monkeypatch.chdir(tmp_path)
    assert count_frames(Path(clip.name)) == 3
    with pytest.raises(SourceError, match=r"^gone:1\.avi cannot be opened.*: No such"):
        count_frames(Path("gone:1.avi"))


@given(st.integers(1, 3000), st.integers(0, 60), st.integers(0, 60))
def test_no_frame_serves_both(count: int, calibration: int, evaluation: int) -> None:
    try:
        split = split_clip(count, calibration=calibration, evaluation=evaluation)
    except InvalidInput:
        assert count // 3 < calibration or count - count // 2 < evaluation
        return
    assert len(set(split.calibration)) == calibration
    assert len(set(split.evaluation)) == evaluation
    assert len(set(split.choice)) == min(20, count // 2 - count // 3)
    assert all(count // 3 <= index < count // 2 for index in split.choice)
    if calibration and evaluation:
        assert min(split.evaluation) - max(split.calibration) >= count // 6
        assert max(split.evaluation) < count


@given(st.integers(1, 3000), st.integers(0, 60), st.integers(0, 60))
def test_frames_of_a_recording_lie_at_equal_distances(count: int, fit: int, judge: int) -> None:
    third, half = count // 3, count // 2
    assume(third >= fit and count - half >= judge)
    split = split_clip(count, calibration=fit, evaluation=judge)
    gap, choice = half - third, min(20, half - third)
    assert split.calibration == tuple(i * third // fit for i in range(fit))
    assert split.evaluation == tuple(half + i * (count - half) // judge for i in range(judge))
    assert split.choice == tuple(third + (2 * i + 1) * gap // (2 * choice) for i in range(choice))


@given(st.lists(st.integers(0, 90), min_size=1, max_size=40), st.integers(0, 60))
def test_groups_give_what_was_asked_for_and_none_is_forgotten(sizes: list[int], count: int) -> None:
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    groups = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    assume(sum(size // 3 for size in sizes) >= count)
    split = split_groups(groups, calibration=count, evaluation=0)
    assert len(set(split.calibration)) == len(split.calibration) == count
    held = [group for group in groups if len(group) >= 3]
    served = [group for group in held if set(group[: len(group) // 3]) & set(split.calibration)]
    assert len(served) == min(count, len(held))
