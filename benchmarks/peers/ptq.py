"""One contender without training in its own process: ``python -m peers.ptq METHOD JOB.json``.

A contender is a module ``ptq_METHOD`` with ``quantize(job)``, which returns a function from inputs
(n, ...) to logits (n, classes); or None where the peer cannot do what the row asks for. Needs numpy
and onnx alone beside what the contender imports.
"""

import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

Logits = Callable[[np.ndarray], np.ndarray]
LARGEST_PIXEL = 255.0
BATCH_VALUES = 320_000
"""Of all inputs that are computed at once: two photos, or 408 small pictures."""


@dataclass(frozen=True)
class Bits:
    """A row of the table; activations have 8 bits with one scale a tensor.

    Attributes:
        weight_bits: Of all layers but the first and the last, which have 8 in every method.
        is_per_filter: One weight scale a filter, or one a tensor.
        has_data: Whether there are inputs to calibrate on.
    """

    weight_bits: int
    is_per_filter: bool
    has_data: bool

    @property
    def name(self) -> str:
        """As the table has it."""
        scales = "filter" if self.is_per_filter else "tensor"
        return f"W{self.weight_bits}A8 {scales}, {'data' if self.has_data else 'no data'}"

    @property
    def slug(self) -> str:
        """For file names."""
        return self.name.replace(", ", "-").replace(" ", "-").lower()


@dataclass(frozen=True)
class Job:
    """What a contender gets.

    Attributes:
        model: ONNX, float, batch of 1, BatchNorm not folded.
        calibration: (n, ...) float32 inputs; made of noise where the row has no data.
        edges: Names of the first and the last layer.
        mean, std: input = (pixel - mean) / std, with pixels from 0 to 255.
        scratch: A folder for the contender's files.
    """

    model: Path
    calibration: np.ndarray
    bits: Bits
    edges: tuple[str, ...]
    mean: float
    std: float
    scratch: Path


def noise(shape: tuple[int, ...], mean: float, std: float) -> np.ndarray:
    """Even noise over all pixel values, preprocessed: what a peer without data is fed with."""
    pixels = np.random.default_rng(0).uniform(0, LARGEST_PIXEL, shape)
    return ((pixels - mean) / std).astype(np.float32)


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same, for any number of inputs at a time."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for value in (*result.graph.input, *result.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del result.graph.value_info[:]
    return result


def batches(inputs: np.ndarray) -> list[np.ndarray]:
    """Of no more than ``BATCH_VALUES`` values each."""
    size = max(1, BATCH_VALUES // inputs[0].size)
    return [inputs[at : at + size] for at in range(0, len(inputs), size)]


def by_onnxruntime(model: onnx.ModelProto) -> Logits:
    """Logits of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        with_free_batch(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def logits(inputs: np.ndarray) -> np.ndarray:
        return np.concatenate([session.run(None, {name: x})[0] for x in batches(inputs)])

    return logits


def quantized(method: str, path: Path) -> tuple[Logits | None, float, dict[str, str]]:
    """What the contender makes of a job file, the CPU seconds it took, and the file's content."""
    warnings.filterwarnings("ignore")
    given = json.loads(path.read_text())
    bits = Bits(**given["bits"])
    calibration = np.load(given["calibration"])
    if not bits.has_data:
        calibration = noise(calibration.shape, given["mean"], given["std"])
    job = Job(
        Path(given["model"]), calibration, bits, tuple(given["edges"]), given["mean"],
        given["std"], path.parent,
    )  # fmt: skip
    start = time.process_time()
    logits = importlib.import_module(f"peers.ptq_{method}").quantize(job)
    return logits, time.process_time() - start, given


def main() -> None:
    logits, seconds, given = quantized(sys.argv[1], Path(sys.argv[2]))
    result = None if logits is None else logits(np.load(given["judged"]))
    out = Path(given["out"])
    if result is not None:
        np.save(out.with_suffix(".npy"), result.astype(np.float32))
    out.write_text(json.dumps({"is_possible": result is not None, "quantize_cpu_s": seconds}))


if __name__ == "__main__":
    main()
