"""Calibration inputs that can be read as often as needed without being held in memory."""

import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput, ResourceExhausted

LARGEST_BYTES: Final = 2 * 1024**3
"""Of all inputs together on disk: 800 pictures of 640x352."""


class Inputs:
    """Inputs of one shape, on disk in a file without a name that goes with the process.

    Args:
        given: Arrays of ``shape``, taken one by one; a missing batch axis of 1 is added.
        shape: Of the model's input.

    Raises:
        InvalidInput: There is none, one has another shape, or holds what is no finite number.
        ResourceExhausted: Together they are larger than ``LARGEST_BYTES``.
    """

    def __init__(self, given: Iterable[NDArray[np.generic]], shape: tuple[int, ...]) -> None:
        self._file = tempfile.TemporaryFile(prefix="camsdk-calibration-")  # noqa: SIM115 # __exit__
        self._shape = shape
        self._bytes_each = 4 * int(np.prod(shape))
        self._count = 0
        try:
            self._take(given)
        except BaseException:
            self._file.close()
            raise

    def _take(self, given: Iterable[NDArray[np.generic]]) -> None:
        for number, tensor in enumerate(given, start=1):
            if tensor.shape not in (self._shape, self._shape[1:]):
                raise InvalidInput(
                    f"calibration input {number} has shape {tensor.shape}, the model takes "
                    f"{self._shape}",
                    "preprocess it as the model's manifest says",
                )
            values = np.ascontiguousarray(tensor, np.float32)
            if not np.isfinite(values).all():
                raise InvalidInput(
                    f"calibration input {number} holds NaN or infinity", "check its preprocessing"
                )
            if number * self._bytes_each > LARGEST_BYTES:
                raise ResourceExhausted(
                    f"more than {number - 1} calibration inputs do not fit {LARGEST_BYTES} bytes",
                    "give fewer: a few dozen suffice",
                )
            self._file.write(values.data)
            self._count = number
        if not self._count:
            raise InvalidInput(
                "there is no input to calibrate on",
                "give a few dozen inputs, or None to calibrate without data",
            )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self._read(index) for index in range(self._count))

    def some(self, most: int) -> "Inputs":
        """At most so many of them, evenly spaced, in order, in a file of their own."""
        count = min(most, self._count)
        chosen = (self._read(index * self._count // count) for index in range(count))
        return Inputs(chosen, self._shape)

    def _read(self, index: int) -> NDArray[np.float32]:
        self._file.seek(index * self._bytes_each)
        return np.frombuffer(self._file.read(self._bytes_each), np.float32).reshape(self._shape)

    def __enter__(self) -> "Inputs":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
