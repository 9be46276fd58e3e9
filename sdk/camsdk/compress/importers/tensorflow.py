"""TensorFlow graphs become ONNX: frozen graphs directly, SavedModels after TensorFlow froze them.

A frozen graph needs no TensorFlow: its operators are those of TensorFlow.js, whose converter is
used. A SavedModel has its weights apart and its layers in functions; freezing is TensorFlow's own
affair and runs in the isolated environment (``camsdk.compress.importers.environment``).
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from camsdk.compress.importers import environment
from camsdk.compress.importers.graphdef_reader import read_frozen_graph
from camsdk.compress.importers.runnable import runnable
from camsdk.compress.importers.tensorflow_operators import TENSORFLOW_OPERATORS
from camsdk.compress.importers.tfjs import convert_graph
from camsdk.errors import NotFound


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


def import_saved_model(
    folder: Path,
    *,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    outputs: Sequence[str] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> onnx.ModelProto:
    """Import a SavedModel by freezing its serving signature with TensorFlow itself.

    Args:
        folder: Holds ``saved_model.pb``.
        inputs, outputs: As ``import_frozen_graph``, by names of the frozen graph; by default the
            outputs of the signature.
        on_progress: Told in words what is being waited for.

    Raises:
        Unavailable: TensorFlow cannot be installed.
        DeadlineExceeded: TensorFlow has not finished in time.
        UnsupportedModel: TensorFlow cannot load it, or as ``import_frozen_graph``.
        Others: As ``import_frozen_graph``.
    """
    if not (folder / "saved_model.pb").is_file():
        raise NotFound(f"{folder} holds no saved_model.pb", "give the folder of a SavedModel")
    with tempfile.TemporaryDirectory(prefix="camsdk-tensorflow-") as work:
        frozen = Path(work) / "frozen.pb"
        found = environment.freeze(folder, frozen, on_progress=on_progress)
        return import_frozen_graph(
            frozen, inputs=inputs, outputs=found if outputs is None else outputs
        )
