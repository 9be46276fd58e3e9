"""PyTorch networks become ONNX: exported programs (.pt2) and modules.

A module is exported with ``torch.export`` and then takes the way of a file, so that both are read
by the same code: ``pt2_reader``, which opens no pickle and needs no torch. BatchNorm stays a layer
of its own (training needs it); ``camsdk.compress.graph`` folds it when a model is optimised.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
from onnx.helper import np_dtype_to_tensor_dtype

from camsdk.compress.importers.aten_operators import is_in_place, operator_of, shares_memory
from camsdk.compress.importers.aten_scope import Scope, converted, label
from camsdk.compress.importers.onnx_emitter import Emitter, plain_value
from camsdk.compress.importers.pt2_reader import AtenGraph, AtenNode, Tensor, read_program
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
    scope = Scope(emitter, tensors, program.shapes, program.types, program.stored)
    memory = _Memory(program)
    for place, node in enumerate(program.nodes):
        if node.target.startswith("add") and not node.outputs:
            continue  # counts the batches of BatchNorm, in training
        operator = operator_of(node)
        try:
            made = converted(operator, node, scope)
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
            raise DataCorrupted(
                f"layer {label(node)!r} ({node.target}) does not fit its arguments: {error!r}"
            ) from error
        tensors.update(zip(node.outputs, made, strict=False))
        changed = memory.changed_by(node, place)
        if changed is not None:
            tensors[changed] = made[0]
    missing = [name for name in program.outputs if name not in tensors]
    if missing:
        raise DataCorrupted(f"nothing makes the output {missing[0]!r}")
    outputs = {
        name: replace(
            plain_value(tensors[name], program.shapes[name]),
            element=np_dtype_to_tensor_dtype(program.types[name]),
        )
        for name in program.outputs
    }
    return runnable(emitter.model(outputs, PRODUCER))


class _Memory:
    """Which tensors of a program share their memory, so that changing one changes the others."""

    def __init__(self, program: AtenGraph) -> None:
        self._sharing: dict[str, set[str]] = {}
        self._last_read = {
            tensor.name: place
            for place, node in enumerate(program.nodes)
            for tensor in _tensors(node)
        }
        self._last_read |= dict.fromkeys(program.outputs, len(program.nodes))

    def changed_by(self, node: AtenNode, place: int) -> str | None:
        """The tensor that a node overwrites, if it does.

        Raises:
            UnsupportedModel: Another tensor of the same memory is read later; in ONNX it would
                keep its old values.
        """
        first = next(iter(node.arguments.values()), None)
        if isinstance(first, list) and shares_memory(node):
            for tensor, output in zip(first, node.outputs, strict=False):
                self._share(tensor, (output,))
        if not isinstance(first, Tensor):
            return None
        sharing = self._sharing.setdefault(first.name, {first.name})
        if is_in_place(node):
            stale = [
                name for name in sharing - {first.name} if self._last_read.get(name, -1) > place
            ]
            if stale:
                raise UnsupportedModel(
                    f"layer {label(node)!r} ({node.target}, {node.place}) changes a view: "
                    f"{min(stale)!r} shares its memory and is read later",
                    "write the step without changing a tensor in place, such as relu for relu_",
                )
        if shares_memory(node):
            self._share(first, node.outputs)
        return first.name if is_in_place(node) else None

    def _share(self, tensor: Tensor, outputs: tuple[str, ...]) -> None:
        sharing = self._sharing.setdefault(tensor.name, {tensor.name})
        sharing.update(outputs)
        self._sharing.update(dict.fromkeys(outputs, sharing))


def _tensors(node: AtenNode) -> Iterator[Tensor]:
    for value in node.arguments.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Tensor):
                yield item
