"""NNCF (OpenVINO, Apache-2.0): ``nncf.quantize`` on ONNX, with the exact bias correction.

8 bits only: its weight compression to 4 bits is for MatMul and Embedding and leaves activations in
float ("Weights Compression" in its documentation), which no row here asks for.
"""

import nncf
import onnx
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    QuantizationParameters,
)

from peers.ptq import Job, Logits, by_onnxruntime


def quantize(job: Job) -> Logits | None:
    """8 bits."""
    if job.bits.weight_bits != 8:
        return None
    weights = QuantizationParameters(per_channel=job.bits.is_per_filter)
    model = nncf.quantize(
        onnx.load(job.model),
        nncf.Dataset([{"x": x[None]} for x in job.calibration]),
        subset_size=len(job.calibration),
        fast_bias_correction=False,
        advanced_parameters=AdvancedQuantizationParameters(weights_quantization_params=weights),
    )
    return by_onnxruntime(model)
