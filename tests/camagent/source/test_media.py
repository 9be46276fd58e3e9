"""Security cases 1 to 3: damaged streams, absurd sizes, a change of size; and foreign errors."""

import logging
import random
import traceback
from fractions import Fraction
from pathlib import Path

import av
import pytest

from camagent.config import CameraSettings
from camagent.source import media, open_source
from camagent.source.address import parse_address
from camagent.source.media import MAX_BARREN_PACKETS, MAX_SIDE_PX, open_video
from camsdk.errors import SourceError
from camsdk.vision.frames import Frame
from support.clips import Clip, encode, scene, still, write_video
from support.openings import in_fresh_process, taken_by_refusing


def raw_file(path: Path, *clips: Clip) -> Path:
    """Access units one after another, as a camera's raw stream."""
    path.write_bytes(b"".join(unit for clip in clips for unit in clip.access_units))
    return path


def read(path: Path) -> list[Frame]:
    settings = CameraSettings("cam", str(path), pace="fast", start_time_s=0.0)
    return list(open_source(settings).frames())


def flip(data: bytes, share: float, seed: int) -> bytes:
    """Flip one bit in a share of the bytes, the stream's first headers apart."""
    rng, damaged = random.Random(seed), bytearray(data)
    for _ in range(round(share * len(data))):
        damaged[rng.randrange(64, len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return encode(scene(320, 240, 40), rate_hz=10)


@pytest.mark.parametrize("suffix", ["h264", "m4v"])
def test_case_1_flipped_bytes_raise_nothing_and_are_flagged(tmp_path: Path, suffix: str) -> None:
    codec = "libx264" if suffix == "h264" else "mpeg4"
    whole = raw_file(tmp_path / f"whole.{suffix}", encode(scene(320, 240, 40), codec=codec))
    assert not any(frame.is_corrupt for frame in read(whole))
    flagged = 0
    for seed in range(8):
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(flip(whole.read_bytes(), 0.001, seed))
        frames = read(path)
        assert frames
        assert all(frame.y.shape == (240, 320) for frame in frames)
        flagged += any(frame.is_corrupt for frame in frames)
    assert flagged >= 6


@pytest.mark.slow
def test_a_thousand_corrupt_streams_crash_nothing(tmp_path: Path, clip: Clip) -> None:
    whole = raw_file(tmp_path / "whole.h264", clip).read_bytes()
    path = tmp_path / "damaged.h264"
    outcomes = {"frames": 0, "refused": 0}
    for seed in range(1000):
        share = 0.0001 * 10 ** (seed % 4)  # from one byte in ten thousand to one in ten
        path.write_bytes(flip(whole, share, seed))
        try:
            frames = read(path)
        except SourceError:
            outcomes["refused"] += 1
        else:
            outcomes["frames"] += 1
            assert all(max(frame.y.shape) <= MAX_SIDE_PX for frame in frames)
    assert outcomes["frames"] > 500


@pytest.mark.slow
def test_case_2_a_picture_of_8192_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, clip: Clip
) -> None:
    """200 KB that would decode to 100 MB a picture."""
    big = encode(still(8192, 8192, 2), codec="libx264")
    assert sum(map(len, big.access_units)) < 300_000
    path = raw_file(tmp_path / "big.h264", big)
    good = raw_file(tmp_path / "good.h264", clip)
    said, taken = in_fresh_process(taken_by_refusing, str(good), str(path))
    assert "8192x8192, more than 4096x4096" in said
    assert taken < 8192 * 8192 * 3 // 2 // 4  # what is parsed, and not one picture


def mangle(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut and repeat bytes, mostly in the container's headers."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 3, 10, 50))):
        reach = len(damaged) if rng.random() < 0.5 else min(len(damaged), 2000)
        at, kind = rng.randrange(reach), rng.random()
        if kind < 0.6:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind < 0.8:
            damaged[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        elif kind < 0.9:
            del damaged[at : at + rng.randrange(1, 64)]
        else:
            damaged[at:at] = damaged[rng.randrange(len(damaged)) :][: rng.randrange(1, 64)]
    return bytes(damaged)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "ts"])
def test_a_thousand_damaged_files_give_frames_or_a_source_error(
    tmp_path: Path, suffix: str
) -> None:
    whole = write_video(tmp_path / f"whole.{suffix}", scene(160, 120, 12)).read_bytes()
    path, rng = tmp_path / f"damaged.{suffix}", random.Random(17)
    outcomes = {"frames": 0, "refused": 0}
    for _ in range(1000):
        path.write_bytes(mangle(whole, rng))
        try:
            outcomes["frames"] += bool(read(path))
        except SourceError:
            outcomes["refused"] += 1
    assert sum(outcomes.values()) == 1000
    assert outcomes["frames"] > 100


def test_a_title_in_an_unknown_encoding_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = tmp_path / "title.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXXXXXX"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = next(iter(still(64, 48, 1)))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"caf\xe9 \xff\xfe\xfd"))
    assert len(read(path)) == 1


