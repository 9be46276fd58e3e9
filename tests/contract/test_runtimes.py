"""Every runtime gives the integers of the reference interpreter for a quantized model.

Compared are all code tensors between the operators, not only the outputs. ``STEPS`` says by
operator how far a runtime may be off, in steps of the result's scale: 0 is bit for bit.

``cpu`` is onnxruntime. Where it has no integer kernel (a Relu or Clip that bounds more than its
QuantizeLinear does, ConvTranspose, int8 activations of Conv and MatMul on x86), it computes in
float32 and rounds sums in its own order, so a value that lies half way between two codes may fall
on either: one step. Its Softmax multiplies with the whole part of one over the result's scale, so
it is off by up to one step unless that is a whole number.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camagent.runtimes.cpu import CpuRuntime
from camsdk.artifact import packed
from camsdk.artifact.reference import Reference
from camsdk.artifact.reference_integers import KERNELS
from camsdk.compress.codes import project
from camsdk.compress.graph.qdq import ActivationRange, emit_qdq
from camsdk.compress.options import CodeSet
from camsdk.compress.pack_model import pack_model
from camsdk.compress.sessions import Session
from support import models
from support.qdq_net import QdqNet, with_code_outputs

Codes = Mapping[str, np.ndarray]
Runtime = Callable[[bytes, np.ndarray], Codes]

MAX_OUTPUTS: Final = 60
"""The cpu runtime gives at most 64."""


def in_process(model: bytes, tensor: np.ndarray) -> Codes:
    """onnxruntime, as measurements use it."""
    return Session(model).infer(tensor)


def in_child(model: bytes, tensor: np.ndarray) -> Codes:
    """onnxruntime, as devices use it."""
    with CpuRuntime.start(model) as runtime:
        return runtime.infer(tensor)


RUNTIMES: Final[Mapping[str, Runtime]] = {"cpu": in_child}
FAST_RUNTIMES: Final[Mapping[str, Runtime]] = {"cpu": in_process}

IMAGE: Final = (2, 8, 9, 11)
ROWS: Final = (7, 20)


def conv(net: QdqNet, x: str, *, channels: int = 6, groups: int = 1, **attributes: Any) -> str:
    width = IMAGE[1] // groups
    weights = net.weights((channels, width, 3, 3))
    inputs = [x, weights, net.bias(x, weights)] if net.rng.random() < 0.7 else [x, weights]
    return net.node("Conv", inputs, kernel_shape=[3, 3], group=groups, **attributes)


def conv_shifted(net: QdqNet, x: str, dtype: type) -> str:
    weights = net.shifted_weights((6, 8, 3, 3), dtype=dtype)
    return net.node("Conv", [x, weights])


def gemm(net: QdqNet, x: str, *, is_transposed: bool) -> str:
    shape, axis = ((10, 20), 0) if is_transposed else ((20, 10), 1)
    weights = net.weights(shape, axis=axis)
    return net.node("Gemm", [x, weights, net.bias(x, weights)], transB=int(is_transposed))


def second(net: QdqNet, shape: Sequence[int] = IMAGE) -> str:
    """Another quantized tensor, with a grid of its own."""
    moved = net.node("Add", ["x", net.constant(net.rng.normal(size=shape).astype(np.float32))])
    return net.quantized(moved)


def resize(net: QdqNet, x: str, mode: str, scale: float, **attributes: Any) -> str:
    scales = net.constant(np.array([1, 1, scale, scale], np.float32))
    empty = net.constant(np.zeros(0, np.float32))
    return net.node("Resize", [x, empty, scales], mode=mode, **attributes)


def move(operator: str, *constants: Any, **attributes: Any) -> Callable[[QdqNet, str], str]:
    def build(net: QdqNet, x: str) -> str:
        return net.node(operator, [x, *(net.constant(value) for value in constants)], **attributes)

    return build


POOL: Final = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}

UNITS: Final[Mapping[str, tuple[Sequence[int], Callable[[QdqNet, str], str]]]] = {
    "conv": (IMAGE, lambda net, x: conv(net, x, pads=[1, 1, 1, 1])),
    "conv strided": (IMAGE, lambda net, x: conv(net, x, strides=[2, 1], pads=[1, 0, 1, 2])),
    "conv dilated": (IMAGE, lambda net, x: conv(net, x, dilations=[2, 2], pads=[2, 1, 2, 3])),
    "conv padded alike": (
        IMAGE,
        lambda net, x: conv(net, x, strides=[2, 2], auto_pad="SAME_UPPER"),
    ),
    "conv grouped": (IMAGE, lambda net, x: conv(net, x, groups=2)),
    "conv depthwise": (IMAGE, lambda net, x: conv(net, x, channels=8, groups=8)),
    "conv depthwise twice": (IMAGE, lambda net, x: conv(net, x, channels=16, groups=8)),
    "gemm": (ROWS, lambda net, x: gemm(net, x, is_transposed=False)),
    "gemm transposed": (ROWS, lambda net, x: gemm(net, x, is_transposed=True)),
    "matmul": (ROWS, lambda net, x: net.node("MatMul", [x, net.weights((20, 9), axis=1)])),
    "conv int8 weights with zero point": (IMAGE, lambda net, x: conv_shifted(net, x, np.int8)),
    "conv uint8 weights with zero point": (IMAGE, lambda net, x: conv_shifted(net, x, np.uint8)),
    "matmul in batches": (
        (3, 7, 20),
        lambda net, x: net.node("MatMul", [x, net.weights((20, 9), axis=1)]),
    ),
    "matmul of activations": (
        (3, 7, 20),
        lambda net, x: net.node(
            "MatMul", [x, net.quantized(net.node("Transpose", ["x"], perm=[0, 2, 1]))]
        ),
    ),
    "add": (IMAGE, lambda net, x: net.node("Add", [x, second(net)])),
    "add to itself": (IMAGE, lambda net, x: net.node("Add", [x, x])),
    "mul": (IMAGE, lambda net, x: net.node("Mul", [x, second(net)])),
    "concat": (IMAGE, lambda net, x: net.node("Concat", [x, second(net), x], axis=1)),
    "leaky relu": (IMAGE, move("LeakyRelu", alpha=0.1)),
    "sigmoid": (IMAGE, move("Sigmoid")),
    "softmax": (ROWS, move("Softmax", axis=-1)),
    "softmax of channels": (IMAGE, move("Softmax", axis=1)),
    "average": (IMAGE, move("AveragePool", **POOL)),
    "average with padding": (IMAGE, move("AveragePool", **POOL, count_include_pad=1)),
    "global average": (IMAGE, move("GlobalAveragePool")),
    "max": (IMAGE, move("MaxPool", **POOL)),
    "reshape": (IMAGE, move("Reshape", np.array([2, -1]))),
    "transpose": (IMAGE, move("Transpose", perm=[0, 2, 3, 1])),
    "flatten": (IMAGE, move("Flatten")),
}
"""By name, the input's shape and one operator that has an integer kernel."""

