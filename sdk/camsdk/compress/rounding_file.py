"""A finished rounding, kept in a file so that a run that is killed later need not round again.

The file is named after all that the rounding follows from, so that no other run takes it up. It is
an ``.npz`` of plain arrays and one JSON document, written beside its place and renamed: it is whole
or absent. What is read back is the same, bit for bit.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from camsdk.compress.coded_model import CodedModel
from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.options import CodeSet, PruneOptions, QuantizeOptions
from camsdk.errors import DataCorrupted

SUFFIX: Final = ".camround"


@dataclass(frozen=True, eq=False)
class Rounding:
    """What rounding after training gave.

    Attributes:
        made: Codes, ranges and their float model.
        is_synthetic: Whether its inputs were made up.
        is_equalized: Whether any layers were equalized.
        input_count: Of inputs that were given.
        inputs_sha256: Over them in order; None where there were none.
    """

    made: CodedModel
    is_synthetic: bool
    is_equalized: bool
    input_count: int
    inputs_sha256: str | None


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
    """Replace what is at ``path``, all or nothing."""
    made = rounding.made
    weights = list(made.weights.items())
    arrays: dict[str, NDArray[np.generic]] = {}
    for index, (_, coded) in enumerate(weights):
        arrays |= {f"codes{index}": coded.codes, f"scale{index}": coded.scale}
    facts = {
        "weights": [(n, of.code_set.bit_width, of.code_set.spacing) for n, of in weights],
        "activations": [
            (name, float(of.low), float(of.high), of.bit_width)
            for name, of in made.activations.items()
        ],
        "noise": {name: float(value) for name, value in made.noise.items()},
        "is_synthetic": rounding.is_synthetic,
        "is_equalized": rounding.is_equalized,
        "input_count": rounding.input_count,
        "inputs_sha256": rounding.inputs_sha256,
    }
    memory = io.BytesIO()
    np.savez(
        memory,
        facts=_as_array(json.dumps(facts).encode()),
        model=_as_array(made.model.SerializeToString(deterministic=True)),
        **arrays,  # type: ignore[arg-type] # the stubs take any keyword for allow_pickle
    )
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(memory.getvalue())
    unfinished.replace(path)


def read_rounding(path: Path) -> Rounding | None:
    """What ``write_rounding`` wrote there; None where there is nothing.

    Raises:
        DataCorrupted: It does not decode.
    """
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            model = onnx.load_from_string(stored["model"].tobytes())
            return _decoded(facts, model, stored)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataCorrupted(
            f"{path} is no rounding that was kept, or is damaged",
            "delete it; the rounding is then done anew",
        ) from error


def _decoded(
    facts: Mapping[str, Any], model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]]
) -> Rounding:
    weights = {
        name: CodedTensor(arrays[f"codes{index}"], arrays[f"scale{index}"], CodeSet(bits, spacing))
        for index, (name, bits, spacing) in enumerate(facts["weights"])
    }
    activations = {
        name: ActivationRange(low, high, bits) for name, low, high, bits in facts["activations"]
    }
    return Rounding(
        CodedModel(model, weights, activations, facts["noise"]),
        facts["is_synthetic"],
        facts["is_equalized"],
        facts["input_count"],
        facts["inputs_sha256"],
    )


def _as_array(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)
