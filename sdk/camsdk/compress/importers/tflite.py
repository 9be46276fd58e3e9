"""TensorFlow Lite files become ONNX: tf2onnx converts them in the isolated environment.

A quantized file comes out in float: what its integers stand for is computed from its scales, so
that this tool can quantize the model anew.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from camsdk.compress.importers import environment
from camsdk.compress.importers.dequantize import without_quantization
from camsdk.compress.importers.onnx_file import normalise
from camsdk.compress.importers.sandbox import read_model
from camsdk.compress.importers.tflite_reader import check_tflite


def convert(path: Path, target: Path, *, on_progress: Callable[[str], None] | None = None) -> None:
    """Check a ``.tflite`` file and let tf2onnx write it as ONNX.

    Args:
        path: The file.
        target: Where the ONNX model is written; it may still be quantized.
        on_progress: Told in words what is being waited for.

    Raises:
        NotFound: No such file.
        DataCorrupted: Not a TensorFlow Lite file, or truncated.
        UnsupportedModel: An operator that tf2onnx does not take.
        Unavailable, DeadlineExceeded, ResourceExhausted: See ``environment.freeze``.
    """
    check_tflite(path)
    environment.convert_tflite(path, target, on_progress=on_progress)


def import_converted(
    path: Path, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> onnx.ModelProto:
    """Import what ``convert`` wrote.

    Args:
        path: The ONNX file.
        input_shapes: Shape of each input that the model leaves free, besides its batch.

    Returns:
        A float32 model of opset 17, inputs and outputs in TensorFlow's layout. Weights of a
        quantized file are its integers times their scales; activations are not rounded any more.

    Raises:
        UnsupportedModel: Something is computed in integers, or as ``import_onnx_file``.
    """
    return normalise(without_quantization(read_model(path)), input_shapes=input_shapes)
