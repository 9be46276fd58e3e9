"""Runs an imported model for the first time, in a process of its own with limits (``sandbox``).

A model that loads can still take any time and any memory when it runs: what it computes may decide
how large its tensors become. So whatever an import has to run is run there, all of it in one child
(its start takes about half a second): a classifier's or a segmenter's output becomes logits, and
the canary's outputs are computed. This module is both sides: ``python -m
camsdk.compress.importers.trial`` is the child.
"""

import json
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx

from camsdk.artifact.manifest import Kind
from camsdk.artifact.onnx_check import check_model
from camsdk.compress.importers import sandbox
from camsdk.compress.importers.class_outputs import as_logits
from camsdk.compress.sessions import Array, Session
from camsdk.errors import CamError, ResourceExhausted, RuntimeFailure, UnsupportedModel

MODULE: Final = "camsdk.compress.importers.trial"
_TOO_LARGE: Final = ResourceExhausted(
    "running the model needs more memory than allowed", "models for cameras are smaller"
)


class Trial(NamedTuple):
    """What came of a model: it, perhaps with another output; and the outputs by name, in order."""

    model: onnx.ModelProto
    outputs: Mapping[str, Array]


def try_model(
    model: onnx.ModelProto,
    tensor: Array,
    tensors: Sequence[str],
    kind: Kind,
    class_count: int,
    *,
    timeout_s: float = sandbox.TIMEOUT_S,
    memory_bytes: int = sandbox.MEMORY_BYTES,
) -> Trial:
    """Run a model on one input, in a child.

    Args:
        model: Unchanged. Nothing of it is trusted.
        tensor: Of its input.
        tensors: The outputs that are wanted.
        kind: Of a classifier and a segmenter the first of ``tensors`` becomes logits with the
            classes along axis 1 (``class_outputs``), under another name perhaps, and is all that
            comes back.
        class_count: How many names there are.
        timeout_s, memory_bytes: As ``sandbox.run_importer``.

    Raises:
        InvalidInput, UnsupportedModel: As ``class_outputs.as_logits`` and ``check_model``.
        RuntimeFailure: It does not run.
        DeadlineExceeded: It was not done in time.
        ResourceExhausted: It needed more memory.
    """
    with tempfile.TemporaryDirectory(prefix="camsdk-trial-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        np.save(folder / "input.npy", tensor, allow_pickle=False)
        task = {"tensors": list(tensors), "kind": kind, "class_count": class_count}
        said = sandbox.run_limited(
            [sys.executable, "-m", MODULE, json.dumps(task)],
            timeout_s=timeout_s,
            memory_bytes=memory_bytes,
            cwd=name,
        )
        if (folder / "failure.json").is_file():
            raise sandbox.read_failure(folder / "failure.json")
        if said.code != 0:
            raise _died(said)
        tried = model if kind == "detector" else sandbox.read_model(folder / "tried.onnx")
        return Trial(tried, _read_outputs(folder, _names(model, tried, tensors, kind)))


def _names(
    model: onnx.ModelProto, tried: onnx.ModelProto, tensors: Sequence[str], kind: Kind
) -> Sequence[str]:
    """Of the outputs after the trial: logits are at the place of what they were made of."""
    if kind == "detector":
        return tensors
    place = [info.name for info in model.graph.output].index(tensors[0])
    if len(tried.graph.output) != len(model.graph.output):
        raise UnsupportedModel("the trial of the model has lost outputs")
    return (tried.graph.output[place].name,)


def _read_outputs(folder: Path, names: Sequence[str]) -> dict[str, Array]:
    try:
        # A mapped file cannot claim to be larger than it is.
        return {
            name: np.array(np.load(folder / f"{index}.npy", mmap_mode="r", allow_pickle=False))
            for index, name in enumerate(names)
        }
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"the outputs of the model cannot be read: {error}") from error


def _died(said: sandbox.Said) -> CamError:
    if sandbox.lacks_memory(said.text):
        return _TOO_LARGE
    return UnsupportedModel(f"the model crashed its engine ({said.code}): {said.text}")


def serve(task: Mapping[str, Any], folder: Path) -> None:
    """The child: run, write the outputs or what is wrong."""
    try:
        _run(task, folder)
    except MemoryError:
        sandbox.write_failure(folder / "failure.json", _TOO_LARGE)
    except RuntimeFailure as error:
        found = _TOO_LARGE if sandbox.lacks_memory(error.message) else error
        sandbox.write_failure(folder / "failure.json", found)
    except CamError as error:
        sandbox.write_failure(folder / "failure.json", error)


def _run(task: Mapping[str, Any], folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    check_model(content)
    tensor = np.load(folder / "input.npy", allow_pickle=False)
    tensors = task["tensors"]
    if task["kind"] != "detector":
        model = onnx.ModelProto.FromString(content)
        made, logits = as_logits(model, tensors[0], task["kind"], task["class_count"], tensor)
        content, tensors = made.SerializeToString(deterministic=True), [logits]
        (folder / "tried.onnx").write_bytes(content)
    outputs = Session(content).infer(tensor)
    for index, name in enumerate(tensors):
        np.save(folder / f"{index}.npy", np.asarray(outputs[name]), allow_pickle=False)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(json.loads(sys.argv[1]), Path.cwd())
