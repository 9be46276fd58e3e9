"""TensorFlow Lite files become ONNX: tf2onnx converts them in the isolated environment.

A quantized file comes out in float: what its integers stand for is computed from its scales, so
that this tool can quantize the model anew.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import onnx

from camsdk.compress.importers import environment
from camsdk.compress.importers.dequantize import without_quantization
from camsdk.compress.importers.onnx_file import normalise
from camsdk.compress.importers.runnable import read_limited
from camsdk.errors import DataCorrupted

IDENTIFIER: Final = b"TFL3"
"""At byte 4 of every TensorFlow Lite FlatBuffer."""


def import_tflite(
    path: Path,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> onnx.ModelProto:
    """Import a TensorFlow Lite file.

    Args:
        path: The ``.tflite`` file.
        input_shapes: Shape of each input that the file leaves free, besides its batch.
        on_progress: Told in words what is being waited for.

    Returns:
        A float32 model of opset 17, inputs and outputs in TensorFlow's layout. Weights of a
        quantized file are its integers times their scales; activations are not rounded any more.

    Raises:
        NotFound: No such file.
        DataCorrupted: Not a TensorFlow Lite file, or truncated.
        UnsupportedModel: An operator that tf2onnx or ``import_onnx_file`` does not take.
        Unavailable, DeadlineExceeded, ResourceExhausted: See ``environment.freeze``.
    """
    return normalise(convert(path, on_progress=on_progress), input_shapes=input_shapes)


def convert(path: Path, *, on_progress: Callable[[str], None] | None = None) -> onnx.ModelProto:
    """What ``import_tflite`` is before it is checked and its shapes are fixed."""
    if read_limited(path)[4:8] != IDENTIFIER:
        raise DataCorrupted(f"{path} is not a TensorFlow Lite file", "it may be truncated")
    model = environment.convert_tflite(path, on_progress=on_progress)
    return without_quantization(model)
