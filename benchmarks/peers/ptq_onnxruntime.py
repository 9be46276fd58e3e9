"""onnxruntime's static quantization (MIT), as its page "Quantize ONNX Models" has it.

First its preprocessing (which folds BatchNorm), then QDQ in S8S8 with ranges by extremes, "the
first choice". 8 bits only: Conv has no kernel for less.
"""

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from peers.ptq import Job, Logits, by_onnxruntime


class _Reader(quantization.CalibrationDataReader):
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self._given = iter([{name: x[np.newaxis]} for x in inputs])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._given, None)


def quantize(job: Job) -> Logits | None:
    """8 bits."""
    if job.bits.weight_bits != 8:
        return None
    prepared, made = job.scratch / "prepared.onnx", job.scratch / "int8.onnx"
    quant_pre_process(job.model, prepared)
    quantization.quantize_static(
        prepared, made, _Reader("x", job.calibration), per_channel=job.bits.is_per_filter
    )
    return by_onnxruntime(onnx.load(made))
