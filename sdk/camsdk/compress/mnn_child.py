"""Runs MNN's converter or one inference; started by ``camsdk.compress.mnn``, never imported by it.

MNN writes to the standard output and crashes where others raise, so it gets a process of its own.
Only its extension modules are used: importing ``MNN.tools`` would install another package into
whatever Python comes first and send usage figures to its makers.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np


def convert(source: str, target: str, *arguments: str) -> None:
    """ONNX file to MNN file; what went wrong shows in the target only."""
    import _tools

    _tools.mnnconvert(
        [
            *("mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", target),
            *("--bizCode", "camplatform", *arguments),
        ]
    )


def infer(model: str, tensor_path: str, outputs_path: str, name: str, *outputs: str) -> None:
    """Outputs of an MNN file, by index, for the input in an ``.npy`` file."""
    import MNN  # noqa: F401 - sets up what the next line needs
    from MNN import expr, nn

    tensor = np.load(tensor_path, allow_pickle=False)
    module = nn.load_module_from_file(model, [name], list(outputs))
    given = expr.const(tensor, list(tensor.shape), expr.NCHW)
    found = module.forward([given])
    found = found if isinstance(found, list | tuple) else [found]
    arrays: dict[str, Any] = {
        f"o{index}": np.array(expr.convert(value, expr.NCHW).read())
        for index, value in enumerate(found)
    }
    with Path(outputs_path).open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    (convert if sys.argv[1] == "convert" else infer)(*sys.argv[2:])
