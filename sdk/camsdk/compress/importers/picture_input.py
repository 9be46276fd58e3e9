"""A model that takes a grey picture becomes one that takes a frame of three channels."""

import onnx
from onnx import TensorProto, helper

from camsdk.compress.importers.grafting import Graft


def as_colour(model: onnx.ModelProto) -> onnx.ModelProto:
    """Puts the mean of three channels before an input of one; any other model stays as it is.

    Args:
        model: With an input (1, 1, height, width) or (1, height, width, 1). Unchanged.

    Returns:
        The model with an input of three channels in the same layout, float32, scaled as the grey
        one was: mean and standard deviation of all three are those of the one.
    """
    inputs = model.graph.input
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim] if inputs else []
    axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] == 1]
    if len(inputs) != 1 or len(axes) != 1 or 3 in shape:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, graft, (axis,) = made.graph, Graft(made), axes
    grey = graph.input[0].name
    shape[axis] = 3
    name = graft.free(f"{grey}/colour")
    graph.input[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph.node.insert(
        0, graft.reduction("ReduceMean", name, grey, [axis], graft.free(f"{grey}/grey"))
    )
    return made
