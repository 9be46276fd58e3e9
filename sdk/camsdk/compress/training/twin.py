"""An ONNX model as a torch network that can be trained, and the way back.

Every layer with weights becomes the torch module of its kind, named after its node; everything
else is computed as the standard says (``twin_operators``). BatchNorm stays itself while training
and is folded on the way out: with symmetric codes and a scale for each filter only scales and signs
change, never which codes there are.

A weight that several nodes share becomes one for each. The batch may be larger than the one that
the model was exported with, as long as only Reshape fixes it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from camsdk.compress.graph.layers import Array, attributes, constants, drop_unused, shapes
from camsdk.compress.training.twin_layers import stored_values, torch_module
from camsdk.compress.training.twin_operators import OPERATORS, integers, padded, window_pads
from camsdk.errors import UnsupportedModel


@dataclass(frozen=True, eq=False)
class _Step:
    """One node.

    Attributes:
        node, operator: Its name and kind.
        inputs, outputs: Names of tensors, "" where one is left out.
        given: Attributes; tensors as torch has them.
        module: Name of its torch module, "" without.
    """

    node: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    given: Mapping[str, Any]
    module: str


class TwinModule(nn.Module):
    """Computes what the model computes.

    Takes the model's inputs in its order. Returns the output, or a tuple of the outputs in the
    model's order.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        steps: Sequence[_Step],
        modules: Mapping[str, nn.Module],
        fixed: Mapping[str, Tensor],
        batch: int | None,
    ) -> None:
        super().__init__()
        self._model = model
        self._steps = tuple(steps)
        self._rounded_by: dict[str, str] = {}
        self._input_names = _fed(model)
        self._output_names = tuple(value.name for value in model.graph.output)
        self._batch = batch
        self._fixed: dict[str, str] = {}
        for name, module in modules.items():
            self.add_module(name, module)
        for index, (tensor, value) in enumerate(fixed.items()):
            self._fixed[tensor] = f"constant_{index}"
            self.register_buffer(self._fixed[tensor], value, persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The model's outputs."""
        found = self._run(inputs, None)
        outputs = tuple(found[name] for name in self._output_names)
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def model(self) -> onnx.ModelProto:
        """What it was made from; not changed."""
        return self._model

    @property
    def module_of(self) -> Mapping[str, str]:
        """Module name by ONNX node name, of every layer and BatchNorm."""
        return {step.node: step.module for step in self._steps if step.module}

    @torch.no_grad()
    def watch(self, note: Callable[[str, Tensor], None], *inputs: Tensor) -> None:
        """Call ``note`` with the name and value of every float tensor of the graph."""

        def note_floats(name: str, value: Any) -> None:
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                note(name, value)

        self._run(inputs, note_floats)

    def round_with(self, quantizers: Mapping[str, nn.Module], of: Mapping[str, str]) -> None:
        """Round tensors between layers from now on, for all that read them.

        Args:
            quantizers: By the name of the tensor that they belong to.
            of: The same name by the name of each tensor to round.
        """
        names = {tensor: f"joint_{index}" for index, tensor in enumerate(quantizers)}
        for tensor, quantizer in quantizers.items():
            self.add_module(names[tensor], quantizer)
        self._rounded_by = {tensor: names[joint] for tensor, joint in of.items()}

    @property
    def rounded_by(self) -> Mapping[str, nn.Module]:
        """What rounds a tensor between layers, by the name of the tensor."""
        return {tensor: getattr(self, name) for tensor, name in self._rounded_by.items()}

    def _run(
        self, inputs: Sequence[Tensor], note: Callable[[str, Any], None] | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = {
            tensor: getattr(self, name) for tensor, name in self._fixed.items()
        }

        def keep(name: str, value: Any) -> None:
            if name in self._rounded_by:
                value = getattr(self, self._rounded_by[name])(value)
            found[name] = value
            if note is not None:
                note(name, value)

        for name, value in zip(self._input_names, inputs, strict=True):
            keep(name, value)
        for step in self._steps:
            given = [found[name] if name else None for name in step.inputs]
            result = self._computed(step, given)
            several = (result,) if isinstance(result, Tensor) else result
            for name, value in zip(step.outputs, several, strict=False):
                keep(name, value)
        return found

    def _computed(self, step: _Step, given: Sequence[Any]) -> Any:
        if step.module:
            x = given[0]
            if step.operator in ("Conv", "ConvTranspose"):
                x = _padded_for(x, step.given)
            return getattr(self, step.module)(x)
        if step.operator == "Reshape":
            return self._reshaped(step, given[0], integers(given[1]))
        try:
            return OPERATORS[step.operator](given, step.given)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"node {step.node!r}: {error.message}", error.hint) from error

    def _reshaped(self, step: _Step, x: Tensor, shape: list[int]) -> Tensor:
        if not step.given.get("allowzero"):
            shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
        if self._batch and shape and shape[0] == self._batch != x.shape[0] and x.ndim:
            shape[0] = x.shape[0]
        return x.reshape(shape)


@dataclass(frozen=True, eq=False)
class Twin:
    """A model and its torch network.

    Attributes:
        module: To train.
        model: What it was made from; not changed.
        layer_of: ONNX node name by module name, of every layer and BatchNorm.
    """

    module: TwinModule
    model: onnx.ModelProto
    layer_of: Mapping[str, str]

    @property
    def module_of(self) -> Mapping[str, str]:
        """Module name by ONNX node name."""
        return self.module.module_of

    def write_back(self) -> onnx.ModelProto:
        """The model with the module's weights and BatchNorm statistics as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        nodes = {node.name or node.output[0]: node for node in model.graph.node}
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, node_name in self.layer_of.items():
            node, module = nodes[node_name], self.module.get_submodule(name)
            for index, value in stored_values(node, module).items():
                own = f"{node_name}.trained.{index}"
                while len(node.input) <= index:
                    node.input.append("")
                node.input[index] = own
                if own in held:  # the model had been trained before
                    held[own].CopyFrom(numpy_helper.from_array(value, own))
                else:
                    model.graph.initializer.append(numpy_helper.from_array(value, own))
            for attribute in node.attribute:
                if attribute.name == "group":
                    # A depthwise convolution that has lost filters.
                    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
                    attribute.i = module.groups
        drop_unused(model)
        del model.graph.value_info[:]  # filters may have been removed
        onnx.checker.check_model(model, full_check=True)
        return model


def to_torch(model: onnx.ModelProto) -> Twin:
    """The torch network of a float model.

    Args:
        model: Opset 13 or later; pictures, NCHW.

    Raises:
        UnsupportedModel: An operator, or the way a node uses it, cannot be trained; names both.
    """
    fixed, known = constants(model), shapes(model)
    steps: list[_Step] = []
    modules: dict[str, nn.Module] = {}
    layer_of: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Constant":
            if node.output[0] not in fixed:
                fixed[node.output[0]] = _constant(node)
            continue
        given = {key: _as_torch(value) for key, value in attributes(node).items()}
        given["outputs"] = len(node.output)
        module, name = torch_module(node, fixed, known, given), ""
        label = node.name or node.output[0]
        if module is not None:
            name = _fresh_name(label, modules)
            modules[name], layer_of[name] = module, label
        elif node.op_type not in OPERATORS and node.op_type != "Reshape":
            raise UnsupportedModel(
                f"node {label!r}: operator {node.op_type} cannot be trained",
                "quantize after training instead, which takes every operator",
            )
        tensors = (node.input[0],) if module is not None else tuple(node.input)
        steps.append(_Step(label, node.op_type, tensors, tuple(node.output), given, name))
    read = {tensor for step in steps for tensor in step.inputs}
    held = {k: torch.from_numpy(np.array(v)) for k, v in fixed.items() if k in read}
    batch = known.get(_fed(model)[0], (None,))[0]
    return Twin(TwinModule(model, steps, modules, held, batch), model, layer_of)


def _fed(model: onnx.ModelProto) -> tuple[str, ...]:
    """Inputs that are no initializers."""
    held = {tensor.name for tensor in model.graph.initializer}
    return tuple(value.name for value in model.graph.input if value.name not in held)


def _constant(node: onnx.NodeProto) -> Array:
    for key, value in attributes(node).items():
        if key in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if key in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise UnsupportedModel(f"node {node.name!r}: a Constant that is no tensor of numbers")


def _as_torch(value: object) -> object:
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(np.array(numpy_helper.to_array(value)))
    return value


def _fresh_name(label: str, taken: Mapping[str, nn.Module]) -> str:
    """A name that is valid in torch and used by nothing else."""
    base = re.sub(r"\W", "_", label) or "layer"
    if hasattr(nn.Module, base) or hasattr(TwinModule, base) or re.match("(constant|joint)_", base):
        base = f"layer_{base}"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name


def _padded_for(x: Tensor, given: Mapping[str, Any]) -> Tensor:
    if not given["pad_first"]:
        return x
    return padded(
        x, window_pads(x.shape[2:], given["kernel"], given["stride"], given["dilation"], given)
    )
