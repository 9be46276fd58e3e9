"""As ``peers.ptq``, for networks with several outputs: ``python -m peers.heads METHOD JOB.json``.

The contenders are the same modules ``ptq_METHOD``, called with the same job; all outputs are saved.
Needs numpy and onnx alone beside what the contender imports.
"""

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from peers.ptq import Logits, quantized

Outputs = Callable[[np.ndarray], list[np.ndarray]]


def all_outputs(first: Logits) -> Outputs:
    """Every output instead of the first alone, input by input.

    A contender returns a function that holds what computes: a session, a simulator or an executor.
    It is taken from there, so that the contenders' files stay as they are, and with them the
    results of other tasks, which are kept under digests of these files.
    """
    held = inspect.getclosurevars(first).nonlocals
    if "executor" in held:
        import torch

        executor = held["executor"]

        def once(x: np.ndarray) -> list[np.ndarray]:
            return [tensor.numpy() for tensor in executor(torch.from_numpy(x))]
    else:
        session = held["session"] if "session" in held else held["sim"].session

        def once(x: np.ndarray) -> list[np.ndarray]:
            return session.run(None, {session.get_inputs()[0].name: x})

    def outputs(inputs: np.ndarray) -> list[np.ndarray]:
        each = [once(inputs[at : at + 1]) for at in range(len(inputs))]
        return [np.concatenate(parts) for parts in zip(*each, strict=True)]

    return outputs


def main() -> None:
    first, seconds, given = quantized(sys.argv[1], Path(sys.argv[2]))
    out = Path(given["out"])
    if first is not None:
        np.savez(out.with_suffix(".npz"), *all_outputs(first)(np.load(given["judged"])))
    out.write_text(json.dumps({"is_possible": first is not None, "quantize_cpu_s": seconds}))


if __name__ == "__main__":
    main()
