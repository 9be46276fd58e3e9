"""Caffe networks become ONNX, without Caffe.

Blobs in Caffe may be overwritten by the layer that reads them; in ONNX every tensor is written
once, so a blob's name here stands for the tensor that was written to it last. A BatchNorm and the
Scale after it become one BatchNormalization.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import onnx

from camsdk.compress.importers.caffe_call import Call
from camsdk.compress.importers.caffe_operators import OPERATORS
from camsdk.compress.importers.caffe_reader import (
    Floats,
    Layer,
    Message,
    layers_of,
    read_text,
    read_weights,
)
from camsdk.compress.importers.given_shapes import check_names, lacks_shape
from camsdk.compress.importers.onnx_emitter import Emitter, Value
from camsdk.compress.importers.runnable import runnable
from camsdk.errors import InvalidInput, UnsupportedModel

PRODUCER: Final = "camsdk.compress.importers.caffe"
MAX_LENGTH: Final = 1 << 20
MAX_LAYERS: Final = 20_000


def import_caffe(
    prototxt: Path,
    caffemodel: Path,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    outputs: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """Import a Caffe network.

    Args:
        prototxt: The network (a deploy file).
        caffemodel: Its weights.
        input_shapes: Shape of an input, instead of the declared one.
        outputs: Blobs to return, which may lie inside; by default those that no layer reads.

    Returns:
        A float32 model of opset 17; layers and outputs have Caffe's names.

    Raises:
        NotFound: A file is missing.
        DataCorrupted: A file is truncated or malformed.
        UnsupportedModel: A layer cannot be imported; names it and its type.
        InvalidInput: ``input_shapes`` or ``outputs`` does not fit the network.
        ResourceExhausted: A file is too large.
    """
    net = read_text(prototxt)
    layers = layers_of(net)
    if not layers or len(layers) > MAX_LAYERS:
        raise UnsupportedModel(f"{prototxt} has {len(layers)} layers")
    return _convert(net, layers, read_weights(caffemodel), input_shapes or {}, outputs)


def _convert(
    net: Message,
    layers: Sequence[Layer],
    weights: Mapping[str, tuple[Floats, ...]],
    input_shapes: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str] | None,
) -> onnx.ModelProto:
    chosen = list(outputs) if outputs else _ends(layers)
    kept, wanted = _needed(layers, chosen)
    emitter = Emitter()
    blobs: dict[str, Value] = {}
    for name, shape in _inputs(net, layers, input_shapes).items():
        if name in wanted:
            blobs[name] = emitter.add_input(name, shape)
    for layer in kept:
        missing = [name for name in layer.bottoms if name not in blobs]
        if missing:
            raise UnsupportedModel(
                f"layer {layer.name!r} reads blob {missing[0]!r}, which nothing before it writes"
            )
        values = _emit(layer, [blobs[name] for name in layer.bottoms], weights, emitter)
        if len(values) < len(layer.tops):
            raise UnsupportedModel(f"layer {layer.name!r} ({layer.kind}) has too many tops")
        blobs.update(zip(layer.tops, values, strict=False))
    absent = [name for name in chosen if name not in blobs]
    if absent or not blobs:
        raise InvalidInput(
            f"nothing writes the output blob {(absent or ['?'])[0]!r}",
            f"the last layers write {', '.join(_ends(layers))}",
        )
    return runnable(emitter.model({name: blobs[name] for name in chosen}, PRODUCER))


def _emit(
    layer: Layer,
    bottoms: Sequence[Value],
    weights: Mapping[str, tuple[Floats, ...]],
    emitter: Emitter,
) -> tuple[Value, ...]:
    operator = OPERATORS.get(layer.kind)
    if operator is None:
        raise UnsupportedModel(
            f"layer {layer.name!r} of type {layer.kind!r} cannot be imported",
            f"give outputs before it; supported are {', '.join(sorted(OPERATORS))}",
        )
    call = Call(layer, tuple(bottoms), weights.get(layer.name, ()), emitter)
    try:
        values = operator(call)
    except (ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise UnsupportedModel(
            f"layer {layer.name!r} ({layer.kind}) does not fit its inputs of shapes "
            f"{[value.shape for value in bottoms]}: {error}"
        ) from error
    call.check_all_read()
    return values


def _ends(layers: Sequence[Layer]) -> list[str]:
    """Blobs that no later layer reads."""
    open_tops: dict[str, None] = {}
    for layer in layers:
        for name in layer.bottoms:
            open_tops.pop(name, None)
        if layer.kind != "Input":
            open_tops.update(dict.fromkeys(layer.tops))
    return list(open_tops)


def _needed(layers: Sequence[Layer], outputs: Sequence[str]) -> tuple[list[Layer], set[str]]:
    """The layers that the outputs depend on, and the blobs that must come from outside."""
    wanted = set(outputs)
    kept = []
    for layer in reversed(layers):
        if layer.kind != "Input" and wanted.intersection(layer.tops):
            kept.append(layer)
            wanted.difference_update(layer.tops)
            wanted.update(layer.bottoms)
    return kept[::-1], wanted


def _inputs(
    net: Message, layers: Sequence[Layer], input_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shape of every declared input."""
    names = net.texts("input")
    shapes = [tuple(shape.integers("dim")) for shape in net.messages("input_shape")]
    dims = net.integers("input_dim")
    shapes = shapes or [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    found = {name: shapes[i] if i < len(shapes) else () for i, name in enumerate(names)}
    for layer in layers:
        if layer.kind == "Input":
            given = layer.text.message("input_param").messages("shape")
            for index, top in enumerate(layer.tops):
                pick = given[min(index, len(given) - 1)] if given else Message()
                found[top] = tuple(pick.integers("dim"))
    check_names(input_shapes, found)
    found |= {name: tuple(shape) for name, shape in input_shapes.items()}
    for name, shape in found.items():
        if not shape or len(shape) > 8 or not all(1 <= n <= MAX_LENGTH for n in shape):
            raise lacks_shape(name, shape)
    return found
