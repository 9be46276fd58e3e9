"""Which framework a file or folder is of, by its content, and the import of any of them.

What parses a stranger's file runs in a child process with limits (``sandbox``). Here only the two
ends of a file are looked at, and two checks of bounded work precede TensorFlow (``saved_model``,
``tflite_reader``).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import onnx

from camsdk.artifact.protobuf_wire import spans
from camsdk.compress.importers import sandbox
from camsdk.compress.importers.graphdef_reader import looks_like_graph
from camsdk.compress.importers.runnable import MAX_FILE_BYTES
from camsdk.errors import (
    DataCorrupted,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    UnsupportedModel,
)

Framework = Literal[
    "onnx", "pytorch", "tensorflow", "saved-model", "tflite", "tfjs", "caffe", "mxnet"
]
FRAMEWORKS: Final[tuple[str, ...]] = get_args(Framework)

ACCEPTED: Final = (
    "accepted are ONNX (.onnx), PyTorch exported programs (.pt2), frozen TensorFlow graphs (.pb) "
    "and SavedModel folders, TensorFlow Lite (.tflite), TensorFlow.js graph models (model.json), "
    "Caffe (.prototxt with --weights .caffemodel), MXNet (-symbol.json with --weights .params)"
)

_END_BYTES: Final = 1 << 16
"""Of each end of a file that is looked at."""

_CAFFE_WORDS: Final = ("layer {", "layers {", "layer{", "layers{", "input_dim", "input:")
_TITLES: Final[Mapping[str, str]] = {
    "onnx": "ONNX",
    "pytorch": "PyTorch",
    "tensorflow": "TensorFlow",
    "saved-model": "TensorFlow",
    "tflite": "TensorFlow Lite",
    "tfjs": "TensorFlow.js",
    "caffe": "Caffe",
    "mxnet": "MXNet",
}
_EXPORT: Final = (
    "export the model itself: "
    "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"
)
_PARAMS_HEAD: Final = (0x112).to_bytes(8, "little")
_PICKLE_HEADS: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class ImportOptions:
    """What a file does not say of itself.

    Attributes:
        weights: The second file of Caffe and MXNet; of TensorFlow.js where its single weight file
            lies, by default beside the JSON.
        input_shapes: Shape by input name; for frozen graphs also of tensors inside.
        outputs: Names of wanted tensors; empty for the file's own. TensorFlow, TensorFlow.js and
            Caffe only.
        timeout_s, memory_bytes: Of the process that imports; see ``sandbox.run_importer``.
    """

    weights: Path | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    timeout_s: float = sandbox.TIMEOUT_S
    memory_bytes: int = sandbox.MEMORY_BYTES


def detect(path: Path) -> Framework:
    """The framework that a file or folder is of; reads the two ends of a file.

    Raises:
        NotFound: There is nothing.
        UnsupportedModel: None that is known; the hint lists what is accepted.
        DataCorrupted: Empty.
        ResourceExhausted: Too large for any.
    """
    if path.is_dir():
        return _detect_folder(path)
    if not path.is_file():
        raise NotFound(f"there is no file or folder {path}", "give the path of a model")
    head, tail = _ends(path)
    if not head:
        raise DataCorrupted(f"{path} is empty", "fetch it again")
    if head.lstrip()[:1] == b"{":
        return _detect_json(path, head, tail)
    found = _detect_bytes(path, head, tail)
    if found is None:
        raise UnsupportedModel(f"{path} is of no format that is known here", ACCEPTED)
    return found


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file; of a short one all of it, twice."""
    try:
        with path.open("rb") as file:
            head = file.read(_END_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - _END_BYTES))
            tail = file.read(_END_BYTES)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error
    if size > MAX_FILE_BYTES:
        raise ResourceExhausted(
            f"{path} is larger than {MAX_FILE_BYTES} bytes", "models for cameras are smaller"
        )
    return head, tail


def import_model(
    path: Path,
    framework: Framework | None = None,
    options: ImportOptions | None = None,
    *,
    on_progress: Callable[[str], None] | None = None,
) -> onnx.ModelProto:
    """Import a model of any framework.

    Args:
        path: The file or folder; of Caffe the prototxt, of MXNet the symbol file.
        framework: By default detected.
        options: See ``ImportOptions``.
        on_progress: Told in words what is being waited for.

    Returns:
        A float32 model with static shapes that onnxruntime loads.

    Raises:
        NotFound, DataCorrupted, UnsupportedModel, InvalidInput: As the importers.
        DeadlineExceeded, ResourceExhausted: A limit was reached; the child was killed.
        Unavailable: TensorFlow is needed and cannot be installed.
    """
    options = options or ImportOptions()
    kind = framework or detect(path)
    shapes = {name: list(shape) for name, shape in options.input_shapes.items()}
    _check_options(kind, options)
    if kind in ("saved-model", "tflite"):
        return _import_with_environment(path, kind, options, on_progress)
    return _in_child(kind, *_arguments(path, kind, options, shapes), options)


def _in_child(
    kind: str, paths: Sequence[Path], arguments: Mapping[str, Any], options: ImportOptions
) -> onnx.ModelProto:
    return sandbox.run_importer(
        kind,
        paths,
        arguments,
        timeout_s=options.timeout_s,
        memory_bytes=options.memory_bytes,
    )