def test_case_2_a_picture_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "wide.h264", encode(still(4112, 64, 2)))
    with pytest.raises(SourceError, match="4112x64, more than 4096x4096"):
        read(path)


def test_case_2_a_stream_that_grows_beyond_the_bound_gives_a_clear_error(
    tmp_path: Path, clip: Clip
) -> None:
    big = encode(still(4112, 64, 150), codec="libx264")
    path = raw_file(tmp_path / "grows.h264", clip, big)
    settings = CameraSettings("cam", str(path), pace="fast", start_time_s=0.0)
    frames = open_source(settings).frames()
    seen = []
    with pytest.raises(SourceError, match="more than 4096x4096"):
        seen.extend(frame.y.shape for frame in frames)
    assert set(seen) <= {(240, 320)}


def test_case_3_a_change_of_resolution_decodes(tmp_path: Path, clip: Clip) -> None:
    small = encode(scene(160, 120, 20))
    frames = read(raw_file(tmp_path / "both.h264", clip, small))
    shapes = [frame.y.shape for frame in frames]
    assert shapes == [(240, 320)] * 40 + [(120, 160)] * 20
    assert frames[39].y.any()


@pytest.mark.parametrize("form", ["x2rgb10be", "gbrap32le", "rgba128le"])
def test_pictures_in_a_form_that_cannot_be_converted_are_a_clear_error(form: str) -> None:
    with pytest.raises(SourceError, match=form):
        media._to_picture(av.VideoFrame(64, 48, form), False, "clip.mov")


def test_a_stream_that_turns_to_garbage_gives_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "garbage.avi"
    clip = encode(scene(160, 120, 10), codec="mpeg4")
    rng = random.Random(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        units = [*clip.access_units, *(rng.randbytes(300) for _ in range(MAX_BARREN_PACKETS + 5))]
        for index, unit in enumerate(units):
            packet = av.Packet(unit)
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base = Fraction(1, 10)
            container.mux(packet)
    settings = CameraSettings("cam", str(path), pace="fast", start_time_s=0.0)
    source = open_source(settings)
    with pytest.raises(SourceError, match="without one picture"):
        list(source.frames())
    assert source.undecodable_packets > 0


def test_no_picture_at_all(tmp_path: Path) -> None:
    headers = encode(scene(320, 240, 1)).access_units[0][:40]
    path = tmp_path / "headers.h264"
    path.write_bytes(headers)
    with pytest.raises(SourceError, match=r"no picture|no video"):
        read(path)


def test_errors_and_logs_never_show_credentials(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the message, not in the chain that a traceback prints, not on stderr by libav."""
    url = "rtsp://root:hunter2@127.0.0.1:9/live"
    settings = CameraSettings("cam", url, open_timeout_s=1.0)
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as caught:
        open_video(parse_address(url), settings)
    assert "127.0.0.1:9" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in repr(error)
        error = error.__cause__ or error.__context__
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in caplog.text
    captured = capfd.readouterr()
    assert "hunter2" not in captured.out + captured.err
