"""Static int8 quantization of an ONNX model, after training, from a few inputs.

The result is in QDQ form: weights are stored as int8 with one scale per output channel, activations
are uint8 with one scale per tensor, and every runtime fuses the pairs into integer kernels. The
arithmetic is onnxruntime's quantizer; the choices are ours, each with its reason:

- **Ranges are means over inputs.** The extreme of a tensor over all calibration inputs is set by
  its rarest outlier; the mean of each input's own extremes clips a few values and gives all others
  a finer step.
- **Weights use 7 of 8 bits by default.** x86 processors before VNNI add pairs of uint8 x int8
  products in 16 bits and saturate, silently. 255 x 64 x 2 fits. It buys the same integers on
  every processor, which the canary then checks; ``benchmarks/detector.py`` prints what it costs in
  agreement beside 8 bits, which fleets of VNNI or ARM devices alone may use.
- **Nothing is left out** but operators that merely move data (Split). The layers that one would
  fear for were tried: the head in float gains nothing that shows in agreement, and the first
  convolution in float makes the whole 1.6 times slower. ``float_layers`` is for other networks.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from camsdk.compress.graph.qdq import QUANTIZED_OPERATORS
from camsdk.compress.sessions import ENGINE_FAILURES
from camsdk.errors import InvalidInput, RuntimeFailure

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Int8Options:
    """How onnxruntime's quantizer is to work; ``options.QuantizeOptions`` is for all the rest.

    Attributes:
        weight_bits: 7 gives the same integers on every processor, 8 needs VNNI or ARM; see above.
        is_mean_range: Whether activation ranges are means of each input's extremes, or the
            extremes over all inputs.
        float_layers: Names of nodes that stay in float.
    """

    weight_bits: Literal[7, 8] = 7
    is_mean_range: bool = True
    float_layers: tuple[str, ...] = ()

    def as_text(self) -> dict[str, str]:
        """For a manifest's lineage."""
        return {
            "weight_bits": str(self.weight_bits),
            "activation_range": "mean" if self.is_mean_range else "extreme",
            "float_layers": ",".join(self.float_layers),
        }


DEFAULTS: Final = Int8Options()


@dataclass(frozen=True)
class Quantized:
    """A quantized model and the inputs that it was calibrated on.

    Attributes:
        calibration_sha256: Over the bytes of all inputs in order.
        calibration_count: How many there were.
    """

    model: onnx.ModelProto
    calibration_sha256: str
    calibration_count: int


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc] # onnxruntime is untyped
    """Hands inputs to onnxruntime and remembers what they were."""

    def __init__(
        self, name: str, inputs: Iterable[Array], on_input: Callable[[int], None] | None
    ) -> None:
        self._name, self._inputs, self._on_input = name, iter(inputs), on_input
        self.digest = hashlib.sha256()
        self.count = 0

    def get_next(self) -> dict[str, Array] | None:
        tensor = next(self._inputs, None)
        if tensor is None:
            return None
        self.digest.update(tensor.tobytes())
        self.count += 1
        if self._on_input is not None:
            self._on_input(self.count)
        return {self._name: tensor}


def quantize_int8(
    model: onnx.ModelProto,
    calibration: Iterable[Array],
    *,
    options: Int8Options = DEFAULTS,
    on_input: Callable[[int], None] | None = None,
) -> Quantized:
    """Quantize a float model.

    Args:
        model: One input; shapes static.
        calibration: Input tensors such as the model will meet; a few dozen suffice. Taken one by
            one, never held together.
        options: See ``Int8Options``.
        on_input: Called with the number of inputs taken.

    Returns:
        The model; the same inputs give the same bytes.

    Raises:
        InvalidInput: No calibration inputs, or a layer to leave in float does not exist.
        RuntimeFailure: The model cannot be loaded, or not run on these inputs.
    """
    names = {node.name for node in model.graph.node}
    unknown = set(options.float_layers) - names
    if unknown:
        raise InvalidInput(f"the model has no layer {', '.join(sorted(unknown))}")
    source = onnx.ModelProto()
    source.CopyFrom(model)
    add_pre_process_metadata(source)  # the importer has folded and inferred what there is
    inputs = iter(calibration)
    first = next(inputs, None)
    if first is None:
        raise InvalidInput("there is no input to calibrate on", "give a clip with frames")
    reader = _Reader(model.graph.input[0].name, chain([first], inputs), on_input)
    with tempfile.TemporaryDirectory(prefix="camsdk-quantize-") as folder:
        path = Path(folder) / "int8.onnx"
        try:
            quantization.quantize_static(source, path, reader, **_arguments(options))
        except ENGINE_FAILURES as error:
            raise RuntimeFailure(f"the model cannot be calibrated: {error}") from error
        result = onnx.load(str(path))
    del result.metadata_props[:]
    onnx.checker.check_model(result, full_check=True)
    return Quantized(result, reader.digest.hexdigest(), reader.count)


def _arguments(options: Int8Options) -> dict[str, Any]:
    return {
        "quant_format": quantization.QuantFormat.QDQ,
        "op_types_to_quantize": list(QUANTIZED_OPERATORS),
        "per_channel": True,
        "reduce_range": options.weight_bits == 7,
        "activation_type": quantization.QuantType.QUInt8,
        "weight_type": quantization.QuantType.QInt8,
        "calibrate_method": quantization.CalibrationMethod.MinMax,
        "nodes_to_exclude": list(options.float_layers),
        "extra_options": {"CalibMovingAverage": options.is_mean_range},
    }
