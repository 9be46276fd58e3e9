"""What of a compression can be refused before any work."""

import math
from typing import Final

import onnx

from camsdk.compress.footage import Footage
from camsdk.compress.graph.layers import shapes
from camsdk.compress.options import CompressOptions, Filter, TrainOptions
from camsdk.compress.packaging import Draft
from camsdk.compress.ptq.folding import prepare
from camsdk.errors import InvalidInput

TRAINABLE_DECODERS: Final = ("nanodet-gfl", "class-scores", "class-map")
"""Of the models whose outputs a training can imitate."""


def check_options(source: Draft, footage: Footage | None, options: CompressOptions) -> None:
    """That the options go together, and with the model and the data.

    Raises:
        InvalidInput: They do not.
    """
    if options.quantize is None:
        raise InvalidInput("an artifact of the fleet is quantized", "give bits from 1 to 8")
    if _has_filters(options) and options.budget is not None:
        raise InvalidInput(
            "filters are tied across layers and cannot be shared out under a budget",
            "give a sparsity in place of the budget, or prune elements or blocks",
        )
    if options.train is None:
        _check_rounding(options)
    else:
        _check_training(source, footage)


def batch_of(options: TrainOptions, frames: int) -> int:
    """Frames of a step: no more than there are to train on."""
    return min(options.batch_size, frames)


def check_batch(source: Draft, options: CompressOptions, frames: int) -> None:
    """That every BatchNorm which stays in a training gets more than one value a channel.

    Args:
        frames: To train on.

    Raises:
        InvalidInput: One does not: there is no deviation of one value.
    """
    if options.train is None or batch_of(options.train, frames) > 1:
        return
    model = onnx.load_from_string(source.model)
    if not _has_filters(options):
        model = prepare(model).model  # what lies behind a layer is folded into it
    known = shapes(model)
    for node in model.graph.node:
        shape = known.get(node.output[0], ())
        if node.op_type == "BatchNormalization" and shape and math.prod(shape[2:]) == 1:
            raise InvalidInput(
                "one frame a step is too little for this model to be trained on: node "
                f"{node.name or node.output[0]!r}, a BatchNorm, would see one value a channel",
                "give a batch size of 2 or more, and as many frames to calibrate on",
            )


def can_train(source: Draft) -> bool:
    """Whether a training can imitate this model's outputs."""
    spec = source.manifest
    return spec.output.decoder in TRAINABLE_DECODERS and spec.input.layout == "NCHW"


def _has_filters(options: CompressOptions) -> bool:
    return options.prune is not None and isinstance(options.prune.granularity, Filter)


def _check_rounding(options: CompressOptions) -> None:
    """That nothing is asked for that only a training does."""
    if options.distill is not None:
        raise InvalidInput(
            "what is distilled is learned, and nothing is trained",
            "give options of a training, or leave distill out",
        )
    if options.prune is not None and options.prune.sparsity and _has_filters(options):
        raise InvalidInput(
            "whole filters are removed while the model is trained",
            "give data and epochs to train, or prune elements, N:M or blocks",
        )


def _check_training(source: Draft, footage: Footage | None) -> None:
    """That there is data to train on, and a model that can be trained."""
    if footage is None:
        raise InvalidInput(
            "there is no data to train on",
            "give a recording or a folder of pictures, or set epochs to 0",
        )
    if not can_train(source):
        spec = source.manifest
        raise InvalidInput(
            f"a {spec.kind} with {spec.output.decoder} outputs and {spec.input.layout} input "
            "cannot be trained",
            f"what can be trained has {' or '.join(TRAINABLE_DECODERS)} outputs and NCHW input; "
            "set epochs to 0 to round and prune this one after its training",
        )
