"""A finished rounding, kept in a file so that a run that is killed later need not round again.

The file is named after all that the rounding follows from, so that no other run takes it up. It is
whole or absent (``whole_file``), and what is read back is the same, bit for bit: the length of a
JSON document (8 bytes, little-endian), that document, the float model, then of each layer its codes
(int8) and its scales (float32, little-endian), all in C order.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.shape_inference import InferenceError
from pydantic import BaseModel, ConfigDict, Field

from camsdk.compress.coded_model import CodedModel
from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import list_layers
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.options import CodeSet, PruneOptions, QuantizeOptions, RangeRule, Spacing
from camsdk.compress.whole_file import damaged, read_whole, write_whole
from camsdk.errors import InvalidInput

SUFFIX: Final = ".camround"
MAGIC: Final = b"CAMROUND1\n"

_KIND: Final = "rounding that was kept"

_NOT_DECODED: Final = (
    ValueError,
    TypeError,
    LookupError,
    DecodeError,
    InferenceError,
    InvalidInput,
)
"""What a document, a model and codes raise that are none."""

_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, eq=False)
class Rounding:
    """What rounding after training gave.

    Attributes:
        made: Codes, ranges and their float model.
        is_synthetic: Whether its inputs were made up.
        is_equalized: Whether any layers were equalized.
        input_count: Of inputs that were given.
        inputs_sha256: Over them in order; None where there were none.
        best_range_rule: The rule of ranges that "best" came to; None where nothing asked for it.
    """

    made: CodedModel
    is_synthetic: bool
    is_equalized: bool
    input_count: int
    inputs_sha256: str | None
    best_range_rule: RangeRule | None


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Weight(_Value):
    layer: str
    bit_width: int
    spacing: Spacing
    shape: tuple[_Count, ...]
    has_filter_scales: bool


class _Facts(_Value):
    model_bytes: _Count
    weights: tuple[_Weight, ...]
    activations: tuple[tuple[str, float, float, int], ...]
    noise: dict[str, float]
    is_synthetic: bool
    is_equalized: bool
    input_count: _Count
    inputs_sha256: str | None
    best_range_rule: RangeRule | None


def rounding_digest(
    model: onnx.ModelProto,
    quantize: QuantizeOptions,
    prune: PruneOptions | None,
    layer_sparsity: Mapping[str, float] | None,
    inputs_sha256: str | None,
    seed: int,
    code: str,
) -> str:
    """32 hexadecimal digits of everything that decides what rounding gives.

    Args:
        model: That is rounded.
        code: Digest of the program's version and of the libraries that it computes with.
    """
    total = hashlib.sha256(model.SerializeToString(deterministic=True))
    layers = sorted(quantize.layers.items()), sorted((layer_sparsity or {}).items())
    usual = (quantize.weights, quantize.activations, quantize.rounding)
    rules = (quantize.equalize, quantize.correct_bias)
    has_own = layer_sparsity is not None
    told = (usual, rules, layers, has_own, prune, inputs_sha256, seed, code)
    total.update(repr(told).encode())
    return total.hexdigest()[:32]


def write_rounding(path: Path, rounding: Rounding) -> None:
    """Replace what is at ``path``, all or nothing.

    Raises:
        OSError: The disk is full or fails.
    """
    made = rounding.made
    model = made.model.SerializeToString(deterministic=True)
    facts = _Facts(
        model_bytes=len(model),
        weights=tuple(
            _Weight(
                layer=layer,
                bit_width=of.code_set.bit_width,
                spacing=of.code_set.spacing,
                shape=of.codes.shape,
                has_filter_scales=of.scale.ndim == 1,
            )
            for layer, of in made.weights.items()
        ),
        activations=tuple(
            (tensor, float(of.low), float(of.high), of.bit_width)
            for tensor, of in made.activations.items()
        ),
        noise={layer: float(value) for layer, value in made.noise.items()},
        is_synthetic=rounding.is_synthetic,
        is_equalized=rounding.is_equalized,
        input_count=rounding.input_count,
        inputs_sha256=rounding.inputs_sha256,
        best_range_rule=rounding.best_range_rule,
    )
    told = facts.model_dump_json().encode()
    parts = [len(told).to_bytes(8, "little"), told, model]
    for coded in made.weights.values():
        parts += [coded.codes.astype(np.int8, copy=False).tobytes()]
        parts += [coded.scale.astype("<f4", copy=False).tobytes()]
    write_whole(path, MAGIC, b"".join(parts))


def read_rounding(path: Path) -> Rounding | None:
    """What ``write_rounding`` wrote there; None where there is nothing.

    Raises:
        DataCorrupted: It does not decode, or its codes do not fit its model.
        OSError: It cannot be read.
    """
    content = read_whole(path, MAGIC, _KIND)
    if content is None:
        return None
    try:
        return _decoded(_Parts(content))
    except _NOT_DECODED as error:
        raise damaged(path, _KIND) from error


class _Parts:
    """Takes a file apart from its start on; it never gives more bytes than the file has."""

    def __init__(self, content: bytes) -> None:
        self._left = memoryview(content)

    def take(self, count: int) -> memoryview:
        if count > len(self._left):
            raise ValueError(f"{count} bytes where {len(self._left)} are left")
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def end(self) -> None:
        if self._left:
            raise ValueError(f"{len(self._left)} bytes too many")


def _decoded(parts: _Parts) -> Rounding:
    size = int.from_bytes(parts.take(8), "little")
    facts = _Facts.model_validate_json(parts.take(size).tobytes())
    model = onnx.load_from_string(parts.take(facts.model_bytes).tobytes())
    shapes = {layer.name: layer.shape for layer in list_layers(model)}
    weights = {}
    for told in facts.weights:
        if shapes.get(told.layer) != told.shape:
            raise ValueError(f"{told.layer!r} is no layer of shape {told.shape}")
        weights[told.layer] = _coded(told, parts)
    parts.end()
    activations = {
        tensor: ActivationRange(low, high, bits) for tensor, low, high, bits in facts.activations
    }
    return Rounding(
        CodedModel(model, weights, activations, facts.noise),
        facts.is_synthetic,
        facts.is_equalized,
        facts.input_count,
        facts.inputs_sha256,
        facts.best_range_rule,
    )


def _coded(told: _Weight, parts: _Parts) -> CodedTensor:
    code_set = CodeSet(told.bit_width, told.spacing)
    codes = np.frombuffer(parts.take(math.prod(told.shape)), np.int8).reshape(told.shape)
    filters = told.shape[:1] if told.has_filter_scales else ()
    scale = np.frombuffer(parts.take(4 * math.prod(filters)), "<f4").reshape(filters)
    if not np.isin(codes, [*code_set.levels, 0]).all():
        raise ValueError(f"{told.layer!r} has codes that are none of its code set")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"{told.layer!r} has scales that are none")
    return CodedTensor(codes.copy(), scale.astype(np.float32), code_set)
