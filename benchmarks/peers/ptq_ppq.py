"""PPQ (Apache-2.0) in its maintained form, esp-ppq: equalization, then learned step sizes.

After its "bestPractice" tutorial: percentile ranges, layerwise equalization, and with data the
training of weights and steps block by block (500 steps at 1e-5 in blocks of 4). Its platforms have
8 bits; a quantizer of its TensorRT one gives the weights fewer, and the activations a zero point.
Its own executor computes the logits.
"""

import numpy as np
import onnx
import torch
from esp_ppq.api import quantize_onnx_model
from esp_ppq.api.setting import QuantizationSettingFactory
from esp_ppq.core import (
    OperationQuantizationConfig,
    QuantizationPolicy,
    QuantizationProperty,
    TargetPlatform,
)
from esp_ppq.executor import TorchExecutor
from esp_ppq.IR import BaseGraph, Operation
from esp_ppq.lib import register_network_quantizer
from esp_ppq.quantization.quantizer import TensorRTQuantizer

from peers.ptq import Job, Logits, batches, with_free_batch

LAYERS = {"Conv", "Gemm"}
TRAINING_BATCH, LARGE = 8, 100_000
"""Inputs at a time; 2, if each has more than ``LARGE`` values."""


def quantize(job: Job) -> Logits:
    """Any row."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    register_network_quantizer(_quantizer(job), TargetPlatform.EXTENSION)
    setting = QuantizationSettingFactory.default_setting()
    setting.equalization = True
    setting.lsq_optimization = job.bits.has_data
    setting.lsq_optimization_setting.collecting_device = "cpu"
    size = 2 if job.calibration[0].size > LARGE else TRAINING_BATCH
    given = [
        torch.from_numpy(job.calibration[at : at + size])
        for at in range(0, len(job.calibration), size)
    ]
    path = job.scratch / "free.onnx"
    onnx.save(with_free_batch(onnx.load(job.model)), path)
    graph = quantize_onnx_model(
        str(path), given, len(given), list(given[0].shape), TargetPlatform.EXTENSION,
        setting=setting, collate_fn=lambda batch: batch, device="cpu",
    )  # fmt: skip
    executor = TorchExecutor(graph, device="cpu")

    def logits(judged: np.ndarray) -> np.ndarray:
        return np.concatenate([executor(torch.from_numpy(x))[0].numpy() for x in batches(judged)])

    return logits


def _quantizer(job: Job) -> type[TensorRTQuantizer]:
    class Quantizer(TensorRTQuantizer):
        target_platform = TargetPlatform.EXTENSION
        quantize_policy = QuantizationPolicy(
            QuantizationProperty.ASYMMETRICAL
            + QuantizationProperty.LINEAR
            + QuantizationProperty.PER_TENSOR
        )

        def __init__(self, graph: BaseGraph) -> None:
            super().__init__(graph)
            self._quant_min, self._quant_max = 0, 255

        def init_quantize_config(self, operation: Operation) -> OperationQuantizationConfig:
            config = super().init_quantize_config(operation)
            if operation.type in LAYERS:
                bits = 8 if operation.name in job.edges else job.bits.weight_bits
                weights = config.input_quantization_config[1]
                weights.num_of_bits = bits
                weights.quant_min, weights.quant_max = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
                if not job.bits.is_per_filter:
                    weights.policy = QuantizationPolicy(
                        QuantizationProperty.SYMMETRICAL
                        + QuantizationProperty.LINEAR
                        + QuantizationProperty.PER_TENSOR
                    )
            return config

    return Quantizer
