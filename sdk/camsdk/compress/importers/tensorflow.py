"""Frozen TensorFlow graphs become ONNX, without TensorFlow.

The operators are those of TensorFlow.js, whose converter is used. A SavedModel has its weights
apart and its layers in functions; it is frozen first (``saved_model``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from camsdk.compress.importers.graphdef_reader import read_frozen_graph
from camsdk.compress.importers.runnable import runnable
from camsdk.compress.importers.tensorflow_operators import TENSORFLOW_OPERATORS
from camsdk.compress.importers.tfjs import convert_graph


def import_frozen_graph(
    path: Path,
    *,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    outputs: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """Import a frozen graph (``.pb``).

    Args:
        path: A serialized ``GraphDef``. A free batch of an input becomes 1.
        inputs: Tensor name to static shape, NHWC for images. A tensor may lie inside of the graph:
            what comes before it is left out, such as loops that decode pictures.
        outputs: Tensor names, which may lie inside too; what comes after them is left out, such as
            a non-maximum suppression. By default the results that nobody takes.

    Returns:
        A float32 model of opset 17; inputs and outputs in TensorFlow's layout, under its names.

    Raises:
        NotFound: No such file.
        DataCorrupted: Not a ``GraphDef``, or truncated.
        UnsupportedModel: An operator, an option or a loop that cannot be imported; names the layer.
        InvalidInput: ``inputs`` or ``outputs`` do not fit the graph, or a shape is missing.
        ResourceExhausted: The file or a tensor is too large.
    """
    graph = read_frozen_graph(path, inputs=inputs, outputs=outputs)
    shapes = {
        name: (1, *shape[1:])
        for name, node in graph.nodes.items()
        if node.op == "Placeholder" and (shape := node.shape("shape")) and shape[0] == -1
    }
    return runnable(convert_graph(graph, input_shapes=shapes, operators=TENSORFLOW_OPERATORS))
