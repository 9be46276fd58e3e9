"""How long each layer takes on a device: a table, measured here or stated by a model of it.

The file is YAML (or JSON, which is YAML), for instance::

    device: cpu-x86_64
    provenance: measured        # or: model
    origin: Xeon E5, 2026-11-24 # on what, by what and when; may be left out
    skips_zeros: false          # whether the engine's time falls with the share of zeros
    ms_by_layer:                # by layer and bit width of weights
      Conv_0: {32: 0.31, 8: 0.14}
    ns_per_mac:                 # for layers and widths that are not listed, by operator
      Conv: {32: 0.11, 8: 0.05}

A layer of a bit width that is not listed runs in the kernels of the next larger one: on a CPU 3-bit
weights are stored in 3 bits and computed in 8.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import onnx
import onnxruntime
import yaml

from camsdk.artifact.hardware import processor
from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import LAYER_OPERATORS, Layer, list_layers
from camsdk.compress.sessions import ENGINE_FAILURES
from camsdk.errors import InvalidInput, RuntimeFailure
from camsdk.files import write_atomic

FLOAT_BITS: Final = 32
"""Bit width of weights that are left in float."""

MsByBits = Mapping[int, float]
KEPT_AS: Final = "folded"
"""What was measured; part of the name of a file that keeps it, so that no other is taken for it."""
_ACTIVATIONS: Final = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"})
_FUSED: Final = _ACTIVATIONS | {"BatchNormalization", "Add"}
"""What onnxruntime computes inside a convolution."""
_KERNEL: Final = re.compile(r"(?:fused )?(?P<node>.*?)(?:_token_\d+)?_kernel_time")
_EMPTY: Final[Mapping[str, MsByBits]] = MappingProxyType({})


@dataclass(frozen=True)
class DeviceProfile:
    """Predicted time of layers on one device.

    Attributes:
        device: Hardware name such as ``cpu-x86_64``.
        provenance: Whether the figures were measured on the device or come from a model of it.
        ms_by_layer: By layer name and bit width, one inference.
        ns_per_mac: By operator and bit width, for what is not in ``ms_by_layer``.
        skips_zeros: Whether time falls in proportion to the share of zeros.
        origin: On what processor, with what engine and when it was measured; empty if not said.
    """

    device: str
    provenance: Literal["measured", "model"]
    ms_by_layer: Mapping[str, MsByBits] = field(default_factory=lambda: _EMPTY)
    ns_per_mac: Mapping[str, MsByBits] = field(default_factory=lambda: _EMPTY)
    skips_zeros: bool = False
    origin: str = ""

    @property
    def told(self) -> str:
        """Where the times come from, in words."""
        how = "measured" if self.provenance == "measured" else "predicted by a model"
        return f"{how} ({self.origin or 'nothing is said of when'})"

    def predict_ms(self, layer: Layer, bit_width: int, sparsity: float = 0.0) -> float:
        """Milliseconds of one layer.

        Raises:
            InvalidInput: Neither the layer nor its operator is listed for so many bits.
        """
        per_mac = self.ns_per_mac.get(layer.operator, {})
        by_bits = {bits: ns * layer.macs * 1e-6 for bits, ns in per_mac.items()}
        by_bits.update(self.ms_by_layer.get(layer.name, {}))
        wide_enough = [bits for bits in by_bits if bits >= bit_width]
        if not wide_enough:
            raise InvalidInput(
                f"the profile of {self.device} has no {bit_width}-bit {layer.operator}, "
                f"layer {layer.name}",
                "add the layer to ms_by_layer or its operator to ns_per_mac",
            )
        time_ms = by_bits[min(wide_enough)]
        return time_ms * (1 - sparsity) if self.skips_zeros else time_ms


def predict_model_ms(
    profile: DeviceProfile, model: onnx.ModelProto, weights: Mapping[str, CodedTensor]
) -> dict[str, float]:
    """Sums over layers, of the float model and of the compressed one; the other operators of a
    model are in no profile.

    Args:
        model: In float.
        weights: By layer name; what is missing stays in float.

    Returns:
        By ``DEVICE, float`` and ``DEVICE, compressed``; without what the profile does not list.
    """
    found = {}
    for variant, coded in (("float", {}), ("compressed", weights)):
        try:
            found[f"{profile.device}, {variant}"] = sum(
                profile.predict_ms(
                    layer,
                    coded[layer.name].code_set.bit_width if layer.name in coded else FLOAT_BITS,
                    float(np.mean(coded[layer.name].codes == 0)) if layer.name in coded else 0.0,
                )
                for layer in list_layers(model)
            )
        except InvalidInput:
            continue
    return found


def load_profile(path: Path) -> DeviceProfile:
    """Read a profile.

    Raises:
        InvalidInput: The file cannot be read or says something else; names the field.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read as a profile: {error}") from error
    known = {"device", "provenance", "ms_by_layer", "ns_per_mac", "skips_zeros", "origin"}
    if not isinstance(fields, dict):
        raise InvalidInput(f"{path} is no profile", f"its fields are {', '.join(sorted(known))}")
    for what, names in (
        ("has no", {"device", "provenance"} - set(fields)),
        ("has a field that no profile has,", {str(name) for name in fields} - known),
    ):
        if names:
            raise InvalidInput(
                f"{path} {what} {', '.join(sorted(names))}",
                f"the fields of a profile are {', '.join(sorted(known))}; docs/compression.md has "
                "an example",
            )
    if fields["provenance"] not in ("measured", "model"):
        raise InvalidInput(f"{path}: provenance {fields['provenance']}", "measured or model")
    return DeviceProfile(
        str(fields["device"]),
        fields["provenance"],
        _table(path, fields, "ms_by_layer"),
        _table(path, fields, "ns_per_mac"),
        fields.get("skips_zeros", False) is True,
        str(fields.get("origin", "")),
    )