FLOATS: Final[Mapping[str, tuple[Sequence[int], Callable[[QdqNet, str], str]]]] = {
    "relu": (IMAGE, move("Relu")),
    "clip": (IMAGE, move("Clip", np.float32(-0.3), np.float32(0.5))),
    "conv relu": (IMAGE, lambda net, x: net.node("Relu", [conv(net, x)])),
    "conv clip": (
        IMAGE,
        lambda net, x: net.node(
            "Clip",
            [conv(net, x), net.constant(np.float32(-0.5)), net.constant(np.float32(0.8))],
        ),
    ),
    "conv transposed": (
        IMAGE,
        lambda net, x: net.node(
            "ConvTranspose", [x, net.weights((8, 5, 2, 2), axis=1)], strides=[2, 2]
        ),
    ),
    "hard swish": (IMAGE, lambda net, x: net.node("HardSwish", [x])),
    "sub": (IMAGE, lambda net, x: net.node("Sub", [x, second(net)])),
    "resize linear": (IMAGE, lambda net, x: resize(net, x, "linear", 2.0)),
    "resize linear smaller": (IMAGE, lambda net, x: resize(net, x, "linear", 0.5)),
    "resize linear corners": (
        IMAGE,
        lambda net, x: resize(
            net, x, "linear", 2.0, coordinate_transformation_mode="align_corners"
        ),
    ),
    "resize nearest": (
        IMAGE,
        lambda net, x: resize(
            net,
            x,
            "nearest",
            2.0,
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ),
}
"""What onnxruntime computes in float32 between the codes, or, with Relu and Clip, may."""

STEPS: Final[Mapping[str, int]] = (
    dict.fromkeys(UNITS, 0) | dict.fromkeys(FLOATS, 1) | {"softmax": 1, "softmax of channels": 1}
)


def differences(model: onnx.ModelProto, tensor: np.ndarray, runtime: Runtime) -> list[np.ndarray]:
    """For each code tensor, by how many steps the runtime is off, everywhere."""
    content = model.SerializeToString()
    names = Reference(content).quantized_tensors
    expected = Reference(content, names).run({model.graph.input[0].name: tensor})
    found: dict[str, np.ndarray] = {}
    for begin in range(0, len(names), MAX_OUTPUTS):
        part = with_code_outputs(model, names[begin : begin + MAX_OUTPUTS])
        found |= runtime(part.SerializeToString(), tensor)
    for name in names:
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape
    return [np.abs(found[name].astype(int) - expected[name].astype(int)) for name in names]


def image_for(net: QdqNet) -> np.ndarray:
    return (net.rng.normal(size=net.shape) * 1.5).astype(np.float32)


@pytest.mark.parametrize("runtime", FAST_RUNTIMES.values(), ids=FAST_RUNTIMES)
@pytest.mark.parametrize("name", [*UNITS, *FLOATS])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), is_tied=st.booleans(), is_same=st.booleans())
def test_each_operator_gives_the_reference_integers(
    name: str, runtime: Runtime, seed: int, is_tied: bool, is_same: bool
) -> None:
    shape, build = (UNITS | FLOATS)[name]
    net = QdqNet(shape, seed, is_tied=is_tied)
    x = net.quantized("x")
    y = net.quantized(build(net, x), like=x if is_same else "")
    off = differences(net.model(y), image_for(net), runtime)
    assert max(int(part.max()) for part in off) <= STEPS[name]
    # One step is for values half way between two codes, not for a kernel of another kind.
    if not name.startswith("softmax"):
        assert np.mean(off[-1] > 0) <= (0.0 if STEPS[name] == 0 else 0.02)


