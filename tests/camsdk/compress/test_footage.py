"""Recordings and folders of pictures as one numbered row of frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from camsdk.compress.footage import open_footage
from camsdk.errors import InvalidInput, NotFound, SourceError


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
