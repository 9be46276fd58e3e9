"""PyTorch networks become ONNX: exported programs (.pt2) and modules.

A module is exported with ``torch.export`` and then takes the way of a file, so that both are read
by the same code: ``pt2_reader``, which opens no pickle and needs no torch. BatchNorm stays a layer
of its own (training needs it); ``camsdk.compress.graph`` folds it when a model is optimised.
"""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx

from camsdk.compress.importers.aten_operators import VIEWS, base_name, is_in_place, operator_of
from camsdk.compress.importers.aten_scope import Scope, label
from camsdk.compress.importers.onnx_emitter import Emitter, plain_value
from camsdk.compress.importers.pt2_reader import AtenGraph, Tensor, read_program
from camsdk.compress.importers.runnable import runnable
from camsdk.errors import DataCorrupted, InvalidInput, UnsupportedModel

if TYPE_CHECKING:
    from torch import nn

PRODUCER: Final = "camsdk.compress.importers.pytorch"


def import_pytorch(
    path_or_module: "Path | nn.Module",
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> onnx.ModelProto:
    """Import an exported program or a module.

    Args:
        path_or_module: A .pt2 file of ``torch.export.save``; or a module, which is exported as it
            is in evaluation mode and comes back in the mode in which it was.
        input_shapes: Shape of each input by the name of the argument of ``forward``. Needed for a
            module, in the order of its arguments; of a file, the lengths that it leaves free. A
            batch that alone is free becomes 1.

    Returns:
        A float32 model of opset 17. Layers carry the qualified names of their modules.

    Raises:
        NotFound: There is no such file.
        DataCorrupted: The file is truncated or malformed.
        UnsupportedModel: It is a pickle or TorchScript, or uses an operator that is not supported;
            names the layer.
        InvalidInput: ``input_shapes`` is missing or does not fit.
    """
    if isinstance(path_or_module, Path):
        program = read_program(path_or_module, input_shapes)
        _check_shapes(program, input_shapes or {})
        return convert_program(program)
    with tempfile.TemporaryDirectory(prefix="camsdk-import-") as folder:
        path = Path(folder) / "module.pt2"
        _export(path_or_module, input_shapes or {}, path)
        return convert_program(read_program(path))


def _export(module: "nn.Module", input_shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Write a module as .pt2."""
    import torch

    if not input_shapes:
        raise InvalidInput(
            "a module does not know the shape of its inputs",
            'give input_shapes, such as {"x": (1, 3, 224, 224)}',
        )
    example = {name: torch.zeros(shape) for name, shape in input_shapes.items()}
    was_training = {name for name, part in module.named_modules() if part.training}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export warns about its own internals
            program = torch.export.export(module.eval(), (), example, strict=False)
            torch.export.save(program, path)
    except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise UnsupportedModel(
            f"torch.export cannot export {type(module).__name__}: {error}",
            "the forward pass must not depend on the values of tensors",
        ) from error
    finally:
        for name, part in module.named_modules():
            part.training = name in was_training


def _check_shapes(program: AtenGraph, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in input_shapes.items():
        if program.inputs.get(name) != tuple(shape):
            raise InvalidInput(
                f"the shape {tuple(shape)} is given for {name!r}, but the program was exported "
                f"with {dict(program.inputs)}",
                "export it again for another shape",
            )


def convert_program(program: AtenGraph) -> onnx.ModelProto:
    """Convert a program that was read; as ``import_pytorch``."""
    emitter = Emitter()
    tensors = {name: emitter.add_input(name, shape).name for name, shape in program.inputs.items()}
    for name, value in program.stored.items():
        tensors[name] = emitter.initializer(program.stored_names[name], value)
    scope = Scope(emitter, tensors, program.shapes, program.stored)
    views: set[str] = set()
    for node in program.nodes:
        if base_name(node) in VIEWS:
            views.update(node.outputs)
        if node.target.startswith("add") and not node.outputs:
            continue  # counts the batches of BatchNorm, in training
        operator = operator_of(node)
        try:
            made = operator(node, scope)
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
            raise DataCorrupted(
                f"layer {label(node)!r} ({node.target}) does not fit its arguments: {error!r}"
            ) from error
        tensors.update(zip(node.outputs, made, strict=False))
        if is_in_place(node):
            changed = next(iter(node.arguments.values()))
            if not isinstance(changed, Tensor) or changed.name in views:
                raise UnsupportedModel(f"layer {label(node)!r} ({node.target}) changes a view")
            tensors[changed.name] = made[0]
    missing = [name for name in program.outputs if name not in tensors]
    if missing:
        raise DataCorrupted(f"nothing makes the output {missing[0]!r}")
    outputs = {name: plain_value(tensors[name], program.shapes[name]) for name in program.outputs}
    return runnable(emitter.model(outputs, PRODUCER))
