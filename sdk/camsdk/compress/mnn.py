"""Export to MNN (https://github.com/alibaba/MNN, Apache-2.0), with weights of 2 to 8 bits.

MNN's converter can print success and write a file that does not load or computes something else.
So the file that it wrote is run, in a process of its own, and compared with onnxruntime on the same
inputs: once converted without quantization, which must agree, and once with, which must stay within
a stated distance. Needs the extra ``mnn``.

Weight quantization makes the file smaller, not faster: MNN computes in float from dequantized
weights unless its own activation quantization is used.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from camsdk.compress.graph.limits import with_limits
from camsdk.compress.importers.dequantize import without_quantization
from camsdk.compress.sessions import Array, Session
from camsdk.errors import InvalidInput, NotFound, UnsupportedModel

FLOAT_ERROR: Final = 1e-3
"""Largest relative error without quantization: only the order of sums differs."""
ERROR_BY_BITS: Final = {8: 0.05, 7: 0.1, 6: 0.2, 5: 0.3, 4: 0.5, 3: 0.8, 2: 1.0}
"""Largest relative error by default; rounding to nearest, so few bits cost much."""
NEAR_ERROR: Final = 0.1
"""Relative error above which whoever exports is warned: about what the rounding of activations to
8 bits costs, 0.07 on NanoDet-g, and a little more."""
DEFAULT_BITS: Final = 8
"""Of weights that no codes tell the bits of."""
_WEIGHED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PART: Final = re.compile(r"__(matmul_converted|group__\d+)$")
"""What MNN puts behind the name of a Gemm's, a MatMul's or a grouped convolution's output."""
_TIMEOUT_S: Final = 120.0
_LAST_CHARACTERS: Final = 200


@dataclass(frozen=True)
class MnnOptions:
    """How to export.

    Attributes:
        weight_bits: 2 to 8, or None for float32.
        block_size: Weights of one filter that share a scale, or None for all of it.
        is_symmetric: Whether zero is in the middle of the codes. Then weights that are uniform
            codes of as many bits times a scale a filter (``codes.CodedTensor``) stay as they are
            in every filter that uses its largest code, since MNN takes the scale from the largest
            weight. Weights that were never quantized fare a little better without.
        max_relative_error: Of any output against onnxruntime, L2 norm over L2 norm; None takes
            ``ERROR_BY_BITS`` of the bits of most weights.
        layer_bits: Of single layers, by the name of the node or of its output, instead of
            ``weight_bits``, which layers keep that MNN does not list.
    """

    weight_bits: int | None = DEFAULT_BITS
    block_size: int | None = None
    is_symmetric: bool = True
    max_relative_error: float | None = None
    layer_bits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, *self.layer_bits.values()):
            if bits is not None and bits not in ERROR_BY_BITS:
                raise InvalidInput(f"MNN has no weights of {bits} bits", "give 2 to 8")
        if self.block_size is not None and self.block_size < 1:
            raise InvalidInput(f"blocks of {self.block_size} weights are not to be had")


@dataclass(frozen=True)
class MnnExport:
    """An MNN file that has been run.

    Attributes:
        content: Of the ``.mnn`` file.
        relative_error: Largest over outputs and inputs, against onnxruntime.
        float_error: The same of the file without weight quantization.
        usual_bits: Of most weights; None of a file in float.
        most_bits: Of the layer with the most.
        missed: Layers that were to have bits of their own and have ``MnnOptions.weight_bits``, by
            their outputs: MNN does not list them.
    """

    content: bytes
    relative_error: float
    float_error: float
    usual_bits: int | None = None
    most_bits: int | None = None
    missed: tuple[str, ...] = ()