def _check_options(kind: str, options: ImportOptions) -> None:
    """Refuse what would have no effect, and a structure without its weights."""
    title = _TITLES[kind]
    if options.outputs and kind not in ("tensorflow", "saved-model", "tfjs", "caffe"):
        raise InvalidInput(f"outputs cannot be chosen for a model of {title}", "omit --output")
    if options.weights is not None and kind not in ("caffe", "mxnet", "tfjs"):
        raise InvalidInput(f"a model of {title} has no second file of weights", "omit --weights")
    if options.weights is None and kind in ("caffe", "mxnet"):
        raise InvalidInput(
            f"the file is the structure of a model of {title}, its weights are missing",
            f"give them: --weights {'net.caffemodel' if kind == 'caffe' else 'net-0000.params'}",
        )


def _arguments(
    path: Path, kind: str, options: ImportOptions, shapes: Mapping[str, list[int]]
) -> tuple[list[Path], dict[str, Any]]:
    outputs = list(options.outputs)
    if kind == "tensorflow":
        return [path], {"inputs": shapes, "outputs": outputs or None}
    named: dict[str, Any] = {"input_shapes": shapes or None}
    if outputs:
        named["outputs"] = outputs if kind == "caffe" else {name: name for name in outputs}
    return [path] if options.weights is None else [path, options.weights], named


def _import_with_environment(
    path: Path,
    kind: str,
    options: ImportOptions,
    on_progress: Callable[[str], None] | None,
) -> onnx.ModelProto:
    """TensorFlow reads the file in its own child; what it wrote is then as any other file."""
    import tempfile

    from camsdk.compress.importers import saved_model, tflite

    shapes = {name: list(shape) for name, shape in options.input_shapes.items()}
    with tempfile.TemporaryDirectory(prefix="camsdk-tensorflow-") as folder:
        if kind == "tflite":
            target = Path(folder) / "converted.onnx"
            tflite.convert(path, target, on_progress=on_progress)
            return _in_child("tflite", [target], {"input_shapes": shapes or None}, options)
        target = Path(folder) / "frozen.pb"
        found = saved_model.freeze(path, target, on_progress=on_progress)
        outputs = list(options.outputs) or list(found)
        return _in_child("tensorflow", [target], {"inputs": shapes, "outputs": outputs}, options)


def _detect_folder(path: Path) -> Framework:
    if (path / "saved_model.pb").is_file():
        return "saved-model"
    raise UnsupportedModel(
        f"the folder {path} is no SavedModel: it holds no saved_model.pb", ACCEPTED
    )


def _detect_json(path: Path, head: bytes, tail: bytes) -> Framework:
    """By names that stand near one of the ends; the child parses it and says if it is cut."""
    both = head + tail
    if b'"modelTopology"' in both or b'"weightsManifest"' in both:
        return "tfjs"
    if b'"nodes"' in head and (b'"op"' in head or b'"arg_nodes"' in both):
        return "mxnet"
    raise UnsupportedModel(
        f"{path} is JSON, but of no model that is known here, or cut near its start", ACCEPTED
    )


def _detect_bytes(path: Path, head: bytes, tail: bytes) -> Framework | None:
    if head[4:8] == b"TFL3":
        return "tflite"
    if head[:4] == b"PK\x03\x04":
        return _detect_zip(path, head, tail)
    if head[:8] == _PARAMS_HEAD or path.suffix == ".caffemodel":
        raise UnsupportedModel(
            f"{path} holds the weights of a model, not its structure",
            "give the -symbol.json file (MXNet) or the .prototxt file (Caffe), "
            "and this one with --weights",
        )
    if head[:2] in _PICKLE_HEADS:
        raise UnsupportedModel(
            f"{path} is a pickle, which could run any program when read",
            _EXPORT,
        )
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        raise UnsupportedModel(
            f"{path} is HDF5, as old Keras writes", "save the model as a SavedModel: model.export()"
        )
    if looks_like_graph(head):
        return "tensorflow"
    if _looks_like_onnx(head):
        return "onnx"
    text = head.decode("utf-8", errors="replace")
    if "\ufffd" not in text[:-4] and any(word in text for word in _CAFFE_WORDS):
        return "caffe"
    return None


def _detect_zip(path: Path, head: bytes, tail: bytes) -> Framework:
    """PyTorch's exported program is a zip file; so is what older PyTorch pickles into.

    The names of a zip file's members stand in its directory, which is at its end, and before each
    member.
    """
    both = head + tail
    if b"archive_format" in both or re.search(rb"/models/\w+\.json", both):
        return "pytorch"
    if b"data.pkl" in both:
        raise UnsupportedModel(
            f"{path} is a pickled PyTorch file, which could run any program when read",
            _EXPORT,
        )
    if b"PK\x05\x06" not in tail:
        raise DataCorrupted(f"{path} is a zip file that is damaged or cut", "fetch it again")
    raise UnsupportedModel(f"{path} is a zip file, but no model that is known here", ACCEPTED)


def _looks_like_onnx(head: bytes) -> bool:
    """Whether the first fields are those of a ``ModelProto``: a version, then texts or the graph.

    ``head`` may end within the graph.
    """
    view = memoryview(head)
    if view[0] != 0x08 and view[0] not in (0x12, 0x3A):
        return False
    numbers = []
    try:
        for number, _ in spans(view):
            numbers.append(number)
    except DataCorrupted:
        pass  # cut by us
    is_known = all(number in (1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26) for number in numbers)
    return bool(numbers) and is_known and (numbers[0] == 1 or 7 in numbers)
