"""What a site gives to compress a model with: a recording, or a folder of pictures and recordings.

A folder is read in the order of its file names, so the same folder gives the same frames. Files
that are neither pictures nor recordings by their suffix are left alone, and so is TypeScript, whose
suffix is that of a recording; what is one and cannot be read is skipped and told of. Of pictures
only those that are chosen are looked into.

Pictures in folders that are named like a classifier's classes are labelled. Of such folders each
class is split on its own, so that every class is calibrated, chosen and evaluated on.
"""

import codecs
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from camsdk.compress.clips import ClipSplit, count_frames, read_frames, split_groups
from camsdk.errors import InvalidInput, NotFound, SourceError
from camsdk.vision.frames import Frame

PICTURES: Final = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
RECORDINGS: Final = frozenset((".avi", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm", ".m4v"))

_HEAD_BYTES: Final = 4096
"""Of a file that may be a text; no transport stream is UTF-8 without zeros for that long."""

_NAMED: Final = 3
"""Of the files that were skipped, by name."""

_SPLIT: Final = 3
"""Frames of a class that can be split; with fewer its first third is empty."""


def shortened(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are beside."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Footage:
    """Frames of one or more files, numbered through.

    Attributes:
        files: In order.
        counts: Frames in each.
        folders: Names of the folders that label each file; empty where none does.
        skipped: Files that cannot be read, as far as they were looked into.
        root: The folder that was given, or None; files are named below it.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    folders: tuple[str, ...] = ()
    skipped: tuple[Path, ...] = ()
    root: Path | None = None

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def told_skipped(self) -> str:
        """How many files were skipped, and the names of the first."""
        names = shortened([str(self._below(file)) for file in self.skipped])
        of_all = f"{len(self.skipped)} of {len(self.files) + len(self.skipped)} files"
        return f"{of_all} cannot be read and were skipped: {names}"

    def _below(self, file: Path) -> Path:
        return Path(file.name) if self.root is None else file.relative_to(self.root)

    def files_of(self, indices: Collection[int]) -> list[Path]:
        """The files that hold any of these frames."""
        ends = np.cumsum(self.counts)
        held = np.searchsorted(ends, sorted(indices), side="right")
        return [self.files[place] for place in np.unique(held)]

    def without(self, files: Collection[Path]) -> "Footage":
        """The same with these files skipped."""
        kept = [place for place, file in enumerate(self.files) if file not in files]
        return Footage(
            tuple(self.files[place] for place in kept),
            tuple(self.counts[place] for place in kept),
            tuple(self.folders[place] for place in kept) if self.folders else (),
            (*self.skipped, *(file for file in self.files if file in files)),
            self.root,
        )

    def labels(self, classes: Sequence[str]) -> dict[int, int]:
        """Class ids by frame, of the frames in a folder that is named like one class."""
        ids = {name: index for index, name in enumerate(classes)}
        for name in self.ambiguous(classes):
            del ids[name]
        of_frames = np.repeat(self.folders, self.counts) if self.folders else ()
        return {index: ids[folder] for index, folder in enumerate(of_frames) if folder in ids}

    def ambiguous(self, classes: Sequence[str]) -> list[str]:
        """Folders that are named like more than one class, hence label nothing."""
        named = Counter(classes)
        return sorted(folder for folder in set(self.folders) if named[folder] > 1)

    def strangers(self) -> list[str]:
        """Folders that label nothing beside some that do, below the one that was given."""
        if not any(self.folders):
            return []
        pairs = zip(self.files, self.folders, strict=True)
        return sorted({str(self._below(file).parent) for file, label in pairs if not label} - {"."})

    def groups(self) -> list[Sequence[int]]:
        """Frames of each labelling folder's name; one group are those without, or of few frames."""
        if not self.folders:
            return [range(len(self))]
        of_frames = np.repeat(self.folders, self.counts).tolist()
        sizes = Counter(of_frames)
        groups: dict[str, list[int]] = defaultdict(list)
        for index, folder in enumerate(of_frames):
            groups[folder if sizes[folder] >= _SPLIT else ""].append(index)
        return list(groups.values())

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
        SourceError: A single file cannot be opened as a recording.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist", "give a recording or a folder of pictures")
    if path.is_file():
        return Footage((path,), (count_frames(path),))
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.suffix.lower() in PICTURES | RECORDINGS
        and not _is_typescript(file)
    )
    if not files:
        raise InvalidInput(
            f"{path} holds neither pictures nor recordings",
            f"put files there that end in {', '.join(sorted(PICTURES | RECORDINGS))}",
        )
    folders = [_label(file, path, classes) for file in files]
    counts = [1 if file.suffix.lower() in PICTURES else _frames_in(file) for file in files]
    damaged = {file for file, count in zip(files, counts, strict=True) if not count}
    return Footage(tuple(files), tuple(counts), tuple(folders), root=path).without(damaged)


def choose_frames(
    footage: Footage, *, calibration: int = 24, evaluation: int = 50
) -> tuple[Footage, ClipSplit]:
    """Which frames serve what (``clips.split_groups``), of the files that can be read.

    Returns:
        The footage without the pictures that were chosen and cannot be read; the frames in it.

    Raises:
        InvalidInput: Too few frames are left; says how many files were skipped.
    """
    readable: set[Path] = set()
    while True:
        try:
            split = split_groups(footage.groups(), calibration=calibration, evaluation=evaluation)
        except InvalidInput as error:
            damaged = {f for f in footage.files if f not in readable and not _is_readable(f)}
            if damaged:  # told of at once, not after more files were given
                readable.update(file for file in footage.files if file not in damaged)
                footage = footage.without(damaged)
                continue
            if not footage.skipped:
                raise
            raise InvalidInput(f"{error.message}; {footage.told_skipped}", error.hint) from error
        chosen = footage.files_of({*split.calibration, *split.evaluation, *split.choice})
        new = [file for file in chosen if file not in readable]
        damaged = {file for file in new if not _is_readable(file)}
        if not damaged:
            return footage, split
        readable.update(file for file in new if file not in damaged)
        footage = footage.without(damaged)


def _is_typescript(file: Path) -> bool:
    """Of a file that is a text, though it is a transport stream by its suffix."""
    if file.suffix.lower() != ".ts":
        return False
    try:
        with file.open("rb") as content:
            head = content.read(_HEAD_BYTES)
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last letter may be cut
    except (OSError, UnicodeDecodeError):  # the disk's are told of where frames are counted
        return False
    return "\0" not in text


def _frames_in(recording: Path) -> int:
    """0 where it cannot be read."""
    try:
        return count_frames(recording)
    except SourceError:
        return 0


def _is_readable(file: Path) -> bool:
    """Of a picture; recordings have been opened before."""
    if file.suffix.lower() not in PICTURES:
        return True
    try:
        return bool(list(read_frames(file, [0])))
    except SourceError:
        return False


def _label(file: Path, root: Path, classes: Collection[str]) -> str:
    """The name of the nearest folder below ``root`` that is a class, or empty."""
    names = reversed(file.relative_to(root).parts[:-1])
    return next((name for name in names if name in classes), "")
