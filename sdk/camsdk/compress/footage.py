"""What a site gives to compress a model with: a recording, or a folder of pictures and recordings.

A folder is read in the order of its file names, so the same folder gives the same frames. Files
that are neither pictures nor recordings by their suffix are left alone; one that is and cannot be
read is an error, never skipped: a calibration on less than was given would not be noticed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

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
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

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


def open_footage(path: Path) -> Footage:
    """Look at a recording, or at a folder and everything below it.

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
    counts = [1 if file.suffix.lower() in PICTURES else count_frames(file) for file in files]
    return Footage(tuple(files), tuple(counts))
