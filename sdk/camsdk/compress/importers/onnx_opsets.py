"""ONNX graphs of other opsets become those of opset 17, where ONNX can convert them.

What ``onnx.version_converter`` converts it may convert wrongly: an enlargement of opset 7 to 10
comes out without what says where pixels lie, and means another one then. It is said here.
"""

from typing import Final

import onnx
from onnx import helper, numpy_helper

from camsdk.compress.importers.onnx_emitter import IR_VERSION, OPSET
from camsdk.compress.importers.runnable import CHECKER_ERRORS
from camsdk.errors import UnsupportedModel

OLDEST_OPSET: Final = 7
"""onnx.version_converter knows the operators of a network from here on."""

NEWEST_OPSET: Final = 26
"""The newest that stays as it is when ONNX cannot convert it down."""

NEWEST_IR: Final = 10

_COORDINATES_ARE_NAMED: Final = 11
"""From this opset on a Resize says where pixels lie."""


def to_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset 17, or as it is if it is newer and ONNX cannot convert it; changed.

    Raises:
        UnsupportedModel: An opset or operator that ONNX does not know, or cannot convert.
    """
    version = opset_of(model)
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise UnsupportedModel(
            f"the model has opset {version}, opsets {OLDEST_OPSET} to {NEWEST_OPSET} are taken",
            f"export it with opset {OPSET}",
        )
    _check_known(model.graph, version)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))
    # An old file promises that initializers are inputs, on which the converter insists.
    model.ir_version = max(min(model.ir_version, NEWEST_IR), 4)
    if version != OPSET:
        try:
            converted = onnx.version_converter.convert_version(model, OPSET)
            onnx.checker.check_model(converted, full_check=True)
        except CHECKER_ERRORS as error:
            if version < OPSET:
                raise UnsupportedModel(
                    f"opset {version} cannot be converted to {OPSET}: {error}",
                    f"export the model with opset {OPSET}",
                ) from error
            return model
        if version < _COORDINATES_ARE_NAMED:
            _name_coordinates(converted.graph)
        model = converted
    model.ir_version = IR_VERSION
    return model


def _name_coordinates(graph: onnx.GraphProto) -> None:
    """Every Resize was one of opset 10, or an Upsample: pixels begin at multiples of the scale."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        scales = stored.get(node.input[2]) if len(node.input) > 2 else None
        is_shrinking = scales is not None and bool((numpy_helper.to_array(scales) < 1).any())
        said = {
            "coordinate_transformation_mode": "asymmetric",
            # Of what shrinks, ONNX's own examples and onnxruntime take the pixel after.
            "nearest_mode": "ceil" if is_shrinking else "floor",
        }
        kept = [attribute for attribute in node.attribute if attribute.name not in said]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in said.items())


def opset_of(model: onnx.ModelProto) -> int:
    """Its version of ONNX's own operators."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def _check_known(graph: onnx.GraphProto, version: int) -> None:
    """Every node is an operator of ONNX and reads what was made before it."""
    made = (
        {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    )
    for node in graph.node:
        label = f"node {node.name or ''.join(node.output[:1])!r}"
        try:
            onnx.defs.get_schema(node.op_type, version, "")
        except onnx.defs.SchemaError as error:
            raise UnsupportedModel(
                f"{label}: opset {version} has no operator {node.op_type!r}"
            ) from error
        absent = [name for name in node.input if name not in made]
        if absent:
            raise UnsupportedModel(
                f"{label} ({node.op_type}) reads {absent[0]!r}, which nothing before it makes"
            )
        made.update(node.output)
