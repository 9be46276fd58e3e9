"""Recordings and folders of pictures as one numbered row of frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from camsdk.compress.clips import split_clip
from camsdk.compress.footage import Footage, choose_frames, open_footage, shortened
from camsdk.errors import InvalidInput, NotFound, SourceError
from support.clips import scene, write_video


def picture(path: Path, grey: int) -> None:
    cv2.imwrite(str(path), np.full((24, 32, 3), grey, np.uint8))


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, grey in (("b.png", 120), ("a.jpg", 40), ("sub/c.png", 200)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name, grey)
    (tmp_path / "notes.txt").write_text("left alone")
    footage = open_footage(tmp_path)
    assert len(footage) == 3
    frames = list(footage.read((0, 2)))
    assert [frame.index for frame in frames] == [0, 2]
    assert [round(float(frame.rgb.mean()) / 40) for frame in frames] == [1, 5]


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_footage(tmp_path / "gone")
    with pytest.raises(InvalidInput, match="neither pictures nor recordings"):
        open_footage(tmp_path)
    picture(tmp_path / "a.png", 3)
    with pytest.raises(InvalidInput, match="1 frames"):
        list(open_footage(tmp_path).read((1,)))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(SourceError):
        list(open_footage(tmp_path).read((1,)))


def test_files_that_cannot_be_read_are_skipped_and_told_of(tmp_path: Path) -> None:
    for index in range(12):
        picture(tmp_path / f"{index:02}.png", 20 * index)
    for name in ("02.png", "07.png", "09.png", "10.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    (tmp_path / "z.avi").write_bytes(b"no recording")
    footage, split = choose_frames(open_footage(tmp_path), calibration=2, evaluation=4)
    assert {file.name for file in footage.skipped} == {
        "02.png", "07.png", "09.png", "10.png", "z.avi"
    }  # fmt: skip
    assert len(footage) == 8
    told = footage.told_skipped
    assert told.startswith("5 of 13 files cannot be read and were skipped: z.avi, ")
    assert told.endswith(" and 2 more")
    greys = [20 * index for index in (0, 1, 3, 4, 5, 6, 8, 11)]
    frames = list(footage.read((*split.calibration, *split.evaluation)))
    assert [frame.rgb.mean() for frame in frames] == pytest.approx(
        [greys[index] for index in (*split.calibration, *split.evaluation)], abs=3
    )
    with pytest.raises(InvalidInput, match="5 of 13 files cannot be read") as caught:
        choose_frames(open_footage(tmp_path), calibration=3, evaluation=4)
    assert "too few" in caught.value.message


def test_typescript_is_no_recording_that_cannot_be_read(tmp_path: Path) -> None:
    write_video(tmp_path / "yard.ts", scene(64, 48, 3))
    (tmp_path / "app.ts").write_text("export const answer = 42;")
    (tmp_path / "empty.ts").touch()
    (tmp_path / "german.ts").write_text("x" + "\u00fc" * 4096)  # byte 4096 is half a letter
    (tmp_path / "cut.TS").write_bytes(b"\x47\x40\x11\xff and no more")
    (tmp_path / "zeros.ts").write_bytes(b"\x47" + bytes(9))
    footage = open_footage(tmp_path)
    assert [file.name for file in footage.files] == ["yard.ts"]
    assert [file.name for file in footage.skipped] == ["cut.TS", "zeros.ts"]


def test_transport_streams_need_not_begin_with_a_packet(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "yard.ts", scene(64, 48, 12)).read_bytes()
    (tmp_path / "begun.ts").write_bytes(b"end of another packet" + whole)
    packets = [whole[start : start + 188] for start in range(0, len(whole), 188)]
    (tmp_path / "stamped.ts").write_bytes(b"".join(b"\1\2\3\4" + packet for packet in packets))
    footage = open_footage(tmp_path)
    assert [file.name for file in footage.files] == ["begun.ts", "stamped.ts", "yard.ts"]
    assert footage.counts == (12, 12, 12)


def test_too_few_frames_say_what_helps(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 100)
    with pytest.raises(InvalidInput, match="1 frames are too few") as caught:
        choose_frames(open_footage(tmp_path))
    assert "3 of them at the least" in caught.value.hint
    assert "--calibration" not in caught.value.hint
    with pytest.raises(InvalidInput) as caught:
        split_clip(12, calibration=2, evaluation=9)
    assert caught.value.hint == "give more, or --evaluation up to 6"
    with pytest.raises(InvalidInput) as caught:
        split_clip(12, calibration=5, evaluation=9)
    assert caught.value.hint == "give more, or --calibration up to 4 and --evaluation up to 6"
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"1 of 1 files cannot be read.*: a\.png"):
        choose_frames(open_footage(tmp_path))


def test_files_and_folders_are_named_below_the_one_that_was_given(tmp_path: Path) -> None:
    for name in ("boot/1.png", "boots/2.png", "3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name, 100)
    footage = open_footage(tmp_path, ("boot",))
    assert footage.strangers() == ["boots"]
    assert open_footage(tmp_path).strangers() == []
    assert footage.without({tmp_path / "boot/1.png"}).told_skipped.endswith(": boot/1.png")


def test_pictures_that_are_not_chosen_are_not_looked_into(tmp_path: Path) -> None:
    for index in range(9):
        picture(tmp_path / f"{index}.png", 100)
    (tmp_path / "1.png").write_bytes(b"")  # between the frames that are chosen
    footage, split = choose_frames(open_footage(tmp_path), calibration=1, evaluation=1)
    assert split.calibration == (0,)
    assert (len(footage), footage.skipped) == (9, ())


def test_labels_stay_with_their_pictures(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name, 100)
    footage = open_footage(tmp_path, ("a", "b"))
    left = footage.without({tmp_path / "a/1.png"})
    assert left.labels(("a", "b")) == {0: 0, 1: 1, 2: 1}


def test_the_nearest_folder_labels_and_a_name_of_two_classes_labels_nothing(tmp_path: Path) -> None:
    for name in ("a/b/1.png", "a/c/2.png", "crane/3.png", "a/crane/4.png", "none/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / name, 100)
    classes = ("crane", "a", "b", "crane")
    footage = open_footage(tmp_path, classes)
    labelled = {footage.files[index].name: id_ for index, id_ in footage.labels(classes).items()}
    assert labelled == {"1.png": 2, "2.png": 1}
    assert footage.ambiguous(classes) == ["crane"]
    assert footage.ambiguous(("a", "b", "x", "x")) == []


def labelled(**sizes: int) -> Footage:
    """Pictures of classes, which are not looked into."""
    folders = tuple(name for name, size in sizes.items() for _ in range(size))
    files = tuple(Path(f"{name}.avi") for name in folders)  # opened only as pictures
    return Footage(files, (1,) * len(files), folders)


@pytest.mark.parametrize(
    "sizes",
    [
        {"a": 96, "b": 96},
        {"a": 100, "b": 100},
        {f"c{index}": 20 for index in range(10)},
        {"rare": 20, "often": 400},
        {"often": 400, "rare": 6},
    ],
)
def test_every_class_serves_every_purpose_from_its_own_parts(sizes: dict[str, int]) -> None:
    footage, split = choose_frames(labelled(**sizes))
    assert (len(split.calibration), len(split.choice), len(split.evaluation)) == (24, 20, 50) or (
        max(sizes.values()) < 24
    )
    start = 0
    for name, size in sizes.items():
        bounds = (0, size // 3), (size // 3, size // 2), (size // 2, size)
        parts = (split.calibration, split.choice, split.evaluation)
        for part, (first, end) in zip(parts, bounds, strict=True):
            own = [index - start for index in part if footage.folders[index] == name]
            assert own
            assert all(first <= index < end for index in own)
            share = len(part) * size / len(footage)
            assert abs(len(own) - max(share, 1)) < 1.6
        start += size


def test_chosen_pictures_of_two_classes_by_hand() -> None:
    _, split = choose_frames(labelled(a=12, b=12), calibration=4, evaluation=4)
    assert split.calibration == (0, 2, 12, 14)  # of 0-3 and 12-15
    assert split.choice == (4, 5, 16, 17)
    assert split.evaluation == (6, 9, 18, 21)


def test_classes_of_too_few_pictures_are_split_together() -> None:
    footage = labelled(**{f"c{index}": 1 for index in range(200)})
    assert choose_frames(footage)[1] == split_clip(200)
    with pytest.raises(InvalidInput, match="first third of each class, 8,"):
        choose_frames(labelled(a=12, b=12), calibration=9, evaluation=4)


def test_long_lists_of_names_are_shortened() -> None:
    assert shortened(["a", "b"]) == "a, b"
    assert shortened([str(number) for number in range(40)]) == "0, 1, 2 and 37 more"
