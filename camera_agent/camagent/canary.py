"""The canary: a new artifact must repeat, on this device, what it computed where it was made.

The bundle brings reference inputs and the outputs that they gave; the manifest says how close this
device must come. A model with NaN weights, a broken runtime or another machine's kernels fails
here, before a single live frame depends on it.
"""

import io
import math
import time
import tokenize
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from camagent.runtimes.base import Runtime
from camsdk.artifact.bundle import Bundle
from camsdk.errors import ArtifactRefused, DataCorrupted

Array = NDArray[np.generic]

_OUTPUT = "output/"
_MAX_ARRAYS_BYTES = 256 << 20  # unpacked: a few inputs and their outputs have some tens of MiB

# What zipfile and numpy raise for bytes that they do not like. RuntimeError: an encrypted member or
# an unknown compression; TokenError: a header that is not Python.
_DAMAGE = (
    *(ValueError, KeyError, OSError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


def run_canary(bundle: Bundle, runtime: Runtime, deadline_s: float) -> None:
    """Runs all reference inputs and compares.

    Args:
        bundle: Verified; its canary member is described at ``manifest.CanarySpec``.
        runtime: Has loaded the bundle's model.
        deadline_s: For all inferences together.

    Raises:
        ArtifactRefused: an output differs, is not finite, is missing, or it took too long.
        DataCorrupted: the canary itself makes no sense.
        RuntimeFailure, InvalidInput: the model failed, or does not take its own inputs.
    """
    spec, reference = bundle.manifest.canary, bundle.manifest.reference
    inputs, expected = _load(bundle)
    started_s = time.monotonic()
    values = agreeing = 0
    worst = _Worst("", 0.0, 0.0)
    for index in range(inputs.shape[0]):
        outputs = runtime.infer(inputs[index : index + 1])
        if time.monotonic() - started_s > deadline_s:
            raise ArtifactRefused(f"the canary of {reference} took longer than {deadline_s:g} s")
        for name, wanted in expected.items():
            errors = _errors(outputs.get(name), wanted[index : index + 1], name, reference)
            values += errors.size
            limit = spec.limit(name)
            agreeing += int((errors <= limit).sum())
            worst = max(
                worst, _Worst(name, float(errors.max(initial=0.0)), limit), key=_Worst.excess
            )
    share = agreeing / max(1, values)
    if share < spec.min_agreement:
        raise ArtifactRefused(
            f"the canary of {reference} failed: {share:.4f} of its outputs agree, "
            f"{spec.min_agreement:g} must; largest error {worst.error:.4g} in {worst.name}, "
            f"{worst.limit:g} may be"
        )


class _Worst(NamedTuple):
    """An output's largest error and what it may be."""

    name: str
    error: float
    limit: float

    def excess(self) -> float:
        return self.error - self.limit if self.name else -math.inf


def _load(bundle: Bundle) -> tuple[Array, dict[str, Array]]:
    path = bundle.manifest.canary.path
    try:
        arrays = _arrays(bundle.members[path])
        inputs = arrays.pop("input")
    except _DAMAGE as error:
        raise DataCorrupted(f"the canary {path} does not parse") from error
    expected = {
        name.removeprefix(_OUTPUT): array
        for name, array in arrays.items()
        if name.startswith(_OUTPUT)
    }
    missing = set(bundle.manifest.output.tensors) - set(expected)
    shape = bundle.manifest.input.shape[1:]
    if missing or not inputs.ndim or not inputs.shape[0] or inputs.shape[1:] != shape:
        raise DataCorrupted(f"the canary {path} does not fit its manifest")
    if any(not array.ndim or array.shape[0] != inputs.shape[0] for array in expected.values()):
        raise DataCorrupted(f"the canary {path} has not one output for each input")
    return inputs, expected


def _arrays(content: bytes) -> dict[str, Array]:
    """Arrays of an ``.npz`` by name; a few bytes of it may claim to be terabytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > _MAX_ARRAYS_BYTES:
            raise ValueError("more than a canary needs")
        stated = {info.filename: _stated_size(archive, info) for info in archive.infolist()}
    if any(size > _MAX_ARRAYS_BYTES for size in stated.values()):
        raise ValueError("a header claims more than a canary needs")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _stated_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes that numpy would set aside for a member, by the header of its array."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return math.prod(shape) * dtype.itemsize


def _errors(actual: Array | None, wanted: Array, name: str, reference: str) -> NDArray[np.float64]:
    """Absolute differences, infinite where the output is not finite."""
    if actual is None or actual.shape != wanted.shape:
        raise ArtifactRefused(f"the canary of {reference} gave no {name} of shape {wanted.shape}")
    errors = np.abs(actual.astype(np.float64) - wanted.astype(np.float64))
    return np.where(np.isfinite(errors), errors, np.inf)