def save_profile(profile: DeviceProfile, path: Path) -> None:
    """Write a profile that ``load_profile`` reads."""
    fields = {
        "device": profile.device,
        "provenance": profile.provenance,
        "origin": profile.origin,
        "skips_zeros": profile.skips_zeros,
        "ms_by_layer": {name: dict(row) for name, row in profile.ms_by_layer.items()},
        "ns_per_mac": {name: dict(row) for name, row in profile.ns_per_mac.items()},
    }
    write_atomic(path, yaml.safe_dump(fields, sort_keys=False).encode(), mode=None)


def profile_layers(model: onnx.ModelProto, *, runs: int = 20) -> dict[str, float]:
    """Milliseconds of each layer in onnxruntime on this machine, one thread, batch as the model's.

    The median over ``runs`` inferences of noise. What the engine fuses into a layer (its bias,
    an activation) counts as the layer's. A layer that the engine hides in another is left out.

    Raises:
        InvalidInput: The model's input shape is not static.
        RuntimeFailure: It cannot be loaded or run.
    """
    given = model.graph.input[0]
    dims = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    if not all(dims):
        raise InvalidInput(f"input {given.name} has no static shape", "set a batch size of 1")
    feeds = {given.name: np.random.default_rng(0).random(dims, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            for _ in range(runs + 2):
                session.run(None, feeds)
        except ENGINE_FAILURES as error:
            raise RuntimeFailure(f"the model cannot be timed: {error}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _times(events, _aliases(model), runs)


def measure_profile(
    device: str, model: onnx.ModelProto, quantized: onnx.ModelProto | None = None
) -> DeviceProfile:
    """A profile of this machine from one model, in float and, if given, in 8 bits.

    Operators get the mean over their layers, for layers that the engine hid or other models have.
    Its origin tells of this processor, of the engine and of today.
    """
    by_layer: dict[str, dict[int, float]] = {}
    sums: dict[tuple[str, int], tuple[float, int]] = {}
    for bits, version in ((32, model), (8, quantized)):
        if version is None:
            continue
        times = profile_layers(version)
        # Weights of a quantized model are no constants: the float model says what is a layer.
        for layer in list_layers(model):
            if layer.name in times:
                by_layer.setdefault(layer.name, {})[bits] = times[layer.name]
                total, macs = sums.get((layer.operator, bits), (0.0, 0))
                sums[layer.operator, bits] = total + times[layer.name], macs + layer.macs
    per_mac: dict[str, dict[int, float]] = {}
    for (operator, bits), (total, macs) in sums.items():
        per_mac.setdefault(operator, {})[bits] = total * 1e6 / max(macs, 1)
    today = datetime.now(UTC).date().isoformat()
    origin = f"{processor()}, onnxruntime {onnxruntime.__version__}, {today}"
    return DeviceProfile(device, "measured", by_layer, per_mac, origin=origin)


def _table(path: Path, fields: Mapping[str, Any], key: str) -> dict[str, dict[int, float]]:
    rows = fields.get(key) or {}
    try:
        table = {
            str(name): {int(bits): float(value) for bits, value in row.items()}
            for name, row in rows.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: {key} is no table of bits and times", str(error)) from error
    if not all(0 <= value < math.inf for row in table.values() for value in row.values()):
        raise InvalidInput(
            f"{path}: {key} has a time that is below 0 or not finite", "leave out what is unknown"
        )
    return table


def _aliases(model: onnx.ModelProto) -> dict[str, str]:
    """Layer by the names that the engine may give it.

    A kernel keeps the node's name, but where the engine changes the memory layout it is called
    after the tensor that it writes: the layer's, or that of what is fused into it.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, str] = {}
    for layer in model.graph.node:
        if layer.op_type not in LAYER_OPERATORS:
            continue
        found[layer.name] = layer.name
        output = layer.output[0]
        found[f"{output}_nchwc"] = layer.name
        while len(readers.get(output, [])) == 1 and readers[output][0].op_type in _FUSED:
            output = readers[output][0].output[0]
            found.setdefault(f"{output}_nchwc", layer.name)
    return found


def _times(
    events: Iterable[Mapping[str, Any]], aliases: Mapping[str, str], runs: int
) -> dict[str, float]:
    """Median time by layer of the last ``runs`` inferences."""
    found: dict[str, list[float]] = {}
    for event in events:
        kernel = _KERNEL.fullmatch(str(event.get("name", "")))
        if event.get("cat") == "Node" and kernel and (layer := aliases.get(kernel["node"])):
            found.setdefault(layer, []).append(event["dur"] * 1e-3)
    return {name: float(np.median(times[-runs:])) for name, times in found.items()}