def export_mnn(
    model: onnx.ModelProto, inputs: Sequence[Array], options: MnnOptions | None = None
) -> MnnExport:
    """Convert a model and prove that the result computes the same.

    Args:
        model: Float ONNX with one input of fixed shape and float outputs. Not in QDQ form, which
            MNN's converter does not take; coded weights are given as the floats that they are.
        inputs: float32 tensors of the input's shape to compare on, at least one.
        options: See ``MnnOptions``; by default weights of 8 bits.

    Raises:
        InvalidInput: No input to compare on.
        NotFound: MNN is not installed.
        UnsupportedModel: MNN cannot convert it, or the file that it wrote computes something else.
    """
    options = options or MnnOptions()
    if not inputs:
        raise InvalidInput("there is no input to compare MNN with onnxruntime on", "give one")
    if find_spec("MNN") is None:
        raise NotFound("MNN is not installed", "pip install 'camplatform[mnn]'")
    with tempfile.TemporaryDirectory(prefix="camsdk-mnn-") as folder:
        work = _Workplace(Path(folder), model, inputs)
        exact = work.convert("float.mnn", [])
        float_error = work.compare(exact, FLOAT_ERROR)
        if options.weight_bits is None:
            return MnnExport(exact.read_bytes(), float_error, float_error)
        arguments = _arguments(options)
        asked = _asked(model, options.layer_bits)
        listed = work.layers(arguments, asked, options.weight_bits)
        small = work.convert("quantized.mnn", [*arguments, *listed.arguments])
        usual = _usual_bits(model, options.weight_bits, listed.bits_of)
        limit = options.max_relative_error
        error = work.compare(small, ERROR_BY_BITS[usual] if limit is None else limit)
        missed = tuple(sorted({layer for layer, _ in asked.values()} - set(listed.bits_of)))
        content = small.read_bytes()
        return MnnExport(content, error, float_error, usual, listed.most_bits, missed)


def from_quantized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int | None]:
    """What ``export_mnn`` takes of a model in QDQ form.

    Args:
        model: In QDQ form or in float; not changed.

    Returns:
        The model in float, each coded weight being the float that it stands for; activations are
        limited to their ranges, in which a Relu may have vanished, but not rounded. And the bits
        in which MNN holds every code, None where there are none.

    Raises:
        UnsupportedModel: Something is computed in integers.
    """
    bits = max((bits for _, bits in _coded(model)), default=None)
    return without_quantization(with_limits(model)), bits


def layer_bits(model: onnx.ModelProto) -> dict[str, int]:
    """Bits of each layer's codes, by the names of the node and of its output.

    Args:
        model: As ``from_quantized`` takes it, which keeps these names.
    """
    by_tensor = dict(_coded(model))
    return {
        name: by_tensor[tensor]
        for node in model.graph.node
        for tensor in node.input
        if tensor in by_tensor
        for name in (node.name, node.output[0])
        if name
    }


