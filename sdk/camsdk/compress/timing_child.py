"""Times one model in one engine; started by ``camsdk.compress.engines``, never imported by it.

Says its engine's version on the first line, then, for each line that it is given, runs one
inference and says how many milliseconds of CPU it took. Engines print where they like and crash
where others raise, so each model gets a process, and what engines print goes to the errors.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.generic]


def openvino(model: str, tensor: Tensor) -> Callable[[], object]:
    """One inference on one thread."""
    # Its converter, which is not used here, would send usage figures to its makers.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # so imports of it fail
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(Path(model).read_bytes()),
        "CPU",
        # Its default is bf16 on processors that have it: others compute what is called float here.
        {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"},
    )
    request = compiled.create_infer_request()
    return lambda: request.infer([tensor])


def mnn(model: str, tensor: Tensor) -> Callable[[], object]:
    """One inference on one thread; the file says what its input and outputs are called."""
    import MNN  # noqa: F401 - sets up what the next line needs
    from MNN import expr, nn

    config = ({"backend": "CPU", "numThread": 1, "precision": "high"},)
    manager = nn.create_runtime_manager(config)
    module = nn.load_module_from_file(model, [], [], runtime_manager=manager)
    given = expr.const(tensor, list(tensor.shape), expr.NCHW)

    def run() -> None:
        found = module.forward([given])
        for value in found if isinstance(found, list | tuple) else [found]:
            value.read()  # it computes when it is asked

    return run


def main(engine: str, model: str, tensor_path: str) -> None:
    """Serve until the input ends."""
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    makers = {"openvino": openvino, "MNN": mnn}
    run = makers[engine](model, np.load(tensor_path, allow_pickle=False))
    run()  # the first one lays out memory
    say.write(f"{metadata.version(engine)}\n")
    for _ in sys.stdin:
        start_ns = time.process_time_ns()
        run()
        say.write(f"{(time.process_time_ns() - start_ns) / 1e6}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
