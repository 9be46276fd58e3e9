"""The files that an imported model was read from, for its lineage."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from camsdk.errors import NotFound

_PATHS: Final = re.compile(rb'"paths"\s*:\s*(\[[^\[\]]*\])')
"""Where TensorFlow.js names weight files; the whole JSON is parsed in a child alone."""


def digest(source: Path, framework: str, weights: Path | None = None) -> str:
    """The sha256 of all that an import has read.

    Of a single file its own. Of several that of their list: for each a line with its sha256, its
    size in bytes and its name, which in a folder is its path from there.

    Args:
        source: The file or folder.
        framework: As in ``detect.FRAMEWORKS``.
        weights: A second file.

    Raises:
        NotFound: A file cannot be read.
    """
    try:
        files = list(_files(source, framework, weights))
        if files == [(source.name, source)]:
            return _digest_of(source)
        lines = [f"{_digest_of(path)} {path.stat().st_size} {name}\n" for name, path in files]
    except OSError as error:
        raise NotFound(
            f"{error.filename or source} cannot be read: {error.strerror}",
            "make its files readable",
        ) from error
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _files(source: Path, framework: str, weights: Path | None) -> Iterator[tuple[str, Path]]:
    """Names and paths: the structure first, then its weights."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if not path.is_dir():
                yield path.relative_to(source).as_posix(), path
        return
    yield source.name, source
    if weights is not None:
        yield weights.name, weights
    elif framework == "tfjs":
        for name in _shards(source):
            yield name, source.parent / name


def _shards(source: Path) -> list[str]:
    """Plain names of weight files beside a TensorFlow.js model; what is no name is left out."""
    names: dict[str, None] = {}
    for match in _PATHS.finditer(source.read_bytes()):
        try:
            listed = json.loads(match[1])
        except ValueError:  # of the text of some other field
            continue
        names.update(dict.fromkeys(name for name in listed if isinstance(name, str)))
    return [name for name in names if name == Path(name).name and (source.parent / name).is_file()]


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