def _coded(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Of each coded weight its tensor and the bits in which MNN holds its codes."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        tensor = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is not None and len(tensor.dims) > 1:
            codes = numpy_helper.to_array(tensor).astype(np.int64)
            zero = stored.get(node.input[2]) if len(node.input) > 2 else None
            if zero is not None and not zero.dims:
                codes = codes - int(numpy_helper.to_array(zero))
            if largest := int(np.abs(codes).max(initial=0)):
                yield node.output[0], max(2, largest.bit_length() + 1)


def suited(
    coded_bits: int | None, weight_bits: int | None, bits_of: Mapping[str, int] | None = None
) -> MnnOptions:
    """Options for a model of ``from_quantized``.

    Args:
        coded_bits: Of its codes, None where it has none: then zero need not lie in the middle.
        weight_bits: As in ``MnnOptions``.
        bits_of: Of its layers, see ``layer_bits``; None gives all of them ``weight_bits``.
    """
    other = {name: bits for name, bits in (bits_of or {}).items() if bits != weight_bits}
    return MnnOptions(weight_bits, is_symmetric=coded_bits is not None, layer_bits=other)


def _arguments(options: MnnOptions) -> list[str]:
    arguments = ["--weightQuantBits", str(options.weight_bits)]
    if options.is_symmetric:
        arguments += ["--weightQuantAsymmetric", "0"]
    if options.block_size is not None:
        arguments += ["--weightQuantBlock", str(options.block_size)]
    return arguments


def _asked(model: onnx.ModelProto, bits_of: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """By each name that MNN may list a layer under: the name of its output, and its bits."""
    asked = {}
    for node in model.graph.node:
        output = node.output[0]
        bits = bits_of.get(node.name, bits_of.get(output))
        if bits is not None:
            # MNN takes a bias into the MatMul and lists both under the sum's name.
            sums = [
                other.output[0]
                for other in model.graph.node
                if node.op_type == "MatMul" and other.op_type == "Add" and output in other.input
            ]
            asked.update(dict.fromkeys([output, *sums], (output, bits)))
    return asked


def _usual_bits(model: onnx.ModelProto, weight_bits: int, bits_of: Mapping[str, int]) -> int:
    """Bits of most weights; ``bits_of`` by output, where they are not ``weight_bits``."""
    sizes = {x.name: int(np.prod(x.dims)) for x in model.graph.initializer if len(x.dims) > 1}
    counts: Counter[int] = Counter()
    for node in model.graph.node:
        if node.op_type in _WEIGHED:
            bits = bits_of.get(node.output[0], weight_bits)
            counts[bits] += sum(sizes.get(name, 0) for name in node.input)
    return max(counts, key=lambda bits: (counts[bits], -bits), default=weight_bits)


class _Listed(NamedTuple):
    """Arguments that give layers bits of their own; which have them, by output; and the most."""

    arguments: list[str]
    bits_of: dict[str, int]
    most_bits: int


class _Workplace:
    """One model with its inputs and what onnxruntime gives for them, in a folder."""

    def __init__(self, folder: Path, model: onnx.ModelProto, inputs: Sequence[Array]) -> None:
        self._folder = folder
        self._source = folder / "model.onnx"
        self._source.write_bytes(model.SerializeToString())
        self._input = model.graph.input[0].name
        self._outputs = [output.name for output in model.graph.output]
        session = Session(self._source.read_bytes())
        self._cases = [(tensor, session.infer(tensor)) for tensor in inputs]

    def convert(self, name: str, arguments: Sequence[str]) -> Path:
        """The file that MNN wrote."""
        target = self._folder / name
        said = self._run("convert", str(self._source), str(target), *arguments)
        if not target.is_file() or target.stat().st_size == 0:
            raise UnsupportedModel(f"MNN cannot convert the model: {said}")
        return target

    def layers(
        self, arguments: Sequence[str], asked: Mapping[str, tuple[str, int]], weight_bits: int
    ) -> _Listed:
        """Give layers bits of their own, in the list that MNN makes of its layers.

        Where it makes none, or in another form, they keep ``weight_bits``.
        """
        none = _Listed([], {}, weight_bits)
        if not asked:
            return none
        path = self._folder / "layers.json"
        found = ["--compressionParamsFile", str(path)]
        given: dict[str, int] = {}
        most = 0
        try:
            self.convert("listed.mnn", [*arguments, *found])
            document = json.loads(path.read_text(encoding="utf-8"))
            for layer in (of for algo in document["algo"] for of in algo["quantParams"]["layer"]):
                name = layer["opName"]
                of = asked.get(name) or asked.get(_PART.sub("", name))
                if of is not None:
                    given[of[0]] = of[1]
                for weight in layer["weight"]:
                    weight["bits"] = weight_bits if of is None else of[1]
                    most = max(most, weight["bits"])
            document.pop("forGuide", None)  # else MNN only reads what the list may hold
        except (UnsupportedModel, OSError, ValueError, LookupError, TypeError):
            return none
        path.write_text(json.dumps(document), encoding="utf-8")
        return _Listed(found, given, most or weight_bits)

    def compare(self, path: Path, limit: float) -> float:
        """Largest relative error of this file.

        Raises:
            UnsupportedModel: Above ``limit``, or it does not run.
        """
        worst = max(self._error(path, *case) for case in self._cases)
        if not worst <= limit:
            raise UnsupportedModel(
                f"the file that MNN wrote differs from the model by {worst:.3g}, over {limit:g}",
                "use more bits or smaller blocks" if limit > FLOAT_ERROR else "",
            )
        return worst

    def _error(self, path: Path, tensor: Array, expected: Any) -> float:
        given, found = self._folder / "input.npy", self._folder / "outputs.npz"
        np.save(given, tensor, allow_pickle=False)
        found.unlink(missing_ok=True)
        said = self._run("infer", str(path), str(given), str(found), self._input, *self._outputs)
        if not found.is_file():
            raise UnsupportedModel(f"the file that MNN wrote does not run: {said}")
        with np.load(found, allow_pickle=False) as arrays:
            pairs = [(arrays[f"o{i}"], expected[name]) for i, name in enumerate(self._outputs)]
        return max(relative_error(actual, wanted) for actual, wanted in pairs)

    def _run(self, *arguments: str) -> str:
        """Run MNN; the end of what it said."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "camsdk.compress.mnn_child", *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnsupportedModel(f"MNN has not finished after {_TIMEOUT_S:g} s") from error
        said = " ".join((done.stdout + done.stderr).split())[-_LAST_CHARACTERS:]
        return said or f"its process ended with {done.returncode}"


def relative_error(actual: NDArray[Any], wanted: NDArray[Any]) -> float:
    """L2 norm of the difference over that of ``wanted``.

    Infinite where shapes differ or either is not finite, so that it can be compared.
    """
    is_finite = np.isfinite(actual).all() and np.isfinite(wanted).all()
    if actual.shape != wanted.shape or not is_finite:
        return float("inf")
    difference = float(np.linalg.norm(actual.astype(np.float64) - wanted))
    return difference / max(float(np.linalg.norm(wanted.astype(np.float64))), 1e-12)
