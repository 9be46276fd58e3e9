"""What it costs to run a model in a process of its own, against the same model in this process.

    python benchmarks/runtime.py [--calls 1000] [--size 416] [--json]

The model is one strided convolution, so that nearly all of the time is the way there and back:
copying a float32 (1, 3, size, size) into shared memory, two switches of process, the outputs.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx
import psutil
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from camagent.runtimes.cpu import CpuRuntime

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is imported, here below


@dataclass(frozen=True)
class Figures:
    """Of one run.

    Attributes:
        start_ms: From nothing to a loaded model.
        own_process_ms, in_process_ms: Median wall time of a call.
        own_process_p95_ms: 95th percentile.
        overhead_ms, ratio: Of the first over the second.
        parent_cpu_ms, child_cpu_ms: CPU time of a call on either side.
        rss_mib: Resident memory of the process, libraries included; ``uss_mib`` is only its own.
    """

    start_ms: float
    own_process_ms: float
    own_process_p95_ms: float
    in_process_ms: float
    overhead_ms: float
    ratio: float
    parent_cpu_ms: float
    child_cpu_ms: float
    rss_mib: float
    uss_mib: float


def make_model(size: int) -> bytes:
    """A 3x3 convolution with stride 32 to 4 channels."""
    weights = np.ones((4, 3, 3, 3), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[32, 32])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


def wall_ms(call: Callable[[], object], calls: int) -> list[float]:
    """Milliseconds of each call, after some to warm up."""
    times = []
    for index in range(calls + 20):
        start_s = time.perf_counter()
        call()
        if index >= 20:
            times.append((time.perf_counter() - start_s) * 1e3)
    return times


def run(size: int, calls: int) -> Figures:
    """Measure."""
    import onnxruntime as ort

    model = make_model(size)
    tensor: NDArray[np.float32] = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    start_s = time.perf_counter()
    with CpuRuntime.start(model) as runtime:
        start_ms = (time.perf_counter() - start_s) * 1e3
        runtime.infer(tensor)
        child_s, parent_s = runtime.cpu_time_s, time.process_time()
        own = wall_ms(lambda: runtime.infer(tensor), calls)
        parent_ms = (time.process_time() - parent_s) / (calls + 20) * 1e3
        child_ms = (runtime.cpu_time_s - child_s) / (calls + 20) * 1e3
        memory = psutil.Process(runtime.pid).memory_full_info()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inside = statistics.median(wall_ms(lambda: session.run(None, {"x": tensor}), calls))
    median = statistics.median(own)
    return Figures(
        start_ms=start_ms,
        own_process_ms=median,
        own_process_p95_ms=float(np.percentile(own, 95)),
        in_process_ms=inside,
        overhead_ms=median - inside,
        ratio=median / inside,
        parent_cpu_ms=parent_ms,
        child_cpu_ms=child_ms,
        rss_mib=memory.rss / 2**20,
        uss_mib=memory.uss / 2**20,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures as lines, or as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = asdict(run(options.size, options.calls))
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<20}{value:>9.3f}")


if __name__ == "__main__":
    main()
