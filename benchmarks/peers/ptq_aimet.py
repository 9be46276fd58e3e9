"""AIMET (Qualcomm, BSD-3), aimet-onnx: folding, equalization, sequential MSE, then ranges.

The order of its page "Post-training quantization": BatchNorm is folded; with one scale a tensor,
or without data, layers are equalized across (which turns ReLU6 into ReLU); with data, the scales of
the weights are searched layer by layer for the least error of the output (sequential MSE). Ranges
of activations come from the calibration inputs. Its simulator computes the logits.

AdaRound is left out: at the 10,000 to 15,000 steps a layer that it asks for, one row takes hours
on a processor.
"""

from pathlib import Path

import aimet_onnx
import numpy as np
import onnx
from aimet_onnx import QuantizationSimModel, apply_seq_mse
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.defs import qtype
from aimet_onnx.cross_layer_equalization import equalize_model

from peers.ptq import Job, Logits, batches, with_free_batch

CONFIGS = Path(aimet_onnx.__file__).parent / "common" / "quantsim_config"


def quantize(job: Job) -> Logits:
    """Any row."""
    model = with_free_batch(onnx.load(job.model))
    _limits_as_nodes(model)
    if job.bits.is_per_filter and job.bits.has_data:
        fold_all_batch_norms_to_weight(model)
    else:
        equalize_model(model)
    scales = "default_config_per_channel" if job.bits.is_per_filter else "default_config"
    sim = QuantizationSimModel(
        model,
        param_type=qtype.int(job.bits.weight_bits),
        config_file=str(CONFIGS / f"{scales}.json"),
    )
    edges = {node.name: node.input[1] for node in model.graph.node if node.name in job.edges}
    assert edges.keys() == set(job.edges), "renamed layers"
    for weight in edges.values():
        sim.qc_quantize_op_dict[sim_name(sim, weight)].set_bitwidth(8)
    inputs = [{"x": x} for x in batches(job.calibration)]
    if job.bits.has_data:
        apply_seq_mse(sim, inputs)
    sim.compute_encodings(inputs)

    def logits(judged: np.ndarray) -> np.ndarray:
        return np.concatenate([sim.session.run(None, {"x": x})[0] for x in batches(judged)])

    return logits


def _limits_as_nodes(model: onnx.ModelProto) -> None:
    """Clip's limits come from Constant nodes, as torch exports them: else no ReLU6 is seen."""
    limits = {
        name for node in model.graph.node if node.op_type == "Clip" for name in node.input[1:]
    }
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in limits]:
        node = onnx.helper.make_node("Constant", [], [tensor.name], tensor.name, value=tensor)
        model.graph.node.insert(0, node)
        model.graph.initializer.remove(tensor)


def sim_name(sim: QuantizationSimModel, weight: str) -> str:
    """The simulator puts a quantizer before each weight and renames what the layer reads."""
    return next(name for name in sim.qc_quantize_op_dict if name in (weight, f"{weight}_qdq"))
