"""SavedModels: checked here, then frozen by TensorFlow itself in its isolated environment.

Loading a SavedModel runs those of its functions that initialize it. So before TensorFlow sees one,
its folder must hold plain files alone, and its graphs no operator that reads or writes other files
or runs Python. Field numbers are those of ``saved_model.proto``, ``meta_graph.proto``,
``graph.proto`` and ``function.proto``.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from camsdk.artifact.protobuf_wire import as_message, fields
from camsdk.compress.importers import environment
from camsdk.compress.importers.runnable import MAX_FILE_BYTES, read_limited
from camsdk.errors import DataCorrupted, NotFound, ResourceExhausted, UnsupportedModel

MAX_FILES: Final = 1000
MAX_NODES: Final = 200_000

_REACHES_OUT: Final = re.compile(
    """
      .*(Dataset|Reader|PyFunc|TFRecord|TextFile|Bigtable|BigQuery).*
    | (Debug|InitializeTRT|CreateSummary|Rpc|ReadFile|MatchingFiles|ImmutableConst|PrintV).*
    | (LoadAndRemapMatrix|GenerateVocabRemapping|RecordInput|ImportEvent|FileSystem).*
    | (DecodeProto|EncodeProto|RemoteCall|_?(Host)?(Send|Recv)|TRTEngine|TfDataService).*
    | Write.*
    """,
    re.VERBOSE,
)
"""Of TensorFlow's operators the families that take a file's name, an address or a Python function,
whatever the version at their end; tables of words from asset files are among them, a camera's
models have none. What writes and restores variables is not: every SavedModel holds it."""

_HINT: Final = "export the model without it, for serving alone: model.export(folder)"


def freeze(
    folder: Path, target: Path, *, on_progress: Callable[[str], None] | None = None
) -> tuple[str, ...]:
    """Check a SavedModel and let TensorFlow freeze its serving signature into a ``GraphDef``.

    Args:
        folder: Holds ``saved_model.pb``.
        target: Where the graph is written.
        on_progress: Told in words what is being waited for.

    Returns:
        The names of its outputs.

    Raises:
        NotFound, DataCorrupted, UnsupportedModel, ResourceExhausted: See ``check_saved_model``, or
            TensorFlow cannot load it.
        Unavailable, DeadlineExceeded: See ``environment.freeze``.
    """
    check_saved_model(folder)
    return environment.freeze(folder, target, on_progress=on_progress)


def check_saved_model(folder: Path) -> None:
    """Refuse what TensorFlow must not load; returns nothing.

    Raises:
        NotFound: No ``saved_model.pb``.
        DataCorrupted: A link, a file that is none, damage, or variables that are missing.
        UnsupportedModel: An operator that reaches beyond the model; names it and its layer.
        ResourceExhausted: Too many or too large files, or too many layers.
    """
    path = folder / "saved_model.pb"
    if not path.is_file():
        raise NotFound(f"{folder} holds no saved_model.pb", "give the folder of a SavedModel")
    _check_files(folder)
    has_variables, count = False, 0
    for name, operator in _nodes(path):
        count += 1
        if count > MAX_NODES:
            raise ResourceExhausted(
                f"{folder} has more than {MAX_NODES} layers", "give a smaller model"
            )
        if _REACHES_OUT.fullmatch(operator):
            raise UnsupportedModel(
                f"operator {operator!r} of layer {name!r} reaches beyond the model", _HINT
            )
        has_variables |= operator in ("VarHandleOp", "VariableV2")
    if count == 0:
        raise DataCorrupted(f"{path} holds no graph", "it may be truncated: fetch it again")
    if has_variables and not (folder / "variables" / "variables.index").is_file():
        raise DataCorrupted(
            f"{folder} lacks variables/variables.index, which holds its weights",
            "copy the whole folder, with its subfolders",
        )


def _check_files(folder: Path) -> None:
    left_bytes = MAX_FILE_BYTES
    for count, path in enumerate(folder.rglob("*")):
        if count >= MAX_FILES:
            raise ResourceExhausted(f"{folder} has more than {MAX_FILES} files", "remove others")
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DataCorrupted(
                f"{path} is a link or no plain file", "copy the file itself to its place"
            )
        left_bytes -= path.stat().st_size if path.is_file() else 0
    if left_bytes < 0:
        raise ResourceExhausted(
            f"{folder} is larger than {MAX_FILE_BYTES} bytes", "models for cameras are smaller"
        )


def _nodes(path: Path) -> Iterator[tuple[str, str]]:
    """Name and operator of every node, those within functions too."""
    try:
        for meta in _parts(memoryview(read_limited(path)), 2):
            for graph in _parts(meta, 2):
                yield from map(_node, _parts(graph, 1))
                for library in _parts(graph, 2):
                    for function in _parts(library, 1):
                        yield from map(_node, _parts(function, 3))
    except DataCorrupted as error:
        raise DataCorrupted(
            f"{path} is no SavedModel, or damaged", "it may be truncated: fetch it again"
        ) from error


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in fields(message):
        if number == wanted:
            yield as_message(value)


def _node(message: memoryview) -> tuple[str, str]:
    found = {1: "", 2: ""}
    for number, value in fields(message):
        if number in found:
            found[number] = bytes(as_message(value)[:1000]).decode("utf-8", "replace")
    return found[1], found[2]