@pytest.mark.parametrize("runtime", FAST_RUNTIMES.values(), ids=FAST_RUNTIMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), axis=st.sampled_from([-1, 0]))
def test_softmax_is_exact_where_its_scale_is_one_over_a_whole_number(
    runtime: Runtime, seed: int, axis: int
) -> None:
    net = QdqNet(ROWS, seed)
    y = net.node("Softmax", [net.quantized("x")], axis=axis)
    off = differences(
        net.model(net.quantized(y, scale=1 / 256, zero_point=0)), image_for(net), runtime
    )
    assert max(int(part.max()) for part in off) == 0


@pytest.mark.parametrize("runtime", FAST_RUNTIMES.values(), ids=FAST_RUNTIMES)
def test_sums_that_float32_cannot_hold_round_as_in_the_reference(runtime: Runtime) -> None:
    """About 200 x 52 x 2304, beyond 2^24: the accumulator itself is rounded to float32."""
    net = QdqNet((1, 256, 9, 9), 0)
    bright = net.node("Add", ["x", net.constant(np.float32(4))])
    x = net.quantized(bright, scale=0.02, zero_point=0)
    codes = net.rng.integers(40, 64, (4, 256, 3, 3)).astype(np.int8)
    scale, zero = np.full(4, 2.0**-14, np.float32), np.zeros(4, np.int8)
    inputs = [net.constant(value) for value in (codes, scale, zero)]
    conv = net.node("Conv", [x, net.node("DequantizeLinear", inputs, axis=0)])
    model = net.model(net.quantized(conv, scale=29.5 / 128, zero_point=0))
    tensor = image_for(net)
    content = model.SerializeToString()
    name = Reference(content).quantized_tensors[-1]
    found = Reference(content, [name]).run({"x": tensor})[name]
    assert 100 < found.mean() < 160
    assert max(int(part.max()) for part in differences(model, tensor, runtime)) == 0


