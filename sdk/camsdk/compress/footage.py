"""What a site gives to compress a model with: a recording, or a folder of pictures and recordings.

A folder is read in the order of its file names, so the same folder gives the same frames. Files
that are neither pictures nor recordings by their suffix are left alone; one that is and cannot be
read is an error, never skipped: a calibration on less than was given would not be noticed.

Pictures in folders that are named like a classifier's classes are labelled. Such folders are read
in turn, so that each part of the whole holds every class.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from camsdk.compress.clips import count_frames, read_frames
from camsdk.errors import InvalidInput, NotFound
from camsdk.vision.frames import Frame

PICTURES: Final = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
RECORDINGS: Final = frozenset((".avi", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm", ".m4v"))


@dataclass(frozen=True)
class Footage:
    """Frames of one or more files, numbered through.

    Attributes:
        files: In order.
        counts: Frames in each.
        folders: Names of the folders that label each file; empty where none does.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    folders: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(self.counts)

    def labels(self, classes: Sequence[str]) -> dict[int, int]:
        """Class ids by frame, of the frames in a folder that is named like a class."""
        ids = {name: index for index, name in enumerate(classes)}
        of_frames = np.repeat(self.folders, self.counts) if self.folders else ()
        return {index: ids[folder] for index, folder in enumerate(of_frames) if folder in ids}

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decode chosen frames in ascending order; each frame's ``index`` is its number here.

        Raises:
            SourceError: A file cannot be read, or ends early.
            InvalidInput: An index is out of range.
        """
        if indices and not 0 <= min(indices) <= max(indices) < len(self):
            raise InvalidInput(f"there are {len(self)} frames, not {max(indices) + 1}")
        start = 0
        for file, count in zip(self.files, self.counts, strict=True):
            inside = [index - start for index in indices if start <= index < start + count]
            if inside:
                for frame in read_frames(file, inside):
                    yield replace(frame, index=frame.index + start)
            start += count


def open_footage(path: Path, classes: Collection[str] = ()) -> Footage:
    """Look at a recording, or at a folder and everything below it.

    Args:
        classes: Names of folders that label what is in them.

    Raises:
        NotFound: Nothing is there.
        InvalidInput: The folder holds neither pictures nor recordings.
        SourceError: A file cannot be opened as what its suffix says.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist", "give a recording or a folder of pictures")
    if path.is_file():
        return Footage((path,), (count_frames(path),))
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.suffix.lower() in PICTURES | RECORDINGS
    )
    if not files:
        raise InvalidInput(
            f"{path} holds neither pictures nor recordings",
            f"put files there that end in {', '.join(sorted(PICTURES | RECORDINGS))}",
        )
    folders = [_label(file, path, classes) for file in files]
    if any(folders):
        turns = {folder: iter(range(len(files))) for folder in folders}
        places = [(next(turns[folder]), folder) for folder in folders]
        order = sorted(range(len(files)), key=lambda index: places[index])
        files, folders = [files[index] for index in order], [folders[index] for index in order]
    counts = [1 if file.suffix.lower() in PICTURES else count_frames(file) for file in files]
    return Footage(tuple(files), tuple(counts), tuple(folders))


def _label(file: Path, root: Path, classes: Collection[str]) -> str:
    """The name of the nearest folder below ``root`` that is a class, or empty."""
    names = reversed(file.relative_to(root).parts[:-1])
    return next((name for name in names if name in classes), "")
