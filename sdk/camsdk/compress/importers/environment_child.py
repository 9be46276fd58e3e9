"""Runs TensorFlow or tf2onnx in the environment of ``environment``; nothing of ours is there.

``freeze FOLDER TARGET FACTS`` turns a SavedModel's serving signature into a frozen ``GraphDef``;
``tflite FILE TARGET`` turns a TensorFlow Lite file into ONNX.
"""

import json
import sys
from pathlib import Path

OPSET = 17


def freeze(folder: str, target: str, facts: str) -> None:
    """Variables become constants and functions are inlined."""
    import tensorflow as tf  # type: ignore[import-untyped] # only there in its environment
    from tensorflow.python.framework.convert_to_constants import (  # type: ignore[import-untyped]
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(folder)
    signatures = loaded.signatures
    if not signatures:
        raise SystemExit("the SavedModel has no serving signature")
    name = "serving_default" if "serving_default" in signatures else sorted(signatures)[0]
    frozen = convert_variables_to_constants_v2(signatures[name], lower_control_flow=False)
    outputs = [tensor.name.removesuffix(":0") for tensor in frozen.outputs]
    Path(target).write_bytes(frozen.graph.as_graph_def().SerializeToString())
    Path(facts).write_text(json.dumps({"outputs": outputs}), encoding="utf-8")


def convert_tflite(source: str, target: str) -> None:
    """Quantized tensors stay behind QuantizeLinear and DequantizeLinear."""
    import tf2onnx  # type: ignore[import-not-found] # only there in its environment

    tf2onnx.convert.from_tflite(source, opset=OPSET, output_path=target)


if __name__ == "__main__":
    (freeze if sys.argv[1] == "freeze" else convert_tflite)(*sys.argv[2:])
