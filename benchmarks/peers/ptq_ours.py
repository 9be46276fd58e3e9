"""Ours: ``quantize_after_training`` as ``camctl model compress`` calls it, run by onnxruntime."""

import onnx

from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.options import CodeSet, LayerOptions, QuantizeOptions, WeightOptions
from camsdk.compress.ptq.quantizing import quantize_after_training
from camsdk.compress.ptq.synthetic import Synthesis
from peers.ptq import Job, Logits, by_onnxruntime


def quantize(job: Job) -> Logits:
    """Any row; without data, inputs are made up by ours instead of the noise."""
    granularity = "filter" if job.bits.is_per_filter else "tensor"
    edge = LayerOptions(WeightOptions(CodeSet(8), granularity))
    options = QuantizeOptions(
        WeightOptions(CodeSet(job.bits.weight_bits), granularity),
        layers=dict.fromkeys(job.edges, edge),
        rounding="gptq",
    )
    made = quantize_after_training(
        onnx.load(job.model),
        options,
        job.calibration if job.bits.has_data else None,
        synthesis=Synthesis(mean=(job.mean,), std=(job.std,)),
    )
    return by_onnxruntime(emit_qdq(made.model, made.weights, made.activations))
