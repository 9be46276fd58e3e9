"""What a training needs to go on after the process has died, in one file that is always whole.

It holds tensors, numbers and strings (``whole_file``), and reading it runs no code from it.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from camsdk.compress.whole_file import read_whole, unusable, write_whole
from camsdk.errors import Conflict

MAGIC: Final = b"CAMTRAIN1\n"

_CODE: Final = Path(__file__).parents[1]

_CHANGED: Final = {
    "options": "with other options",
    "data": "on other data",
    "code": "by another version of this program or of torch",
    "start": "from another network, or with another method",
}


@dataclass(frozen=True)
class Origin:
    """What a training's result follows from: sha256 digests of each."""

    options: str
    data: str
    code: str
    start: str


@dataclass(frozen=True)
class Checkpoint:
    """A training between two steps.

    Attributes:
        step: Steps done.
        losses: Mean loss of each epoch that has ended, then the sum and number of the running one.
        module, optimizer, method: What their ``state_dict`` gave.
    """

    step: int
    losses: list[float]
    module: dict[str, Tensor]
    optimizer: dict[str, Any]
    method: dict[str, Tensor | float | int]


def write_checkpoint(path: Path, checkpoint: Checkpoint, origin: Origin) -> None:
    """Replace what is at ``path``, all or nothing; its folder is made where it is missing.

    Raises:
        ResourceExhausted: The disk is full.
        InvalidInput: The place cannot be written to.
    """
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    memory = io.BytesIO()
    torch.save({"origin": _as_dict(origin), **content}, memory)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, MAGIC, memory.getbuffer())
    except OSError as error:
        raise unusable(path, error) from error


def read_checkpoint(path: Path, origin: Origin) -> Checkpoint | None:
    """What ``write_checkpoint`` wrote there, or None where there is nothing.

    Raises:
        Conflict: It is of another training than ``origin`` says.
        DataCorrupted: It does not decode.
        InvalidInput: It cannot be read.
    """
    try:
        stored = read_whole(path, MAGIC, "checkpoint of a training")
    except OSError as error:
        raise unusable(path, error) from error
    if stored is None:
        return None
    content = torch.load(io.BytesIO(stored), weights_only=True)
    written = content.pop("origin")
    changed = [key for key, value in _as_dict(origin).items() if written.get(key) != value]
    if changed:
        raise Conflict(
            f"the training that {path} belongs to was started "
            + ", and ".join(_CHANGED[key] for key in changed),
            "repeat that training exactly to go on with it, or delete the file to begin anew",
        )
    return Checkpoint(**content)


def state_digest(*states: Mapping[str, Any]) -> str:
    """sha256 of names, shapes and values, to tell whether two trainings are at the same point."""
    total = hashlib.sha256()
    for state in states:
        for name in sorted(state):
            value = state[name]
            total.update(name.encode())
            if isinstance(value, Tensor):
                total.update(f"{value.dtype}{tuple(value.shape)}".encode())
                total.update(value.detach().cpu().contiguous().numpy().tobytes())
            else:
                total.update(repr(value).encode())
    return total.hexdigest()


def code_digest(folder: Path = _CODE) -> str:
    """sha256 of what decides how a training goes: torch's version and all of this package."""
    total = hashlib.sha256(torch.__version__.encode())
    for file in sorted(folder.rglob("*.py")):
        total.update(file.relative_to(folder).as_posix().encode())
        total.update(file.read_bytes())
    return total.hexdigest()


def _as_dict(origin: Origin) -> dict[str, str]:
    return {field.name: getattr(origin, field.name) for field in fields(origin)}