@pytest.mark.parametrize("runtime", FAST_RUNTIMES.values(), ids=FAST_RUNTIMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), bit_width=st.integers(2, 7), limit=st.sampled_from([1, 4, 63]))
def test_few_bits_give_the_reference_integers(
    runtime: Runtime, seed: int, bit_width: int, limit: int
) -> None:
    net = QdqNet(IMAGE, seed)
    few = {"bit_width": bit_width, "scale": 4 / 2**bit_width, "zero_point": 2 ** (bit_width - 1)}
    x = net.quantized("x", **few)
    weights = net.weights((8, 8, 3, 3), limit=limit)
    inputs = [x, weights, net.bias(x, weights)]
    y = net.quantized(net.node("Conv", inputs, pads=[1, 1, 1, 1]), **few)
    y = net.quantized(net.node("Add", [y, x]), **few)
    off = differences(net.model(y), image_for(net), runtime)
    assert max(int(part.max()) for part in off) == 0


@pytest.mark.parametrize("runtime", FAST_RUNTIMES.values(), ids=FAST_RUNTIMES)
@pytest.mark.parametrize("name", UNITS)
def test_signed_activations_are_within_one_step(name: str, runtime: Runtime) -> None:
    shape, build = UNITS[name]
    net = QdqNet(shape, 3, dtype=np.int8)
    y = net.quantized(build(net, net.quantized("x")))
    off = differences(net.model(y), image_for(net), runtime)
    assert max(int(part.max()) for part in off) <= 1
    assert name.startswith("softmax") or np.mean(off[-1] > 0) < 0.02


def random_network(seed: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """A residual block, a depthwise block, two branches, a head: all that fuses, in one."""
    net = QdqNet((1, 8, 16, 16), seed, is_tied=seed % 2 == 1)
    x = net.quantized("x")
    a = net.quantized(conv(net, x, channels=8, pads=[1, 1, 1, 1]))
    a = net.quantized(net.node("LeakyRelu", [a], alpha=0.1))
    a = net.quantized(net.node("Add", [a, x]))
    b = net.quantized(conv(net, a, channels=8, groups=8, pads=[1, 1, 1, 1]))
    gate = net.quantized(net.node("Sigmoid", [b]), scale=1 / 256, zero_point=0)
    b = net.quantized(net.node("Mul", [b, gate]))
    c = net.quantized(net.node("MaxPool", [a], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), like=a)
    joined = net.quantized(net.node("Concat", [b, c], axis=1))
    pooled = net.quantized(net.node("GlobalAveragePool", [joined]))
    flat = net.quantized(net.node("Flatten", [pooled]), like=pooled)
    weights = net.weights((10, 16))
    logits = net.node("Gemm", [flat, weights, net.bias(flat, weights)], transB=1)
    y = net.quantized(logits)
    return net.model(net.quantized(net.node("Softmax", [y]), scale=1 / 256, zero_point=0)), (
        image_for(net)
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize("seed", range(6))
def test_random_networks_give_the_reference_integers(runtime: Runtime, seed: int) -> None:
    off = differences(*random_network(seed), runtime)
    assert len(off) == 13
    assert max(int(part.max()) for part in off) == 0


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_the_int8_detector_gives_the_reference_integers(
    runtime: Runtime, int8_detector: Any, record_property: Callable[[str, object], None]
) -> None:
    manifest, members = int8_detector
    model = onnx.load_from_string(members[manifest.model.path])
    with np.load(io.BytesIO(members[manifest.canary.path])) as canary:
        tensor = canary["input"]
    off = differences(model, tensor, runtime)
    values = sum(part.size for part in off)
    equal = sum(int((part == 0).sum()) for part in off)
    record_property("equal_share", equal / values)
    assert values > 10_000_000
    assert equal == values


def test_every_kernel_is_held_to_a_bound() -> None:
    built = set()
    for shape, build in UNITS.values():
        net = QdqNet(shape, 0)
        x = net.quantized("x")
        content = net.model(net.quantized(build(net, x), like=x)).SerializeToString()
        built |= set(Reference(content).unit_operators.values())
    assert set(KERNELS) <= built


def emitted_network(bit_width: int, seed: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """What the compression tool writes: power-of-two weights, few-bit activations, 8-bit edges."""
    rng = np.random.default_rng(seed)
    arrays = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)), "b1": rng.normal(0, 0.3, 8),
        "w2": rng.normal(0, 0.3, (8, 1, 3, 3)), "b2": rng.normal(0, 0.3, 8),
        "w3": rng.normal(0, 0.3, (8, 8, 1, 1)), "b3": rng.normal(0, 0.3, 8),
        "w4": rng.normal(0, 0.3, (10, 8)), "b4": rng.normal(0, 0.3, 10),
    }  # fmt: skip
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["t1"], name="first", pads=[1] * 4),
        node("Relu", ["t1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2", "b2"], ["t2"], name="depthwise", pads=[1] * 4, group=8),
        node("Relu", ["t2"], ["r2"], name="relu2"),
        node("Conv", ["r2", "w3", "b3"], ["t3"], name="pointwise"),
        node("Add", ["t3", "r1"], ["t4"], name="add"),
        node("GlobalAveragePool", ["t4"], ["t5"], name="pool"),
        node("Flatten", ["t5"], ["t6"], name="flatten"),
        node("Gemm", ["t6", "w4", "b4"], ["y"], name="last", transB=1),
    ]
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    model = onnx.shape_inference.infer_shapes(models.make_model(nodes, [1, 3, 12, 12], **floats))
    few, eight = CodeSet(3, "power-of-two"), CodeSet(8)
    sets = {"first": eight, "depthwise": few, "pointwise": few, "last": eight}
    weights = {
        name: project(floats[f"w{index}"], code_set, "filter")
        for index, (name, code_set) in enumerate(sets.items(), 1)
    }
    spans = {"x": (-2, 2), "r1": (0, 3), "r2": (0, 3), "t3": (-3, 3), "t4": (-3, 4)}
    ranges = {name: ActivationRange(*span, bit_width) for name, span in spans.items()}
    ranges |= {name: ActivationRange(-2, 2) for name in ("t5", "t6", "y")}
    tensor = rng.normal(size=(1, 3, 12, 12)).astype(np.float32)
    return emit_qdq(model, weights, ranges), tensor


@pytest.mark.parametrize("runtime", FAST_RUNTIMES.values(), ids=FAST_RUNTIMES)
@pytest.mark.parametrize("bit_width", [8, 5, 4, 2])
def test_emitted_networks_give_the_reference_integers(runtime: Runtime, bit_width: int) -> None:
    for seed in range(3):
        model, tensor = emitted_network(bit_width, seed)
        off = differences(model, tensor, runtime)
        assert len(off) >= 7
        assert max(int(part.max()) for part in off) == 0
        content = model.SerializeToString()
        assert packed.unpack(pack_model(content), max_bytes=1 << 20) == content
